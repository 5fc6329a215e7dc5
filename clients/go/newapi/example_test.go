package newapi_test

import (
	"context"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"relaybilling"
	"relaybilling/newapi"
)

const shadowPatience = 300 * time.Millisecond // the most that a request waits for the shadow

// choice is whose billing session a request gets.
type choice struct {
	real   newapi.Billing[*framework]  // its door may start later
	shadow *newapi.Billing[*framework] // nil: no shadow
	own    func(relaybilling.HoldRequest) (settler, error)
	billed string // RELAY_CHANNELS
}

// newChoice reads the relay's settings. own makes the session that the relay had before.
func newChoice(own func(relaybilling.HoldRequest) (settler, error)) (made choice, err error) {
	made = choice{own: own, billed: os.Getenv("RELAY_CHANNELS")}
	if made.real, err = billing(os.Getenv("RELAY_DOOR")); err != nil {
		return made, err
	}
	if url := os.Getenv("RELAY_SHADOW_DOOR"); url != "" {
		var shadow newapi.Billing[*framework]
		shadow, err = billing(url)
		made.shadow = &shadow
	}
	return made, err
}

func billing(url string) (newapi.Billing[*framework], error) {
	client, err := relaybilling.New(url, relaybilling.Options{Key: os.Getenv("RELAY_KEY")})
	if err != nil {
		return newapi.Billing[*framework]{}, err
	}
	// Close it when the relay ends.
	ender := client.NewEnder(relaybilling.EnderOptions{})
	return newapi.Billing[*framework]{Client: client, Ender: ender}, nil
}

// begin stands in the one function where the relay makes its billing session. Each request is billed by one side.
func (c choice) begin(ctx context.Context, channel int, hold relaybilling.HoldRequest) (settler, error) {
	if c.through(channel) {
		session, err := c.real.Begin(ctx, hold)
		if err != nil {
			return nil, err // not the nil session: in an interface, that is not nil
		}
		return session, nil
	}
	judged := c.judge(ctx, hold)
	session, err := c.own(hold)
	if judged == nil {
		return session, err
	}
	if err != nil {
		judged.Refund(nil)
		return nil, err
	}
	return &beside{session, judged}, nil
}

// through says whether a channel is billed through us.
func (c choice) through(channel int) bool {
	for _, each := range strings.Split(c.billed, ",") {
		if each == "*" || each == strconv.Itoa(channel) {
			return true
		}
	}
	return false
}

// judge asks the shadow. Nil: there is none, it refused, or did not answer in time; the relay goes on.
func (c choice) judge(ctx context.Context, hold relaybilling.HoldRequest) *newapi.Session[*framework] {
	if c.shadow == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, shadowPatience)
	defer cancel()
	session, err := c.shadow.Begin(ctx, hold)
	if err != nil {
		log.Printf("shadow: no session for %s: %v", hold.RequestID, err)
		return nil
	}
	return session
}

// beside is the relay's own session, with a shadow that ends as it does.
type beside struct {
	settler
	judged *newapi.Session[*framework]
}

func (b *beside) Settle(actualQuota int) error {
	go func() {
		if err := b.judged.Settle(actualQuota); err != nil {
			log.Printf("shadow: not settled: %v", err)
		}
	}()
	return b.settler.Settle(actualQuota)
}

func (b *beside) Refund(c *framework) {
	b.judged.Refund(c)
	b.settler.Refund(c)
}
