"""The only place that looks at the runtime word. Imports are late, for a container needs no QEMU."""

from __future__ import annotations

from twinhull.home import Home
from twinhull.instance.base import Instance, Launch, Traits
from twinhull.spec.instance import Runtime


def make_instance(runtime: Runtime, launch: Launch, home: Home, accelerator: str = "auto") -> Instance:
    """The hull for a launch; nothing is made yet. `accelerator`: kvm, tcg or auto, for VMs."""
    match runtime:
        case Runtime.CONTAINER:
            from twinhull.instance.container import ContainerInstance

            return ContainerInstance(launch, home.run / "oci")
        case Runtime.SANDBOX:
            from twinhull.instance.sandbox import SandboxInstance

            return SandboxInstance(launch, home.run / "oci")
        case Runtime.VM:
            from twinhull.instance.vm.machine import VmInstance

            return VmInstance(launch, home, accelerator)


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
