// Shipping: takes paid orders from the queue, packs them and says so on the queue. Run as many as there is work for.
//
// A message is acknowledged only after the order has been shipped: if a worker dies, another one gets the order. Saying twice that an
// order was shipped is harmless, and the queue drops the second by its id.
//
// Environment: QUEUE_URL, QUEUE_PASSWORD_FILE, PACKING (how long it takes), PORT for /livez and /readyz.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"

	"shop/service"
	"shop/service/queue"
)

const patience = 30 * time.Second // after which the queue gives an order to another worker

func main() {
	service.Name = "shipping"
	service.Healthy()
	ctx, packing := service.Context(), service.Duration("PACKING", "2s")
	shop := queue.Open(ctx, service.Setting("QUEUE_URL", ""), service.Secret("QUEUE_PASSWORD_FILE"))
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		shop.Take(ctx, queue.Paid, "shipping", patience, func(message *nats.Msg) error { return ship(ctx, shop, packing, message) })
	}()
	service.Serve(ctx, http.NewServeMux(), shop.Ready)
	<-finished
	shop.Close()
}

func ship(ctx context.Context, shop *queue.Shop, packing time.Duration, message *nats.Msg) error {
	var order struct{ ID string }
	if err := json.Unmarshal(message.Data, &order); err != nil || order.ID == "" {
		service.Log("error", "not an order", service.Fields{"data": string(message.Data)})
		return nil // it never will be
	}
	if !service.Sleep(ctx, packing) {
		return errors.New("the worker ends; another one packs it")
	}
	if err := shop.Tell(ctx, queue.Shipped, order.ID, service.Fields{"id": order.ID}); err != nil {
		return err
	}
	service.Log("info", "shipped", service.Fields{"order": order.ID})
	return nil
}
