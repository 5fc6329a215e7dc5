// Package newapi gives a session of the HTTP door the five methods that new-api, and the relays made after it, ask of
// a billing session: settle the actual quota, refund, whether a refund is needed, what was pre-consumed, reserve to a
// target. It is a package of its own because other relays copy the client's one file, and need none of this.
//
// Those relays pass their web framework's context to Refund. It is a type parameter here, so that this package needs no
// framework, and the method fits the relay's interface:
//
//	billing := newapi.Billing[*gin.Context]{Client: client, Ender: ender}
//	session, err := billing.Begin(ctx, relaybilling.HoldRequest{…})
//	relayInfo.Billing = session
package newapi

import (
	"context"
	"errors"
	"log"
	"sync"
	"time"

	"relaybilling"
)

// Money is an int in these relays. Where that has 32 bits, this line does not compile.
const _ int = relaybilling.MaxQuota

const defaultPatience = 10 * time.Second

// ErrRefunded: the session was refunded before, so this settle charges nothing (semantics §5).
var ErrRefunded = errors.New("the session was refunded before it was settled: nothing is charged")

// Billing makes the sessions of a relay. C is the context that the relay's Refund is called with.
type Billing[C any] struct {
	Client *relaybilling.Client
	// Ender carries settles and refunds to the door; close it when the relay ends.
	Ender *relaybilling.Ender
	// Patience bounds each Settle and Reserve, whose callers give no context. Zero: 10 s.
	Patience time.Duration
	// OnLost is called with a refund for which there was no room within Patience; its hold is given back when its
	// hold_ttl ends. Nil: it is logged.
	OnLost func(relaybilling.End, error)
}

// Begin holds quota for a request (semantics §3), with the errors of Client.Hold: Status, SkipRetry and Code of the
// Error in them are what the relay answers. Where the id is of a request that has ended, the Error's code is
// already_ended: these relays do not look whether a session is over, and would call the model for nothing.
func (b Billing[C]) Begin(ctx context.Context, hold relaybilling.HoldRequest) (*Session[C], error) {
	held, err := b.Client.Hold(ctx, hold)
	if err != nil {
		return nil, err
	}
	if held.Over() {
		return nil, &relaybilling.Error{
			Code: "already_ended", Status: 409, SkipRetry: true, RequestID: held.RequestID,
			Detail: "a request with this id has ended: use a new id for another request",
		}
	}
	if b.Patience <= 0 {
		b.Patience = defaultPatience
	}
	if b.OnLost == nil {
		b.OnLost = func(end relaybilling.End, err error) {
			log.Printf("the hold of request %q stands until it expires: %v", end.RequestID, err)
		}
	}
	return &Session[C]{billing: b, held: held}, nil
}

// Session is one relayed request. It is safe for concurrent use.
type Session[C any] struct {
	billing Billing[C]

	mu       sync.Mutex
	held     *relaybilling.Session
	settling *relaybilling.Pending // the settle that was queued; nil: none
	used     bool                  // a settle was tried: there was usage, so it is never refunded
	refunded bool
}

// Settle charges what was used (semantics §5), and waits until that is safe. Nil: it is. A second one changes nothing,
// whatever its quota: the first wins. Unavailable: not safe yet; the Ender goes on, and a second call waits again.
// NotQueued: the Ender is full or closed; only a second call makes it safe. ErrRefunded: it came after a refund. Once a
// settle was tried, the session is never refunded: the usage has happened.
func (s *Session[C]) Settle(actualQuota int) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.billing.Patience)
	defer cancel()
	pending, err := s.settle(ctx, int64(actualQuota))
	if err != nil {
		return err
	}
	return pending.Wait(ctx)
}

func (s *Session[C]) settle(ctx context.Context, actual int64) (*relaybilling.Pending, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refunded {
		return nil, ErrRefunded
	}
	if s.settling != nil {
		return s.settling, nil
	}
	pending, err := s.billing.Ender.Settle(ctx, s.held.RequestID, actual, "")
	var unusable *relaybilling.InvalidRequest
	s.used = s.used || !errors.As(err, &unusable)
	s.settling = pending
	return pending, err
}

// Refund gives the hold back (semantics §6), in the background and once. It does nothing after a settle, nor where
// nothing is held. The context is not used: the framework takes it back before the refund is done.
func (s *Session[C]) Refund(C) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.needsRefund() {
		return
	}
	s.refunded = true
	id := s.held.RequestID
	full, cancel := context.WithCancel(context.Background())
	cancel()
	// With a context that has ended, it is queued immediately or not at all.
	if _, err := s.billing.Ender.Refund(full, id, ""); err != nil {
		go s.refundLater(id)
	}
}

// refundLater waits for room, for a bounded time.
func (s *Session[C]) refundLater(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), s.billing.Patience)
	defer cancel()
	if _, err := s.billing.Ender.Refund(ctx, id, ""); err != nil {
		s.billing.OnLost(relaybilling.RefundOf(id, ""), err)
	}
}

// NeedsRefund is whether something is held that nobody has begun to end (semantics §6).
func (s *Session[C]) NeedsRefund() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.needsRefund()
}

func (s *Session[C]) needsRefund() bool {
	return !s.used && !s.refunded && s.held.NeedsRefund
}

// GetPreConsumedQuota is what is held, in quota: 0 where the user was trusted.
func (s *Session[C]) GetPreConsumedQuota() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.held.PreConsumedQuota)
}

// Reserve raises the hold to a target (semantics §4). It does nothing where that much is held, the user is trusted, or
// the session has ended. On an error nothing was moved, but for Unavailable: then call it again.
func (s *Session[C]) Reserve(targetQuota int) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.billing.Patience)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used || s.refunded || s.held.Trusted || int64(targetQuota) <= s.held.PreConsumedQuota {
		return nil
	}
	raised, err := s.held.Reserve(ctx, int64(targetQuota))
	if err == nil {
		s.held = raised
	}
	return err
}

// Held is the session as the door last answered it: source, subscription and plan, for the relay's own log.
func (s *Session[C]) Held() relaybilling.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.held
}
