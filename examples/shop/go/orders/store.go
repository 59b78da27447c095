package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"net/url"
	"time"

	_ "github.com/lib/pq"

	"shop/service"
)

var errNone = errors.New("no such order")

// Line is a product of an order, at the price it had then.
type Line struct {
	Product  string `json:"product"`
	Name     string `json:"name"`
	Quantity int    `json:"quantity"`
	Price    int    `json:"price"`
}

// Order is one row.
type Order struct {
	ID      string     `json:"id"`
	Status  string     `json:"status"`
	Cart    string     `json:"-"`
	Name    string     `json:"name"`
	Address string     `json:"address"`
	Lines   []Line     `json:"lines"`
	Total   int        `json:"total"`
	Placed  time.Time  `json:"placed"`
	Shipped *time.Time `json:"shipped"`

	fingerprint string
}

const schema = `
CREATE SCHEMA IF NOT EXISTS orders;
CREATE TABLE IF NOT EXISTS orders.orders (
	id text PRIMARY KEY, key text NOT NULL UNIQUE, fingerprint text NOT NULL, status text NOT NULL,
	cart text NOT NULL, name text NOT NULL, address text NOT NULL, lines jsonb NOT NULL, total integer NOT NULL,
	placed timestamptz NOT NULL DEFAULT now(), shipped timestamptz, queued boolean NOT NULL DEFAULT false
);
CREATE INDEX IF NOT EXISTS orders_by_cart ON orders.orders (cart);
CREATE INDEX IF NOT EXISTS orders_to_queue ON orders.orders (placed) WHERE status = 'paid' AND NOT queued;`

const columns = `SELECT id, status, cart, name, address, lines, total, placed, shipped, fingerprint FROM orders.orders `

// Store is the table of orders.
type Store struct{ db *sql.DB }

// OpenStore connects when it is first used.
func OpenStore(address, password string) *Store {
	where, err := url.Parse(address)
	if err != nil {
		panic(err)
	}
	where.User = url.UserPassword(where.User.Username(), password)
	db, err := sql.Open("postgres", where.String())
	if err != nil {
		panic(err)
	}
	db.SetMaxOpenConns(8)
	db.SetConnMaxIdleTime(time.Minute)
	return &Store{db}
}

// Prepare makes the table if it isn't there.
func (s *Store) Prepare(ctx context.Context) error {
	return s.within(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock(4712)"); err != nil { // several instances may begin at once
			return err
		}
		_, err := tx.ExecContext(ctx, schema)
		return err
	})
}

// Ready asks the table.
func (s *Store) Ready(ctx context.Context) error {
	var found bool
	return s.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT FROM orders.orders)").Scan(&found)
}

// Insert adds the order, unless the key is there already; what is there then is the answer.
func (s *Store) Insert(ctx context.Context, key, fingerprint string, order Order) (Order, error) {
	lines, err := json.Marshal(order.Lines)
	if err != nil {
		return order, err
	}
	_, err = s.db.ExecContext(ctx, `INSERT INTO orders.orders (id, key, fingerprint, status, cart, name, address, lines, total)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (key) DO NOTHING`,
		order.ID, key, fingerprint, order.Status, order.Cart, order.Name, order.Address, lines, order.Total)
	if err != nil {
		return order, err
	}
	return s.ByKey(ctx, key)
}

// Settle writes the order's status if it is still pending, and gives the order as it is then.
func (s *Store) Settle(ctx context.Context, order Order) (Order, error) {
	if _, err := s.db.ExecContext(ctx, "UPDATE orders.orders SET status = $2 WHERE id = $1 AND status = 'pending'", order.ID, order.Status); err != nil {
		return order, err
	}
	return s.ByID(ctx, order.ID)
}

// Ship notes that the parcel is on its way.
func (s *Store) Ship(ctx context.Context, id string) error {
	_, err := s.db.ExecContext(ctx, "UPDATE orders.orders SET status = 'shipped', shipped = now() WHERE id = $1 AND status = 'paid'", id)
	return err
}

// Relay tells of each paid order that nobody was told of. If the process dies in between, it is told again: the queue knows it by its id.
func (s *Store) Relay(ctx context.Context, tell func(id string) error) error {
	for {
		var id string
		err := s.within(ctx, func(tx *sql.Tx) error {
			row := tx.QueryRowContext(ctx, `SELECT id FROM orders.orders WHERE status = 'paid' AND NOT queued
				ORDER BY placed LIMIT 1 FOR UPDATE SKIP LOCKED`) // other instances take other orders
			if err := row.Scan(&id); err != nil {
				return err
			}
			if err := tell(id); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, "UPDATE orders.orders SET queued = true WHERE id = $1", id)
			return err
		})
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		service.Log("info", "queued", service.Fields{"order": id})
	}
}

// ByKey finds an order by its Idempotency-Key.
func (s *Store) ByKey(ctx context.Context, key string) (Order, error) {
	return one(s.db.QueryContext(ctx, columns+"WHERE key = $1", key))
}

// ByID finds an order.
func (s *Store) ByID(ctx context.Context, id string) (Order, error) {
	return one(s.db.QueryContext(ctx, columns+"WHERE id = $1", id))
}

// OfCart lists what was ordered from a cart, newest first.
func (s *Store) OfCart(ctx context.Context, cart string) ([]Order, error) {
	return all(s.db.QueryContext(ctx, columns+"WHERE cart = $1 ORDER BY placed DESC LIMIT 100", cart))
}

func (s *Store) within(ctx context.Context, work func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // does nothing after Commit
	if err := work(tx); err != nil {
		return err
	}
	return tx.Commit()
}

func one(rows *sql.Rows, err error) (Order, error) {
	orders, err := all(rows, err)
	if err == nil && len(orders) == 0 {
		err = errNone
	}
	if err != nil {
		return Order{}, err
	}
	return orders[0], nil
}

func all(rows *sql.Rows, err error) ([]Order, error) {
	orders := []Order{}
	if err != nil {
		return orders, err
	}
	defer rows.Close()
	for rows.Next() {
		var order Order
		var lines []byte
		err := rows.Scan(&order.ID, &order.Status, &order.Cart, &order.Name, &order.Address, &lines, &order.Total, &order.Placed,
			&order.Shipped, &order.fingerprint)
		if err == nil {
			err = json.Unmarshal(lines, &order.Lines)
		}
		if err != nil {
			return orders, err
		}
		orders = append(orders, order)
	}
	return orders, rows.Err()
}
