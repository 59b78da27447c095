// Orders: takes an order, has it paid, and puts it on the queue for shipping.
//
//	POST /orders            Idempotency-Key, {"cart", "name", "address", "card"}   201 the order; 402 declined; 503 not paid yet: the same again
//	GET  /orders/ID         the order: {"id", "status", "name", "address", "lines", "total", "placed", "shipped"}
//	GET  /orders?cart=ID    {"orders": […]}, newest first
//	GET  /livez, /readyz
//
// An order is pending, then paid or declined, and at last shipped. The same Idempotency-Key gives the same order whatever happens in between:
// every step can be taken again, by any instance, without a second order, charge or parcel.
//
// Environment: DATABASE_URL, DATABASE_PASSWORD_FILE, QUEUE_URL, QUEUE_PASSWORD_FILE, CATALOGUE_URL, CART_URL, PAYMENT_URL, PORT.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"shop/service"
	"shop/service/queue"
)

// Wanted is what a customer asks for.
type Wanted struct{ Cart, Name, Address, Card string }

// Refusal is an error that is the caller's to know.
type Refusal struct {
	status  int
	message string
}

func (r Refusal) Error() string { return r.message }

// Desk is where orders are placed.
type Desk struct {
	store                    *Store
	shop                     *queue.Shop
	catalogue, cart, payment string
	client                   http.Client
	paid                     chan struct{} // wakes `relay`
}

// Place makes the order, or finds it again by its key, and has it paid.
func (d *Desk) Place(ctx context.Context, key string, wanted Wanted) (Order, error) {
	text, _ := json.Marshal(wanted)
	sum := sha256.Sum256(text)
	fingerprint := hex.EncodeToString(sum[:])
	order, err := d.store.ByKey(ctx, key)
	if errors.Is(err, errNone) {
		draft, failed := d.draft(ctx, wanted)
		if failed == nil {
			order, err = d.store.Insert(ctx, key, fingerprint, draft)
		} else if order, err = d.store.ByKey(ctx, key); errors.Is(err, errNone) { // another request may have placed it, and emptied the cart
			err = failed
		}
	}
	switch {
	case err != nil:
		return Order{}, err
	case order.fingerprint != fingerprint:
		return Order{}, Refusal{http.StatusUnprocessableEntity, "this Idempotency-Key belongs to another order"}
	case order.Status != "pending":
		return order, nil
	}
	// Two requests with one key may both be here: payment charges an order once, and the first answer is kept.
	if order.Status, err = d.pay(ctx, order, wanted.Card); err != nil {
		return Order{}, err
	}
	if order, err = d.store.Settle(ctx, order); err == nil && order.Status == "paid" {
		select {
		case d.paid <- struct{}{}:
		default:
		}
		d.empty(ctx, wanted.Cart)
	}
	return order, err
}

// draft is an order of what is in the cart, at the catalogue's prices.
func (d *Desk) draft(ctx context.Context, wanted Wanted) (Order, error) {
	order := Order{ID: service.UUID(), Status: "pending", Cart: wanted.Cart, Name: wanted.Name, Address: wanted.Address}
	var cart struct {
		Items []struct {
			Product  string
			Quantity int
		}
	}
	if status, err := d.call(ctx, http.MethodGet, d.cart+"/carts/"+url.PathEscape(wanted.Cart), "", nil, &cart); err != nil || status != http.StatusOK {
		return order, unavailable("the cart", status, err)
	}
	for _, item := range cart.Items {
		var product struct {
			Name  string
			Price int
		}
		status, err := d.call(ctx, http.MethodGet, d.catalogue+"/products/"+url.PathEscape(item.Product), "", nil, &product)
		if status == http.StatusNotFound {
			continue // no longer sold
		}
		if err != nil || status != http.StatusOK {
			return order, unavailable("the catalogue", status, err)
		}
		order.Lines = append(order.Lines, Line{item.Product, product.Name, item.Quantity, product.Price})
		order.Total += item.Quantity * product.Price
	}
	if len(order.Lines) == 0 {
		return order, Refusal{http.StatusConflict, "the cart is empty"}
	}
	return order, nil
}

func (d *Desk) pay(ctx context.Context, order Order, card string) (string, error) {
	status, err := d.call(ctx, http.MethodPost, d.payment+"/payments", order.ID, service.Fields{"amount": order.Total, "card": card}, nil)
	switch {
	case err == nil && status == http.StatusCreated:
		return "paid", nil
	case err == nil && status == http.StatusPaymentRequired:
		return "declined", nil
	}
	return "", unavailable("payment", status, err)
}

// empty takes away the cart; one that stays is a nuisance and no more.
func (d *Desk) empty(ctx context.Context, cart string) {
	if _, err := d.call(ctx, http.MethodDelete, d.cart+"/carts/"+url.PathEscape(cart), "", nil, nil); err != nil {
		service.Log("warning", "the cart stays", service.Fields{"error": err})
	}
}

// call asks another service. Go's client repeats requests that failed on a connection which the other side had just closed, if they are GETs
// or carry an Idempotency-Key.
func (d *Desk) call(ctx context.Context, method, where, key string, body, answer any) (int, error) {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		content = strings.NewReader(string(data))
	}
	request, err := http.NewRequestWithContext(ctx, method, where, content)
	if err != nil {
		return 0, err
	}
	request.Header.Set("X-Request-ID", requestID(ctx))
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	response, err := d.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if answer != nil && response.StatusCode == http.StatusOK {
		err = json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(answer)
	}
	return response.StatusCode, err
}

func unavailable(what string, status int, err error) error {
	service.Log("error", "no answer from "+what, service.Fields{"status": status, "error": err})
	return Refusal{http.StatusServiceUnavailable, what + " doesn't answer; nothing was charged twice, please try again"}
}

// relay puts paid orders on the queue. What was paid when this process, or the queue, died is found in the table.
func (d *Desk) relay(ctx context.Context) {
	for ctx.Err() == nil {
		err := d.store.Relay(ctx, func(id string) error { return d.shop.Tell(ctx, queue.Paid, id, service.Fields{"id": id}) })
		if err != nil && ctx.Err() == nil {
			service.Log("warning", "not queued yet", service.Fields{"error": err})
		}
		limited, cancel := context.WithTimeout(ctx, time.Second)
		select {
		case <-d.paid:
		case <-limited.Done():
		}
		cancel()
	}
}

// shipped notes what the queue says of parcels.
func (d *Desk) shipped(ctx context.Context, message *nats.Msg) error {
	var parcel struct{ ID string }
	if err := json.Unmarshal(message.Data, &parcel); err != nil {
		return nil // it never will be one
	}
	return d.store.Ship(ctx, parcel.ID)
}

func (d *Desk) ready(ctx context.Context) error {
	if err := d.store.Ready(ctx); err != nil {
		return err
	}
	return d.shop.Ready(ctx)
}

type requestKey struct{}

func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

func (d *Desk) serve(w http.ResponseWriter, r *http.Request) {
	ctx := context.WithValue(r.Context(), requestKey{}, r.Header.Get("X-Request-ID"))
	id := strings.Trim(strings.TrimPrefix(r.URL.Path, "/orders"), "/")
	var body any
	var err error
	status := http.StatusOK
	switch {
	case r.Method == http.MethodPost && id == "":
		status, body, err = d.post(ctx, w, r)
	case r.Method == http.MethodGet && id == "":
		var orders []Order
		orders, err = d.store.OfCart(ctx, r.URL.Query().Get("cart"))
		body = service.Fields{"orders": orders}
	case r.Method == http.MethodGet:
		body, err = d.store.ByID(ctx, id)
	default:
		err = Refusal{http.StatusMethodNotAllowed, "not that way"}
	}
	var refusal Refusal
	switch {
	case errors.Is(err, errNone):
		status, body = http.StatusNotFound, service.Fields{"error": "no such order"}
	case errors.As(err, &refusal):
		status, body = refusal.status, service.Fields{"error": refusal.message}
	case err != nil:
		service.Log("error", "failed", service.Fields{"request_id": requestID(ctx), "error": err})
		status, body = http.StatusServiceUnavailable, service.Fields{"error": "orders are away for the moment"}
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "2")
	}
	service.JSON(w, status, body)
}

func (d *Desk) post(ctx context.Context, w http.ResponseWriter, r *http.Request) (int, any, error) {
	var wanted Wanted
	key := r.Header.Get("Idempotency-Key")
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&wanted)
	if err != nil || key == "" || len(key) > 100 || wanted.Cart == "" || wanted.Name == "" || wanted.Address == "" || wanted.Card == "" {
		return 0, nil, Refusal{http.StatusBadRequest, "an Idempotency-Key, a cart, a name, an address and a card are needed"}
	}
	order, err := d.Place(ctx, key, wanted)
	if order.Status == "declined" {
		return http.StatusPaymentRequired, order, err
	}
	return http.StatusCreated, order, err
}

func main() {
	service.Name = "orders"
	service.Healthy()
	ctx := service.Context()
	desk := &Desk{
		store:     OpenStore(service.Setting("DATABASE_URL", ""), service.Secret("DATABASE_PASSWORD_FILE")),
		shop:      queue.Open(ctx, service.Setting("QUEUE_URL", ""), service.Secret("QUEUE_PASSWORD_FILE")),
		catalogue: service.Setting("CATALOGUE_URL", ""),
		cart:      service.Setting("CART_URL", ""),
		payment:   service.Setting("PAYMENT_URL", ""),
		client:    http.Client{Timeout: 10 * time.Second},
		paid:      make(chan struct{}, 1),
	}
	go func() {
		if service.Until(ctx, "the database", func() error { return desk.store.Prepare(ctx) }) {
			desk.relay(ctx)
		}
	}()
	go desk.shop.Take(ctx, queue.Shipped, "orders", 30*time.Second, func(message *nats.Msg) error { return desk.shipped(ctx, message) })
	mux := http.NewServeMux()
	mux.HandleFunc("/orders", desk.serve)
	mux.HandleFunc("/orders/", desk.serve)
	service.Serve(ctx, mux, desk.ready)
	desk.shop.Close()
}
