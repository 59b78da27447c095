"""What VMs run on is decided by booting, remembered, and subject to policy."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from twinhull.errors import UnsupportedError, UserError
from twinhull.home import Home
from twinhull.instance.vm import accelerator, assets, qemu, tsc
from twinhull.instance.vm.qemu import Accelerator

pytestmark = pytest.mark.timeout(200)


async def test_one_probe_decides_for_all_and_is_remembered(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    booted: list[qemu.Cpu] = []
    boot = accelerator.boot

    async def counted(*arguments: object) -> None:
        booted.append(arguments[2])  # type: ignore[arg-type]
        await boot(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(accelerator, "boot", counted)
    assert accelerator.cached(home) == ""
    guest = assets.load()
    begin = time.monotonic()
    choices = await asyncio.gather(*(accelerator.choose(home, guest) for _ in range(5)))
    assert time.monotonic() - begin < accelerator.PROBE_SECONDS + 10
    assert len(set(choices)) == 1
    assert len(booted) <= 1  # none where there is no /dev/kvm
    assert accelerator.cached(home) == choices[0].accelerator.value
    assert await accelerator.choose(home, guest) == choices[0]
    assert len(booted) <= 1
    assert list(home.run.glob("probe-*")) == []


async def test_policy(home: Home) -> None:
    guest = assets.load()
    assert (await accelerator.choose(home, guest, "tcg")).accelerator is Accelerator.TCG
    with pytest.raises(UserError, match="kvm, tcg or auto"):
        await accelerator.choose(home, guest, "xen")
    _remember(home, guest, Accelerator.TCG)
    assert (await accelerator.choose(home, guest, "auto")).reason == "said by the test"
    with pytest.raises(UnsupportedError, match="said by the test") as caught:
        await accelerator.choose(home, guest, "kvm")
    assert "auto or tcg" in caught.value.hint
    _remember(home, guest, Accelerator.KVM)
    assert (await accelerator.choose(home, guest, "kvm")).accelerator is Accelerator.KVM


def _remember(home: Home, guest: assets.Assets, what: Accelerator) -> None:
    accelerator._write(home, accelerator._key(guest), accelerator.Choice(what, "said by the test"))


def test_another_kernel_is_another_question(home: Home, tmp_path: Path) -> None:
    guest = assets.load()
    other = assets.Assets(guest.kernel, guest.initrd, guest.release, "another")
    assert accelerator._key(guest) != accelerator._key(other)
    _remember(home, guest, Accelerator.TCG)
    assert accelerator._read(home, accelerator._key(other)) is None
    (home.cache / "accelerator.json").write_text(json.dumps({"accelerator": "abacus"}))
    assert accelerator.cached(home) == ""


async def test_no_qemu_says_what_to_install(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(UnsupportedError, match="not installed") as caught:
        await accelerator.choose(home, assets.load())
    assert "apt-get install" in caught.value.hint


async def test_an_emulated_guest_boots_without_disks(home: Home) -> None:
    await accelerator.boot(home, assets.load(), qemu.Cpu(Accelerator.TCG, 1, tsc.khz()))


def test_the_counter_runs_as_the_kernel_says() -> None:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        nominal = next((float(line.split(":")[1]) for line in file if line.startswith("cpu MHz")), 0.0)
    assert tsc.khz() > 100_000
    first = tsc.khz()
    tsc.khz.cache_clear()
    assert abs(tsc.khz() - first) / first < 5e-6
    assert nominal == 0.0 or 0.2 < tsc.khz() / 1000 / nominal < 5
