package newapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"relaybilling"
	"relaybilling/newapi"
)

const patience = 20 * time.Second

// framework is the context of a web framework; the relay's interface asks for it.
type framework struct{}

// settler is the interface that such a relay has for its billing sessions.
type settler interface {
	Settle(actualQuota int) error
	Refund(c *framework)
	NeedsRefund() bool
	GetPreConsumedQuota() int
	Reserve(targetQuota int) error
}

var _ settler = (*newapi.Session[*framework])(nil)

// door answers holds with a row, and keeps everything else that it was asked.
type door struct {
	mu    sync.Mutex
	row   string
	asked []string
	away  bool
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w.Header().Set("Content-Type", "application/problem+json")
	switch {
	case d.away:
		w.WriteHeader(503)
		fmt.Fprint(w, `{"code":"billing_unavailable","detail":"away"}`)
	case r.URL.Path == "/v1/sessions":
		fmt.Fprint(w, d.row)
	case strings.HasSuffix(r.URL.Path, "/reserve"):
		d.asked = append(d.asked, "reserve")
		fmt.Fprint(w, strings.Replace(d.row, `"pre_consumed_quota":100`, `"pre_consumed_quota":250`, 1))
	default:
		var ends []relaybilling.End
		if err := json.NewDecoder(r.Body).Decode(&ends); err != nil {
			panic(err)
		}
		for _, end := range ends {
			if end.ActualQuota == nil {
				d.asked = append(d.asked, "refund")
			} else {
				d.asked = append(d.asked, fmt.Sprint(*end.ActualQuota))
			}
		}
		answers, err := json.Marshal(ends)
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(w, "%s", answers)
	}
}

func (d *door) all() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.asked, " ")
}

const row = `{"request_id":"r1","quota":100,"pre_consumed_quota":100,"token_consumed":100,"state":"preconsumed",
	"source":"wallet","needs_refund":true,"trusted":false}`

type fixture struct {
	*door
	ender   *relaybilling.Ender
	session *newapi.Session[*framework]
	lost    chan relaybilling.End
}

func begin(t *testing.T, row string, capacity int) fixture {
	t.Helper()
	of := fixture{door: &door{row: row}, lost: make(chan relaybilling.End, 10)}
	server := httptest.NewServer(of.door)
	t.Cleanup(server.Close)
	client, err := relaybilling.New(server.URL, relaybilling.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	of.ender = client.NewEnder(relaybilling.EnderOptions{Capacity: capacity, OnTrouble: func(error) {}})
	billing := newapi.Billing[*framework]{
		Client: client, Ender: of.ender, Patience: 200 * time.Millisecond,
		OnLost: func(end relaybilling.End, _ error) { of.lost <- end },
	}
	hold := relaybilling.HoldRequest{RequestID: "r1", UserID: 1, TokenID: 1, Quota: 100}
	if of.session, err = billing.Begin(context.Background(), hold); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { of.close(t) })
	return of
}

func (f fixture) close(t *testing.T) {
	t.Helper()
	f.set(func() { f.away = false })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if unsafe, err := f.ender.Close(ctx); err != nil {
		t.Error(unsafe, err)
	}
}

func (d *door) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func TestASecondSettleChangesNothing(t *testing.T) {
	of := begin(t, row, 10)
	for _, actual := range []int{80, 80, 999} {
		if err := of.session.Settle(actual); err != nil {
			t.Error(err)
		}
	}
	if of.all() != "80" || of.session.NeedsRefund() {
		t.Errorf("asked %s", of.all())
	}
}

func TestARefundIsMadeOnceAndASettleAfterItChargesNothing(t *testing.T) {
	of := begin(t, row, 10)
	if !of.session.NeedsRefund() {
		t.Error("100 are held")
	}
	of.session.Refund(nil)
	of.session.Refund(nil)
	if of.session.NeedsRefund() {
		t.Error("it is refunded")
	}
	if err := of.session.Settle(80); !errors.Is(err, newapi.ErrRefunded) {
		t.Error(err)
	}
	if err := of.session.Reserve(250); err != nil {
		t.Error(err)
	}
	of.close(t)
	if of.all() != "refund" {
		t.Errorf("asked %s", of.all())
	}
}

func TestARefundAfterASettleIsNone(t *testing.T) {
	of := begin(t, row, 10)
	if err := of.session.Settle(0); err != nil {
		t.Error(err)
	}
	of.session.Refund(nil)
	of.close(t)
	if of.all() != "0" {
		t.Errorf("asked %s", of.all())
	}
}

func TestASettleThatIsNotSafeYetIsNeverRefundedAndGoesOn(t *testing.T) {
	of := begin(t, row, 10)
	of.set(func() { of.away = true })
	var away *relaybilling.Unavailable
	if err := of.session.Settle(80); !errors.As(err, &away) {
		t.Error(err)
	}
	if of.session.NeedsRefund() {
		t.Error("there was usage")
	}
	of.session.Refund(nil)
	of.set(func() { of.away = false })
	for deadline := time.Now().Add(patience); of.session.Settle(80) != nil; {
		if time.Now().After(deadline) {
			t.Fatal("not safe in time")
		}
	}
	of.close(t)
	if of.all() != "80" {
		t.Errorf("asked %s", of.all())
	}
}

func TestASettleThatCannotBeUsedLeavesTheSessionOpen(t *testing.T) {
	of := begin(t, row, 10)
	var invalid *relaybilling.InvalidRequest
	if err := of.session.Settle(-1); !errors.As(err, &invalid) || !of.session.NeedsRefund() {
		t.Error(err)
	}
	if err := of.session.Settle(80); err != nil || of.all() != "80" {
		t.Errorf("%v, asked %s", err, of.all())
	}
}

func TestAFullEnderIsAnErrorOfTheSettleAndReportsTheRefund(t *testing.T) {
	of := begin(t, row, 1)
	of.set(func() { of.away = true })
	if _, err := of.ender.Settle(context.Background(), "other", 1, ""); err != nil {
		t.Fatal(err)
	}
	other := begin(t, row, 1)
	other.set(func() { other.away = true })
	if _, err := other.ender.Settle(context.Background(), "other", 1, ""); err != nil {
		t.Fatal(err)
	}
	var full *relaybilling.NotQueued
	if err := of.session.Settle(80); !errors.As(err, &full) || of.session.NeedsRefund() {
		t.Error(err)
	}
	began := time.Now()
	other.session.Refund(nil)
	if took := time.Since(began); took > 100*time.Millisecond {
		t.Errorf("a refund held its caller up for %s", took)
	}
	if end := <-other.lost; end.RequestID != "r1" || end.ActualQuota != nil {
		t.Errorf("lost %+v", end)
	}
	of.set(func() { of.away = false })
	for deadline := time.Now().Add(patience); of.session.Settle(80) != nil; {
		if time.Now().After(deadline) {
			t.Fatal("not safe in time")
		}
	}
}

func TestWhatNeedsARefund(t *testing.T) {
	for name, of := range map[string]struct {
		row   string
		needs bool
	}{
		"held":                        {row, true},
		"trusted":                     {`{"request_id":"r1","state":"preconsumed","trusted":true,"needs_refund":false}`, false},
		"a subscription and no token": {`{"request_id":"r1","state":"preconsumed","source":"subscription","pre_consumed_quota":1,"token_consumed":0,"needs_refund":true}`, true},
	} {
		session := begin(t, of.row, 10).session
		if session.NeedsRefund() != of.needs {
			t.Errorf("%s: %v", name, session.NeedsRefund())
		}
	}
}

func TestAReserveRaisesTheHoldWhereThereIsSomethingToRaise(t *testing.T) {
	of := begin(t, row, 10)
	for _, target := range []int{100, 50, 250, 250} {
		if err := of.session.Reserve(target); err != nil {
			t.Error(err)
		}
	}
	if of.all() != "reserve" || of.session.GetPreConsumedQuota() != 250 || of.session.Held().Quota != 100 {
		t.Errorf("asked %s, held %d", of.all(), of.session.GetPreConsumedQuota())
	}
	trusted := begin(t, strings.Replace(row, `"trusted":false`, `"trusted":true`, 1), 10)
	if err := trusted.session.Reserve(250); err != nil || trusted.all() != "" {
		t.Errorf("%v, asked %s", err, trusted.all())
	}
}

func TestMethodsMayBeCalledTogether(t *testing.T) {
	of := begin(t, row, 10)
	var calling sync.WaitGroup
	for caller := 0; caller < 16; caller++ {
		calling.Add(1)
		go func(caller int) {
			defer calling.Done()
			switch caller % 4 {
			case 0:
				if err := of.session.Settle(80); err != nil && !errors.Is(err, newapi.ErrRefunded) {
					t.Error(err)
				}
			case 1:
				of.session.Refund(nil)
			case 2:
				of.session.NeedsRefund()
			case 3:
				if err := of.session.Reserve(250); err != nil {
					t.Error(err)
				}
			}
		}(caller)
	}
	calling.Wait()
	of.close(t)
	ended := strings.TrimSpace(strings.ReplaceAll(of.all(), "reserve", ""))
	if ended != "80" && ended != "refund" {
		t.Errorf("ended by %q", ended)
	}
}

func TestARequestThatHasEndedDoesNotBeginAgain(t *testing.T) {
	for name, row := range map[string]string{
		"settled":                  `{"request_id":"r1","state":"settled","needs_refund":false}`,
		"expired":                  `{"request_id":"r1","state":"expired","needs_refund":false}`,
		"its refund is on its way": strings.Replace(row, `"trusted"`, `"intent":"refund","trusted"`, 1),
	} {
		server := httptest.NewServer(&door{row: row})
		defer server.Close()
		client, err := relaybilling.New(server.URL, relaybilling.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		billing := newapi.Billing[*framework]{Client: client}
		hold := relaybilling.HoldRequest{RequestID: "r1", UserID: 1, TokenID: 1, Quota: 100}
		_, err = billing.Begin(context.Background(), hold)
		var over *relaybilling.Error
		if !errors.As(err, &over) || over.Code != "already_ended" || over.Status != 409 || !over.SkipRetry {
			t.Errorf("%s: %v", name, err)
		}
	}
}
