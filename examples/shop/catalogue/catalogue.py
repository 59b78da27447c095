"""The catalogue: what the shop sells, read from PostgreSQL. Python with its standard library and psycopg.

    GET /products?q=WORDS&category=NAME    {"products": [product, …]}
    GET /products/ID                       product: {"id", "name", "description", "category", "price" (cents), "icon"}
    GET /livez                             200 while the process lives
    GET /readyz                            200 while the database answers and holds the products, else 503

Environment: DATABASE_URL without a password, DATABASE_PASSWORD_FILE, PORT.
"""

import contextlib
import json
import logging
import os
import platform
import signal
import socket
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

PRODUCTS = Path(__file__).with_name("products.json")
SCHEMA = """
CREATE SCHEMA IF NOT EXISTS catalogue;
CREATE TABLE IF NOT EXISTS catalogue.products (
    id text PRIMARY KEY, name text NOT NULL, description text NOT NULL, category text NOT NULL,
    price integer NOT NULL CHECK (price > 0), icon text NOT NULL, position integer NOT NULL
)"""
SEED = """
INSERT INTO catalogue.products VALUES (%(id)s, %(name)s, %(description)s, %(category)s, %(price)s, %(icon)s, %(position)s)
ON CONFLICT (id) DO UPDATE SET (name, description, category, price, icon, position)
    = (EXCLUDED.name, EXCLUDED.description, EXCLUDED.category, EXCLUDED.price, EXCLUDED.icon, EXCLUDED.position)"""
COLUMNS = "SELECT id, name, description, category, price, icon FROM catalogue.products"
SEARCH = f"""{COLUMNS}
WHERE (%(category)s = '' OR category = %(category)s) AND (%(q)s = '' OR name || ' ' || description ILIKE '%%' || %(q)s || '%%')
ORDER BY position"""


def log(level: str, message: str, **fields: object) -> None:
    """One line of JSON."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stdout.write(json.dumps({"time": now, "level": level, "service": "catalogue", "message": message} | fields) + "\n")


class Products:
    """The table, and whether it can be asked."""

    def __init__(self, url: str, password: str) -> None:
        options = {"password": password, "row_factory": dict_row, "connect_timeout": 3}
        self.pool = ConnectionPool(url, kwargs=options, min_size=1, max_size=8, timeout=3, open=False)
        self.seeded = False

    def open(self) -> None:
        """Connect in the background, for as long as it takes, and put the products in."""
        self.pool.open()
        while not self.seeded:
            try:
                self._seed()
            except psycopg.Error as error:
                log("warning", "the database isn't there yet", error=str(error).strip())
                time.sleep(0.5)

    def _seed(self) -> None:
        products = [product | {"position": number} for number, product in enumerate(json.loads(PRODUCTS.read_text()))]
        with self.pool.connection() as connection:
            connection.execute("SELECT pg_advisory_xact_lock(4711)")  # several instances may begin at once
            connection.execute(SCHEMA)
            connection.cursor().executemany(SEED, products)
        self.seeded = True
        log("info", "ready", products=len(products))

    def ready(self) -> bool:
        """Whether a question would be answered now."""
        with contextlib.suppress(psycopg.Error):
            return self.seeded and bool(self._rows("SELECT 1"))
        return False

    def search(self, words: str, category: str) -> list[dict[str, object]]:
        """In the shop's order; "" matches all."""
        plain = words.translate({ord(sign): f"\\{sign}" for sign in "\\%_"})
        return self._rows(SEARCH, {"q": plain, "category": category})

    def one(self, product: str) -> dict[str, object] | None:
        """None if there is no such product."""
        rows = self._rows(f"{COLUMNS} WHERE id = %s", [product])
        return rows[0] if rows else None

    def _rows(self, query: str, values: object = None) -> list[dict[str, object]]:
        with self.pool.connection() as connection:
            return connection.execute(query, values).fetchall()


class Handler(BaseHTTPRequestHandler):
    """One client's connection. The server's `idle` holds those that wait for their next request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the head and the body of an answer are two writes
    server: "Server"

    def handle_one_request(self) -> None:
        self.server.idle.add(self.connection)
        super().handle_one_request()

    def parse_request(self) -> bool:
        self.server.idle.discard(self.connection)
        return super().parse_request()

    def do_GET(self) -> None:
        began = time.monotonic()
        where = urlsplit(self.path)
        request = self.headers.get("X-Request-ID") or str(uuid.uuid4())
        try:
            status, body = self._answer(where.path, parse_qs(where.query))
        except psycopg.Error as error:
            log("error", "no answer from the database", request_id=request, error=str(error).strip())
            status, body = 503, {"error": "the catalogue is closed for the moment"}
        self._send(status, body)
        if where.path not in ("/livez", "/readyz"):
            took = round(1000 * (time.monotonic() - began), 1)
            log("info", "request", request_id=request, method="GET", path=self.path, status=status, milliseconds=took)

    def _answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, object]:
        products = self.server.products
        match path.strip("/").split("/"):
            case ["livez"]:
                return 200, {"service": "catalogue", "host": platform.node(), "kernel": platform.release(), "language": "Python"}
            case ["readyz"]:
                return (200, {"ready": True}) if products.ready() and not self.server.ending else (503, {"ready": False})
            case ["products"]:
                return 200, {"products": products.search(query.get("q", [""])[0], query.get("category", [""])[0])}
            case ["products", name]:
                product = products.one(unquote(name))
                return (200, product) if product else (404, {"error": "no such product"})
        return 404, {"error": "no such page"}

    def _send(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.close_connection |= self.server.ending
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """do_GET writes the log."""


class Server(ThreadingHTTPServer):
    """A thread per connection. `end` lets requests finish, and nobody wait for the next."""

    request_queue_size = 128
    daemon_threads = False

    def __init__(self, port: int, products: Products) -> None:
        super().__init__(("", port), Handler)
        self.products = products
        self.idle: set[socket.socket] = set()
        self.ending = False

    def end(self) -> None:
        self.ending = True
        self.shutdown()
        for connection in list(self.idle):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)


def main() -> None:
    logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())  # `open` says it in JSON
    password = Path(os.environ["DATABASE_PASSWORD_FILE"]).read_text().strip()
    server = Server(int(os.environ.get("PORT", "8000")), Products(os.environ["DATABASE_URL"], password))
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.end).start())
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))
    threading.Thread(target=server.products.open, daemon=True).start()
    log("info", "listening", port=server.server_port)
    server.serve_forever(poll_interval=0.1)
    server.server_close()  # waits for the requests that are being answered
    server.products.pool.close()
    log("info", "ended")


if __name__ == "__main__":
    main()
