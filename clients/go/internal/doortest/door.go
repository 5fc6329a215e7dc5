// Package doortest lets tests look at the accounts behind a real door. tests/integration/test_go_client.py starts the
// door, its database and a worker, and fills the accounts.
package doortest

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"testing"
	"time"

	"relaybilling"
)

// The accounts of test_go_client.py: ids of users, and of the tokens that are theirs.
const (
	Rich       = 1 // has a wallet and a token of 1,000,000 each
	Poor       = 2 // 50 in the wallet, 1,000 on the token
	Trusted    = 3 // more than the trust quota in the wallet, an unlimited token
	Subscribed = 4 // nothing in the wallet, a subscription of 1,000
	ShortToken = 5 // 1,000 in the wallet, 10 on the token
	Watched    = 6 // as Rich, for the client's own tests alone
	Parked     = 7 // as Rich

	patience, pause = 30 * time.Second, 20 * time.Millisecond
)

// Client is one of the door that the environment names; without one the test is skipped.
func Client(t *testing.T) *relaybilling.Client {
	t.Helper()
	return WithKey(t, os.Getenv("BILLING_TEST_KEY"))
}

// WithKey is as Client, with another key.
func WithKey(t *testing.T, key string) *relaybilling.Client {
	t.Helper()
	address := os.Getenv("BILLING_TEST_DOOR")
	if address == "" {
		t.Skip("BILLING_TEST_DOOR names no door: tests/integration/test_go_client.py starts one")
	}
	client, err := relaybilling.New(address, relaybilling.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// Context ends when a test has taken too long.
func Context(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// Accounts is what a user and the token of the same id have, in quota.
type Accounts struct {
	Wallet, Token, UsedQuota, Requests, SubscriptionUsed int64
}

// Less is what was taken since an earlier look.
func (a Accounts) Less(before Accounts) Accounts {
	return Accounts{
		a.Wallet - before.Wallet, a.Token - before.Token, a.UsedQuota - before.UsedQuota,
		a.Requests - before.Requests, a.SubscriptionUsed - before.SubscriptionUsed,
	}
}

// Look reads the accounts of a user.
func Look(t *testing.T, id string) Accounts {
	t.Helper()
	var user struct {
		Quota         int64 `json:"quota"`
		UsedQuota     int64 `json:"used_quota"`
		RequestCount  int64 `json:"request_count"`
		Subscriptions []struct {
			AmountUsed int64 `json:"amount_used"`
		} `json:"subscriptions"`
	}
	var token struct {
		RemainQuota int64 `json:"remain_quota"`
	}
	read(t, "/v1/users/"+id, &user)
	read(t, "/v1/tokens/"+id, &token)
	found := Accounts{user.Quota, token.RemainQuota, user.UsedQuota, user.RequestCount, 0}
	for _, bought := range user.Subscriptions {
		found.SubscriptionUsed += bought.AmountUsed
	}
	return found
}

func read(t *testing.T, path string, out any) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, os.Getenv("BILLING_TEST_DOOR")+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+os.Getenv("BILLING_TEST_KEY"))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err = json.NewDecoder(answer.Body).Decode(out); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", path, answer.Status, err)
	}
}

// Until waits for what a worker does to a session.
func Until(t *testing.T, client *relaybilling.Client, id string, holds func(*relaybilling.Session) bool) *relaybilling.Session {
	t.Helper()
	ctx := Context(t)
	for {
		session, err := client.Get(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if holds(session) {
			return session
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			t.Fatalf("%q stays as it is: %+v", id, session)
		}
	}
}

// Closed waits until a worker has ended a session.
func Closed(t *testing.T, client *relaybilling.Client, id string) *relaybilling.Session {
	t.Helper()
	return Until(t, client, id, func(of *relaybilling.Session) bool { return of.ClosedAt != nil })
}
