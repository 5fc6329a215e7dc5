package relaybilling_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
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

// customer asks the relay of example_test.go; what the model does is the test's.
func customer(
	t *testing.T, client *relaybilling.Client, key string, model func(context.Context, http.ResponseWriter) (int64, error),
) int {
	t.Helper()
	ender := client.NewEnder(relaybilling.EnderOptions{})
	defer stop(ender)
	server := httptest.NewServer(&relay{client: client, ender: ender, model: model})
	defer server.Close()
	ctx, hangUp := context.WithCancel(doortest.Context(t))
	defer hangUp()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Idempotency-Key", key)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	first := make([]byte, 1)
	if _, err = answer.Body.Read(first); err == nil && first[0] == '!' {
		hangUp()
	}
	if _, err = io.Copy(io.Discard, answer.Body); err != nil && ctx.Err() == nil {
		t.Fatal(err)
	}
	return answer.StatusCode
}

func TestDoorWithTheExampleOfThePage(t *testing.T) {
	client := doortest.Client(t)
	const used = 640
	answers := func(ctx context.Context, w http.ResponseWriter) (int64, error) {
		fmt.Fprint(w, "hello")
		return used, nil
	}
	isHeld := func(ctx context.Context, w http.ResponseWriter) (int64, error) {
		t.Error("the model was asked once more")
		return 0, nil
	}
	fails := func(context.Context, http.ResponseWriter) (int64, error) { return 0, errors.New("overloaded") }
	waits := func(ctx context.Context, w http.ResponseWriter) (int64, error) {
		fmt.Fprint(w, "!")
		w.(http.Flusher).Flush()
		<-ctx.Done()
		return 7, ctx.Err()
	}
	for _, of := range []struct {
		key    string
		model  func(context.Context, http.ResponseWriter) (int64, error)
		status int
		state  string
		actual int64
		reason string
	}{
		{"answered", answers, 200, "settled", used, ""},
		{"answered", isHeld, 409, "", 0, ""},
		{"failed", fails, 502, "refunded", 0, "upstream_error"},
		{"hung up", waits, 200, "settled", 7, "client_gone"},
		{strings.Repeat("x", 64), isHeld, 400, "", 0, ""},
	} {
		if status := customer(t, client, of.key, of.model); status != of.status {
			t.Errorf("%s: %d", of.key, status)
		}
		if of.state == "" {
			continue
		}
		session := doortest.Closed(t, client, "1-"+of.key)
		actual, reason := int64(0), ""
		if session.ActualQuota != nil {
			actual = *session.ActualQuota
		}
		if session.Reason != nil {
			reason = *session.Reason
		}
		if session.State != of.state || actual != of.actual || reason != of.reason {
			t.Errorf("%s: %+v", of.key, session)
		}
	}
}

func TestTheExampleRefusesWhatTheDoorRefuses(t *testing.T) {
	client, _ := fake(t, relaybilling.Options{}, say(403, `{"code":"insufficient_user_quota","remaining":1,"needed":1000}`))
	answer := httptest.NewRecorder()
	(&relay{client: client}).ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/", nil))
	if answer.Code != 403 || answer.Header().Get("X-Needed-Quota") != "1000" {
		t.Errorf("%+v", answer)
	}
}
