// Gorelay is a relay as a process, in Go, through the HTTP door: it holds, reserves, settles, refunds and forgets, and
// writes down what it was told, in the lines of tests/faults/relay.py.
//
//	gorelay DOOR_URL DIARY SEED [CALLERS]
//
// SIGTERM ends it: the last requests are brought to their end. Where the door has keys, BILLING_API_KEY is this one's.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log"
	"math/rand"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"relaybilling"
)

const (
	fewCallers = 3
	users      = 5
	holdTTL    = 10 * time.Second
	tries      = 40
	pause      = 250 * time.Millisecond
	callLimit  = 10 * time.Second
	closing    = 30 * time.Second
)

// line is one of the diary. Actual is there for settles.
type line struct {
	ID     string `json:"id"`
	Did    string `json:"did"`
	Actual *int64 `json:"actual,omitempty"`
	Error  string `json:"error,omitempty"`
}

// diary has lines that are on disk before the relay goes on.
type diary struct {
	mu   sync.Mutex
	file *os.File
}

func (d *diary) write(of line) {
	text, err := json.Marshal(of)
	if err != nil {
		log.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err = d.file.Write(append(text, '\n')); err == nil {
		err = d.file.Sync()
	}
	if err != nil {
		log.Fatal(err)
	}
}

type relay struct {
	client *relaybilling.Client
	ender  *relaybilling.Ender
	diary  *diary
	queued sync.WaitGroup
}

// insist calls again while billing is unavailable; false: it stayed so, or refused, which nothing here gives reason for.
func (r *relay) insist(id string, call func(context.Context) error) bool {
	for try := 0; try < tries; try++ {
		ctx, cancel := context.WithTimeout(context.Background(), callLimit)
		err := call(ctx)
		cancel()
		var away *relaybilling.Unavailable
		switch {
		case err == nil:
			return true
		case !errors.As(err, &away):
			r.diary.write(line{ID: id, Did: "refused", Error: err.Error()})
			return false
		}
		time.Sleep(pause + away.RetryAfter)
	}
	r.diary.write(line{ID: id, Did: "gave up"})
	return false
}

// play relays requests until it is to end; the last one is brought to its end.
func (r *relay) play(ending context.Context, chance *rand.Rand, name string) {
	for number := 1; ending.Err() == nil; number++ {
		id, user := fmt.Sprintf("%s-%d", name, number), 1+chance.Int63n(users)
		quota, actual := chance.Int63n(1_001), chance.Int63n(1_501)
		raise, background := chance.Float64() < 0.15, chance.Float64() < 0.5
		what, rest := chance.Float64(), time.Duration(chance.Int63n(int64(50*time.Millisecond)))
		var session *relaybilling.Session
		held := r.insist(id, func(ctx context.Context) (err error) {
			request := relaybilling.HoldRequest{RequestID: id, UserID: user, TokenID: user, Quota: quota, HoldTTL: holdTTL}
			session, err = r.client.Hold(ctx, request)
			return err
		})
		if !held {
			continue
		}
		r.diary.write(line{ID: id, Did: "held"})
		if session.Over() {
			continue // its connection was cut, and the door has given the hold back
		}
		if what < 0.1 {
			continue
		}
		time.Sleep(rest)
		if raise {
			raised := r.insist(id, func(ctx context.Context) error {
				_, err := session.Reserve(ctx, quota+500)
				return err
			})
			if !raised {
				continue
			}
		}
		begun, done := line{ID: id, Did: "settling", Actual: &actual}, line{ID: id, Did: "settled", Actual: &actual}
		end := relaybilling.SettleOf(id, actual, "")
		if what < 0.3 {
			begun, done = line{ID: id, Did: "refunding"}, line{ID: id, Did: "refunded"}
			end = relaybilling.RefundOf(id, "")
		}
		r.diary.write(begun)
		if background {
			r.queue(end, done)
		} else if r.insist(id, func(ctx context.Context) error { return r.end(ctx, session, end) }) {
			r.diary.write(done)
		}
	}
}

func (r *relay) end(ctx context.Context, session *relaybilling.Session, end relaybilling.End) error {
	if end.ActualQuota == nil {
		return session.Refund(ctx, end.Reason)
	}
	return session.Settle(ctx, *end.ActualQuota, end.Reason)
}

// queue ends a session in the background; the diary has it once it is safe.
func (r *relay) queue(end relaybilling.End, done line) {
	pending, err := r.ender.End(context.Background(), end)
	if err != nil {
		r.diary.write(line{ID: end.RequestID, Did: "refused", Error: err.Error()})
		return
	}
	r.queued.Add(1)
	go func() {
		defer r.queued.Done()
		err := pending.Wait(context.Background())
		var away *relaybilling.Unavailable
		switch {
		case err == nil:
			r.diary.write(done)
		case errors.As(err, &away):
			r.diary.write(line{ID: end.RequestID, Did: "gave up"})
		default:
			r.diary.write(line{ID: end.RequestID, Did: "refused", Error: err.Error()})
		}
	}()
}

// seeded is a source of chance of its own for each caller, the same for the same seed.
func seeded(name string) *rand.Rand {
	hash := fnv.New64a()
	hash.Write([]byte(name)) // never fails
	return rand.New(rand.NewSource(int64(hash.Sum64())))
}

func main() {
	if len(os.Args) != 4 && len(os.Args) != 5 {
		log.Fatal("usage: gorelay DOOR_URL DIARY SEED [CALLERS]")
	}
	door, path, seed, callers := os.Args[1], os.Args[2], os.Args[3], fewCallers
	if len(os.Args) == 5 {
		asked, err := strconv.Atoi(os.Args[4])
		if err != nil {
			log.Fatal(err)
		}
		callers = asked
	}
	client, err := relaybilling.New(door, relaybilling.Options{Key: os.Getenv("BILLING_API_KEY")})
	if err != nil {
		log.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	ending, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	of := &relay{client: client, ender: client.NewEnder(relaybilling.EnderOptions{}), diary: &diary{file: file}}
	var playing sync.WaitGroup
	for caller := 0; caller < callers; caller++ {
		playing.Add(1)
		go func(caller int) {
			defer playing.Done()
			// A name that a path must encode.
			name := fmt.Sprintf("go/%s:%d", seed, caller)
			of.play(ending, seeded(name), name)
		}(caller)
	}
	playing.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), closing)
	defer cancel()
	if unsafe, err := of.ender.Close(ctx); err != nil {
		log.Printf("%d ends are not known to be safe: %v", len(unsafe), err)
	}
	of.queued.Wait()
	client.Close()
	if err = file.Close(); err != nil {
		log.Fatal(err)
	}
}
