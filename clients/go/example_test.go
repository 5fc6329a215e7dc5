package relaybilling_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"time"

	"relaybilling"
)

// relay answers customers by a model, and charges them for what was used.
type relay struct {
	client *relaybilling.Client
	ender  *relaybilling.Ender
	// model sends its answer as it comes, and returns the quota that was used, also when it fails in the middle.
	model func(ctx context.Context, w http.ResponseWriter) (used int64, err error)
}

func (r *relay) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	const user, token = 1, 1 // of the API key in the request
	// The customer chooses the key: with the token before it, nobody can name another customer's request.
	id := fmt.Sprintf("%d-%s", token, request.Header.Get("Idempotency-Key"))
	session, err := r.client.Hold(request.Context(), relaybilling.HoldRequest{
		RequestID: id, UserID: user, TokenID: token, Quota: 1_000, ModelName: "gpt-4o",
	})
	if err != nil {
		refuse(w, err)
		return
	}
	if session.Over() {
		http.Error(w, "answered before", http.StatusConflict) // a second call of the model would be given away
		return
	}
	used, err := r.model(request.Context(), w)
	end := relaybilling.SettleOf(id, used, "")
	if err != nil {
		end.Reason = "upstream_error"
	}
	if request.Context().Err() != nil {
		end.Reason = "client_gone"
	}
	if used == 0 {
		end = relaybilling.RefundOf(id, end.Reason)
		http.Error(w, "the model failed", http.StatusBadGateway)
	}
	if err = r.end(end); err != nil {
		line, _ := json.Marshal(end) // has no value that could fail
		log.Printf("CRITICAL not safe yet: %s: %v", line, err)
	}
}

// end waits until an end is safe. Not with the request's context: that has ended when the customer hung up.
func (r *relay) end(end relaybilling.End) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	pending, err := r.ender.End(ctx, end)
	if err != nil {
		return err
	}
	return pending.Wait(ctx)
}

// refuse answers as the door did.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusServiceUnavailable
	var short *relaybilling.InsufficientUserQuota
	var any *relaybilling.Error
	if errors.As(err, &short) {
		w.Header().Set("X-Needed-Quota", fmt.Sprint(short.Needed))
	}
	if errors.As(err, &any) && any.Status != 0 {
		status = any.Status
	}
	http.Error(w, err.Error(), status)
}

// stop is called when the relay ends, after its last request.
func stop(ender *relaybilling.Ender) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	unsafe, err := ender.Close(ctx)
	for _, end := range unsafe {
		line, _ := json.Marshal(end)
		log.Printf("CRITICAL not safe: %s: %v", line, err) // post these to /v1/ends:batch
	}
}
