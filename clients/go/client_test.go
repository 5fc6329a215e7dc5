package relaybilling_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"relaybilling"
)

const patience = 20 * time.Second

// seen is one request as a door receives it: its path raw.
type seen struct {
	method, path string
	header       http.Header
	body         string
}

// fake is a door that answers what a test says, and keeps what it was asked.
func fake(t *testing.T, options relaybilling.Options, answer http.HandlerFunc) (*relaybilling.Client, chan seen) {
	t.Helper()
	asked := make(chan seen, 1000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // a caller who hung up
		}
		asked <- seen{r.Method, r.RequestURI, r.Header, string(body)}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	client, err := relaybilling.New(server.URL, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client, asked
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func say(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

// inTurn answers the first request by the first, the next by the next, and all others by the last.
func inTurn(answers ...http.HandlerFunc) http.HandlerFunc {
	var asked int64
	return func(w http.ResponseWriter, r *http.Request) {
		at := int(atomic.AddInt64(&asked, 1)) - 1
		if at >= len(answers) {
			at = len(answers) - 1
		}
		answers[at](w, r)
	}
}

// hangUp closes the connection instead of an answer: what was asked may have been done.
func hangUp(w http.ResponseWriter, _ *http.Request) {
	connection, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		err = connection.Close()
	}
	if err != nil {
		panic(err)
	}
}

var good = relaybilling.HoldRequest{RequestID: "r1", UserID: 1, TokenID: 2, Quota: 100}

const row = `{"request_id":"r1","user_id":1,"token_id":2,"quota":100,"pre_consumed_quota":100,"token_consumed":100,
	"state":"preconsumed","source":"wallet","user_quota":9007199254740993,"created_at":1800000000123,"expires_at":2,
	"needs_refund":true,"intent":null,"a_field_of_a_later_door":{"x":1}}`

func TestAHoldSendsItsFieldsAndReadsTheSession(t *testing.T) {
	client, asked := fake(t, relaybilling.Options{Key: "rb_secret"}, say(201, row))
	request := good
	request.ModelName, request.Preference, request.HoldTTL = "gpt <4>", "wallet_only", 90*time.Second
	request.ForcePreConsume, request.Quota = true, relaybilling.MaxQuota
	session, err := client.Hold(within(t, patience), request)
	if err != nil {
		t.Fatal(err)
	}
	// A float would have rounded it.
	if *session.UserQuota != 9007199254740993 || session.CreatedAt != 1800000000123 || !session.NeedsRefund {
		t.Errorf("read %+v", session)
	}
	got := <-asked
	if got.method != "POST" || got.path != "/v1/sessions" || got.header.Get("Authorization") != "Bearer rb_secret" ||
		got.header.Get("Content-Type") != "application/json" {
		t.Errorf("sent %+v", got)
	}
	if _, there := got.header["Idempotency-Key"]; there {
		t.Error("sent an empty Idempotency-Key")
	}
	want := `{"request_id":"r1","user_id":1,"token_id":2,"quota":9007199254740992,"model_name":"gpt <4>",` +
		`"preference":"wallet_only","playground":false,"force_pre_consume":true,"hold_ttl":90}` + "\n"
	if got.body != want {
		t.Errorf("sent %s, not %s", got.body, want)
	}
}

func TestAPlaygroundHoldHasNoToken(t *testing.T) {
	client, asked := fake(t, relaybilling.Options{}, say(201, row))
	request := relaybilling.HoldRequest{RequestID: "r1", UserID: 1, Playground: true}
	if _, err := client.Hold(within(t, patience), request); err != nil {
		t.Fatal(err)
	}
	var sent map[string]any
	if err := json.Unmarshal([]byte((<-asked).body), &sent); err != nil {
		t.Fatal(err)
	}
	if sent["token_id"] != nil || sent["hold_ttl"] != nil || sent["playground"] != true {
		t.Errorf("sent %v", sent)
	}
}

func TestAReplayIsMarked(t *testing.T) {
	client, _ := fake(t, relaybilling.Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Idempotent-Replayed", "true")
		say(200, row)(w, r)
	})
	session, err := client.Hold(within(t, patience), good)
	if err != nil || !session.Replayed {
		t.Errorf("%+v, %v", session, err)
	}
}

func TestBadInputIsRefusedBeforeAnythingIsSent(t *testing.T) {
	client, asked := fake(t, relaybilling.Options{}, say(500, "never"))
	ctx := within(t, patience)
	hold := func(change func(*relaybilling.HoldRequest)) error {
		request := good
		change(&request)
		_, err := client.Hold(ctx, request)
		return err
	}
	type r = *relaybilling.HoldRequest
	_, reserve := client.Reserve(ctx, "r1", -1)
	_, get := client.Get(ctx, "")
	_, none := client.EndMany(ctx, nil)
	_, many := client.EndMany(ctx, make([]relaybilling.End, 501))
	_, holds := client.HoldMany(ctx, make([]relaybilling.HoldRequest, 501))
	for at, of := range []struct {
		field string
		err   error
	}{
		{"request_id", hold(func(r r) { r.RequestID = "" })},
		{"request_id", hold(func(r r) { r.RequestID = strings.Repeat("é", 65) })},
		{"request_id", hold(func(r r) { r.RequestID = "\xff" })},
		{"request_id", hold(func(r r) { r.RequestID = "\xed\xa0\x80" })}, // half of a surrogate pair
		{"request_id", hold(func(r r) { r.RequestID = "a\x00b" })},
		{"user_id", hold(func(r r) { r.UserID = 0 })},
		{"token_id", hold(func(r r) { r.TokenID = -1 })},
		{"token_id", hold(func(r r) { r.TokenID = 0 })},
		{"token_id", hold(func(r r) { r.Playground = true })},
		{"quota", hold(func(r r) { r.Quota = -1 })},
		{"quota", hold(func(r r) { r.Quota = relaybilling.MaxQuota + 1 })},
		{"model_name", hold(func(r r) { r.ModelName = strings.Repeat("m", 256) })},
		{"hold_ttl", hold(func(r r) { r.HoldTTL = time.Millisecond })},
		{"hold_ttl", hold(func(r r) { r.HoldTTL = -time.Second })},
		{"actual_quota", client.Settle(ctx, "r1", -1, "")},
		{"actual_quota", client.Settle(ctx, "r1", relaybilling.MaxQuota+1, "")},
		{"reason", client.Settle(ctx, "r1", 1, strings.Repeat("r", 65))},
		{"request_id", client.Refund(ctx, "", "")},
		{"target_quota", reserve},
		{"request_id", get},
		{"batch", none},
		{"batch", many},
		{"batch", holds},
	} {
		var refused *relaybilling.InvalidRequest
		var any *relaybilling.Error
		if !errors.As(of.err, &refused) || refused.Field != of.field || !refused.SkipRetry || refused.Status != 400 {
			t.Errorf("case %d: %v, not of %s", at, of.err, of.field)
		}
		if !errors.As(of.err, &any) || any.Code != "invalid_request" {
			t.Errorf("case %d: %v is no Error", at, of.err)
		}
	}
	if len(asked) != 0 {
		t.Errorf("sent %d requests", len(asked))
	}
}

func TestAnAddressThatCannotBeUsedIsRefusedWithoutRepeatingIt(t *testing.T) {
	for _, address := range []string{
		"", "door:8090", "ftp://door", "http://", "http://door?x=1", "http://door#x", "http://u:secret@door", "http://[::1",
	} {
		var refused *relaybilling.InvalidRequest
		_, err := relaybilling.New(address, relaybilling.Options{})
		if !errors.As(err, &refused) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, options := range []relaybilling.Options{{Key: "a\r\nb"}, {Timeout: -1}, {Timeout: 1999 * time.Millisecond}, {Attempts: -1}, {Connections: -1}} {
		var refused *relaybilling.InvalidRequest
		if _, err := relaybilling.New("http://door", options); !errors.As(err, &refused) {
			t.Errorf("%+v: %v", options, err)
		}
	}
}

func TestEachProblemHasItsType(t *testing.T) {
	const rest = `"detail":"why","skip_retry":true,"request_id":"r1","field":"quota","remaining":7,"needed":9007199254740993}`
	for code, of := range map[string]struct {
		status int
		is     func(error) bool
	}{
		"invalid_request": {400, func(err error) bool {
			var e *relaybilling.InvalidRequest
			return errors.As(err, &e) && e.Field == "quota"
		}},
		"idempotency_conflict": {409, func(err error) bool {
			var e *relaybilling.IdempotencyConflict
			return errors.As(err, &e)
		}},
		"insufficient_user_quota": {403, func(err error) bool {
			var e *relaybilling.InsufficientUserQuota
			return errors.As(err, &e) && *e.Remaining == 7 && e.Needed == 9007199254740993
		}},
		"pre_consume_token_quota_failed": {403, func(err error) bool {
			var e *relaybilling.PreConsumeTokenQuotaFailed
			return errors.As(err, &e) && *e.Remaining == 7 && e.Needed == 9007199254740993
		}},
		"query_data_error":  {500, func(err error) bool { var e *relaybilling.QueryDataError; return errors.As(err, &e) }},
		"update_data_error": {500, func(err error) bool { var e *relaybilling.UpdateDataError; return errors.As(err, &e) }},
		"unknown_session":   {404, func(err error) bool { var e *relaybilling.UnknownSession; return errors.As(err, &e) }},
		"unauthorized":      {401, func(error) bool { return true }},
		"forbidden":         {403, func(error) bool { return true }},
		"body_too_large":    {413, func(error) bool { return true }},
	} {
		client, asked := fake(t, relaybilling.Options{}, say(of.status, `{"code":"`+code+`",`+rest))
		_, err := client.Hold(within(t, patience), good)
		var any *relaybilling.Error
		if !errors.As(err, &any) || any.Code != code || any.Status != of.status || any.Detail != "why" ||
			any.RequestID != "r1" || !any.SkipRetry || !of.is(err) {
			t.Errorf("%s: %#v", code, err)
		}
		if len(asked) != 1 {
			t.Errorf("%s: asked %d times", code, len(asked))
		}
	}
}

func TestASubscriptionWithoutLimitRemainsNil(t *testing.T) {
	client, _ := fake(t, relaybilling.Options{}, say(403, `{"code":"insufficient_user_quota","remaining":null,"needed":5}`))
	_, err := client.Reserve(within(t, patience), "r1", 5)
	var short *relaybilling.InsufficientUserQuota
	if !errors.As(err, &short) || short.Remaining != nil || short.Needed != 5 {
		t.Errorf("%v", err)
	}
}

func TestWhatMayPassIsTriedAgainWithTheSameBody(t *testing.T) {
	for name, trouble := range map[string]http.HandlerFunc{
		"hung up":       hangUp,
		"unavailable":   say(503, `{"code":"billing_unavailable","detail":"away"}`),
		"overloaded":    say(503, `{"code":"overloaded"}`),
		"timed out":     say(408, `{"code":"request_timeout"}`),
		"a proxy's own": say(502, "<html>bad gateway</html>"),
		"broke down":    say(500, ""),
		"slow down":     say(429, "slow down"),
		"cut in the middle": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"request_id":`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			client, asked := fake(t, relaybilling.Options{}, inTurn(trouble, trouble, say(202, `{"request_id":"r1"}`)))
			if err := client.Settle(within(t, patience), "r1", 5, ""); err != nil {
				t.Fatal(err)
			}
			if len(asked) != 3 {
				t.Fatalf("asked %d times", len(asked))
			}
			if one, other := <-asked, <-asked; one.body != other.body {
				t.Errorf("sent %s, then %s", one.body, other.body)
			}
		})
	}
}

func TestTriesAreBounded(t *testing.T) {
	client, asked := fake(t, relaybilling.Options{Attempts: 3}, say(503, `{"code":"billing_unavailable","detail":"away"}`))
	err := client.Settle(within(t, patience), "r1", 5, "")
	var away *relaybilling.Unavailable
	if !errors.As(err, &away) || away.Code != "billing_unavailable" || away.SkipRetry || len(asked) != 3 {
		t.Errorf("%v after %d attempts", err, len(asked))
	}
}

func TestADoorThatIsAwayIsUnavailable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, err := relaybilling.New("http://"+listener.Addr().String(), relaybilling.Options{Attempts: 2, Key: "rb_secret"})
	if err != nil {
		t.Fatal(err)
	}
	if err = listener.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = client.Hold(within(t, patience), good)
	var away *relaybilling.Unavailable
	var below *net.OpError
	if !errors.As(err, &away) || !errors.As(err, &below) || strings.Contains(err.Error(), "rb_secret") {
		t.Errorf("%v", err)
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	busy := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "1")
		say(503, `{"code":"overloaded"}`)(w, r)
	}
	client, _ := fake(t, relaybilling.Options{}, inTurn(busy, say(201, row)))
	began := time.Now()
	if _, err := client.Hold(within(t, patience), good); err != nil || time.Since(began) < time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

func TestARetryAfterBeyondTheDeadlineIsNotWaitedFor(t *testing.T) {
	busy := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "3600")
		say(503, `{"code":"overloaded"}`)(w, r)
	}
	client, asked := fake(t, relaybilling.Options{}, busy)
	began := time.Now()
	_, err := client.Hold(within(t, 3*time.Second), good)
	var away *relaybilling.Unavailable
	if !errors.As(err, &away) || away.Code != "overloaded" || len(asked) != 1 || time.Since(began) > 2*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

func TestTheContextEndsACall(t *testing.T) {
	release := make(chan struct{})
	client, _ := fake(t, relaybilling.Options{}, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := client.Hold(ctx, good)
	var away *relaybilling.Unavailable
	if !errors.As(err, &away) || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestAnAttemptThatTakesTooLongIsMadeAgainAndIsNotTheCallersDeadline(t *testing.T) {
	release := make(chan struct{})
	stuck := func(http.ResponseWriter, *http.Request) { <-release }
	client, asked := fake(t, relaybilling.Options{Timeout: 2 * time.Second, Attempts: 2}, stuck)
	defer close(release)
	_, err := client.Get(within(t, patience), "r1")
	var away *relaybilling.Unavailable
	if !errors.As(err, &away) || errors.Is(err, context.DeadlineExceeded) || len(asked) != 2 {
		t.Errorf("%v", err)
	}
}

func TestAnAnswerThatIsNoDoorsIsNoPromise(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"a page":              say(200, "<html>welcome</html>"),
		"nothing":             say(204, ""),
		"another request":     say(202, `{"request_id":"r2"}`),
		"a float":             say(200, `{"request_id":"r1","quota":1.0}`),
		"a redirect":          func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", 302) },
		"no door's not found": say(404, "page not found"),
	} {
		client, asked := fake(t, relaybilling.Options{Key: "rb_secret"}, answer)
		_, err := client.Reserve(within(t, patience), "r1", 5)
		var any *relaybilling.Error
		if !errors.As(err, &any) || any.Code != "unexpected_answer" || len(asked) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
	client, _ := fake(t, relaybilling.Options{}, say(200, `{"request_id":"r2"}`))
	if client.Settle(within(t, patience), "r1", 5, "") == nil || client.Refund(within(t, patience), "r1", "") == nil {
		t.Error("a charge was taken for safe by the answer about another")
	}
}

func TestAnAnswerWithoutEndIsCut(t *testing.T) {
	client, _ := fake(t, relaybilling.Options{}, func(w http.ResponseWriter, r *http.Request) {
		for block := strings.Repeat(" ", 1<<20); r.Context().Err() == nil; {
			if _, err := io.WriteString(w, block); err != nil {
				return
			}
		}
	})
	_, err := client.Get(within(t, patience), "r1")
	var any *relaybilling.Error
	if !errors.As(err, &any) || any.Code != "unexpected_answer" {
		t.Errorf("%v", err)
	}
}

// nasty ids: every one of them is valid.
var nasty = []string{
	"/", "//", "%2F", "%", ".", "..", "../..", "?", "?dry_run=true", "#", "a b", "+", ":", "sessions:batch", "\\", "é",
	"漢字", "\u202e", "😀", "a\nb", "\x01", `"`, "'", "&=;@$,!*()~", "settle", "a/settle", strings.Repeat("😀", 64),
}

func TestAnyIdStaysOneSegmentOfThePath(t *testing.T) {
	client, asked := fake(t, relaybilling.Options{}, func(w http.ResponseWriter, r *http.Request) {
		raw := strings.TrimSuffix(strings.TrimPrefix(r.RequestURI, "/v1/sessions/"), "/settle")
		id, err := url.PathUnescape(raw)
		if err != nil {
			panic(err)
		}
		answer, err := json.Marshal(map[string]string{"request_id": id})
		if err != nil {
			panic(err)
		}
		say(202, string(answer))(w, r)
	})
	for _, id := range nasty {
		if err := client.Settle(within(t, patience), id, 5, ""); err != nil {
			t.Errorf("%q: %v", id, err)
			continue
		}
		path := (<-asked).path
		segments := strings.Split(path, "/")
		if len(segments) != 5 || strings.ContainsAny(segments[3], ".?#+:\\ ") {
			t.Errorf("%q went to %q", id, path)
		}
	}
}

func TestEndsOfSessionsAreSent(t *testing.T) {
	client, asked := fake(t, relaybilling.Options{}, inTurn(
		say(201, row), say(202, `{"request_id":"r1"}`), say(202, `{"request_id":"r1"}`), say(200, row)))
	ctx := within(t, patience)
	session, err := client.Hold(ctx, good)
	if err != nil {
		t.Fatal(err)
	}
	<-asked
	if err = session.Settle(ctx, 0, "done"); err == nil {
		err = session.Refund(ctx, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err = session.Reserve(ctx, 250); err != nil {
		t.Fatal(err)
	}
	for _, want := range []seen{
		{path: "/v1/sessions/r1/settle", body: `{"actual_quota":0,"reason":"done"}`},
		{path: "/v1/sessions/r1/refund", body: `{}`},
		{path: "/v1/sessions/r1/reserve", body: `{"target_quota":250}`},
	} {
		if got := <-asked; got.path != want.path || strings.TrimSpace(got.body) != want.body || got.method != "POST" {
			t.Errorf("sent %s %s, not %s %s", got.path, got.body, want.path, want.body)
		}
	}
}

func TestADryRunHoldsNothingThatCouldBeEnded(t *testing.T) {
	client, asked := fake(t, relaybilling.Options{}, say(200, row))
	ctx := within(t, patience)
	session, err := client.DryRun(ctx, good)
	if err != nil || session.PreConsumedQuota != 100 {
		t.Fatal(session, err)
	}
	if got := <-asked; got.path != "/v1/sessions?dry_run=true" {
		t.Errorf("asked %s", got.path)
	}
	_, reserve := session.Reserve(ctx, 5)
	for _, err := range []error{session.Settle(ctx, 5, ""), session.Refund(ctx, ""), reserve} {
		var refused *relaybilling.InvalidRequest
		if !errors.As(err, &refused) {
			t.Errorf("%v", err)
		}
	}
	if len(asked) != 0 {
		t.Error("something was sent")
	}
}

func TestABatchAnswersEachInOrder(t *testing.T) {
	const short = `{"code":"insufficient_user_quota","status":403,"remaining":1,"needed":100,"request_id":"r2"}`
	client, asked := fake(t, relaybilling.Options{}, inTurn(
		say(200, `[`+row+`,`+short+`]`),
		say(200, `[{"request_id":"r1"},{"code":"billing_unavailable","status":503}]`),
		say(200, `[{"request_id":"r1"}]`)))
	ctx := within(t, patience)
	bad, second := good, good
	bad.Quota, second.RequestID = -1, "r2"
	results, err := client.HoldMany(ctx, []relaybilling.HoldRequest{good, bad, second})
	if err != nil {
		t.Fatal(err)
	}
	var invalid *relaybilling.InvalidRequest
	var poor *relaybilling.InsufficientUserQuota
	if results[0].Err != nil || results[0].Session.RequestID != "r1" || !errors.As(results[1].Err, &invalid) ||
		!errors.As(results[2].Err, &poor) || *poor.Remaining != 1 || results[2].Session != nil {
		t.Errorf("%+v", results)
	}
	if got := <-asked; got.path != "/v1/sessions:batch" {
		t.Errorf("asked %s", got.path)
	}
	ends := []relaybilling.End{
		relaybilling.SettleOf("r1", 0, "done"), relaybilling.SettleOf("", 5, ""), relaybilling.RefundOf("r2", ""),
	}
	errs, err := client.EndMany(ctx, ends)
	var away *relaybilling.Unavailable
	if err != nil || errs[0] != nil || !errors.As(errs[1], &invalid) || !errors.As(errs[2], &away) {
		t.Errorf("%v, %v", errs, err)
	}
	want := `[{"request_id":"r1","actual_quota":0,"reason":"done"},{"request_id":"r2"}]`
	if got := <-asked; got.path != "/v1/ends:batch" || strings.TrimSpace(got.body) != want {
		t.Errorf("sent %s %s", got.path, got.body)
	}
	var any *relaybilling.Error
	if _, err = client.EndMany(ctx, ends); !errors.As(err, &any) || any.Code != "unexpected_answer" {
		t.Errorf("an answer that was short by one: %v", err)
	}
}

func TestConnectionsAreKeptAndBounded(t *testing.T) {
	var mu sync.Mutex
	var opened, open, most int
	server := httptest.NewUnstartedServer(say(202, `{"request_id":"r1"}`))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch state {
		case http.StateNew:
			if opened, open = opened+1, open+1; open > most {
				most = open
			}
		case http.StateClosed:
			open--
		}
	}
	server.Start()
	defer server.Close()
	client, err := relaybilling.New(server.URL, relaybilling.Options{Connections: 8})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	failed := make(chan error, 64)
	for caller := 0; caller < 64; caller++ {
		go func() {
			var err error
			for call := 0; call < 20 && err == nil; call++ {
				err = client.Settle(context.Background(), "r1", 5, "")
			}
			failed <- err
		}()
	}
	for caller := 0; caller < 64; caller++ {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	// One that was begun, and not needed in the end, is closed, and the server sees that late.
	if most > 16 || opened > 16 {
		t.Errorf("opened %d connections for 1,280 calls, %d of them together", opened, most)
	}
}

func TestAKeptConnectionThatTheDoorHasClosedCostsNoAttempt(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		// The first connection answers once and takes a second request without an answer: it was closed as that came.
		for answers := 1; ; answers = 1000 {
			connection, err := listener.Accept()
			if err != nil {
				return // the test is over
			}
			go func(answers int) {
				defer connection.Close()
				for reader := bufio.NewReader(connection); ; answers-- {
					request, err := http.ReadRequest(reader)
					if err != nil || answers == 0 {
						return
					}
					if _, err = io.Copy(io.Discard, request.Body); err != nil {
						return
					}
					fmt.Fprint(connection, "HTTP/1.1 202 Accepted\r\nContent-Length: 19\r\n\r\n{\"request_id\":\"r1\"}")
				}
			}(answers)
		}
	}()
	client, err := relaybilling.New("http://"+listener.Addr().String(), relaybilling.Options{Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for call := 0; call < 3; call++ {
		if err := client.Settle(within(t, patience), "r1", 5, ""); err != nil {
			t.Errorf("call %d: %v", call, err)
		}
	}
}

func TestAHoldIsNotRepeatedWhileTheDoorMayTakeItForAbandoned(t *testing.T) {
	for name, trouble := range map[string]http.HandlerFunc{
		"hung up":       hangUp,
		"a proxy's own": say(502, "<html>bad gateway</html>"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, asked := fake(t, relaybilling.Options{}, inTurn(trouble, say(201, row)))
			began := time.Now()
			if _, err := client.Hold(within(t, patience), good); err != nil || len(asked) != 2 {
				t.Errorf("%v after %d attempts", err, len(asked))
			}
			if took := time.Since(began); took < 1500*time.Millisecond {
				t.Errorf("repeated after %s", took)
			}
			client, asked = fake(t, relaybilling.Options{}, trouble)
			_, err := client.HoldMany(within(t, 2*time.Second), []relaybilling.HoldRequest{good})
			var away *relaybilling.Unavailable
			if !errors.As(err, &away) || away.RetryAfter != 1500*time.Millisecond || len(asked) != 1 {
				t.Errorf("%v after %d attempts: the second would have been cut off", err, len(asked))
			}
		})
	}
}

func TestAHoldThatNeverReachedTheDoorIsRepeatedSoon(t *testing.T) {
	client, err := relaybilling.New("http://127.0.0.1:1", relaybilling.Options{Attempts: 2})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err = client.Hold(within(t, patience), good)
	var away *relaybilling.Unavailable
	if !errors.As(err, &away) || away.RetryAfter != 0 || time.Since(began) > time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

func TestASessionIsOverOnceSomebodyHasBegunToEndIt(t *testing.T) {
	refund := "refund"
	for _, of := range []struct {
		session relaybilling.Session
		over    bool
	}{
		{relaybilling.Session{State: "preconsumed"}, false},
		{relaybilling.Session{State: "preconsumed", Intent: &refund}, true},
		{relaybilling.Session{State: "expired"}, true},
		{relaybilling.Session{State: "settled"}, true},
	} {
		if of.session.Over() != of.over {
			t.Errorf("%+v", of.session)
		}
	}
}
