// Payment: the one service that speaks with the payment provider, outside of the application. It holds the provider's key, so it
// runs as a VM in the shop.
//
//	POST /payments   Idempotency-Key, {"amount": cents, "card": token}   201 {"charge"} · 402 declined · 503 with Retry-After
//	GET  /payments/status   the circuit breaker, and counts
//	GET  /livez, /readyz
//
// An attempt has a time limit. What may succeed later (no answer, 429, 5xx) is tried again with growing, jittered pauses, under the same key,
// so that nobody is charged twice. When attempts keep failing the breaker opens and callers are told so at once; after a while one of them may probe.
//
// Environment: PROVIDER_URL, PROVIDER_KEY_FILE, ATTEMPTS, ATTEMPT_TIMEOUT, BREAKER_FAILURES, BREAKER_PAUSE, PORT.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"strconv"
	"sync"
	"time"

	"shop/service"
)

var errOpen = errors.New("the provider has failed too often")

// Breaker lets calls through (closed), none (open), or one at a time (open for longer than pause).
type Breaker struct {
	limit int
	pause time.Duration

	mutex    sync.Mutex
	failures int
	until    time.Time
	probing  bool
}

// Enter says whether a call may be made; whoever may must call Leave.
func (b *Breaker) Enter(now time.Time) bool {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if b.failures < b.limit {
		return true
	}
	if b.probing || now.Before(b.until) {
		return false
	}
	b.probing = true
	return true
}

// Leave tells how the call went.
func (b *Breaker) Leave(now time.Time, ok bool) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.probing = false
	if ok {
		b.failures = 0
		return
	}
	b.failures++
	if b.failures >= b.limit {
		b.until = now.Add(b.pause)
	}
}

// State is closed, open or half-open, and the seconds until a probe may be made.
func (b *Breaker) State(now time.Time) (string, float64) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	switch {
	case b.failures < b.limit:
		return "closed", 0
	case now.Before(b.until):
		return "open", b.until.Sub(now).Seconds()
	}
	return "half-open", 0
}

// Charge is what the provider is asked for, and what it answers.
type Charge struct {
	ID     string `json:"id,omitempty"`
	Amount int    `json:"amount"`
	Card   string `json:"card,omitempty"`
	Status string `json:"status,omitempty"`
}

// Provider is the far side.
type Provider struct {
	url, key string
	attempts int
	client   http.Client
	breaker  Breaker
}

// Charge is tried until it gets an answer, attempts are used up, or the breaker is open.
func (p *Provider) Charge(ctx context.Context, key string, wanted Charge) (Charge, error) {
	var err error
	for attempt := 0; attempt < p.attempts; attempt++ {
		if attempt > 0 && !service.Sleep(ctx, pause(attempt)) {
			return Charge{}, ctx.Err()
		}
		if !p.breaker.Enter(time.Now()) {
			return Charge{}, errOpen
		}
		var made Charge
		made, err = p.attempt(ctx, key, wanted)
		p.breaker.Leave(time.Now(), err == nil)
		if err == nil {
			return made, nil
		}
		service.Log("warning", "attempt failed", service.Fields{"key": key, "attempt": attempt + 1, "error": err})
	}
	return Charge{}, err
}

// pause is 100 ms, 200 ms, … each up to half longer, so that callers don't come back together.
func pause(attempt int) time.Duration {
	base := 50 * time.Millisecond << uint(attempt)
	return base + time.Duration(rand.Int63n(int64(base)/2))
}

func (p *Provider) attempt(ctx context.Context, key string, wanted Charge) (Charge, error) {
	body, _ := json.Marshal(wanted)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/charges", bytes.NewReader(body))
	if err != nil {
		return Charge{}, err
	}
	request.Header.Set("Authorization", "Bearer "+p.key)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Idempotency-Key", key)
	answer, err := p.client.Do(request)
	if err != nil {
		return Charge{}, err
	}
	defer answer.Body.Close()
	var made Charge
	err = json.NewDecoder(io.LimitReader(answer.Body, 1<<16)).Decode(&made)
	switch {
	case answer.StatusCode == http.StatusCreated && err == nil:
		return made, nil
	case answer.StatusCode == http.StatusPaymentRequired:
		return Charge{Status: "declined"}, nil // an answer like any other: the provider works
	}
	return Charge{}, fmt.Errorf("the provider answered %s", answer.Status)
}

func (p *Provider) pay(w http.ResponseWriter, r *http.Request) {
	var wanted Charge
	key := r.Header.Get("Idempotency-Key")
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&wanted); err != nil || wanted.Amount <= 0 || wanted.Card == "" || key == "" {
		service.JSON(w, http.StatusBadRequest, service.Fields{"error": "an Idempotency-Key, an amount and a card are needed"})
		return
	}
	made, err := p.Charge(r.Context(), key, wanted)
	switch {
	case err != nil:
		service.Log("error", "not paid", service.Fields{"request_id": r.Header.Get("X-Request-ID"), "key": key, "error": err})
		_, wait := p.breaker.State(time.Now())
		w.Header().Set("Retry-After", strconv.Itoa(int(wait)+1))
		service.JSON(w, http.StatusServiceUnavailable, service.Fields{"error": "the payment provider doesn't answer"})
	case made.Status == "declined":
		service.JSON(w, http.StatusPaymentRequired, service.Fields{"error": "the card was declined"})
	default:
		service.JSON(w, http.StatusCreated, service.Fields{"charge": made.ID})
	}
}

func (p *Provider) status(w http.ResponseWriter, _ *http.Request) {
	state, wait := p.breaker.State(time.Now())
	service.JSON(w, http.StatusOK, service.Fields{"breaker": state, "retry_after": wait})
}

func main() {
	service.Name = "payment"
	service.Healthy()
	attempts, _ := strconv.Atoi(service.Setting("ATTEMPTS", "3"))
	failures, _ := strconv.Atoi(service.Setting("BREAKER_FAILURES", "5"))
	provider := &Provider{
		url:      service.Setting("PROVIDER_URL", ""),
		key:      service.Secret("PROVIDER_KEY_FILE"),
		attempts: attempts,
		client:   http.Client{Timeout: service.Duration("ATTEMPT_TIMEOUT", "2s")},
		breaker:  Breaker{limit: failures, pause: service.Duration("BREAKER_PAUSE", "10s")},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/payments", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			service.JSON(w, http.StatusMethodNotAllowed, service.Fields{"error": "POST a payment"})
			return
		}
		provider.pay(w, r)
	})
	mux.HandleFunc("/payments/status", provider.status)
	// Ready even while the provider is down: saying so at once is this service's work.
	service.Serve(service.Context(), mux, func(context.Context) error { return nil })
}
