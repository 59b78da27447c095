"""The daemon, and what VMs will run on."""

from __future__ import annotations

import asyncio
import socket

from twinhull.doctor.finding import Finding, ok, warn
from twinhull.doctor.machine import Machine
from twinhull.errors import TwinhullError
from twinhull.home import Home


def running(home: Home) -> Finding:
    """Whether somebody listens."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        try:
            client.connect(str(home.socket))
        except OSError as error:
            return warn("daemon", f"doesn't run ({error.strerror or error})", "twinhull daemon --detach")
    return ok("daemon", f"answers on {home.socket}")


def accelerator(machine: Machine, home: Home) -> Finding:
    """By the kept answer of a probe boot, or a new one: the presence of /dev/kvm says little."""
    if not machine.exists("/dev/kvm"):
        return warn(
            "VM acceleration",
            "no /dev/kvm: VMs are emulated, and far slower",
            "switch virtualization on in the firmware, or use a host that has it",
        )
    if not machine.is_root():
        return warn("VM acceleration", "can't be tried without root", "run: sudo twinhull doctor")
    try:
        name, reason = asyncio.run(_choose(home))
    except (TwinhullError, OSError) as error:
        return warn("VM acceleration", f"the probe boot failed: {error}", "see the lines on QEMU and guest kernel")
    if name == "kvm":
        return ok("VM acceleration", reason)
    return warn("VM acceleration", reason, "on a machine with hardware virtualization nothing needs to be done")


async def _choose(home: Home) -> tuple[str, str]:
    from twinhull.instance.vm import accelerator as chooser
    from twinhull.instance.vm import assets

    choice = await chooser.choose(home, assets.load())
    return choice.accelerator.value, choice.reason
