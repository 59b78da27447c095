// Package queue is the shop's stream of messages on NATS JetStream: which orders are paid, and which are shipped.
package queue

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"shop/service"
)

const stream = "SHOP"

// The subjects.
const (
	Paid    = "shop.paid"
	Shipped = "shop.shipped"
)

// Shop is the connection. It connects again by itself for as long as the program runs.
type Shop struct {
	connection *nats.Conn
	jetstream  nats.JetStreamContext
}

// Open connects in the background.
func Open(ctx context.Context, url, password string) *Shop {
	var shop Shop
	service.Until(ctx, "the queue", func() (err error) {
		shop.connection, err = nats.Connect(url, nats.Name(service.Name), nats.UserInfo("shop", password), nats.RetryOnFailedConnect(true),
			nats.MaxReconnects(-1), nats.ReconnectWait(500*time.Millisecond), nats.Timeout(2*time.Second))
		if err == nil {
			shop.jetstream, err = shop.connection.JetStream(nats.MaxWait(3 * time.Second))
		}
		return err
	})
	return &shop
}

// Close ends the connection.
func (s *Shop) Close() { s.connection.Close() }

// Ready asks the server.
func (s *Shop) Ready(ctx context.Context) error {
	_, err := s.jetstream.StreamInfo(stream, nats.Context(ctx))
	return err
}

// Tell publishes once: a second message with the same subject and id within two minutes is dropped by the server.
func (s *Shop) Tell(ctx context.Context, subject, id string, body any) error {
	limited, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	data, err := json.Marshal(body)
	if err == nil {
		_, err = s.jetstream.Publish(subject, data, nats.MsgId(subject+"/"+id), nats.Context(limited))
	}
	return err
}

// Take hands over messages one by one until ctx ends. All programs that name the same consumer share its messages. A message whose work fails,
// or takes longer than patience, is given out again.
func (s *Shop) Take(ctx context.Context, subject, consumer string, patience time.Duration, work func(*nats.Msg) error) {
	var subscription *nats.Subscription
	if !service.Until(ctx, "the stream", func() (err error) {
		subscription, err = s.subscribe(subject, consumer, patience)
		return err
	}) {
		return
	}
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		messages, err := subscription.Fetch(1, nats.Context(limited))
		cancel()
		if err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			service.Log("warning", "no messages to be had", service.Fields{"error": err})
			service.Sleep(ctx, time.Second)
		}
		for _, message := range messages {
			if err := work(message); err != nil {
				service.Log("warning", "given back to the queue", service.Fields{"error": err})
				_ = message.NakWithDelay(time.Second)
			} else if err := message.AckSync(); err != nil {
				service.Log("warning", "not acknowledged", service.Fields{"error": err})
			}
		}
	}
}

func (s *Shop) subscribe(subject, consumer string, patience time.Duration) (*nats.Subscription, error) {
	_, err := s.jetstream.AddStream(&nats.StreamConfig{Name: stream, Subjects: []string{"shop.*"}, MaxAge: 7 * 24 * time.Hour})
	if err != nil {
		return nil, err
	}
	return s.jetstream.PullSubscribe(subject, consumer, nats.AckWait(patience), nats.BindStream(stream))
}
