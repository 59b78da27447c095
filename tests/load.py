"""A steady load of HTTP requests that forgives nothing: no retry, every request is counted as answered or failed.

    python -m tests.load --port 80 --host demo.localhost --rate 500 --new 0.3 --until /tmp/stop

Half-open by design: requests are due at a fixed rate, whatever the answers take (no coordinated omission); a share of them on new
connections, the others on kept ones. Ends when the file `--until` appears (or after `--seconds`), and prints one line of JSON.
Stands alone (standard library only), so that it can run inside a network namespace.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_TIMEOUT = 30.0


@dataclass
class Result:
    """answers: by status. failures: by what happened, with the second at which it did. times: seconds of each answer."""

    answers: Counter[int] = field(default_factory=Counter)
    failures: list[tuple[float, str]] = field(default_factory=list)
    times: list[tuple[float, float]] = field(default_factory=list)
    bodies: Counter[str] = field(default_factory=Counter)
    journal: list[tuple[float, float, str, str, str]] = field(default_factory=list)
    """Of each request: when it began (the machine's monotonic clock), seconds, "new" or "kept", method, status or what went wrong."""


class Connection:
    """One HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, head: bytes) -> tuple[int, bytes, bool]:
        """Status, body, and whether the connection stays."""
        self.writer.write(head)
        first = await self.reader.readuntil(b"\r\n\r\n")
        lines = first.decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        if "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            body = await self._chunks()
        else:
            body = await self.reader.read()
            headers["connection"] = "close"
        return int(lines[0].split(" ")[1]), body, headers.get("connection") != "close"

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readline()
        await self.reader.readline()
        return body

    def close(self) -> None:
        """Hang up."""
        self.writer.close()


class Load:
    """Sends requests at their times."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.result = Result()
        self.idle: list[Connection] = []
        self.begin = time.monotonic()
        self.tls = _trusting() if options.tls else None

    async def run(self) -> Result:
        """Until told to end; all requests that were begun are waited for."""
        number, tasks = 0, set[asyncio.Task[None]]()
        while not self._over():
            due = self.begin + number / self.options.rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            method = "POST" if _falls_on(number, self.options.post) else "GET"
            task = asyncio.create_task(self._one(method, new=_falls_on(number, self.options.new)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.gather(*tasks)
        for connection in self.idle:
            connection.close()
        return self.result

    def _over(self) -> bool:
        options = self.options
        if options.until and Path(options.until).exists():
            return True
        return bool(options.seconds) and time.monotonic() - self.begin > options.seconds

    async def _one(self, method: str, *, new: bool) -> None:
        started = time.monotonic()
        kind = "new" if new else "kept"
        try:
            async with asyncio.timeout(_TIMEOUT):
                connection = (None if new else self._kept()) or await self._connect()
                status, body, stays = await connection.ask(self._head(method, new=new))
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError, IndexError) as error:
            outcome = f"{type(error).__name__}: {error}"
            self.result.failures.append((started - self.begin, f"{kind}: {outcome}"))
            self.result.journal.append((started, time.monotonic() - started, kind, method, outcome))
            return
        took = time.monotonic() - started
        self.result.journal.append((started, took, kind, method, str(status)))
        if stays and not new:
            self.idle.append(connection)
        else:
            connection.close()
        self.result.answers[status] += 1
        self.result.times.append((started - self.begin, took))
        if status >= 400:
            self.result.failures.append((started - self.begin, f"status {status}"))
        elif self.options.bodies:
            self.result.bodies[body.decode("latin-1").strip()[:80]] += 1

    def _kept(self) -> Connection | None:
        """A connection that is still open, as far as one can know: servers may close idle ones, and every client looks."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.reader.at_eof():
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        options = self.options
        secure = {"ssl": self.tls, "server_hostname": options.host} if self.tls else {}
        return Connection(*await asyncio.open_connection(options.address, options.port, **secure))

    def _head(self, method: str, *, new: bool) -> bytes:
        options = self.options
        lines = [f"{method} {options.post_path if method == 'POST' else options.path} HTTP/1.1", f"Host: {options.host}"]
        lines += ["Content-Length: 0"] if method == "POST" else []
        lines += ["Connection: close"] if new else []
        return "\r\n".join([*lines, "", ""]).encode()


def _falls_on(number: int, share: float) -> bool:
    """Whether the request with this number is one of a share of all, evenly spread."""
    return (number * share) % 1 + share >= 1


def _trusting() -> ssl.SSLContext:
    """Believes every certificate: what counts is that there is an answer."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--path", default="/")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--new", type=float, default=0.3, help="the share of requests on connections of their own")
    parser.add_argument("--post", type=float, default=0.0, help="the share of requests that nobody may repeat")
    parser.add_argument("--post-path", default="/")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--until", default="")
    parser.add_argument("--bodies", action="store_true")
    parser.add_argument("--journal", default="", help="write what is known of every request there, a line of JSON each")
    parser.add_argument("--samples", default="", help="write (begin, seconds) of every answer there, a line each")
    options = parser.parse_args()
    result = asyncio.run(Load(options).run())
    if options.samples:
        Path(options.samples).write_text("".join(f"{at:.4f} {took:.6f}\n" for at, took in result.times))
    if options.journal:
        Path(options.journal).write_text("".join(json.dumps(row) + "\n" for row in result.journal))
    ordered = sorted(took for _, took in result.times) or [0.0]
    summary = {
        "requests": sum(result.answers.values()) + sum(1 for _, text in result.failures if not text.startswith("status")),
        "answers": result.answers,
        "failed": len(result.failures),
        "failures": [(round(at, 2), text) for at, text in result.failures[:20]],
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[int(len(ordered) * 0.99)],
        "bodies": result.bodies,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
