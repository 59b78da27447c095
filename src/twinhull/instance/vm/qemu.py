"""QEMU's command line, built purely: the same description gives the same arguments (golden tests compare whole lines).

Invariant: the order and number of devices depends on `Vm`'s shape only (disks, number of interfaces, volumes or none), never on what is
behind them, because virtio-mmio has no hotplug and a template's slots are fixed: root disk, scratch disk, serial bus, entropy, interfaces,
volumes. All files but kernel and initrd reach QEMU as descriptors, so that its jail needs no view of the host.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from twinhull.spec.instance import Resources

AGENT_PORT = "org.twinhull.agent.0"
"""Name of the virtio-serial port that the agent opens."""
VOLUMES_TAG = "volumes"
"""The 9p device's mount tag."""

MIB = 1 << 20
DEFAULT_MEMORY = 256 * MIB
DEFAULT_CPUS = 2
_KERNEL_OVERHEAD = 80 * MIB
"""What the guest's kernel, the unpacked initrd and the agent need beside the workload: 61 MiB measured for Debian's 6.1 at 256 MiB."""
_PER_PAGE = 32
"""One part in so many for page structures (1/64), page tables and slab."""
_ALIGN = 2 * MIB

_MACHINE = "microvm,acpi=on,x-option-roms=off,isa-serial=on,pit=off,pic=off,rtc=on"
_TB_MIB = 128
"""TCG's code cache in MiB; its default grows with the host's memory."""


class Accelerator(StrEnum):
    """What executes the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


HOST_MEMORY = {Accelerator.KVM: 256 * MIB, Accelerator.TCG: 512 * MIB}
"""What QEMU itself may take beside the guest's RAM (TCG: code cache), so that the host's limit is never what ends a workload."""
HOST_THREADS = 256


@dataclass(frozen=True, slots=True)
class Cpu:
    """Accelerator and processors. `tsc_khz`: the host's time stamp counter, which a guest under TCG sees and can't calibrate itself."""

    accelerator: Accelerator
    count: int
    tsc_khz: int = 0

    @property
    def model(self) -> str:
        """The CPU model. TCG runs string instructions byte by byte: a kernel that takes them for fast boots a fifth slower."""
        return "host" if self.accelerator is Accelerator.KVM else "max,erms=off,fsrm=off"


@dataclass(frozen=True, slots=True)
class Nic:
    """One interface: address and the descriptor of its tap (with vnet_hdr)."""

    mac: str
    tap: int


@dataclass(frozen=True, slots=True)
class Channels:
    """Descriptors of listening UNIX sockets."""

    agent: int
    qmp: int
    console: int


@dataclass(frozen=True, slots=True)
class Saved:
    """A guest's RAM as a file, and the state of its devices; both descriptors. `restore`: go on from them instead of booting.

    To be saved, the file is the RAM itself. Restored, what is written goes to private copies of its pages; but with `shared` the file is
    filled from a state that has the RAM in it, and the guest doesn't run (snapshots.py). `state` is on no command
    line: it is written and read by number, through the monitor (see template.py).
    """

    memory: int
    state: int
    restore: bool
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Vm:
    """All that the command line says. `name`: the run folder, by which a lost process is found.

    `memory`: bytes of guest RAM. `root`, `scratch`: descriptors (-1: no disks). `volumes`: folder in the jail, "" = none.
    `saved`: None for a guest that boots and is never saved.
    """

    name: str
    binary: str
    kernel: str
    initrd: str
    memory: int
    cpu: Cpu
    channels: Channels
    root: int = -1
    scratch: int = -1
    nics: tuple[Nic, ...] = ()
    volumes: str = ""
    resources: Resources = field(default_factory=Resources)
    saved: Saved | None = None

    @property
    def boots(self) -> bool:
        """Whether it needs kernel and initrd."""
        return self.saved is None or not self.saved.restore


def argv(vm: Vm) -> tuple[str, ...]:
    """The whole command line."""
    return (
        vm.binary,
        *("-name", f"guest={_escaped(vm.name)},debug-threads=on"),
        *_machine(vm),
        *("-cpu", vm.cpu.model),
        *("-accel", _accelerator(vm.cpu.accelerator)),
        *("-smp", str(vm.cpu.count)),
        *("-m", f"{vm.memory // MIB}M"),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-global", "virtio-mmio.force-legacy=false"),
        *_origin(vm),
        *_channels(vm.channels),
        *_disks(vm),
        *_serial_and_entropy(),
        *_nics(vm.nics),
        *_volumes(vm),
    )


def kernel_arguments(cpu: Cpu) -> tuple[str, ...]:
    """The guest kernel's command line. TCG doesn't speculate, so mitigations cost and give nothing there; under KVM the kernel decides.

    Nobody loads a policy into the guest: without AppArmor's and Tomoyo's hooks an emulated one has less code to translate.
    The self-tests of the kernel's ciphers took 6 % of the boot, and one was caught in an endless loop under TCG (soft lockup).
    """
    common = ("console=ttyS0", "quiet", "panic=-1", "reboot=t", "random.trust_cpu=on", "init_on_alloc=0", "cryptomgr.notests")
    if cpu.accelerator is Accelerator.KVM:
        return common
    return (*common, "mitigations=off", "lsm=landlock,lockdown,yama", "no_timer_check", "tsc=reliable", f"tsc_early_khz={cpu.tsc_khz}")


def ram(limit: int) -> int:
    """Guest RAM in bytes for a workload that may use `limit` bytes (0: the default), so that its own cgroup is what ends."""
    wanted = (limit or DEFAULT_MEMORY) + _KERNEL_OVERHEAD
    wanted += wanted // _PER_PAGE
    return -(-wanted // _ALIGN) * _ALIGN


def cpu_count(cpus: float, host: int) -> int:
    """Virtual CPUs: the limit rounded up, by default two, never more than the host has."""
    return max(1, min(math.ceil(cpus) or DEFAULT_CPUS, host))


def throttle(resources: Resources) -> dict[str, int]:
    """QEMU's ThrottleLimits; without limits all are zero, which lifts them."""
    return {
        "bps-read": resources.read_bps,
        "bps-write": resources.write_bps,
        "iops-read": resources.read_iops,
        "iops-write": resources.write_iops,
    }


def disk_nodes(name: str, fdset: int, *, read_only: bool) -> tuple[dict[str, object], ...]:
    """The file of a set of descriptors, and above it NAME-raw, as QEMU's BlockdevOptions."""
    raw: dict[str, object] = {"driver": "raw", "node-name": f"{name}-raw", "file": f"{name}-file"}
    file = _file(f"{name}-file", fdset, read_only=read_only)
    if read_only:
        return file, raw | {"read-only": True}
    return file | {"discard": "unmap"}, raw | {"discard": "unmap"}


def throttle_node(name: str, below: str, *, read_only: bool) -> dict[str, object]:
    """The top of a disk's chain, with the limits that all disks share."""
    node: dict[str, object] = {"driver": "throttle", "node-name": name, "throttle-group": "limits", "file": below, "read-only": read_only}
    return node if read_only else node | {"discard": "unmap"}


def _machine(vm: Vm) -> tuple[str, ...]:
    """The RAM of a saved guest is a file; the name given to it is in the saved state."""
    if vm.saved is None:
        return ("-object", f"memory-backend-ram,id=ram,size={vm.memory}", "-machine", f"{_MACHINE},memory-backend=ram")
    path, share = f"/proc/self/fd/{vm.saved.memory}", "off" if vm.saved.restore and not vm.saved.shared else "on"
    memory = f"memory-backend-file,id=ram,size={vm.memory},mem-path={path},share={share}"
    return ("-object", memory, "-machine", f"{_MACHINE},memory-backend=ram")


def _origin(vm: Vm) -> tuple[str, ...]:
    """Where the guest comes from. "defer": the monitor says from where, after it has said what the state has in it."""
    if not vm.boots:
        return ("-incoming", "defer", *(("-S",) if vm.saved and vm.saved.shared else ()))
    return ("-kernel", vm.kernel, "-initrd", vm.initrd, "-append", " ".join(kernel_arguments(vm.cpu)))


def _accelerator(accelerator: Accelerator) -> str:
    return "kvm" if accelerator is Accelerator.KVM else f"tcg,thread=multi,tb-size={_TB_MIB}"


def _channels(channels: Channels) -> tuple[str, ...]:
    """All three are sockets that a restarted daemon connects to again; while nobody is connected, the console's output is dropped."""
    return (
        *("-chardev", f"socket,id=qmp,fd={channels.qmp},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,fd={channels.console},server=on,wait=off"),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=agent,fd={channels.agent},server=on,wait=off"),
    )


def _disks(vm: Vm) -> tuple[str, ...]:
    """Root: read-only, through the host's page cache, which all VMs of the image share. Scratch: sparse, discards give space back.

    Errors are reported to the guest; by default QEMU would stop the machine when the host's disk is full.
    """
    if vm.root < 0:
        return ()
    root = ("-add-fd", f"fd={vm.root},set=1", *_blockdevs(disk_nodes("root", 1, read_only=True)))
    scratch = ("-add-fd", f"fd={vm.scratch},set=2", *_blockdevs(disk_nodes("scratch", 2, read_only=False)))
    return (
        *("-object", _json({"qom-type": "throttle-group", "id": "limits", "limits": throttle(vm.resources)})),
        *root,
        *_blockdevs((throttle_node("root", "root-raw", read_only=True),)),
        *("-device", "virtio-blk-device,id=root,drive=root,serial=root,write-cache=off"),
        *scratch,
        *_blockdevs((throttle_node("scratch", "scratch-raw", read_only=False),)),
        *("-device", "virtio-blk-device,id=scratch,drive=scratch,serial=scratch,discard=on,werror=report,rerror=report"),
    )


def _file(node: str, fdset: int, *, read_only: bool) -> dict[str, object]:
    """Locks are off: read-only roots are shared, and a scratch disk belongs to one instance, which has one QEMU.

    By default every restored guest would throw its image out of the host's page cache, which all VMs of the image share.
    """
    base: dict[str, object] = {"driver": "file", "node-name": node, "filename": f"/dev/fdset/{fdset}", "locking": "off"}
    return base | {"drop-cache": False, "read-only": read_only, "cache": {"direct": False, "no-flush": False}}


def _blockdevs(nodes: Iterable[dict[str, object]]) -> tuple[str, ...]:
    return tuple(word for node in nodes for word in ("-blockdev", _json(node)))


def _serial_and_entropy() -> tuple[str, ...]:
    return (
        *("-device", "virtio-serial-device,id=serial,max_ports=2"),
        *("-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
        *("-object", "rng-builtin,id=entropy"),
        *("-device", "virtio-rng-device,id=rng,rng=entropy"),
    )


def _nics(nics: tuple[Nic, ...]) -> tuple[str, ...]:
    words: list[str] = []
    for number, nic in enumerate(nics):
        words += ["-netdev", f"tap,id=net{number},fd={nic.tap}"]
        words += ["-device", f"virtio-net-device,id=nic{number},netdev=net{number},mac={nic.mac}"]
    return tuple(words)


def _volumes(vm: Vm) -> tuple[str, ...]:
    """One device for all volumes: they are bound below one folder. Limits on bytes and operations count here too."""
    if not vm.volumes:
        return ()
    limits = "".join(f",throttling.{name}={value}" for name, value in throttle(vm.resources).items() if value)
    return (
        *("-fsdev", f"local,id=volumes,path={_escaped(vm.volumes)},security_model=passthrough,multidevs=remap{limits}"),
        *("-device", f"virtio-9p-device,id=volumes,fsdev=volumes,mount_tag={VOLUMES_TAG}"),
    )


def _escaped(value: str) -> str:
    """QEMU's option syntax takes a doubled comma for a comma."""
    return value.replace(",", ",,")


def _json(value: dict[str, object]) -> str:
    return json.dumps(value, separators=(",", ":"))
