package relaybilling

import (
	"math/rand"
	"testing"
	"time"
)

func TestPausesGrowAreJitteredAndBounded(t *testing.T) {
	of := &jitter{random: rand.New(rand.NewSource(1))}
	for attempt, bound := range map[int]time.Duration{
		1: 50 * time.Millisecond, 2: 100 * time.Millisecond, 5: 800 * time.Millisecond, 7: 2 * time.Second, 1000: 2 * time.Second,
	} {
		shortest, longest := bound, time.Duration(0)
		for try := 0; try < 1000; try++ {
			pause := of.pause(attempt, 0)
			if pause < shortest {
				shortest = pause
			}
			if pause > longest {
				longest = pause
			}
		}
		if longest > bound || longest < bound*9/10 || shortest > bound/10 {
			t.Errorf("attempt %d: %s to %s", attempt, shortest, longest)
		}
	}
	if pause := of.pause(1, time.Second); pause < time.Second || pause > 1050*time.Millisecond {
		t.Errorf("asked for 1 s: %s", pause)
	}
	if pause := of.pause(1, time.Hour); pause < 5*time.Second || pause > 5050*time.Millisecond {
		t.Errorf("asked for an hour: %s", pause)
	}
}
