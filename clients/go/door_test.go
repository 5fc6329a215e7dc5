package relaybilling_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"relaybilling"
	"relaybilling/internal/doortest"
)

func ofWatched(id string, quota int64) relaybilling.HoldRequest {
	return relaybilling.HoldRequest{RequestID: id, UserID: doortest.Watched, TokenID: doortest.Watched, Quota: quota}
}

func TestDoorTakesAnyIdThroughAWholeLife(t *testing.T) {
	client, ctx := doortest.Client(t), doortest.Context(t)
	before := doortest.Look(t, fmt.Sprint(doortest.Watched))
	for _, id := range nasty {
		session, err := client.Hold(ctx, ofWatched(id, 10))
		if err != nil {
			t.Fatalf("%q: %v", id, err)
		}
		if session, err = session.Reserve(ctx, 25); err != nil || session.PreConsumedQuota != 25 {
			t.Fatalf("%q: %+v, %v", id, session, err)
		}
		if err = session.Settle(ctx, 7, "done"); err != nil {
			t.Fatalf("%q: %v", id, err)
		}
	}
	for _, id := range nasty {
		session := doortest.Closed(t, client, id)
		if session.State != "settled" || *session.ActualQuota != 7 || *session.Reason != "done" || session.RequestID != id {
			t.Errorf("%q: %+v", id, session)
		}
	}
	spent := 7 * int64(len(nasty))
	if moved := doortest.Look(t, fmt.Sprint(doortest.Watched)).Less(before); moved.Wallet != -spent || moved.Token != -spent {
		t.Errorf("moved %+v", moved)
	}
}

func TestDoorAnswersAReplayAConflictAndAnUnknownSession(t *testing.T) {
	client, ctx := doortest.Client(t), doortest.Context(t)
	first, err := client.Hold(ctx, ofWatched("replayed", 10))
	if err != nil || first.Replayed {
		t.Fatal(first, err)
	}
	again, err := client.Hold(ctx, ofWatched("replayed", 10))
	if err != nil || !again.Replayed || again.CreatedAt != first.CreatedAt {
		t.Error(again, err)
	}
	var conflict *relaybilling.IdempotencyConflict
	if _, err = client.Hold(ctx, ofWatched("replayed", 11)); !errors.As(err, &conflict) || conflict.RequestID != "replayed" {
		t.Error(err)
	}
	var unknown *relaybilling.UnknownSession
	if _, err = client.Get(ctx, "never held"); !errors.As(err, &unknown) {
		t.Error(err)
	}
	if _, err = client.Reserve(ctx, "never held", 5); !errors.As(err, &unknown) {
		t.Error(err)
	}
	if err = first.Refund(ctx, ""); err != nil {
		t.Error(err)
	}
	doortest.Closed(t, client, "replayed")
}

func TestDoorMovesNothingInADryRun(t *testing.T) {
	client, ctx := doortest.Client(t), doortest.Context(t)
	before := doortest.Look(t, fmt.Sprint(doortest.Watched))
	would, err := client.DryRun(ctx, ofWatched("dry", 10))
	if err != nil || would.PreConsumedQuota != 10 {
		t.Error(would, err)
	}
	var short *relaybilling.InsufficientUserQuota
	if _, err = client.DryRun(ctx, ofWatched("dry", 1<<40)); !errors.As(err, &short) || *short.Remaining != before.Wallet {
		t.Error(err)
	}
	var unknown *relaybilling.UnknownSession
	if _, err = client.Get(ctx, "dry"); !errors.As(err, &unknown) {
		t.Error(err)
	}
	if after := doortest.Look(t, fmt.Sprint(doortest.Watched)); after != before {
		t.Errorf("%+v became %+v", before, after)
	}
}

func TestDoorTakesBatches(t *testing.T) {
	client, ctx := doortest.Client(t), doortest.Context(t)
	before := doortest.Look(t, fmt.Sprint(doortest.Watched))
	holds := []relaybilling.HoldRequest{ofWatched("batch-0", 10), ofWatched("batch-1", 1<<40), ofWatched("batch-2", 10)}
	results, err := client.HoldMany(ctx, holds)
	if err != nil {
		t.Fatal(err)
	}
	var short *relaybilling.InsufficientUserQuota
	if results[0].Err != nil || !errors.As(results[1].Err, &short) || results[2].Err != nil {
		t.Errorf("%+v", results)
	}
	errs, err := client.EndMany(ctx, []relaybilling.End{
		relaybilling.SettleOf("batch-0", 3, ""), relaybilling.SettleOf("batch-2", -1, ""), relaybilling.RefundOf("batch-2", "gone"),
	})
	var invalid *relaybilling.InvalidRequest
	if err != nil || errs[0] != nil || !errors.As(errs[1], &invalid) || errs[2] != nil {
		t.Error(errs, err)
	}
	settled, refunded := doortest.Closed(t, client, "batch-0"), doortest.Closed(t, client, "batch-2")
	if settled.State != "settled" || *settled.ActualQuota != 3 || refunded.State != "refunded" || *refunded.Reason != "gone" {
		t.Errorf("%+v, %+v", settled, refunded)
	}
	if moved := doortest.Look(t, fmt.Sprint(doortest.Watched)).Less(before); moved.Wallet != -3 || moved.Token != -3 {
		t.Errorf("moved %+v", moved)
	}
}

func TestDoorTakesWhatAnEnderGathers(t *testing.T) {
	client, ctx := doortest.Client(t), doortest.Context(t)
	before := doortest.Look(t, fmt.Sprint(doortest.Watched))
	const sessions = 300
	requests := make([]relaybilling.HoldRequest, sessions)
	for at := range requests {
		requests[at] = ofWatched(fmt.Sprintf("ender-%d", at), 10)
	}
	results, err := client.HoldMany(ctx, requests)
	if err != nil {
		t.Fatal(err)
	}
	ender, spent := client.NewEnder(relaybilling.EnderOptions{}), int64(0)
	for at, result := range results {
		if result.Err != nil {
			t.Fatal(result.Err)
		}
		if at%3 == 0 {
			_, err = ender.Refund(ctx, result.Session.RequestID, "")
		} else {
			_, err = ender.Settle(ctx, result.Session.RequestID, int64(at), "")
			spent += int64(at)
		}
		if err != nil {
			t.Fatal(err)
		}
		// The first end of a session wins.
		if _, err = ender.Settle(ctx, result.Session.RequestID, 999, ""); err != nil {
			t.Fatal(err)
		}
	}
	if unsafe, err := ender.Close(ctx); err != nil {
		t.Fatal(unsafe, err)
	}
	for _, result := range results {
		doortest.Closed(t, client, result.Session.RequestID)
	}
	if moved := doortest.Look(t, fmt.Sprint(doortest.Watched)).Less(before); moved.Wallet != -spent || moved.Token != -spent {
		t.Errorf("moved %+v, not %d", moved, spent)
	}
}

func TestDoorRefusesAKeyThatMayNot(t *testing.T) {
	doortest.Client(t)
	ctx := doortest.Context(t)
	for key, of := range map[string]struct {
		status int
		code   string
	}{
		os.Getenv("BILLING_TEST_READ_KEY"): {403, "forbidden"},
		"rb_unknown":                       {401, "unauthorized"},
		"":                                 {401, "unauthorized"},
	} {
		_, err := doortest.WithKey(t, key).Hold(ctx, ofWatched("forbidden", 10))
		var refused *relaybilling.Error
		if !errors.As(err, &refused) || refused.Status != of.status || refused.Code != of.code {
			t.Errorf("%v", err)
		}
	}
}
