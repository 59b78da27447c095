"""Templates: guests that were booted once and saved, from which every VM of the same shape goes on instead of booting.

A template is made when the first VM of its shape starts: its boot is that VM's wait, for the VM is then restored from it, and so is also
its test. A template is in memory for as long as this process wants it, and on disk (shelf.py) once a guest restored from it has answered.

Laws: `obtain` never fails: without a template (None) the guest boots, as it does after a restore that failed, which is counted and said
once. A template that failed unproven, or twice in a row, is thrown away, and not made again for RETRY_SECONDS. The guest that is
saved has done nothing since its boot but answer: no identity, no address, no secret is in it, and its kernel has not yet been asked for
a boot_id; what a clone has for itself comes with HELLO (entropy, before anything else), CLOCK and CONFIG.

Called by `machine.py`; `prepare`, `recover` and `statistics` by the daemon.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import functools
import hashlib
import itertools
import logging
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from twinhull.errors import PermanentError, TwinhullError
from twinhull.home import Home
from twinhull.instance.vm import accelerator, assets, memory, migration, placeholders, qemu, shape, trial
from twinhull.instance.vm.assets import Assets
from twinhull.instance.vm.shape import Shape
from twinhull.instance.vm.shelf import Draft, Loaded, Manifest, Shelf

ANSWER_SECONDS = {qemu.Accelerator.KVM: 5.0, qemu.Accelerator.TCG: 20.0}
"""From the start of a restored guest's QEMU to its agent's answer. Under TCG 0.3 s are usual."""
BOOT_SECONDS = {qemu.Accelerator.KVM: 15.0, qemu.Accelerator.TCG: 60.0}
"""For the boot of a template."""
RETRY_SECONDS = 600.0
OPEN = 4
"""Templates that this process keeps in memory; each takes about 100 MiB, which all its clones share."""
_TOLERANCE = 2e-5
"""By how much two measurements of one counter may differ (tsc.py)."""
_QUIT_SECONDS = 5.0
_KIND = "template"

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Template:
    """In memory. `draft`: its copy on disk that is being written; it gets its place there when the template has proved itself."""

    key: str
    loaded: Loaded
    shelf: Shelf
    proven: bool
    used: int = 0
    failures: int = 0
    draft: concurrent.futures.Future[Draft] | None = None
    closed: bool = False

    def saved(self, stack: ExitStack) -> qemu.Saved:
        """Descriptors for one QEMU, closed with the stack. To be called before anything is awaited that comes after `obtain`."""
        if self.closed:
            raise PermanentError("the VM template is gone")
        ram, state = os.dup(self.loaded.memory), memory.reader(self.loaded.state)
        stack.callback(os.close, ram)
        stack.callback(os.close, state)
        return qemu.Saved(ram, state, restore=True)

    def close(self) -> None:
        """Let go of the memory; guests that use it keep it. Idempotent."""
        if not self.closed:
            self.closed = True
            os.close(self.loaded.memory)
            os.close(self.loaded.state)


@dataclass
class _Counts:
    made: int = 0
    loaded: int = 0
    restored: int = 0
    failed: int = 0
    last_failure: str = ""


@dataclass
class _Memory:
    """What this process knows: templates by key, and when what was refused was given up."""

    templates: dict[str, Template] = field(default_factory=dict)
    given_up: dict[str, float] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    counts: _Counts = field(default_factory=_Counts)
    clock: itertools.count[int] = field(default_factory=itertools.count)


_memory = _Memory()
_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Lock]] = WeakKeyDictionary()


async def obtain(home: Home, guest: Assets, wanted: Shape) -> Template | None:
    """The template of a shape, made if there's none; None if there can't be one. The caller says `proved` or `failed`."""
    inputs = build_key(wanted.binary, guest)
    key = shape.key(wanted, inputs)
    found = _known(key)
    if found is not None or _is_given_up(key):
        return found
    locks = _locks.setdefault(asyncio.get_running_loop(), {})
    async with locks.setdefault(key, asyncio.Lock()):  # one boot, however many start at once
        found = _known(key)
        if found is None and not _is_given_up(key):
            found = await _loaded(home, key, wanted) or await _made(home, guest, wanted, key, inputs)
    return found


def proved(template: Template) -> None:
    """A guest restored from it has answered: it may stay, also on disk. Doesn't wait for that."""
    _memory.counts.restored += 1
    template.failures = 0
    template.proven = True
    writing, template.draft = template.draft, None
    if writing is not None:
        writing.add_done_callback(functools.partial(_publish, template))


def failed(template: Template, reason: str) -> None:
    """A guest restored from it didn't come to life, though one that was booted did."""
    template.failures += 1
    if not template.proven or template.failures > 1:
        _throw_away(template)
    _give_notice(template.key, f"restore a VM from its template: {reason}", give_up=not template.proven or template.failures > 1)


def statistics() -> dict[str, int | str]:
    """Since this process started: templates made and loaded from disk, VMs restored, failures (each a VM that was booted instead)."""
    counts = _memory.counts
    return {
        "made": counts.made,
        "loaded": counts.loaded,
        "restored": counts.restored,
        "failed": counts.failed,
        "last_failure": counts.last_failure,
        "in_memory": len(_memory.templates),
    }


async def prepare(home: Home, policy: str = "auto", wanted: Shape | None = None) -> bool:
    """Make, test and keep a template ahead: by default for a VM without limits that has one interface and no volumes.

    False: there's none, and `statistics` says why. Raises what `accelerator.choose` and `assets.load` raise.
    """
    guest = assets.load()
    wanted = wanted or await _usual(home, guest, policy)
    template = await obtain(home, guest, wanted)
    if template is not None and not template.proven:
        try:
            await _test(home, guest, wanted, template)
        except (TwinhullError, OSError) as error:
            failed(template, str(error))
            return False
        proved(template)
    return template is not None


async def _usual(home: Home, guest: Assets, policy: str) -> Shape:
    choice = await accelerator.choose(home, guest, policy)
    count = qemu.cpu_count(0, len(os.sched_getaffinity(0)))
    cpu = await asyncio.to_thread(accelerator.cpu, choice, count)
    return Shape(accelerator.binary(), qemu.ram(0), cpu, 1, "")


async def recover(home: Home) -> None:
    """End and remove what a process that was killed left of a template in the making (or of a probe)."""
    await trial.sweep(home, _KIND)
    await trial.sweep(home, "probe")
    await asyncio.to_thread(Shelf(home.cache).collect)


def settle() -> None:
    """Wait until all that has to be written to disk is there."""
    _writers.submit(int).result()


def forget() -> None:
    """Let go of all templates in memory; those on disk stay."""
    while _memory.templates:
        _drop(next(iter(_memory.templates.values())))
    _memory.given_up.clear()
    _memory.told.clear()


# ---- inside


def _known(key: str) -> Template | None:
    template = _memory.templates.get(key)
    if template is not None:
        template.used = next(_memory.clock)
    return template


def _is_given_up(key: str) -> bool:
    return time.monotonic() - _memory.given_up.get(key, -RETRY_SECONDS) < RETRY_SECONDS


async def _loaded(home: Home, key: str, wanted: Shape) -> Template | None:
    shelf = Shelf(home.cache)
    loaded = await asyncio.to_thread(shelf.take, key)
    if loaded is None:
        return None
    template = Template(key, loaded, shelf, proven=True)
    if not _same_speed(loaded.manifest.tsc_khz, wanted.cpu.tsc_khz):
        template.close()
        await asyncio.to_thread(shelf.remove, key)
        return None
    _memory.counts.loaded += 1
    return _remember(template)


async def _made(home: Home, guest: Assets, wanted: Shape, key: str, inputs: str) -> Template | None:
    try:
        await trial.sweep(home, _KIND)
        loaded = await _save(home, guest, wanted, inputs)
    except (TwinhullError, OSError) as error:
        _give_notice(key, f"make a VM template: {error}", give_up=True)
        return None
    _memory.counts.made += 1
    shelf = Shelf(home.cache)
    await asyncio.to_thread(shelf.collect, inputs)
    template = Template(key, loaded, shelf, proven=False)
    template.draft = _writers.submit(shelf.draft, loaded)
    return _remember(template)


_writers = concurrent.futures.ThreadPoolExecutor(1, "twinhull-template")


async def _save(home: Home, guest: Assets, wanted: Shape, inputs: str) -> Loaded:
    """Boot a guest until it answers, and save it."""
    with ExitStack() as stack:
        ram, state = memory.create("ram", wanted.memory), memory.create("state")
        undo = stack.enter_context(ExitStack())
        undo.callback(os.close, ram)
        undo.callback(os.close, state)
        parts = await asyncio.to_thread(placeholders.parts, wanted, stack)

        def describe(name: str, channels: qemu.Channels) -> qemu.Vm:
            return shape.machine(wanted, name, channels, parts, qemu.Saved(ram, state, restore=False))

        async with trial.running(home, _KIND, guest, describe) as one:
            await _greet(one, BOOT_SECONDS[wanted.cpu.accelerator])
            await _save_and_quit(one, state)
        await seal(ram)
        await seal(state)
        undo.pop_all()
    return Loaded(Manifest(inputs, wanted.cpu.tsc_khz, wanted.memory, os.fstat(state).st_size), ram, state)


async def _save_and_quit(one: trial.Trial, state: int) -> None:
    monitor = await one.monitor()
    try:
        await one.unless_ended(migration.save(monitor, state))
        with contextlib.suppress(TwinhullError, TimeoutError):
            async with asyncio.timeout(_QUIT_SECONDS):
                await monitor.execute("quit")
                await one.vmm.wait()
    finally:
        await monitor.close()
    await one.vmm.kill()  # it has the RAM mapped for writing


async def seal(descriptor: int) -> None:
    """QEMU's first thread may be gone a little before the others, and its mappings with the last."""
    async with asyncio.timeout(_QUIT_SECONDS):
        while True:
            try:
                memory.seal(descriptor)
                return
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
            await asyncio.sleep(0.002)


async def _greet(one: trial.Trial, seconds: float) -> None:
    """Until the agent has answered all it was asked."""
    client = await one.agent(seconds)
    try:
        await client.set_clock()
    finally:
        await client.close()


async def _test(home: Home, guest: Assets, wanted: Shape, template: Template) -> None:
    """Restore a guest that has nothing, and see whether it answers."""
    with ExitStack() as stack:
        parts = await asyncio.to_thread(placeholders.parts, wanted, stack)
        saved = template.saved(stack)

        def describe(name: str, channels: qemu.Channels) -> qemu.Vm:
            return shape.machine(wanted, name, channels, parts, saved)

        async with trial.running(home, _KIND, guest, describe) as one:
            monitor = await one.monitor()
            try:
                await one.unless_ended(migration.restore(monitor, saved.state))
                await _greet(one, ANSWER_SECONDS[wanted.cpu.accelerator])
            finally:
                await monitor.close()


def _remember(template: Template) -> Template:
    while len(_memory.templates) >= OPEN:
        _drop(min(_memory.templates.values(), key=lambda one: one.used))
    template.used = next(_memory.clock)
    _memory.templates[template.key] = template
    return template


def _drop(template: Template) -> None:
    """Out of memory, and off the disk if it isn't proven."""
    _memory.templates.pop(template.key, None)
    writing, template.draft = template.draft, None
    if writing is not None:
        writing.add_done_callback(_discard)  # the writer needs the descriptors
        writing.add_done_callback(lambda _: template.close())
    else:
        template.close()


def _publish(template: Template, writing: concurrent.futures.Future[Draft]) -> None:
    """In the writer's thread."""
    try:
        template.shelf.publish(writing.result(), template.key)
    except (OSError, TwinhullError) as error:
        _log.warning("keep a VM template on disk: %s", error)


def _discard(writing: concurrent.futures.Future[Draft]) -> None:
    if not writing.cancelled() and writing.exception() is None:
        writing.result().discard()


def _throw_away(template: Template) -> None:
    if _memory.templates.get(template.key) is template:
        _drop(template)
    template.shelf.remove(template.key)


def _give_notice(key: str, what: str, *, give_up: bool) -> None:
    """Count it, and say it once a template."""
    _memory.counts.failed += 1
    _memory.counts.last_failure = what
    if give_up:
        _memory.given_up[key] = time.monotonic()
    if key not in _memory.told:
        _memory.told.add(key)
        _log.warning("%s; it is booted instead", what)


def _same_speed(first: int, second: int) -> bool:
    return abs(first - second) <= _TOLERANCE * max(first, second)


def build_key(binary: str, guest: Assets) -> str:
    """QEMU's build, what is booted, and where."""
    status = os.stat(binary)
    return hashlib.sha256(repr((status.st_size, status.st_mtime_ns, guest.key, os.uname().release, _processor())).encode()).hexdigest()


@functools.cache
def _processor() -> str:
    """Model and flags of the first processor."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        first = itertools.takewhile(str.strip, file)
        return "".join(line for line in first if line.startswith(("model name", "microcode", "flags")))
