"""One attached program: stdin, stdout, stderr, signals and the terminal, over a Duplex of the thin client.

Laws:
- The terminal is as it was before, however the session ends (return, exception, SIGTERM).
- Nothing is lost or held back: stdin is read only while the daemon takes it, and the daemon is read only while stdout and stderr take
  what came.
- Signals go to the workload (unless switched off); detach keys end the session and not the workload.
"""

from __future__ import annotations

import os
import select
import signal
import stat
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from twinhull.client.thin import CONTROL, HIGH_WATER, STDOUT
from twinhull.errors import TemporaryError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from twinhull.client.thin import Duplex

_CHUNK = 64 * 1024
_PIPE_CHUNK = 4096
"""A pipe that polls writable takes PIPE_BUF bytes without blocking."""
_OUT_HIGH = 1024 * 1024
"""Bytes for stdout and stderr above which the daemon isn't read."""
PROXIED = ("INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "CONT", "WINCH")
"""Signals passed on; WINCH as a resize."""
_ENDING = ("INT", "TERM", "HUP", "QUIT")


class Detached(Exception):  # noqa: N818 (not an error)
    """The detach keys were typed."""


class Options(NamedTuple):
    """How a session behaves."""

    tty: bool = False
    stdin: bool = False
    detach_keys: bytes = b"\x10\x11"
    sig_proxy: bool = True
    on_control: Callable[[dict[str, Any]], None] = lambda _message: None
    """Told of every control message."""
    kill: Callable[[str], None] | None = None
    """Sends a signal beside the stream, for when unread stdin stands in its way; None: there is no other way (exec)."""


class _Output:
    """What came and isn't written yet, in the order in which it came: on a terminal stdout and stderr keep their order."""

    def __init__(self) -> None:
        self.size = 0
        self._waiting: deque[tuple[int, memoryview]] = deque()
        self._pieces = {descriptor: _piece(descriptor) for descriptor in (1, 2)}

    @property
    def descriptor(self) -> int:
        """Where the next bytes go; only if `size` isn't 0."""
        return self._waiting[0][0]

    def put(self, stream: int, data: bytes) -> None:
        """More of a stream."""
        if data:
            self._waiting.append((1 if stream == STDOUT else 2, memoryview(data)))
            self.size += len(data)

    def write(self) -> None:
        """What goes without blocking; called when `descriptor` polls writable."""
        descriptor, data = self._waiting.popleft()
        taken = os.write(descriptor, data[: self._pieces[descriptor]])
        self.size -= taken
        if taken < len(data):
            self._waiting.appendleft((descriptor, data[taken:]))


def _piece(descriptor: int) -> int:
    """How much a descriptor takes without blocking once it polls writable."""
    kind = os.fstat(descriptor).st_mode
    return _CHUNK if stat.S_ISREG(kind) else _PIPE_CHUNK


class Session:
    """The loop. Use `run`."""

    def __init__(self, duplex: Duplex, options: Options) -> None:
        self._duplex = duplex
        self.options = options
        self._output = _Output()
        self._terminal = _Terminal(options.tty and options.stdin)
        self._exit: int | None = None
        self._read_stdin = False
        """From the first sign of life on, so that nothing typed is lost if it can't start."""
        self._keys = DetachKeys(options.detach_keys if options.tty else b"")
        self._signals: list[int] = []
        self.wake = -1

    def run(self) -> int:
        """The workload's exit code. Raises Detached, the daemon's error, BrokenPipeError, or TemporaryError if the daemon vanished."""
        with _Signals(self), self._terminal:
            if self.options.tty:
                self._resize()
            self._receive()  # what came together with the handshake, which poll doesn't know of
            while not self._done():
                self._turn()
        self._duplex.close()
        if self._exit is None:
            raise TemporaryError("the daemon went away", "the workload goes on without it; start it again: twinhull daemon --detach")
        return self._exit

    def notice(self, number: int) -> None:
        """A signal has come (called from its handler)."""
        self._signals.append(number)

    def _done(self) -> bool:
        return (self._duplex.closed or self._exit is not None) and not self._output.size

    def _turn(self) -> None:
        """One poll and what it says."""
        poll = self._poll()
        ready = dict(poll.poll())
        if self.wake in ready:
            _drain(self.wake)
        self._pass_signals_on()
        if self._output.size and ready.get(self._output.descriptor):
            self._output.write()
        if not self._duplex.closed and ready.get(self._duplex.fileno()):
            self._exchange(ready[self._duplex.fileno()])
        if self._read_stdin and ready.get(0):
            self._take_stdin()

    def _poll(self) -> select.poll:
        poll = select.poll()
        if self.wake >= 0:
            poll.register(self.wake, select.POLLIN)
        if self._output.size:
            poll.register(self._output.descriptor, select.POLLOUT)
        if not self._duplex.closed:
            reading = select.POLLIN if self._output.size < _OUT_HIGH else 0
            events = reading | (select.POLLOUT if self._duplex.wants_write else 0)
            if events:  # even 0 would report a hang-up, again and again
                poll.register(self._duplex.fileno(), events)
            if self._read_stdin and self._duplex.pending < HIGH_WATER:
                poll.register(0, select.POLLIN)
        return poll

    def _exchange(self, events: int) -> None:
        if events & select.POLLOUT:
            self._duplex.flush()
        if self._output.size < _OUT_HIGH:
            self._receive()

    def _receive(self) -> None:
        for kind, payload in self._duplex.receive():
            self._take(kind, payload)

    def _take(self, kind: int, payload: Any) -> None:
        if kind != CONTROL:
            self._output.put(kind, payload)
            return
        if "started" in payload:
            self._read_stdin = self.options.stdin
            self._terminal.make_raw()
        if "exit" in payload:
            self._exit = int(payload["exit"])
            self._read_stdin = False
        self.options.on_control(payload)

    def _take_stdin(self) -> None:
        data = _read(0)
        if not data:
            self._read_stdin = False
            self._duplex.send_eof()
            return
        passed, detached = self._keys.feed(data)
        if passed:
            self._duplex.send_stdin(passed)
        if detached:
            raise Detached

    def _pass_signals_on(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGWINCH:
                self._resize()
            elif not self._duplex.closed:
                self._send_signal(signal.Signals(number).name.removeprefix("SIG"))

    def _send_signal(self, name: str) -> None:
        """Unread stdin stands in a signal's way: then `run` sends it beside the stream, and `exec` hangs up, which ends its program."""
        if self._duplex.pending and self.options.kill:
            self.options.kill(name)
        elif self._duplex.pending and name in _ENDING:
            raise SystemExit(128 + getattr(signal, f"SIG{name}"))
        else:
            self._duplex.send_signal(name)

    def _resize(self) -> None:
        if self.options.tty and not self._duplex.closed:
            rows, columns = terminal_size()
            self._duplex.send_resize(rows, columns)


class DetachKeys:
    """Finds the sequence in what is typed. What may be its beginning is held back until it is clear."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to pass on, whether the sequence is complete)."""
        if not self._sequence:
            return data, False
        passed = bytearray()
        for byte in data:
            self._held += bytes((byte,))
            if self._held == self._sequence:
                return bytes(passed), True
            while not self._sequence.startswith(self._held):
                passed.append(self._held[0])
                self._held = self._held[1:]
        return bytes(passed), False


def detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` or single characters → the bytes; "" switches detaching off. Raises ValueError."""
    found = bytearray()
    for key in text.split(",") if text else ():
        letter = key.removeprefix("ctrl-")
        if letter != key and len(letter) == 1 and "@" <= letter.upper() <= "_":
            found.append(ord(letter.upper()) - 64)
        elif len(key) == 1 and key.isascii():
            found.append(ord(key))
        else:
            raise ValueError("use keys such as ctrl-p,ctrl-q")
    return bytes(found)


def terminal_size() -> tuple[int, int]:
    """Rows and columns of the first standard stream that is a terminal, else 24×80."""
    for descriptor in (0, 1, 2):
        try:
            found = os.get_terminal_size(descriptor)
        except OSError:
            continue
        if found.lines and found.columns:
            return found.lines, found.columns
    return 24, 80


class _Terminal:
    """stdin's terminal, raw once the workload runs (ctrl-c ends a start that takes too long); as it was before on the way out."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted and os.isatty(0)
        self._before: list[Any] | None = None

    def __enter__(self) -> None:
        return None

    def make_raw(self) -> None:
        """Every key goes to the workload from now on."""
        if self._wanted and self._before is None:
            import termios
            import tty

            self._before = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSADRAIN)

    def __exit__(self, *_exc: object) -> None:
        if self._before is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._before)


class _Signals:
    """Handlers that note a signal for the session, and a pipe that wakes its poll."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before: dict[int, Any] = {}
        self._proxies = session.options.sig_proxy and not session.options.tty
        """With a terminal the keys say it, and what comes from elsewhere is meant for the CLI (as in Docker)."""
        self._pipe = (-1, -1)
        self._wakeup = -1

    def __enter__(self) -> None:
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._session.wake = self._pipe[0]
        names = PROXIED if self._proxies else ("TERM", "HUP", "WINCH")
        for name in names:
            number = getattr(signal, f"SIG{name}")
            self._before[number] = signal.signal(number, self._handle)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if not self._proxies and number != signal.SIGWINCH:
            # without a proxy TERM ends the CLI, but through the exits that restore the terminal
            raise SystemExit(128 + number)
        self._session.notice(number)

    def __exit__(self, *_exc: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, before in self._before.items():
            signal.signal(number, before)
        for end in self._pipe:
            os.close(end)


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        pass


def _read(descriptor: int) -> bytes:
    """b"" at the end, also of a terminal that has gone (EIO)."""
    try:
        return os.read(descriptor, _CHUNK)
    except OSError:
        return b""
