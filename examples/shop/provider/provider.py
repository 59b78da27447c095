"""The payment provider: not part of the application, and beyond its boundary. A stub of what a bank's API does, with faults to order.

    POST /charges   Authorization: Bearer KEY, Idempotency-Key, {"amount", "card"}   201 {"id", "status": "paid"} · 402 declined
    GET  /charges   every charge made
    POST /faults    {"mode": "ok" | "down" | "slow" | "flaky"}: answer as usual, 500, after 10 s, or fail every other request

    python3 provider.py [--address 0.0.0.0] [--port 9100] [--key-file ../secrets/provider_key]

The same key is charged once, however often it is asked for. The card "tok_declined" is declined.
"""

import argparse
import itertools
import json
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODES = ("ok", "down", "slow", "flaky")


class Bank(ThreadingHTTPServer):
    """Its books are in memory."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], key: str) -> None:
        super().__init__(address, Handler)
        self.key = key
        self.mode = "ok"
        self.charges: dict[str, dict[str, object]] = {}
        self.requests = itertools.count()
        self.lock = threading.Lock()

    def charge(self, key: str, amount: int, card: str) -> dict[str, object]:
        with self.lock:
            return self.charges.setdefault(
                key, {"id": f"ch_{uuid.uuid4().hex[:16]}", "key": key, "amount": amount, "card": card, "status": "paid"}
            )

    def fails(self) -> bool:
        """Whether this request meets a fault; a slow one is slow here."""
        number = next(self.requests)
        if self.mode == "slow":
            time.sleep(10)
        return self.mode == "down" or (self.mode == "flaky" and number % 2 == 0)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Bank

    def do_GET(self) -> None:
        if self.path == "/charges":
            self._send(200, {"charges": list(self.server.charges.values()), "mode": self.server.mode})
        else:
            self._send(404, {"error": "no such page"})

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
            assert isinstance(body, dict)
        except (ValueError, AssertionError):
            self._send(400, {"error": "the body is no JSON object"})
            return
        if self.path == "/faults" and body.get("mode") in MODES:
            self.server.mode = body["mode"]
            self._send(200, {"mode": self.server.mode})
        elif self.path == "/charges":
            self._send(*self._charge(body))
        else:
            self._send(404, {"error": "no such page"})

    def _charge(self, body: dict[str, object]) -> tuple[int, dict[str, object]]:
        key, amount, card = self.headers.get("Idempotency-Key"), body.get("amount"), body.get("card")
        if self.server.fails():
            return 500, {"error": "out of order, as ordered"}
        if self.headers.get("Authorization") != f"Bearer {self.server.key}":
            return 401, {"error": "unknown key"}
        if not key or not isinstance(amount, int) or amount <= 0 or not isinstance(card, str):
            return 400, {"error": "an Idempotency-Key, an amount and a card are needed"}
        if card == "tok_declined":
            return 402, {"error": "declined"}
        return 201, self.server.charge(key, amount, card)

    def _send(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    parser = argparse.ArgumentParser(description="A stub of a payment provider.")
    parser.add_argument("--address", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--key-file", type=Path, default=Path(__file__).parents[1] / "secrets" / "provider_key")
    options = parser.parse_args()
    bank = Bank((options.address, options.port), options.key_file.read_text().strip())
    print(f"the payment provider listens on {options.address}:{bank.server_port}", file=sys.stderr, flush=True)
    bank.serve_forever()


if __name__ == "__main__":
    main()
