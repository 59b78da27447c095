"""One interface for everything that a measure measures."""

from __future__ import annotations

import abc
import http.client
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from twinhull.compare.workload import Page
from twinhull.errors import TwinhullError
from twinhull.spec.instance import InstanceSpec

PATIENCE = 60.0
"""Seconds within which anything must answer (emulated machines are slow)."""
_POLL = 0.002
_IMPATIENCE = 10.0
"""Seconds in which a server that refuses may yet get ready."""
MIB = 1 << 20


class NotMeasuredError(TwinhullError):
    """A value that can't be had here; the message becomes a row of the report."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An instance as a measure needs it. `command` None: the image's own; `memory` in bytes, 0: no limit (VM: the default size).

    `base`: what else there is to it, of a service; hulls only.
    """

    image: str
    command: tuple[str, ...] | None = None
    memory: int = 0
    cpus: float = 0.0
    pids: int = 0
    volume: str = ""
    """Where a new volume is mounted."""
    snapshot: str = ""
    """As in InstanceSpec."""
    base: InstanceSpec | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """What a program inside left."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Place:
    """An instance that runs. `ident`: as its engine knows it; `address` "" where it has none; `seconds`: from request to answer."""

    ident: str
    address: str
    seconds: float


class Subject(abc.ABC):
    """A hull or a peer."""

    name: str

    @abc.abstractmethod
    def trouble(self) -> str:
        """Why it can't be measured here; "" if it can."""

    @abc.abstractmethod
    def describe(self) -> dict[str, str]:
        """Version, accelerator: what the report has to say of it."""

    @abc.abstractmethod
    def provide(self, image: str) -> None:
        """See that it has the image."""

    @abc.abstractmethod
    def start(self, wanted: Wanted) -> Place:
        """Create and start an instance."""

    @abc.abstractmethod
    def first_output(self, wanted: Wanted) -> tuple[float, int, str]:
        """Seconds from the request to the first byte of output (to its end, if there is none); exit code; output. The instance is gone."""

    @abc.abstractmethod
    def command_line(self, wanted: Wanted) -> float:
        """Seconds from the spawn of the engine's CLI to its exit: `run --rm`."""

    @abc.abstractmethod
    def exec(self, place: Place, *argv: str, user: str = "", stdin: bytes = b"") -> Output:
        """Run a program inside to its end."""

    @abc.abstractmethod
    def ended(self, place: Place) -> str:
        """Why the instance doesn't run any more; "" if it does."""

    @abc.abstractmethod
    def remove(self, place: Place) -> None:
        """End it and all that it had."""

    @abc.abstractmethod
    def clear(self) -> None:
        """Remove everything that this run has made."""

    @contextmanager
    def running(self, wanted: Wanted) -> Iterator[Place]:
        """An instance for the time of a block."""
        place = self.start(wanted)
        try:
            yield place
        finally:
            self.remove(place)

    def processes(self, place: Place) -> list[int]:
        """Pids on the host of all that runs for this instance alone: its workload, its monitor, its VMM."""
        mark = place.ident[:12].encode()
        return [pid for pid in pids() if mark in _read(f"/proc/{pid}/cgroup") or mark in _read(f"/proc/{pid}/cmdline")]


@contextmanager
def undivided() -> Iterator[None]:
    """Ctrl-C waits for the end of the block: what is being made has a name afterwards, by which it can be removed."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def first_page(address: str, page: Page, begin: float, patience: float = PATIENCE) -> float:
    """Seconds from `begin` (perf_counter) to a page's first HTTP 2xx or 3xx, asked every 2 ms.

    Raises NotMeasuredError, soon for what isn't HTTP or refuses again and again.
    """
    refused_at, refusal = 0.0, ""
    while (now := time.perf_counter()) - begin < patience:
        if refusal and now - refused_at > _IMPATIENCE:
            raise NotMeasuredError(f"http://{address}:{page.port}{page.path} {refusal}")
        found = _answer(address, page)
        if found == _PAGE:
            return time.perf_counter() - begin
        if found == _OTHER_PROTOCOL:
            raise NotMeasuredError(f"port {page.port} doesn't speak HTTP")
        refused_at = refused_at if refusal else now
        refusal = found
        time.sleep(_POLL)
    raise NotMeasuredError(f"no page from http://{address}:{page.port}{page.path} within {patience:g} s")


_PAGE, _OTHER_PROTOCOL = "page", "other protocol"


def _answer(address: str, page: Page) -> str:
    """To one request: _PAGE, _OTHER_PROTOCOL, what was said instead, or "" where nobody answers yet."""
    connection = http.client.HTTPConnection(address, page.port, timeout=2)
    try:
        connection.request("GET", page.path, headers={"Host": page.host} if page.host else {})
        status = connection.getresponse().status
    except http.client.RemoteDisconnected:
        return "ends the connection without an answer"
    except http.client.HTTPException:
        return _OTHER_PROTOCOL
    except OSError:
        return ""
    finally:
        connection.close()
    return _PAGE if status < 400 else f"answers {status}"


def pids() -> list[int]:
    """Of all processes that this user may see."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def anonymous(numbers: list[int]) -> int:
    """Bytes of anonymous memory of these processes. Raises NotMeasuredError where they can't be read."""
    return _rolled_up(numbers, "Anonymous")


def resident(numbers: list[int]) -> tuple[int, int]:
    """Bytes that these processes have in memory, and the same with each page divided by the number of those that have it (Pss).

    Raises NotMeasuredError.
    """
    return _rolled_up(numbers, "Rss"), _rolled_up(numbers, "Pss")


def _rolled_up(numbers: list[int], word: str) -> int:
    total = 0
    for pid in numbers:
        text = _read(f"/proc/{pid}/smaps_rollup").decode()
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(f"{word}:"))
    if not total:
        raise NotMeasuredError("the instance's processes can't be read from here: root on the daemon's machine can")
    return total


def available() -> int:
    """MemAvailable of the machine, in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise NotMeasuredError("/proc/meminfo tells no MemAvailable")


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
