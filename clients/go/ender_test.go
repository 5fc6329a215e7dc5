package relaybilling_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"relaybilling"
)

// ledger is a door that keeps the ends it has taken, in order, and refuses as a test says.
type ledger struct {
	mu         sync.Mutex
	taken      []string
	sizes      []int
	away       bool
	status     int // of a whole call that is refused
	retryAfter string
	judge      func(id, what string) string // the code of a problem; empty: taken
	held       chan struct{}                // closed: answers may go out; nil: they always may
}

func (l *ledger) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

func (l *ledger) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.taken, " ")
}

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if l.held != nil {
		<-l.held
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		hangUp(w, r)
		return
	}
	if l.status != 0 {
		w.Header().Set("Retry-After", l.retryAfter)
		say(l.status, `{"code":"unauthorized","detail":"no such key"}`)(w, r)
		return
	}
	var ends []relaybilling.End
	if err := json.NewDecoder(r.Body).Decode(&ends); err != nil {
		panic(err)
	}
	l.sizes = append(l.sizes, len(ends))
	answers := make([]string, len(ends))
	for at, end := range ends {
		what := "refund"
		if end.ActualQuota != nil {
			what = fmt.Sprint(*end.ActualQuota)
		}
		if l.judge != nil {
			if code := l.judge(end.RequestID, what); code != "" {
				answers[at] = fmt.Sprintf(`{"code":%q,"status":%d}`, code, map[string]int{
					"invalid_request": 400, "billing_unavailable": 503}[code])
				continue
			}
		}
		l.taken = append(l.taken, end.RequestID+"="+what)
		answers[at] = fmt.Sprintf(`{"request_id":%q}`, end.RequestID)
	}
	say(200, "["+strings.Join(answers, ",")+"]")(w, r)
}

func quiet(options relaybilling.EnderOptions) relaybilling.EnderOptions {
	if options.OnTrouble == nil {
		options.OnTrouble = func(error) {}
	}
	return options
}

func queue(t *testing.T, ender *relaybilling.Ender, id string, actual int64) *relaybilling.Pending {
	t.Helper()
	pending, err := ender.Settle(within(t, patience), id, actual, "")
	if err != nil {
		t.Fatal(err)
	}
	return pending
}

func closed(t *testing.T, ender *relaybilling.Ender) {
	t.Helper()
	if unsafe, err := ender.Close(within(t, patience)); err != nil || unsafe != nil {
		t.Errorf("%v left, %v", unsafe, err)
	}
}

func TestEndsAreGatheredAndKeepTheirOrder(t *testing.T) {
	door := &ledger{held: make(chan struct{})}
	client, _ := fake(t, relaybilling.Options{}, door.ServeHTTP)
	ender := client.NewEnder(relaybilling.EnderOptions{})
	queue(t, ender, "first", 0)
	var want []string
	for number := 0; number < 1200; number++ {
		queue(t, ender, fmt.Sprint(number), int64(number))
		want = append(want, fmt.Sprintf("%d=%d", number, number))
	}
	close(door.held)
	closed(t, ender)
	if got := door.all(); got != "first=0 "+strings.Join(want, " ") {
		t.Errorf("taken %s", got)
	}
	if calls := len(door.sizes); calls < 3 || calls > 5 {
		t.Errorf("%d calls of %v ends", calls, door.sizes)
	}
	for _, size := range door.sizes {
		if size > relaybilling.MaxBatch {
			t.Errorf("a batch of %d", size)
		}
	}
}

func TestTheEndsOfOneSessionAreNeverInOneBatchAndNeverOvertake(t *testing.T) {
	door, refusals := &ledger{held: make(chan struct{})}, 0
	// The first end of x is not taken twice; its second must wait all that time.
	door.judge = func(id, what string) string {
		if id == "x" && what == "1" && refusals < 2 {
			refusals++
			return "billing_unavailable"
		}
		return ""
	}
	client, _ := fake(t, relaybilling.Options{}, door.ServeHTTP)
	ender := client.NewEnder(quiet(relaybilling.EnderOptions{}))
	queue(t, ender, "a", 1)
	queue(t, ender, "x", 1)
	queue(t, ender, "b", 1)
	if _, err := ender.Refund(within(t, patience), "x", ""); err != nil {
		t.Fatal(err)
	}
	queue(t, ender, "c", 1)
	close(door.held)
	closed(t, ender)
	got := door.all()
	if strings.Index(got, "x=1") > strings.Index(got, "x=refund") || strings.Count(got, "x=") != 2 {
		t.Errorf("taken %s", got)
	}
	if strings.Count(got, "a=1") != 1 || strings.Count(got, "b=1") != 1 || strings.Count(got, "c=1") != 1 {
		t.Errorf("neighbours: %s", got)
	}
}

func TestAnEnderGoesOnUntilTheDoorIsBack(t *testing.T) {
	for name, trouble := range map[string]func(*ledger){
		"away":           func(l *ledger) { l.away = true },
		"unavailable":    func(l *ledger) { l.status = 503 },
		"key is refused": func(l *ledger) { l.status = 401 },
		"wrong address":  func(l *ledger) { l.status = 404 },
	} {
		t.Run(name, func(t *testing.T) {
			door := &ledger{}
			trouble(door)
			client, _ := fake(t, relaybilling.Options{}, door.ServeHTTP)
			seen := make(chan error, 1000)
			ender := client.NewEnder(relaybilling.EnderOptions{OnTrouble: func(err error) { seen <- err }})
			pending := queue(t, ender, "r1", 5)
			for tries := 0; tries < 3; tries++ {
				if err := <-seen; err == nil {
					t.Error("trouble without an error")
				}
			}
			if err := pending.Wait(within(t, time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("not safe, and %v", err)
			}
			door.set(func() { door.away, door.status = false, 0 })
			if err := pending.Wait(within(t, patience)); err != nil {
				t.Error(err)
			}
			closed(t, ender)
			if door.all() != "r1=5" {
				t.Errorf("taken %s", door.all())
			}
		})
	}
}

func TestAnEndThatIsRefusedForGoodIsReportedAndHarmsNobody(t *testing.T) {
	door := &ledger{judge: func(id, _ string) string {
		if id == "bad" {
			return "invalid_request"
		}
		return ""
	}}
	client, _ := fake(t, relaybilling.Options{}, door.ServeHTTP)
	refused := make(chan relaybilling.End, 10)
	ender := client.NewEnder(relaybilling.EnderOptions{OnRefused: func(end relaybilling.End, err error) {
		var invalid *relaybilling.InvalidRequest
		if errors.As(err, &invalid) {
			refused <- end
		}
	}})
	queue(t, ender, "r1", 1)
	pending := queue(t, ender, "bad", 2)
	queue(t, ender, "r2", 3)
	closed(t, ender)
	if end := <-refused; end.RequestID != "bad" || *end.ActualQuota != 2 || len(refused) != 0 {
		t.Errorf("refused %+v", end)
	}
	var invalid *relaybilling.InvalidRequest
	if err := pending.Wait(within(t, patience)); !errors.As(err, &invalid) {
		t.Errorf("%v", err)
	}
	if door.all() != "r1=1 r2=3" {
		t.Errorf("taken %s", door.all())
	}
}

func TestAFullEnderWaitsForRoomAndSaysSoWhenTheContextEnds(t *testing.T) {
	door := &ledger{held: make(chan struct{})}
	client, _ := fake(t, relaybilling.Options{}, door.ServeHTTP)
	ender := client.NewEnder(relaybilling.EnderOptions{Capacity: 2})
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	// The customer has hung up, and the request's context has ended: it is queued all the same.
	if _, err := ender.Settle(gone, "r1", 1, ""); err != nil {
		t.Fatal(err)
	}
	queue(t, ender, "r2", 2)
	_, err := ender.Settle(within(t, 20*time.Millisecond), "r3", 3, "why")
	var full *relaybilling.NotQueued
	if !errors.As(err, &full) || !errors.Is(err, context.DeadlineExceeded) || *full.End.ActualQuota != 3 ||
		full.End.RequestID != "r3" || full.End.Reason != "why" {
		t.Errorf("%v", err)
	}
	if ender.Waiting() != 2 {
		t.Errorf("%d wait", ender.Waiting())
	}
	queued := make(chan error)
	go func() {
		_, err := ender.Settle(context.Background(), "r4", 4, "")
		queued <- err
	}()
	close(door.held)
	if err := <-queued; err != nil {
		t.Error(err)
	}
	closed(t, ender)
	if door.all() != "r1=1 r2=2 r4=4" {
		t.Errorf("taken %s", door.all())
	}
}

func TestCloseReturnsWhatIsNotSafeAsTheDoorTakesIt(t *testing.T) {
	door := &ledger{away: true}
	client, _ := fake(t, relaybilling.Options{}, door.ServeHTTP)
	ender := client.NewEnder(quiet(relaybilling.EnderOptions{Capacity: 2}))
	pending := queue(t, ender, "r1", 5)
	if _, err := ender.Refund(within(t, patience), "r2", "gone"); err != nil {
		t.Fatal(err)
	}
	blocked := make(chan error)
	go func() {
		_, err := ender.Settle(context.Background(), "r3", 1, "")
		blocked <- err
	}()
	flushed, err := ender.Flush(within(t, 20*time.Millisecond))
	var away *relaybilling.Unavailable
	if !errors.As(err, &away) || len(flushed) != 2 {
		t.Errorf("flushed: %v left, %v", flushed, err)
	}
	unsafe, err := ender.Close(within(t, 100*time.Millisecond))
	if !errors.As(err, &away) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	written, err := json.Marshal(unsafe)
	if want := `[{"request_id":"r1","actual_quota":5},{"request_id":"r2","reason":"gone"}]`; string(written) != want {
		t.Errorf("%s, %v", written, err)
	}
	if err = <-blocked; !errors.Is(err, relaybilling.ErrClosed) {
		t.Errorf("who waited for room: %v", err)
	}
	if err = pending.Wait(within(t, patience)); !errors.As(err, &away) || !errors.Is(err, relaybilling.ErrClosed) {
		t.Errorf("who waited for safety: %v", err)
	}
	_, err = ender.Settle(within(t, patience), "r4", 1, "")
	var full *relaybilling.NotQueued
	if !errors.As(err, &full) || !errors.Is(err, relaybilling.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if unsafe, err = ender.Close(within(t, patience)); unsafe != nil || err != nil {
		t.Errorf("closed again: %v, %v", unsafe, err)
	}
	// They may be handed in again.
	door.set(func() { door.away = false })
	if errs, err := client.EndMany(within(t, patience), []relaybilling.End{relaybilling.SettleOf("r1", 5, "")}); err != nil || errs[0] != nil {
		t.Error(errs, err)
	}
}

func TestCloseEndsARequestThatHangs(t *testing.T) {
	door := &ledger{held: make(chan struct{})}
	client, asked := fake(t, relaybilling.Options{}, door.ServeHTTP)
	defer close(door.held)
	ender := client.NewEnder(quiet(relaybilling.EnderOptions{}))
	queue(t, ender, "r1", 5)
	<-asked
	began := time.Now()
	if unsafe, err := ender.Close(within(t, 50*time.Millisecond)); err == nil || len(unsafe) != 1 {
		t.Errorf("%v, %v", unsafe, err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestManyCallersLoseNothingWhileTheDoorComesAndGoes(t *testing.T) {
	door := &ledger{}
	client, _ := fake(t, relaybilling.Options{}, func(w http.ResponseWriter, r *http.Request) { door.ServeHTTP(w, r) })
	ender := client.NewEnder(quiet(relaybilling.EnderOptions{Capacity: 50}))
	const callers, each = 16, 50
	stop, flapped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(flapped)
		for flap := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-flap.C:
				door.set(func() { door.away = !door.away })
			case <-stop:
				flap.Stop()
				door.set(func() { door.away = false })
				return
			}
		}
	}()
	var working sync.WaitGroup
	for caller := 0; caller < callers; caller++ {
		working.Add(1)
		go func(caller int) {
			defer working.Done()
			for number := 0; number < each; number++ {
				if _, err := ender.Settle(context.Background(), fmt.Sprintf("%d-%d", caller, number), 1, ""); err != nil {
					t.Error(err)
				}
			}
		}(caller)
	}
	working.Wait()
	close(stop)
	<-flapped
	closed(t, ender)
	seen := map[string]bool{}
	for _, of := range strings.Fields(door.all()) {
		seen[of] = true
	}
	if len(seen) != callers*each {
		t.Errorf("%d of %d are safe", len(seen), callers*each)
	}
}

func TestAFlushCutsAPauseShort(t *testing.T) {
	door := &ledger{status: 503, retryAfter: "5"}
	client, _ := fake(t, relaybilling.Options{}, door.ServeHTTP)
	seen := make(chan error, 10)
	ender := client.NewEnder(relaybilling.EnderOptions{OnTrouble: func(err error) { seen <- err }})
	queue(t, ender, "r1", 5)
	<-seen
	door.set(func() { door.status = 0 })
	began := time.Now()
	if unsafe, err := ender.Flush(within(t, patience)); err != nil || time.Since(began) > 3*time.Second {
		t.Errorf("%v left, %v, after %s", unsafe, err, time.Since(began))
	}
	closed(t, ender)
}
