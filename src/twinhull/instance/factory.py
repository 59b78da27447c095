"""The only place that looks at the runtime word. Imports are late, for a container needs no QEMU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinhull.home import Home
from twinhull.instance.base import Instance, Launch, Traits
from twinhull.spec.instance import Runtime

if TYPE_CHECKING:
    from twinhull.instance.vm.parking import Parked
    from twinhull.instance.vm.snapshots import Resume


def make_instance(
    runtime: Runtime, launch: Launch, home: Home, accelerator: str = "auto", *, ready: Parked | None = None, resume: Resume | None = None
) -> Instance:
    """The hull for a launch; nothing is made yet.

    For VMs: `accelerator` is kvm, tcg or auto; `ready` is a guest that waits for it, `resume` a snapshot to go on from.
    """
    match runtime:
        case Runtime.CONTAINER:
            from twinhull.instance.container import ContainerInstance

            return ContainerInstance(launch, home.run / "oci")
        case Runtime.SANDBOX:
            from twinhull.instance.sandbox import SandboxInstance

            return SandboxInstance(launch, home.run / "oci")
        case Runtime.VM:
            from twinhull.instance.vm.machine import VmInstance

            return VmInstance(launch, home, accelerator, ready=ready, resume=resume)


def traits(runtime: Runtime) -> Traits:
    """What a runtime needs and refuses, the same on every machine."""
    match runtime:
        case Runtime.CONTAINER:
            from twinhull.instance.container import ContainerInstance

            return ContainerInstance.traits
        case Runtime.SANDBOX:
            from twinhull.instance.sandbox import SandboxInstance

            return SandboxInstance.traits
        case Runtime.VM:
            from twinhull.instance.vm.machine import VmInstance

            return VmInstance.traits
