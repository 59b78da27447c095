package main

import (
	"testing"
	"time"
)

func TestBreaker(t *testing.T) {
	now := time.Unix(0, 0)
	breaker := Breaker{limit: 2, pause: time.Minute}
	expect := func(what string, entered bool, state string) {
		t.Helper()
		if got, _ := breaker.State(now); got != state {
			t.Fatalf("%s: the breaker is %s, not %s", what, got, state)
		}
		if breaker.Enter(now) != entered {
			t.Fatalf("%s: entered is not %v", what, entered)
		}
	}
	expect("at first", true, "closed")
	breaker.Leave(now, false)
	expect("after one failure", true, "closed")
	breaker.Leave(now, false)
	expect("after two", false, "open")
	now = now.Add(time.Minute)
	expect("after the pause, once", true, "half-open")
	expect("but not twice at a time", false, "half-open")
	breaker.Leave(now, false)
	expect("when the probe failed", false, "open")
	now = now.Add(time.Minute)
	expect("after the next pause", true, "half-open")
	breaker.Leave(now, true)
	expect("when the probe succeeded", true, "closed")
}

func TestPause(t *testing.T) {
	for attempt, least := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 200 * time.Millisecond} {
		if got := pause(attempt); got < least || got > least*3/2 {
			t.Errorf("the pause before attempt %d is %v", attempt, got)
		}
	}
}
