"""`load`: requests at a rate that has a shape, at a service of one's own, and what came of them."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import ssl
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from twinhull.cli import apps, output
from twinhull.cli.parse import usage
from twinhull.cli.style import printable
from twinhull.client import target
from twinhull.client.asynchronous import AsyncClient
from twinhull.client.sync import Client
from twinhull.errors import TwinhullError, UserError
from twinhull.load.result import Result, Second
from twinhull.load.run import MAX_RATE, MAX_SECONDS, Load, Site
from twinhull.load.shape import due, shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from urllib.parse import SplitResult

    from twinhull.cli.parse import Arguments
    from twinhull.engine.apps.base import AppView, ServiceView

_INTERRUPTED = 130
_PORTS = {"http": 80, "https": 443}
_HERE = ("localhost", "127.0.0.1", "[::1]", "::1")
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 60


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for."""

    app: str
    service: str
    url: str
    site: Site
    shape: str
    rate: float
    seconds: float


def load(args: Arguments) -> int:
    """Send, show, and say what came of it: also after ctrl-c, of what there is."""
    order = _order(args)
    _more_files()
    result, interrupted = asyncio.run(_run(order))
    if args.switch("json"):
        head = {
            "url": order.url,
            "app": order.app,
            "service": order.service,
            "shape": order.shape,
            "rate": order.rate,
            "for": order.seconds,
        }
        output.write(output.pretty(head | result.summary()) + "\n")
    else:
        output.write("".join(f"{printable(line)}\n" for line in told(order, result)))
    if interrupted:
        return _INTERRUPTED
    return 1 if result.failed or not result.answered else 0


def _order(args: Arguments) -> Order:
    rate, seconds = _number(args, "rate", 50.0, MAX_RATE), _number(args, "for", 60.0, MAX_SECONDS)
    with Client() as client:
        app, service, url = _meant(args, client)
    site = _site(args, url, service)
    return Order(app.name, service.name, url, site, args.text("shape", "steady"), rate, seconds)


def _number(args: Arguments, name: str, usual: float, most: float) -> float:
    found = args.number(name)
    found = usual if found is None else found
    if not 0 < found <= most:
        raise usage(args.command, f"--{name} {found:g}: use more than 0, at most {most:g}")
    return found


def _meant(args: Arguments, client: Client) -> tuple[AppView, ServiceView, str]:
    """The service, and the URL at which the gateway or a published port leads to it. Nobody else's service is driven."""
    wanted = args.place("service")
    if "://" in wanted:
        _split(wanted)
        for app in client.apps():
            for service in app.services:
                if leads(wanted, addresses(service)):
                    return app, service, wanted
        raise UserError(f"{wanted} leads to no service on this machine", "load is for services of one's own: twinhull ls")
    app = client.app(apps.name(args))
    service = apps.service(app, wanted)
    for url in addresses(service):
        return app, service, url.rstrip("/") + "/" + args.text("path").lstrip("/") if args.text("path") else url
    raise UserError(f"service {wanted} has no HTTP route and publishes no port", "x-twinhull: {route: {host: …}}")


def addresses(service: ServiceView) -> Iterator[str]:
    """URLs that lead to a service: its routes, then its published ports."""
    yield from (route.replace("://*.", "://load.") for route in service.routes if not route.startswith("tcp:"))
    for port in service.ports:
        if port.host_port and port.protocol == "tcp":
            ip = port.host_ip if port.host_ip not in ("", "0.0.0.0", "::") else "localhost"
            yield f"http://{f'[{ip}]' if ':' in ip else ip}:{port.host_port}/"


def leads(url: str, known: Iterable[str]) -> bool:
    """Whether `url` is at or below one of the known ones."""
    return any(_parts(url)[:3] == _parts(each)[:3] and f"{_parts(url)[3]}/".startswith(f"{_parts(each)[3]}/") for each in known)


def _parts(url: str) -> tuple[str, str, int, str]:
    parts = _split(url)
    host = "localhost" if parts.hostname in _HERE else parts.hostname or ""
    return parts.scheme, host, parts.port or _PORTS[parts.scheme], parts.path.rstrip("/")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in _PORTS and parts.hostname and (parts.port is None or parts.port > 0) and url.isascii() and url.isprintable()
    except ValueError:
        valid = False
    if not valid or " " in url:
        raise UserError(f"{url!r} is no URL of a service", "http://HOST[:PORT]/PATH")
    return parts


def _site(args: Arguments, url: str, service: ServiceView) -> Site:
    """The gateway is asked on the daemon's machine, whatever the names resolve to."""
    parts = _split(url)
    machine = target.current()
    address = "127.0.0.1" if machine.socket else machine.host
    address = next(
        (port.host_ip for port in service.ports if port.host_port == parts.port and port.host_ip not in ("", "0.0.0.0", "::")), address
    )
    tls = None
    if parts.scheme == "https":
        tls = ssl.create_default_context()
        if args.switch("insecure"):
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    timeout = _number(args, "timeout", 30.0, MAX_SECONDS)
    return Site(address, parts.port or _PORTS[parts.scheme], parts.netloc.rpartition("@")[2], path, tls, timeout)


def _more_files() -> None:
    """Every open request is a socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(order: Order) -> tuple[Result, bool]:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    found = Load(order.site)
    showing = asyncio.create_task(_show(order, found), name="load-show")
    try:
        await found.run(due(shape(order.shape, order.rate, order.seconds), order.seconds), stop)
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing
        found.result.finish(found.elapsed)
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return found.result, stop.is_set()


async def _show(order: Order, found: Load) -> None:
    """A line of the timeline each second, on a terminal to be seen."""
    async with AsyncClient() as client:
        while True:
            await asyncio.sleep(1 - found.elapsed % 1)
            line = found.result.tick(found.elapsed, *await _instances(client, order))
            if sys.stderr.isatty():
                print(f"\r\x1b[K{live(line, found.result)}", end="", file=sys.stderr, flush=True)


async def _instances(client: AsyncClient, order: Order) -> tuple[int, int]:
    """Desired and ready; the load goes on where the daemon doesn't answer."""
    with contextlib.suppress(TwinhullError, TimeoutError):
        async with asyncio.timeout(0.5):
            service = apps.service(await client.app(order.app), order.service)
            return service.desired, service.ready
    return -1, -1


def live(line: Second, result: Result) -> str:
    """The line while it runs."""
    instances = f" · {line.ready}/{line.desired} instances" if line.desired >= 0 else ""
    now = f"{line.at:5.0f} s · {line.rate:.0f}/s · p95 {_time(line.p95)} · {line.open} open{instances}"
    return f"{now} · in all {result.answered} answered, {result.failed} failed"


def told(order: Order, result: Result) -> list[str]:
    """What came of it, for people."""
    p50, p95, p99 = (_time(result.times.quantile(share)) for share in (0.5, 0.95, 0.99))
    took = result.timeline[-1].at if result.timeline else 0.0
    unfinished = f", {result.open} unfinished" if result.open else ""
    lines = [
        f"{order.url} · {order.shape}, up to {order.rate:g}/s, {took:.0f} of {order.seconds:g} s",
        f"{result.requests} requests: {result.answered} answered, {result.failed} failed{unfinished}",
        f"p50 {p50} · p95 {p95} · p99 {p99} · slowest {_time(result.times.most)}, each from the time it was due",
    ]
    lines += [f"  {count} × {kind}" for kind, count in result.failures.most_common()]
    if result.late > 0.05:
        lines.append(f"this machine was too busy to send on time: up to {_time(result.late)} late, which the times above include")
    return [*lines, *_curves(result.timeline)]


def _curves(timeline: Sequence[Second]) -> Iterator[str]:
    """How the rate, the latency and the number of instances went."""
    rows = [("requests/s", [line.rate for line in timeline]), ("p95, ms", [line.p95 * 1000 for line in timeline])]
    known = [max(line.ready, 0) for line in timeline if line.ready >= 0]
    rows += [("instances", [float(number) for number in known])] if known else []
    for name, numbers in rows:
        if len(numbers) > 1:
            yield f"{name:>10} {spark(numbers)} {min(numbers):.0f}–{max(numbers):.0f}"


def spark(numbers: Sequence[float], width: int = _WIDTH) -> str:
    """A curve of block characters; several numbers that share one are shown by their largest."""
    size = -(-len(numbers) // width)
    groups = [max(numbers[start : start + size]) for start in range(0, len(numbers), size)]
    most = max(groups) or 1.0
    return "".join(_BARS[round(each / most * (len(_BARS) - 1))] for each in groups)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
