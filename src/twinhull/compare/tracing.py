"""What the host's kernel does for certain processes: ftrace, in an instance of its own, so that nobody else's tracing is touched.

Two questions, asked of the same processes and their children: which system calls they make (the raw_syscalls tracepoint), and which of
the kernel's functions run for them (the function tracer, which many kernels refuse). Events that were lost void the answer.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from twinhull.compare.subjects.base import NotMeasuredError
from twinhull.errors import TwinhullError
from twinhull.sys import mounts

_ROOTS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_BUFFER_KB = 65536
"""For each CPU."""
_CALL = re.compile(r"sys_enter: NR (-?\d+)")
_FUNCTION = re.compile(r": (\S+) <-")
_INTERRUPTS = re.compile(r"irq|softirq|tick_|hrtimer_interrupt|sched_tick|cpuidle|do_idle")
"""What runs between other things, for whoever: left out, as are the idle loop's functions."""


class Tracing:
    """One instance of tracefs; removed on leaving, with the mount if one was made. Raises NotMeasuredError where the kernel refuses."""

    def __init__(self) -> None:
        self._folder = Path()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = stack.enter_context(_tracefs()) / "instances" / f"twinhull-compare-{os.getpid()}"
            try:
                self._folder.mkdir()
            except OSError as error:
                raise NotMeasuredError(f"the kernel makes no tracing instance: {error.strerror}") from error
            stack.callback(self._folder.rmdir)
            self._write("buffer_size_kb", str(_BUFFER_KB))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    @contextmanager
    def calls(self, threads: Iterable[int]) -> Iterator[None]:
        """Record the system calls of these threads and their children during the block."""
        self._write("set_event_pid", " ".join(map(str, threads)))
        self._write("options/event-fork", "1")
        self._write("events/raw_syscalls/sys_enter/enable", "1")
        try:
            yield
        finally:
            self._write("events/raw_syscalls/sys_enter/enable", "0")

    @contextmanager
    def functions(self, threads: Iterable[int]) -> Iterator[None]:
        """Record the kernel functions that run for them."""
        self._write("set_ftrace_pid", " ".join(map(str, threads)))
        self._write("options/function-fork", "1")
        self._write("current_tracer", "function")
        try:
            yield
        finally:
            self._write("tracing_on", "0")

    def need_functions(self) -> None:
        """Raise NotMeasuredError where the kernel lets nobody trace the functions of certain processes."""
        self._write("set_ftrace_pid", str(os.getpid()))
        self._write("set_ftrace_pid", "")

    def seen_calls(self) -> tuple[set[int], int]:
        """Distinct numbers, and how many events there were."""
        found, count = self._seen(_CALL)
        return {int(word) for word in found}, count

    def seen_functions(self) -> tuple[set[str], int]:
        """Distinct names, interrupts left out, and how many events there were."""
        names, count = self._seen(_FUNCTION)
        return {name for name in names if not _INTERRUPTS.search(name)}, count

    def _seen(self, pattern: re.Pattern[str]) -> tuple[set[str], int]:
        """What the pattern finds in the buffer, which is emptied. Raises NotMeasuredError if events were lost."""
        lost = sum(_lost(path.read_text()) for path in self._folder.glob("per_cpu/cpu*/stats"))
        found: set[str] = set()
        count = 0
        with (self._folder / "trace").open(errors="replace") as lines:
            for line in lines:
                if match := pattern.search(line):
                    found.add(match[1])
                    count += 1
        self._write("trace", "")
        if lost:
            raise NotMeasuredError(f"void: {lost} events were lost")
        return found, count

    def _write(self, name: str, value: str) -> None:
        try:
            (self._folder / name).write_text(value)
        except OSError as error:
            raise NotMeasuredError(f"the kernel refuses {name}: {error.strerror}") from error


def _lost(stats: str) -> int:
    """Of a CPU's buffer."""
    words = ("overrun", "commit overrun", "dropped events")
    pairs = (line.partition(":") for line in stats.splitlines())
    return sum(int(value) for key, _, value in pairs if key.strip() in words)


@contextmanager
def _tracefs() -> Iterator[Path]:
    """Where it is mounted, or mounted for the time of the block at a place of its own."""
    root = next((root for root in _ROOTS if (root / "instances").is_dir()), None)
    if root is not None:
        yield root
        return
    with tempfile.TemporaryDirectory(prefix="twinhull-compare-") as name:
        try:
            mounts.mount("tracefs", name, "tracefs")
        except (OSError, TwinhullError) as error:
            raise NotMeasuredError(f"tracefs can't be mounted: {error}", "root on the daemon's machine can") from error
        try:
            yield Path(name)
        finally:
            mounts.unmount(name)
