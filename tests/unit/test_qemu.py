"""Whole command lines, as QEMU gets them."""

from __future__ import annotations

import json
import shlex

import pytest

from twinhull.instance.vm import qemu
from twinhull.instance.vm.qemu import Accelerator, Channels, Cpu, Nic, Saved, Vm
from twinhull.spec.instance import Resources

_TCG = Cpu(Accelerator.TCG, 2, 2_599_998)

_FULL = """
/usr/bin/qemu-system-x86_64
-name guest=/run/twinhull/i/0123456789ab,debug-threads=on
-object memory-backend-ram,id=ram,size=364904448
-machine microvm,acpi=on,x-option-roms=off,isa-serial=on,pit=off,pic=off,rtc=on,memory-backend=ram
-cpu max,erms=off,fsrm=off -accel tcg,thread=multi,tb-size=128 -smp 2 -m 348M
-nodefaults -no-user-config -no-reboot -display none
-global virtio-mmio.force-legacy=false
-kernel /kernel -initrd /initrd
-append 'console=ttyS0 quiet panic=-1 reboot=t random.trust_cpu=on init_on_alloc=0 cryptomgr.notests \
mitigations=off lsm=landlock,lockdown,yama no_timer_check tsc=reliable tsc_early_khz=2599998'
-chardev socket,id=qmp,fd=11,server=on,wait=off -mon chardev=qmp,mode=control
-chardev socket,id=console,fd=12,server=on,wait=off -serial chardev:console
-chardev socket,id=agent,fd=10,server=on,wait=off
-object '{"qom-type":"throttle-group","id":"limits","limits":{"bps-read":1000,"bps-write":0,"iops-read":0,"iops-write":50}}'
-add-fd fd=13,set=1
-blockdev '{"driver":"file","node-name":"root-file","filename":"/dev/fdset/1","locking":"off","drop-cache":false,"read-only":true,\
"cache":{"direct":false,"no-flush":false}}'
-blockdev '{"driver":"raw","node-name":"root-raw","file":"root-file","read-only":true}'
-blockdev '{"driver":"throttle","node-name":"root","throttle-group":"limits","file":"root-raw","read-only":true}'
-device virtio-blk-device,id=root,drive=root,serial=root,write-cache=off
-add-fd fd=14,set=2
-blockdev '{"driver":"file","node-name":"scratch-file","filename":"/dev/fdset/2","locking":"off","drop-cache":false,"read-only":false,\
"cache":{"direct":false,"no-flush":false},"discard":"unmap"}'
-blockdev '{"driver":"raw","node-name":"scratch-raw","file":"scratch-file","discard":"unmap"}'
-blockdev '{"driver":"throttle","node-name":"scratch","throttle-group":"limits","file":"scratch-raw","read-only":false,"discard":"unmap"}'
-device virtio-blk-device,id=scratch,drive=scratch,serial=scratch,discard=on,werror=report,rerror=report
-device virtio-serial-device,id=serial,max_ports=2
-device virtserialport,chardev=agent,name=org.twinhull.agent.0
-object rng-builtin,id=entropy -device virtio-rng-device,id=rng,rng=entropy
-netdev tap,id=net0,fd=15 -device virtio-net-device,id=nic0,netdev=net0,mac=02:00:00:00:00:01
-netdev tap,id=net1,fd=16 -device virtio-net-device,id=nic1,netdev=net1,mac=02:00:00:00:00:02
-fsdev local,id=volumes,path=/volumes,security_model=passthrough,multidevs=remap,throttling.bps-read=1000,throttling.iops-write=50
-device virtio-9p-device,id=volumes,fsdev=volumes,mount_tag=volumes
"""


def _vm(**changes: object) -> Vm:
    fields: dict[str, object] = {
        "name": "/run/twinhull/i/0123456789ab",
        "binary": "/usr/bin/qemu-system-x86_64",
        "kernel": "/kernel",
        "initrd": "/initrd",
        "memory": qemu.ram(0),
        "cpu": _TCG,
        "channels": Channels(agent=10, qmp=11, console=12),
    }
    return Vm(**(fields | changes))  # type: ignore[arg-type]


def test_a_machine_with_everything() -> None:
    vm = _vm(
        root=13,
        scratch=14,
        nics=(Nic("02:00:00:00:00:01", 15), Nic("02:00:00:00:00:02", 16)),
        volumes="/volumes",
        resources=Resources(read_bps=1000, write_iops=50),
    )
    assert list(qemu.argv(vm)) == shlex.split(_FULL.replace("\\\n", ""))


def test_the_probe_has_no_disks_no_interfaces_and_no_volumes() -> None:
    line = " ".join(qemu.argv(_vm()))
    assert not any(word in line for word in ("blk", "netdev", "9p", "throttle", "add-fd"))


def test_a_guest_to_be_saved_boots_with_its_ram_in_a_file() -> None:
    plain, saved = qemu.argv(_vm()), qemu.argv(_vm(saved=Saved(memory=20, state=21, restore=False)))
    added = [word for word in saved if word not in plain]
    path = "/proc/self/fd/20"
    assert added == [f"memory-backend-file,id=ram,size={qemu.ram(0)},mem-path={path},share=on"]
    assert "21" not in " ".join(saved), "the state is written through the monitor"


def test_a_restored_guest_shares_nothing_it_writes_and_boots_nothing() -> None:
    line = " ".join(qemu.argv(_vm(saved=Saved(memory=20, state=21, restore=True))))
    assert "mem-path=/proc/self/fd/20,share=off" in line
    assert "-incoming defer" in line
    assert not any(word in line for word in ("-kernel", "-initrd", "-append"))


def test_a_guest_that_is_only_to_be_written_down_again_never_runs() -> None:
    line = " ".join(qemu.argv(_vm(saved=Saved(memory=20, state=21, restore=True, shared=True))))
    assert "mem-path=/proc/self/fd/20,share=on" in line
    assert "-incoming defer -S" in line


def test_under_kvm_the_guest_calibrates_and_mitigates_itself() -> None:
    words = qemu.argv(_vm(cpu=Cpu(Accelerator.KVM, 4)))
    assert words[words.index("-accel") + 1] == "kvm"
    assert words[words.index("-cpu") + 1] == "host"
    assert words[words.index("-smp") + 1] == "4"
    kernel = words[words.index("-append") + 1].split()
    assert not {"mitigations=off", "tsc=reliable", "no_timer_check"} & set(kernel)


def test_devices_do_not_depend_on_what_is_behind_them() -> None:
    """A template's slots are fixed: only descriptors, addresses and limits may differ."""
    first = qemu.argv(_vm(root=3, scratch=4, nics=(Nic("02:00:00:00:00:01", 5),)))
    second = qemu.argv(_vm(root=30, scratch=40, nics=(Nic("02:ff:00:00:00:01", 50),), resources=Resources(read_bps=1)))
    kinds = [[word.split(",")[0] for word in words if word.startswith("virt")] for words in (first, second)]
    assert kinds[0] == kinds[1]
    assert len(first) == len(second)


def test_a_comma_in_the_run_folder_stays_a_comma() -> None:
    words = qemu.argv(_vm(name="/tmp/a,b"))
    assert words[words.index("-name") + 1] == "guest=/tmp/a,,b,debug-threads=on"


def test_json_options_are_json() -> None:
    words = qemu.argv(_vm(root=3, scratch=4))
    assert len([json.loads(word) for word in words if word.startswith("{")]) == 7


@pytest.mark.parametrize(("limit", "least", "most"), [(0, 256, 360), (64 << 20, 64, 160), (1 << 30, 1024, 1160), (8 << 30, 8192, 8600)])
def test_ram_is_the_limit_and_little_more(limit: int, least: int, most: int) -> None:
    assert least < qemu.ram(limit) / qemu.MIB <= most
    assert qemu.ram(limit) % (2 * qemu.MIB) == 0


@pytest.mark.parametrize(("cpus", "host", "expected"), [(0, 8, 2), (0, 1, 1), (0.1, 8, 1), (1.5, 8, 2), (4, 8, 4), (16, 8, 8)])
def test_processors_are_the_limit_rounded_up(cpus: float, host: int, expected: int) -> None:
    assert qemu.cpu_count(cpus, host) == expected
