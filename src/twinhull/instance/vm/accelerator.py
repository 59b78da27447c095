"""KVM or emulation, decided by booting: a device that answers doesn't mean that a guest gets anywhere with it (nested, PVM).

The answer is kept in the cache folder under a key of all it depends on, so that the probe runs once per change of QEMU, kernel or machine.
Policy: "kvm" (or nothing), "tcg", or "auto" (KVM if a probe boot answers in time).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from twinhull.errors import TwinhullError, UnsupportedError, UserError
from twinhull.home import Home
from twinhull.instance.vm import process, qemu, trial, tsc
from twinhull.instance.vm.assets import Assets
from twinhull.instance.vm.qemu import Accelerator
from twinhull.sys import fs

PROBE_SECONDS = 8.0
"""A guest under KVM answers within one second, also on slow machines; under an interpreter it takes minutes."""
_KVM = Path("/dev/kvm")
_FILE = "accelerator.json"
_BINARY = "qemu-system-x86_64"
_HINT_KVM = "vm.accelerator = kvm asks for it; set auto or tcg to allow emulation"


@dataclass(frozen=True, slots=True)
class Choice:
    """What VMs run on, and why in words for people."""

    accelerator: Accelerator
    reason: str


def binary() -> str:
    """QEMU's path. Raises UnsupportedError with what to install."""
    found = shutil.which(_BINARY, path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/local/bin")
    if found is None:
        raise UnsupportedError(f"{_BINARY} is not installed", "apt-get install qemu-system-x86")
    return os.path.realpath(found)


def cached(home: Home) -> str:
    """ "kvm" or "tcg" as decided last, "" if never; for displays, no probe is made."""
    choice = _read(home, None)
    return choice.accelerator.value if choice else ""


async def choose(home: Home, assets: Assets, policy: str = "auto") -> Choice:
    """The accelerator for VMs. Raises UnsupportedError if the policy can't be met; the first call may take PROBE_SECONDS."""
    if policy not in ("auto", "kvm", "tcg"):
        raise UserError(f"vm.accelerator {policy!r}: use kvm, tcg or auto")
    if policy == "tcg":
        return Choice(Accelerator.TCG, "the configuration says so")
    choice = await _decide(home, assets)
    if policy == "kvm" and choice.accelerator is not Accelerator.KVM:
        raise UnsupportedError(f"no hardware virtualization: {choice.reason}", _HINT_KVM)
    return choice


def cpu(choice: Choice, count: int) -> qemu.Cpu:
    """Processors for a guest. Blocks 50 ms at the first call under TCG."""
    khz = tsc.khz() if choice.accelerator is Accelerator.TCG else 0
    return qemu.Cpu(choice.accelerator, count, khz)


async def _decide(home: Home, assets: Assets) -> Choice:
    key = _key(assets)
    choice = _read(home, key)
    lock = _locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    async with lock:  # one probe, however many VMs start at once
        choice = choice or _read(home, key)
        if choice is None:
            choice = await _probe(home, assets)
            _write(home, key, choice)
    return choice


_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


async def _probe(home: Home, assets: Assets) -> Choice:
    if not _KVM.exists():
        return Choice(Accelerator.TCG, "there is no /dev/kvm; VMs are emulated")
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await boot(home, assets, qemu.Cpu(Accelerator.KVM, 1))
    except TimeoutError:
        return Choice(Accelerator.TCG, f"a guest under /dev/kvm didn't answer within {PROBE_SECONDS:.0f} s; VMs are emulated")
    except TwinhullError as error:
        return Choice(Accelerator.TCG, f"a guest under /dev/kvm fails ({_short(error.message)}); VMs are emulated")
    return Choice(Accelerator.KVM, "a guest under /dev/kvm answered")


async def boot(home: Home, assets: Assets, cpus: qemu.Cpu) -> None:
    """Boot a guest without disks until its agent answers, and end it."""

    def describe(name: str, channels: qemu.Channels) -> qemu.Vm:
        return qemu.Vm(name, binary(), process.KERNEL, process.INITRD, qemu.ram(0), cpus, channels)

    async with trial.running(home, "probe", assets, describe) as guest:
        await (await guest.agent(PROBE_SECONDS)).close()


def _key(assets: Assets) -> str:
    """Of QEMU's binary, the guest's kernel and initrd, the device, the host's kernel and its processor."""
    status = os.stat(binary())
    device = os.stat(_KVM).st_rdev if _KVM.exists() else 0
    facts = (status.st_size, status.st_mtime_ns, assets.key, device, os.uname().release, _processor())
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")


def _read(home: Home, key: str | None) -> Choice | None:
    try:
        raw = json.loads((home.cache / _FILE).read_text())
        return Choice(Accelerator(raw["accelerator"]), str(raw["reason"])) if key in (None, raw["key"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(home: Home, key: str, choice: Choice) -> None:
    home.cache.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"key": key, "accelerator": choice.accelerator.value, "reason": choice.reason})
    fs.write_atomic(home.cache / _FILE, text, sync=False)


def _short(text: str) -> str:
    return " ".join(text.split())[-200:]
