package newapi_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"relaybilling"
)

// theirs is the relay's own session; it keeps what it was asked.
type theirs struct {
	settler
	asked []string
}

func (o *theirs) Settle(int) error  { o.asked = append(o.asked, "settle"); return nil }
func (o *theirs) Refund(*framework) { o.asked = append(o.asked, "refund") }

var errShort = errors.New("the relay's own hold is refused")

// chosen makes a choice with two doors, the real one first. own nil: the relay's own hold is refused.
func chosen(t *testing.T, channels string, own *theirs) (choice, *door, *door) {
	t.Helper()
	doors := []*door{{row: row}, {row: row}}
	for i, name := range []string{"RELAY_DOOR", "RELAY_SHADOW_DOOR"} {
		server := httptest.NewServer(doors[i])
		t.Cleanup(server.Close)
		t.Setenv(name, server.URL)
	}
	t.Setenv("RELAY_CHANNELS", channels)
	made, err := newChoice(func(relaybilling.HoldRequest) (settler, error) {
		if own == nil {
			return nil, errShort
		}
		return own, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, each := range []*relaybilling.Ender{made.real.Ender, made.shadow.Ender} {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			each.Close(ctx)
			cancel()
		}
	})
	return made, doors[0], doors[1]
}

func (d *door) wait(t *testing.T, asked string) {
	t.Helper()
	for deadline := time.Now().Add(patience); d.all() != asked; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("asked %q, not %q", d.all(), asked)
		}
	}
}

var hold = relaybilling.HoldRequest{RequestID: "r1", UserID: 1, TokenID: 1, Quota: 100}

func TestEachChannelIsBilledByOneSide(t *testing.T) {
	for channels, mine := range map[string]bool{"": false, "3": false, "7": true, "3,7": true, "*": true, "77": false} {
		own := &theirs{}
		made, real, shadow := chosen(t, channels, own)
		session, err := made.begin(context.Background(), 7, hold)
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Settle(80); err != nil {
			t.Error(err)
		}
		if mine {
			real.wait(t, "80")
			shadow.wait(t, "")
		} else {
			shadow.wait(t, "80")
			real.wait(t, "")
		}
		if billed := strings.Join(own.asked, " "); (billed == "settle") == mine {
			t.Errorf("RELAY_CHANNELS=%s: the relay's own billing was asked %q", channels, billed)
		}
	}
}

func TestAShadowEndsAsTheRelaysOwnSession(t *testing.T) {
	own := &theirs{}
	made, _, shadow := chosen(t, "", own)
	session, err := made.begin(context.Background(), 7, hold)
	if err != nil {
		t.Fatal(err)
	}
	session.Refund(nil)
	shadow.wait(t, "refund")
	if len(own.asked) != 1 || own.asked[0] != "refund" {
		t.Error(own.asked)
	}
}

func TestAShadowIsEndedWhereTheRelaysOwnHoldIsRefused(t *testing.T) {
	made, _, shadow := chosen(t, "", nil)
	if session, err := made.begin(context.Background(), 7, hold); !errors.Is(err, errShort) || session != nil {
		t.Error(session, err)
	}
	shadow.wait(t, "refund")
}

func TestAShadowThatIsAwayChangesNothing(t *testing.T) {
	own := &theirs{}
	made, _, shadow := chosen(t, "", own)
	shadow.set(func() { shadow.away = true })
	begun := time.Now()
	session, err := made.begin(context.Background(), 7, hold)
	if err != nil || session != settler(own) {
		t.Error(session, err)
	}
	if took := time.Since(begun); took > 10*shadowPatience {
		t.Error(took)
	}
}
