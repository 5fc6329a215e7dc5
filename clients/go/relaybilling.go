// Package relaybilling is the Go client of relay-billing's HTTP door: hold quota before the model is called, charge
// what was used after it, exactly once. One file, standard library only: use it as a module, or copy it.
//
//	client, err := relaybilling.New("http://127.0.0.1:8090", relaybilling.Options{Key: key})
//	session, err := client.Hold(ctx, relaybilling.HoldRequest{RequestID: id, UserID: 1, TokenID: 1, Quota: 1000})
//	err = session.Settle(ctx, 640, "")
//
// Money is quota, an int64; 500,000 quota are one US dollar. Every call may be repeated with the same values: a hold
// whose answer was lost is found again under its request id, and the first settle or refund of a session wins. So the
// client repeats what failed by itself, a bounded number of times, within the deadline of the context.
//
// Where an error leaves the outcome open (Unavailable), make the same call again. A hold that nobody asks for again is
// given back by itself after its hold_ttl.
package relaybilling

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// MaxQuota is the largest amount that one call may name, in quota: what every JSON parser carries exactly.
	MaxQuota = 1 << 53
	// MaxBatch is the most items of one batch.
	MaxBatch = 500

	maxRequestID, maxModelName, maxReason = 64, 255, 64 // characters
	maxHoldTTL                            = 10 * 366 * 24 * time.Hour

	shortestTimeout    = 2 * time.Second  // more than the door's patience with a caller who hangs up
	defaultTimeout     = 20 * time.Second // the door answers within 15 s, also while its database is away
	defaultAttempts    = 6
	defaultConnections = 128
	defaultCapacity    = 10_000

	firstPause    = 50 * time.Millisecond
	longestPause  = 2 * time.Second
	maxRetryAfter = 5 * time.Second // of what a Retry-After may ask for
	// The door gives a hold back whose caller hangs up within its first second. So whoever has lost the answer of a hold
	// waits longer, before the same hold is asked for again: it must not find one that is about to be given back.
	abandoned = 1500 * time.Millisecond
	maxAnswer = 8 << 20 // bytes; 500 sessions take under 2 MiB
)

// Options says how a Client reaches its door. The zero value is good for a door on loopback that has no keys.
type Options struct {
	// Key is the bearer key, "rb_…". Empty: none is sent.
	Key string
	// Timeout bounds one attempt of a call, 2 s at least. Zero: 20 s. The call as a whole is bounded by its context.
	Timeout time.Duration
	// Attempts is how often one call is made before it fails with Unavailable. Zero: 6, about 2 s of pauses.
	Attempts int
	// Connections is how many are opened to the door at most, and kept for the next calls. Zero: 128.
	Connections int
	// Transport carries the requests, for a certificate authority of your own for example. Nil: a pool of
	// Connections. One that is given has bounds of its own.
	Transport http.RoundTripper
}

// Client speaks to one door. It is safe for concurrent use; make one for the whole process.
type Client struct {
	base     string
	header   http.Header
	http     *http.Client
	timeout  time.Duration
	attempts int
	jitter   *jitter
}

// New makes a client of the door at baseURL ("http://127.0.0.1:8090"). Nothing is opened before the first call.
// It fails with InvalidRequest for an address or an option that can't be used.
func New(baseURL string, options Options) (*Client, error) {
	base, err := url.Parse(baseURL)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") ||
		base.RawQuery != "" || base.Fragment != "" || base.User != nil {
		// Not repeated here: a password may be in it.
		return nil, invalid("", "baseURL", "must be http://HOST or https://HOST, without user, query and fragment")
	}
	if strings.ContainsAny(options.Key, "\r\n") {
		return nil, invalid("", "Key", "must be one line")
	}
	if options.Timeout != 0 && options.Timeout < shortestTimeout {
		return nil, invalid("", "Timeout", fmt.Sprintf("must be at least %s, got %s", shortestTimeout, options.Timeout))
	}
	if options.Attempts < 0 || options.Connections < 0 {
		return nil, invalid("", "options", "Attempts and Connections must not be negative")
	}
	client := &Client{
		base:     strings.TrimRight(base.String(), "/") + "/v1/",
		header:   http.Header{"Accept": {"application/json"}, "User-Agent": {"relaybilling-go"}},
		timeout:  or(options.Timeout, defaultTimeout),
		attempts: or(options.Attempts, defaultAttempts),
		jitter:   &jitter{random: rand.New(rand.NewSource(time.Now().UnixNano()))},
	}
	if options.Key != "" {
		client.header.Set("Authorization", "Bearer "+options.Key)
	}
	if options.Transport == nil {
		options.Transport = pool(or(options.Connections, defaultConnections))
	}
	client.http = &http.Client{
		Transport: options.Transport,
		// A redirected POST would become a GET, and the key could reach another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return client, nil
}

func pool(connections int) http.RoundTripper {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 5 * time.Second,
		IdleConnTimeout:     90 * time.Second,
		// The default keeps two, and every other call of a busy relay would open a connection.
		MaxIdleConnsPerHost: connections,
		MaxConnsPerHost:     connections,
	}
}

// Close closes the connections that no call uses. Calls that are made later open new ones.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// HoldRequest asks for a hold (semantics §3).
type HoldRequest struct {
	// RequestID names the request: 1 to 64 characters, yours to choose, the same when it is repeated.
	RequestID string
	UserID    int64
	// TokenID is the API key's. Zero: none, which the playground alone has.
	TokenID int64
	// Quota to hold, 0 to MaxQuota: the most that the request may cost.
	Quota     int64
	ModelName string
	// Preference is one of subscription_first, wallet_first, subscription_only, wallet_only. Empty: the first.
	Preference string
	// Playground is a request made without an API key.
	Playground bool
	// ForcePreConsume holds the quota even where trust would hold nothing.
	ForcePreConsume bool
	// HoldTTL in whole seconds is how long the hold stands when nobody ends it. Zero: as the door is set.
	HoldTTL time.Duration
}

type holdBody struct {
	RequestID       string `json:"request_id"`
	UserID          int64  `json:"user_id"`
	TokenID         *int64 `json:"token_id"`
	Quota           int64  `json:"quota"`
	ModelName       string `json:"model_name"`
	Preference      string `json:"preference"`
	Playground      bool   `json:"playground"`
	ForcePreConsume bool   `json:"force_pre_consume"`
	HoldTTL         *int64 `json:"hold_ttl"`
}

func (r HoldRequest) body() (*holdBody, error) {
	body := &holdBody{
		RequestID: r.RequestID, UserID: r.UserID, Quota: r.Quota, ModelName: r.ModelName, Preference: r.Preference,
		Playground: r.Playground, ForcePreConsume: r.ForcePreConsume,
	}
	if r.TokenID != 0 {
		body.TokenID = &r.TokenID
	}
	if r.HoldTTL != 0 {
		seconds := int64(r.HoldTTL / time.Second)
		body.HoldTTL = &seconds
	}
	id := r.RequestID
	err := first(
		checkText(id, "request_id", id, 1, maxRequestID),
		checkThat(r.UserID > 0, id, "user_id", "must be positive"),
		checkThat(r.TokenID >= 0, id, "token_id", "must not be negative"),
		checkThat(r.Playground == (r.TokenID == 0), id, "token_id", "is needed outside the playground, and only there"),
		checkQuota(id, "quota", r.Quota),
		checkText(id, "model_name", r.ModelName, 0, maxModelName),
		checkText(id, "preference", r.Preference, 0, maxModelName),
		checkThat(r.HoldTTL >= 0 && r.HoldTTL <= maxHoldTTL && r.HoldTTL%time.Second == 0, id, "hold_ttl",
			"must be whole seconds, up to 10 years"),
	)
	return body, err
}

// Session is one relayed request as the door answered it (semantics §3.8). Amounts are quota, times Unix milliseconds.
type Session struct {
	RequestID string `json:"request_id"`
	UserID    int64  `json:"user_id"`
	TokenID   *int64 `json:"token_id"` // nil: the playground
	// Quota was asked for; PreConsumedQuota is held.
	Quota            int64  `json:"quota"`
	PreConsumedQuota int64  `json:"pre_consumed_quota"`
	TokenConsumed    int64  `json:"token_consumed"`
	Trusted          bool   `json:"trusted"`
	ModelName        string `json:"model_name"`
	Preference       string `json:"preference"`
	Playground       bool   `json:"playground"`
	// State is preconsumed, funding_settled, settled, refunded or expired; Source wallet or subscription.
	State     string `json:"state"`
	Source    string `json:"source"`
	CreatedAt int64  `json:"created_at"`
	ExpiresAt int64  `json:"expires_at"`
	ClosedAt  *int64 `json:"closed_at"`
	// UserQuota is the wallet before the hold; nil off the wallet path.
	UserQuota                          *int64  `json:"user_quota"`
	SubscriptionID                     *int64  `json:"subscription_id"`
	SubscriptionPlanID                 *int64  `json:"subscription_plan_id"`
	SubscriptionPlanTitle              *string `json:"subscription_plan_title"`
	SubscriptionAmountTotal            int64   `json:"subscription_amount_total"`
	SubscriptionAmountUsedAfterConsume int64   `json:"subscription_amount_used_after_pre_consume"`
	SubscriptionPreConsumed            int64   `json:"subscription_pre_consumed"`
	SubscriptionPostDelta              int64   `json:"subscription_post_delta"`
	// ActualQuota was charged; nil: not settled.
	ActualQuota  *int64  `json:"actual_quota"`
	Reason       *string `json:"reason"`
	TokenError   *string `json:"token_error"`
	Parked       bool    `json:"parked"`
	ParkedReason *string `json:"parked_reason"`
	// Intent is settle or refund once one is safe; nil: nobody has ended the session yet.
	Intent      *string `json:"intent"`
	IntentQuota *int64  `json:"intent_quota"`
	NeedsRefund bool    `json:"needs_refund"`
	// Replayed: the door knew this request id. After an attempt whose answer was lost, it knows it from this very call.
	Replayed bool `json:"-"`

	client *Client
}

// Hold holds quota before the call goes out (semantics §3). It fails with InvalidRequest, IdempotencyConflict,
// InsufficientUserQuota, PreConsumeTokenQuotaFailed, QueryDataError, UpdateDataError, or Unavailable: then the hold may
// stand or not, and the same call says which, RetryAfter later or more than a second after the context ended.
//
// The session may be Over: by an earlier call with this request id, or because the door took this call for abandoned
// when its connection was cut. Don't call the model then; it would be given away.
func (c *Client) Hold(ctx context.Context, request HoldRequest) (*Session, error) {
	return c.hold(ctx, request, "sessions", c)
}

// DryRun answers what Hold would. Nothing moves; the session that is returned can't be ended.
func (c *Client) DryRun(ctx context.Context, request HoldRequest) (*Session, error) {
	return c.hold(ctx, request, "sessions?dry_run=true", nil)
}

func (c *Client) hold(ctx context.Context, request HoldRequest, path string, owner *Client) (*Session, error) {
	body, err := request.body()
	if err != nil {
		return nil, err
	}
	session := &Session{client: owner}
	header, err := c.insist(ctx, call{http.MethodPost, path, body, true}, session)
	if err != nil {
		return nil, err
	}
	session.Replayed = header.Get("Idempotent-Replayed") == "true"
	return session.of(request.RequestID)
}

// HoldResult is a session, or the error of this one hold.
type HoldResult struct {
	Session *Session
	Err     error
}

// HoldMany asks for 1 to 500 holds in one call, each with a result of its own, in order. The error is the whole call's.
func (c *Client) HoldMany(ctx context.Context, requests []HoldRequest) ([]HoldResult, error) {
	results, bodies, places := make([]HoldResult, len(requests)), []*holdBody{}, []int{}
	for at, request := range requests {
		body, err := request.body()
		if results[at].Err = err; err == nil {
			bodies, places = append(bodies, body), append(places, at)
		}
	}
	answers, err := c.batch(ctx, c.insist, call{http.MethodPost, "sessions:batch", bodies, true}, len(bodies), len(requests))
	if err != nil {
		return nil, err
	}
	for at, answer := range answers {
		result, session := &results[places[at]], &Session{client: c}
		if result.Err = item(answer, session); result.Err == nil {
			result.Session, result.Err = session.of(bodies[at].RequestID)
		}
	}
	return results, nil
}

// Get returns the session as it stands. It fails with UnknownSession or Unavailable.
func (c *Client) Get(ctx context.Context, requestID string) (*Session, error) {
	return c.session(ctx, http.MethodGet, requestID, "", nil)
}

// Reserve raises the hold of an open session to target quota (semantics §4), and returns the session with the new
// hold. Nothing moves where the target is held already, the session is trusted, or has ended. It fails as Hold does,
// and with UnknownSession.
func (c *Client) Reserve(ctx context.Context, requestID string, target int64) (*Session, error) {
	if err := checkQuota(requestID, "target_quota", target); err != nil {
		return nil, err
	}
	return c.session(ctx, http.MethodPost, requestID, "/reserve", map[string]int64{"target_quota": target})
}

func (c *Client) session(ctx context.Context, method, requestID, verb string, body any) (*Session, error) {
	if err := checkText(requestID, "request_id", requestID, 1, maxRequestID); err != nil {
		return nil, err
	}
	session := &Session{client: c}
	if _, err := c.insist(ctx, call{method, "sessions/" + segment(requestID) + verb, body, false}, session); err != nil {
		return nil, err
	}
	return session.of(requestID)
}

// Over is whether the session has ended, or somebody has begun to end it: a settle now would charge nothing, or too late.
func (s *Session) Over() bool { return s.Intent != nil || s.State != "preconsumed" }

// of is the session, unless the answer was about another one.
func (s *Session) of(requestID string) (*Session, error) {
	if err := isOf(s.RequestID, requestID); err != nil {
		return nil, err
	}
	return s, nil
}

// Settle charges what was really used (semantics §5). When it returns nil, the charge is safe; a worker applies it. The
// reason may be empty, and has at most 64 characters. It fails with InvalidRequest, or Unavailable: then make the same
// call again, or give it to an Ender, which does.
func (c *Client) Settle(ctx context.Context, requestID string, actual int64, reason string) error {
	return c.end(ctx, SettleOf(requestID, actual, reason), "/settle")
}

// Refund gives the hold back (semantics §6). When it returns nil, the refund is safe. It fails as Settle does.
func (c *Client) Refund(ctx context.Context, requestID string, reason string) error {
	return c.end(ctx, RefundOf(requestID, reason), "/refund")
}

func (c *Client) end(ctx context.Context, end End, verb string) error {
	if err := end.check(); err != nil {
		return err
	}
	body := struct {
		ActualQuota *int64 `json:"actual_quota,omitempty"`
		Reason      string `json:"reason,omitempty"`
	}{end.ActualQuota, end.Reason}
	var answer accepted
	path := "sessions/" + segment(end.RequestID) + verb
	if _, err := c.insist(ctx, call{http.MethodPost, path, body, false}, &answer); err != nil {
		return err
	}
	return isOf(answer.RequestID, end.RequestID)
}

// Settle charges what was really used: as Client.Settle.
func (s *Session) Settle(ctx context.Context, actual int64, reason string) error {
	if s.client == nil {
		return s.unheld()
	}
	return s.client.Settle(ctx, s.RequestID, actual, reason)
}

// Refund gives the hold back: as Client.Refund.
func (s *Session) Refund(ctx context.Context, reason string) error {
	if s.client == nil {
		return s.unheld()
	}
	return s.client.Refund(ctx, s.RequestID, reason)
}

// Reserve raises the hold: as Client.Reserve.
func (s *Session) Reserve(ctx context.Context, target int64) (*Session, error) {
	if s.client == nil {
		return nil, s.unheld()
	}
	return s.client.Reserve(ctx, s.RequestID, target)
}

func (s *Session) unheld() error {
	return invalid(s.RequestID, "request_id", "is of a dry run: nothing is held")
}

// End is a settle or a refund. Its JSON is what the door's ends:batch takes, so one that could not be made safe can be
// written down, and posted later by hand.
type End struct {
	RequestID string `json:"request_id"`
	// ActualQuota is what to charge. Nil: the end is a refund.
	ActualQuota *int64 `json:"actual_quota,omitempty"`
	Reason      string `json:"reason,omitempty"`
}

type accepted struct {
	RequestID string `json:"request_id"`
}

// SettleOf is the settle of a session with the quota that was really used.
func SettleOf(requestID string, actual int64, reason string) End {
	return End{RequestID: requestID, ActualQuota: &actual, Reason: reason}
}

// RefundOf is the refund of a session.
func RefundOf(requestID string, reason string) End { return End{RequestID: requestID, Reason: reason} }

func (e End) check() error {
	actual := int64(0)
	if e.ActualQuota != nil {
		actual = *e.ActualQuota
	}
	return first(
		checkText(e.RequestID, "request_id", e.RequestID, 1, maxRequestID),
		checkQuota(e.RequestID, "actual_quota", actual),
		checkText(e.RequestID, "reason", e.Reason, 0, maxReason),
	)
}

// EndMany makes 1 to 500 settles and refunds safe in one call. The first result has an error or nil for each, in
// order: Unavailable for one to hand in again. The error is the whole call's.
func (c *Client) EndMany(ctx context.Context, ends []End) ([]error, error) {
	return c.endMany(ctx, c.insist, ends)
}

func (c *Client) endMany(ctx context.Context, how caller, ends []End) ([]error, error) {
	results, bodies, places := make([]error, len(ends)), []End{}, []int{}
	for at, end := range ends {
		if results[at] = end.check(); results[at] == nil {
			bodies, places = append(bodies, end), append(places, at)
		}
	}
	answers, err := c.batch(ctx, how, call{http.MethodPost, "ends:batch", bodies, false}, len(bodies), len(ends))
	if err != nil {
		return nil, err
	}
	for at, answer := range answers {
		var got accepted
		if err = item(answer, &got); err == nil {
			err = isOf(got.RequestID, bodies[at].RequestID)
		}
		results[places[at]] = err
	}
	return results, nil
}

// batch posts what is good of a list of so many items, and returns as many answers.
func (c *Client) batch(ctx context.Context, how caller, posted call, good, size int) ([]json.RawMessage, error) {
	if size < 1 || size > MaxBatch {
		return nil, invalid("", "batch", fmt.Sprintf("must hold 1 to %d items, got %d", MaxBatch, size))
	}
	if good == 0 {
		return nil, nil
	}
	var answers []json.RawMessage
	if _, err := how(ctx, posted, &answers); err != nil {
		return nil, err
	}
	if len(answers) != good {
		return nil, unexpected(http.StatusOK, fmt.Sprintf("%d answers for %d items", len(answers), good))
	}
	return answers, nil
}

// Error is what every error of the door has in common; find it by errors.As.
type Error struct {
	// Code names the problem in one word: invalid_request, insufficient_user_quota, unauthorized, …
	Code string
	// Status is HTTP's, fit for the relay's own answer. 0: no answer came.
	Status int
	Detail string
	// SkipRetry: another channel would meet the same refusal, so the relay should not try one.
	SkipRetry bool
	RequestID string // empty: of no single request

	cause error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("relay-billing: %s: %s", e.Code, e.Detail)
	if e.RequestID != "" {
		text += fmt.Sprintf(" (request %q)", e.RequestID)
	}
	return text
}

// Unwrap gives what went wrong below: of the network, or of the context.
func (e *Error) Unwrap() error { return e.cause }

type common = Error // embedded by this name: a field called Error would hide the method

// InvalidRequest: the value of Field can't be used. Nothing moved; most are found before anything is sent.
type InvalidRequest struct {
	*common
	Field string
}

// IdempotencyConflict: the request id is known with other values. Use a new one for another request.
type IdempotencyConflict struct{ *common }

// InsufficientUserQuota: neither wallet nor subscription can cover the hold. Amounts are quota.
type InsufficientUserQuota struct {
	*common
	Remaining *int64 // nil: without limit, but of another period than the hold that was to be raised
	Needed    int64
}

// PreConsumeTokenQuotaFailed: the API key is missing, another user's, or short. Amounts are quota.
type PreConsumeTokenQuotaFailed struct {
	*common
	Remaining *int64
	Needed    int64
}

// QueryDataError: a row that must be there is missing, the user's for one.
type QueryDataError struct{ *common }

// UpdateDataError: the database refused a change.
type UpdateDataError struct{ *common }

// UnknownSession: no session has this request id. It was never held, or refused.
type UnknownSession struct{ *common }

// Unavailable: the door or its database can't be reached, or is overloaded, or the context ended first. Whether the
// call has moved anything is not known: make it again, with the same values.
type Unavailable struct {
	*common
	// RetryAfter is how long to wait before the same call: what the door asks for, or, for a hold whose answer was lost,
	// until the door no longer takes it for abandoned. 0: no time in particular.
	RetryAfter time.Duration
}

// NotQueued: the Ender is full or closed. The end is not safe, and still the caller's.
type NotQueued struct {
	End   End
	cause error
}

func (e *NotQueued) Error() string {
	return fmt.Sprintf("relay-billing: the end of request %q was not queued: %v", e.End.RequestID, e.cause)
}

// Unwrap gives the reason: ErrClosed, or the context's error.
func (e *NotQueued) Unwrap() error { return e.cause }

// ErrClosed is the reason of a NotQueued that came after Ender.Close.
var ErrClosed = errors.New("the ender is closed")

// Each typed error is found by errors.As, and so is the Error in it.
func (e *InvalidRequest) Unwrap() error             { return e.common }
func (e *IdempotencyConflict) Unwrap() error        { return e.common }
func (e *InsufficientUserQuota) Unwrap() error      { return e.common }
func (e *PreConsumeTokenQuotaFailed) Unwrap() error { return e.common }
func (e *QueryDataError) Unwrap() error             { return e.common }
func (e *UpdateDataError) Unwrap() error            { return e.common }
func (e *UnknownSession) Unwrap() error             { return e.common }
func (e *Unavailable) Unwrap() error                { return e.common }

// problem is the door's error (RFC 9457).
type problem struct {
	Code      string `json:"code"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	SkipRetry bool   `json:"skip_retry"`
	RequestID string `json:"request_id"`
	Field     string `json:"field"`
	Remaining *int64 `json:"remaining"`
	Needed    int64  `json:"needed"`
}

func (p *problem) typed(retryAfter time.Duration) error {
	of := &Error{Code: p.Code, Status: p.Status, Detail: p.Detail, SkipRetry: p.SkipRetry, RequestID: p.RequestID}
	switch p.Code {
	case "invalid_request":
		return &InvalidRequest{of, p.Field}
	case "idempotency_conflict":
		return &IdempotencyConflict{of}
	case "insufficient_user_quota":
		return &InsufficientUserQuota{of, p.Remaining, p.Needed}
	case "pre_consume_token_quota_failed":
		return &PreConsumeTokenQuotaFailed{of, p.Remaining, p.Needed}
	case "query_data_error":
		return &QueryDataError{of}
	case "update_data_error":
		return &UpdateDataError{of}
	case "unknown_session":
		return &UnknownSession{of}
	}
	// Also what a proxy says while the door is away, and a door that broke down over a request.
	if p.Status >= 500 || p.Status == http.StatusTooManyRequests || p.Status == http.StatusRequestTimeout {
		return &Unavailable{of, retryAfter}
	}
	return of
}

// item reads one answer of a batch: its problem is returned, anything else decoded into out.
func item(answer json.RawMessage, out any) error {
	var failed problem
	if err := decode(answer, &failed); err != nil {
		return err
	}
	if failed.Code != "" {
		return failed.typed(0)
	}
	return decode(answer, out)
}

func invalid(requestID, field, detail string) error {
	return &InvalidRequest{&Error{
		Code: "invalid_request", Status: http.StatusBadRequest, Detail: field + ": " + detail, SkipRetry: true,
		RequestID: requestID,
	}, field}
}

func unreachable(cause error) *Unavailable {
	return &Unavailable{&Error{
		Code: "billing_unavailable", Status: http.StatusServiceUnavailable, Detail: cause.Error(), cause: cause,
	}, 0}
}

// unexpected is an answer that no door gives: something else listens there. It is never taken for a promise.
func unexpected(status int, detail string) error {
	return &Error{Code: "unexpected_answer", Status: status, Detail: detail}
}

func isOf(got, asked string) error {
	if got != asked {
		return unexpected(http.StatusOK, fmt.Sprintf("asked about %q, answered about %.80q", asked, got))
	}
	return nil
}

func decode(answer []byte, out any) error {
	if err := json.Unmarshal(answer, out); err != nil {
		return unexpected(http.StatusOK, fmt.Sprintf("%v in %.200q", err, answer))
	}
	return nil
}

// call is a request to the door.
type call struct {
	method, path string
	body         any
	holds        bool // what is lost may be given back by the door
}

// caller is insist or once.
type caller func(ctx context.Context, of call, out any) (http.Header, error)

// insist makes a call until it is answered, a bounded number of times.
func (c *Client) insist(ctx context.Context, of call, out any) (http.Header, error) {
	for attempt := 1; ; attempt++ {
		header, err := c.once(ctx, of, out)
		var away *Unavailable
		if !errors.As(err, &away) || attempt == c.attempts || ctx.Err() != nil {
			return header, err
		}
		pause := c.jitter.pause(attempt, away.RetryAfter)
		needed := pause
		if of.holds {
			needed += abandoned // an attempt that the context cuts off sooner would be given back
		}
		if ends, bounded := ctx.Deadline(); bounded && time.Until(ends) < needed {
			return nil, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			ended := unreachable(fmt.Errorf("%w after: %v", ctx.Err(), err))
			ended.RetryAfter = away.RetryAfter
			return nil, ended
		}
	}
}

// once makes one attempt of a call.
func (c *Client) once(ctx context.Context, of call, out any) (http.Header, error) {
	attempt, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var sent bytes.Buffer
	if of.body != nil {
		encoder := json.NewEncoder(&sent)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(of.body); err != nil {
			return nil, invalid("", "body", err.Error())
		}
	}
	request, err := http.NewRequestWithContext(attempt, of.method, c.base+of.path, bytes.NewReader(sent.Bytes()))
	if err != nil {
		return nil, invalid("", "path", err.Error())
	}
	request.Header = c.header.Clone()
	if of.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if !of.holds {
		// net/http repeats a request by itself where a kept connection turns out to be closed, if it knows that it may:
		// this key says so. An empty value is not sent.
		request.Header["Idempotency-Key"] = []string{}
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, c.lost(ctx, attempt, of, err)
	}
	// Read to its end, so that the connection can be used again.
	defer answer.Body.Close()
	read, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err != nil {
		return nil, c.lost(ctx, attempt, of, err)
	}
	if len(read) > maxAnswer {
		return nil, unexpected(answer.StatusCode, fmt.Sprintf("more than %d bytes", maxAnswer))
	}
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return nil, refusal(answer, read, of)
	}
	return answer.Header, decode(read, out)
}

// lost is the error of an attempt without an answer. The end of its own time must not look like that of the caller's.
func (c *Client) lost(ctx, attempt context.Context, of call, err error) error {
	if ctx.Err() == nil && attempt.Err() != nil {
		err = fmt.Errorf("no answer within %s", c.timeout)
	}
	away := unreachable(err)
	var below *net.OpError
	if of.holds && !(errors.As(err, &below) && below.Op == "dial") {
		away.RetryAfter = abandoned
	}
	return away
}

func refusal(answer *http.Response, read []byte, of call) error {
	var told problem
	if json.Unmarshal(read, &told) != nil || told.Code == "" {
		told = problem{Code: "unexpected_answer", Detail: fmt.Sprintf("HTTP %s: %.200q", answer.Status, read)}
	}
	told.Status = answer.StatusCode
	seconds, err := strconv.ParseInt(answer.Header.Get("Retry-After"), 10, 32)
	if err != nil || seconds < 0 {
		seconds = 0 // none, or a date, which doors do not send: then the jitter alone decides
	}
	retryAfter := time.Duration(seconds) * time.Second
	if of.holds && told.Code == "unexpected_answer" && retryAfter < abandoned {
		retryAfter = abandoned // a proxy's own: it may have hung up on the door
	}
	return told.typed(retryAfter)
}

// segment encodes an id as one segment of a path. url.PathEscape leaves ".", "..", "+" and ":" as they are, which some
// servers and proxies take for their own.
func segment(id string) string {
	var path strings.Builder
	for at := 0; at < len(id); at++ {
		switch b := id[at]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '-', b == '_':
			path.WriteByte(b)
		default:
			fmt.Fprintf(&path, "%%%02X", b)
		}
	}
	return path.String()
}

// jitter makes pauses: of a source of its own, for that of math/rand is the same in every process.
type jitter struct {
	mu     sync.Mutex
	random *rand.Rand
}

// pause is anything up to a bound that doubles, after what the door asked for.
func (j *jitter) pause(attempt int, retryAfter time.Duration) time.Duration {
	bound := longestPause
	if attempt < 8 && firstPause<<(attempt-1) < bound {
		bound = firstPause << (attempt - 1)
	}
	if retryAfter > maxRetryAfter {
		retryAfter = maxRetryAfter
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return retryAfter + time.Duration(j.random.Int63n(int64(bound)+1))
}

func checkText(requestID, field, value string, shortest, longest int) error {
	length := utf8.RuneCountInString(value)
	switch {
	case length < shortest || length > longest:
		return invalid(requestID, field, fmt.Sprintf("must have %d to %d characters, got %d", shortest, longest, length))
	case !utf8.ValidString(value):
		// JSON would carry another text than this one.
		return invalid(requestID, field, "must be UTF-8")
	case strings.IndexByte(value, 0) >= 0:
		return invalid(requestID, field, "must not contain NUL")
	}
	return nil
}

func checkQuota(requestID, field string, value int64) error {
	if value < 0 || value > MaxQuota {
		return invalid(requestID, field, fmt.Sprintf("must be between 0 and %d, got %d", int64(MaxQuota), value))
	}
	return nil
}

func checkThat(good bool, requestID, field, detail string) error {
	if good {
		return nil
	}
	return invalid(requestID, field, detail)
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func or[T comparable](value, unset T) T {
	var zero T
	if value == zero {
		return unset
	}
	return value
}

// EnderOptions says how an Ender works. The callbacks run on its goroutine: they must not wait for it.
type EnderOptions struct {
	// Capacity is how many ends may wait. Zero: 10,000. When so many wait, Settle and Refund wait for room.
	Capacity int
	// OnRefused is called with an end that the door refuses for good; nothing tries it again. Nil: it is logged.
	OnRefused func(End, error)
	// OnTrouble is called when a batch, or some of it, has to be sent again. Nil: it is logged.
	OnTrouble func(error)
}

// Ender makes settles and refunds safe in the background, in batches, and tries again for as long as the door is away
// or refuses the key. The ends of one session keep their order. What waits is in memory: Close before the process ends,
// and write down what it returns. Where a charge must outlive the relay's own crash, wait for it.
type Ender struct {
	client  *Client
	options EnderOptions
	room    chan struct{} // one in it for each end that waits
	wake    chan struct{} // there is something to send
	hurry   chan struct{} // somebody waits for a flush: no more pauses now
	closing chan struct{}
	ended   chan struct{}
	stop    context.CancelFunc

	mu     sync.Mutex
	queue  []*Pending
	closed bool
}

// Pending is an end that was queued.
type Pending struct {
	end  End
	done chan struct{}
	err  error
}

// Wait returns nil once the end is safe, and the error when it was refused for good. When the context ends first, or
// the Ender is closed, it fails with Unavailable: the end is not known to be safe.
func (p *Pending) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return unreachable(fmt.Errorf("request %q has not ended safely yet: %w", p.end.RequestID, ctx.Err()))
	}
}

func (p *Pending) finish(err error) {
	p.err = err
	close(p.done)
}

// NewEnder starts an ender; Close ends it. The client's Attempts don't count here.
func (c *Client) NewEnder(options EnderOptions) *Ender {
	if options.Capacity <= 0 {
		options.Capacity = defaultCapacity
	}
	if options.OnRefused == nil {
		options.OnRefused = func(end End, err error) { log.Printf("the end of request %q: %v", end.RequestID, err) }
	}
	if options.OnTrouble == nil {
		options.OnTrouble = func(err error) { log.Printf("ends have to be sent again: %v", err) }
	}
	ctx, stop := context.WithCancel(context.Background())
	ender := &Ender{
		client: c, options: options, stop: stop, room: make(chan struct{}, options.Capacity),
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		closing: make(chan struct{}), ended: make(chan struct{}),
	}
	go ender.run(ctx)
	return ender
}

// Settle queues a settle (semantics §5): as End.
func (e *Ender) Settle(ctx context.Context, requestID string, actual int64, reason string) (*Pending, error) {
	return e.End(ctx, SettleOf(requestID, actual, reason))
}

// Refund queues a refund (semantics §6): as End.
func (e *Ender) Refund(ctx context.Context, requestID string, reason string) (*Pending, error) {
	return e.End(ctx, RefundOf(requestID, reason))
}

// End queues a settle or a refund, and does not wait until it is safe. The context bounds the wait for room alone: one
// that has ended, as a relay's has when its customer hangs up, refuses nothing while there is room. It fails with
// InvalidRequest, or NotQueued.
func (e *Ender) End(ctx context.Context, end End) (*Pending, error) {
	if err := end.check(); err != nil {
		return nil, err
	}
	select {
	case e.room <- struct{}{}:
	default:
		select {
		case e.room <- struct{}{}:
		case <-ctx.Done():
			return nil, &NotQueued{end, fmt.Errorf("%d ends wait: %w", cap(e.room), ctx.Err())}
		case <-e.closing:
			return nil, &NotQueued{end, ErrClosed}
		}
	}
	pending := &Pending{end: end, done: make(chan struct{})}
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		<-e.room
		return nil, &NotQueued{end, ErrClosed}
	}
	e.queue = append(e.queue, pending)
	e.mu.Unlock()
	poke(e.wake)
	return pending, nil
}

// Waiting is how many ends are not safe yet, for the relay's metrics.
func (e *Ender) Waiting() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.queue)
}

// Flush waits until every end that was queued before is safe, or refused. When the context ends first, it fails with
// Unavailable, and returns the ends that are not known to be safe; they stay queued.
func (e *Ender) Flush(ctx context.Context) ([]End, error) {
	e.mu.Lock()
	waiting := append([]*Pending(nil), e.queue...)
	e.mu.Unlock()
	poke(e.hurry)
	for _, pending := range waiting {
		select {
		case <-pending.done:
		case <-ctx.Done():
			if unsafe := unfinished(waiting); len(unsafe) > 0 {
				return unsafe, unreachable(fmt.Errorf("%d ends are not known to be safe: %w", len(unsafe), ctx.Err()))
			}
			return nil, nil
		}
	}
	return nil, nil
}

// Close takes no more ends, flushes, and stops. When the context ends first, it fails with Unavailable, and returns the
// ends that are not known to be safe: write them down, for nothing else has them. They may be handed in again.
func (e *Ender) Close(ctx context.Context) ([]End, error) {
	e.mu.Lock()
	if !e.closed {
		e.closed = true
		close(e.closing)
	}
	e.mu.Unlock()
	_, flushed := e.Flush(ctx)
	e.stop()
	<-e.ended
	e.mu.Lock()
	defer e.mu.Unlock()
	// Looked at again: the last batch may have been answered meanwhile.
	unsafe := unfinished(e.queue)
	if len(unsafe) == 0 {
		return nil, nil
	}
	for _, pending := range e.queue {
		pending.finish(unreachable(ErrClosed))
	}
	e.queue = nil
	return unsafe, flushed
}

func unfinished(waiting []*Pending) []End {
	var ends []End
	for _, pending := range waiting {
		select {
		case <-pending.done:
		default:
			ends = append(ends, pending.end)
		}
	}
	return ends
}

func poke(signal chan struct{}) {
	select {
	case signal <- struct{}{}:
	default: // it is there already
	}
}

func (e *Ender) run(ctx context.Context) {
	defer close(e.ended)
	for failures := 0; ctx.Err() == nil; {
		batch := e.next()
		if len(batch) == 0 {
			select {
			case <-e.wake:
			case <-ctx.Done():
			}
			continue
		}
		safe, trouble := e.send(ctx, batch)
		if safe {
			failures = 0
		}
		if trouble == nil || ctx.Err() != nil {
			continue
		}
		failures++
		e.options.OnTrouble(trouble)
		e.rest(ctx, failures, trouble)
	}
}

// next is the head of the queue, up to the second end of one session: that one waits until the first is answered.
func (e *Ender) next() []*Pending {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := map[string]bool{}
	for at, pending := range e.queue {
		if at == MaxBatch || seen[pending.end.RequestID] {
			return e.queue[:at:at]
		}
		seen[pending.end.RequestID] = true
	}
	return e.queue[:len(e.queue):len(e.queue)]
}

// send posts a batch, and takes what was answered off the queue. It returns whether anything was, and why something
// was not.
func (e *Ender) send(ctx context.Context, batch []*Pending) (bool, error) {
	ends := make([]End, len(batch))
	for at, pending := range batch {
		ends[at] = pending.end
	}
	results, err := e.client.endMany(ctx, e.client.once, ends)
	if err != nil {
		// Of whatever kind: a key that is refused, or a wrong address, is mended by people, and the money stays owed.
		return false, err
	}
	var again []*Pending
	var trouble error
	for at, pending := range batch {
		var away *Unavailable
		if errors.As(results[at], &away) {
			again, trouble = append(again, pending), results[at]
			continue
		}
		if results[at] != nil {
			e.options.OnRefused(pending.end, results[at])
		}
		pending.finish(results[at])
		<-e.room
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue = append(again, e.queue[len(batch):]...)
	return len(again) < len(batch), trouble
}

// rest pauses after trouble. Somebody who waits for a flush cuts it short.
func (e *Ender) rest(ctx context.Context, failures int, trouble error) {
	var away *Unavailable
	errors.As(trouble, &away)
	wish := time.Duration(0)
	if away != nil {
		wish = away.RetryAfter
	}
	timer := time.NewTimer(e.client.jitter.pause(failures, wish))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-e.hurry:
	case <-ctx.Done():
	}
}
