package newapi_test

import (
	"errors"
	"fmt"
	"testing"

	"relaybilling"
	"relaybilling/internal/doortest"
	"relaybilling/newapi"
)

type session = *newapi.Session[*framework]

// lives of sessions (semantics §5, §6), and what they move of the accounts of their user.
var lives = []struct {
	name  string
	user  int64
	hold  relaybilling.HoldRequest // what is not the same everywhere
	held  int
	needs bool
	then  func(*testing.T, session)
	state string
	moved doortest.Accounts
}{
	{
		name: "a settle for less gives the rest back", user: doortest.Rich, hold: relaybilling.HoldRequest{Quota: 100},
		held: 100, needs: true, then: settle(80), state: "settled",
		moved: doortest.Accounts{Wallet: -80, Token: -80, UsedQuota: 80, Requests: 1},
	},
	{
		name: "a settle for more takes the rest", user: doortest.Rich, hold: relaybilling.HoldRequest{Quota: 100},
		held: 100, needs: true, then: settle(150), state: "settled",
		moved: doortest.Accounts{Wallet: -150, Token: -150, UsedQuota: 150, Requests: 1},
	},
	{
		name: "a settle for the same moves no more", user: doortest.Rich, hold: relaybilling.HoldRequest{Quota: 100},
		held: 100, needs: true, then: settle(100), state: "settled",
		moved: doortest.Accounts{Wallet: -100, Token: -100, UsedQuota: 100, Requests: 1},
	},
	{
		name: "a settle for nothing", user: doortest.Rich, hold: relaybilling.HoldRequest{Quota: 100},
		held: 100, needs: true, then: settle(0), state: "settled", moved: doortest.Accounts{Requests: 1},
	},
	{
		name: "the first settle wins", user: doortest.Rich, hold: relaybilling.HoldRequest{Quota: 100},
		held: 100, needs: true, then: all(settle(80), settle(80), settle(999)), state: "settled",
		moved: doortest.Accounts{Wallet: -80, Token: -80, UsedQuota: 80, Requests: 1},
	},
	{
		name: "a refund gives all back, once", user: doortest.Rich, hold: relaybilling.HoldRequest{Quota: 100},
		held: 100, needs: true, then: all(refund, refund), state: "refunded",
	},
	{
		name: "a settled session is not refunded", user: doortest.Rich, hold: relaybilling.HoldRequest{Quota: 100},
		held: 100, needs: true, then: all(settle(80), refund), state: "settled",
		moved: doortest.Accounts{Wallet: -80, Token: -80, UsedQuota: 80, Requests: 1},
	},
	{
		name: "a refunded session is not charged", user: doortest.Rich, hold: relaybilling.HoldRequest{Quota: 100},
		held: 100, needs: true, state: "refunded",
		then: all(refund, func(t *testing.T, s session) {
			if err := s.Settle(80); !errors.Is(err, newapi.ErrRefunded) {
				t.Error(err)
			}
		}),
	},
	{
		name: "usage is charged below zero", user: doortest.Poor, hold: relaybilling.HoldRequest{Quota: 50},
		held: 50, needs: true, then: settle(120), state: "settled",
		moved: doortest.Accounts{Wallet: -120, Token: -120, UsedQuota: 120, Requests: 1},
	},
	{
		name: "who is trusted holds nothing and is charged at the end", user: doortest.Trusted,
		hold: relaybilling.HoldRequest{Quota: 100}, held: 0, needs: false, state: "settled",
		then:  all(refund, reserve(500, 0), settle(300)),
		moved: doortest.Accounts{Wallet: -300, Token: -300, UsedQuota: 300, Requests: 1},
	},
	{
		name: "who is trusted is held where it is asked for", user: doortest.Trusted,
		hold: relaybilling.HoldRequest{Quota: 100, ForcePreConsume: true}, held: 100, needs: true, then: refund, state: "refunded",
	},
	{
		name: "a subscription is charged what was used", user: doortest.Subscribed,
		hold: relaybilling.HoldRequest{Quota: 100}, held: 100, needs: true, then: settle(130), state: "settled",
		moved: doortest.Accounts{Token: -130, UsedQuota: 130, Requests: 1, SubscriptionUsed: 130},
	},
	{
		name: "a subscription holds one at least, and gives it back", user: doortest.Subscribed,
		hold: relaybilling.HoldRequest{Quota: 0}, held: 1, needs: true, then: refund, state: "refunded",
	},
	{
		name: "a subscription's hold needs a refund without a token too", user: doortest.Subscribed,
		hold: relaybilling.HoldRequest{Quota: 100, Playground: true}, held: 100, needs: true, then: refund, state: "refunded",
	},
	{
		name: "the playground charges no token", user: doortest.Rich,
		hold: relaybilling.HoldRequest{Quota: 100, Playground: true}, held: 100, needs: true, then: settle(80), state: "settled",
		moved: doortest.Accounts{Wallet: -80, UsedQuota: 80, Requests: 1},
	},
	{
		name: "a raised hold is given back", user: doortest.Rich, hold: relaybilling.HoldRequest{Quota: 100},
		held: 100, needs: true, then: all(reserve(250, 250), reserve(200, 250), refund), state: "refunded",
	},
	{
		name: "a hold that can't be raised stands", user: doortest.Rich, hold: relaybilling.HoldRequest{Quota: 100},
		held: 100, needs: true, state: "settled",
		then: all(func(t *testing.T, s session) {
			var short *relaybilling.InsufficientUserQuota
			if err := s.Reserve(1 << 40); !errors.As(err, &short) || s.GetPreConsumedQuota() != 100 {
				t.Error(err)
			}
		}, settle(80)),
		moved: doortest.Accounts{Wallet: -80, Token: -80, UsedQuota: 80, Requests: 1},
	},
}

func settle(actual int) func(*testing.T, session) {
	return func(t *testing.T, s session) {
		t.Helper()
		if err := s.Settle(actual); err != nil || s.NeedsRefund() {
			t.Errorf("settle %d: %v, needs refund: %v", actual, err, s.NeedsRefund())
		}
	}
}

func refund(t *testing.T, s session) {
	t.Helper()
	if s.Refund(nil); s.NeedsRefund() {
		t.Error("needs a refund after it")
	}
}

func reserve(target, held int) func(*testing.T, session) {
	return func(t *testing.T, s session) {
		t.Helper()
		if err := s.Reserve(target); err != nil || s.GetPreConsumedQuota() != held {
			t.Errorf("reserve %d: %v, held %d", target, err, s.GetPreConsumedQuota())
		}
	}
}

func all(steps ...func(*testing.T, session)) func(*testing.T, session) {
	return func(t *testing.T, s session) {
		t.Helper()
		for _, step := range steps {
			step(t, s)
		}
	}
}

func realBilling(t *testing.T) (newapi.Billing[*framework], *relaybilling.Client) {
	t.Helper()
	client := doortest.Client(t)
	ender := client.NewEnder(relaybilling.EnderOptions{})
	t.Cleanup(func() {
		if unsafe, err := ender.Close(doortest.Context(t)); err != nil {
			t.Error(unsafe, err)
		}
	})
	return newapi.Billing[*framework]{Client: client, Ender: ender}, client
}

func TestDoorMovesTheMoneyOfEachLife(t *testing.T) {
	billing, client := realBilling(t)
	for at, of := range lives {
		t.Run(of.name, func(t *testing.T) {
			id, user := fmt.Sprintf("life %d", at), fmt.Sprint(of.user)
			before := doortest.Look(t, user)
			of.hold.RequestID, of.hold.UserID = id, of.user
			if !of.hold.Playground {
				of.hold.TokenID = of.user
			}
			session, err := billing.Begin(doortest.Context(t), of.hold)
			if err != nil {
				t.Fatal(err)
			}
			if session.GetPreConsumedQuota() != of.held || session.NeedsRefund() != of.needs {
				t.Errorf("held %d, needs refund: %v", session.GetPreConsumedQuota(), session.NeedsRefund())
			}
			held := doortest.Look(t, user).Less(before)
			if taken := -held.Wallet + held.SubscriptionUsed; taken != int64(of.held) {
				t.Errorf("the hold moved %+v", held)
			}
			of.then(t, session)
			if closed := doortest.Closed(t, client, id); closed.State != of.state {
				t.Errorf("ended as %+v", closed)
			}
			if moved := doortest.Look(t, user).Less(before); moved != of.moved {
				t.Errorf("moved %+v, not %+v", moved, of.moved)
			}
		})
	}
}

func TestDoorRefusesWhatCannotBePaid(t *testing.T) {
	billing, _ := realBilling(t)
	ctx := doortest.Context(t)
	poor := doortest.Look(t, fmt.Sprint(doortest.Poor))
	_, err := billing.Begin(ctx, relaybilling.HoldRequest{
		RequestID: "too dear", UserID: doortest.Poor, TokenID: doortest.Poor, Quota: 500, Preference: "wallet_only"})
	var wallet *relaybilling.InsufficientUserQuota
	if !errors.As(err, &wallet) || *wallet.Remaining != poor.Wallet || wallet.Needed != 500 || wallet.Status != 403 ||
		!wallet.SkipRetry {
		t.Error(err)
	}
	_, err = billing.Begin(ctx, relaybilling.HoldRequest{
		RequestID: "short token", UserID: doortest.ShortToken, TokenID: doortest.ShortToken, Quota: 100})
	var token *relaybilling.PreConsumeTokenQuotaFailed
	if !errors.As(err, &token) || *token.Remaining != 10 || token.Needed != 100 || token.Status != 403 {
		t.Error(err)
	}
}

func TestDoorParksAnAbsurdAmountAndMovesNothing(t *testing.T) {
	billing, client := realBilling(t)
	before := doortest.Look(t, fmt.Sprint(doortest.Parked))
	session, err := billing.Begin(doortest.Context(t), relaybilling.HoldRequest{
		RequestID: "absurd", UserID: doortest.Parked, TokenID: doortest.Parked, Quota: 100})
	if err != nil {
		t.Fatal(err)
	}
	if err = session.Settle(600_000_000); err != nil {
		t.Fatal(err)
	}
	parked := doortest.Until(t, client, "absurd", func(of *relaybilling.Session) bool { return of.Parked })
	if parked.State != "preconsumed" || *parked.ParkedReason != "implausible_amount" {
		t.Errorf("%+v", parked)
	}
	if moved := doortest.Look(t, fmt.Sprint(doortest.Parked)).Less(before); moved.Wallet != -100 || moved.Token != -100 {
		t.Errorf("moved %+v", moved)
	}
}
