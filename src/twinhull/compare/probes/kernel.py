"""Settings of the kernel: control groups, /proc/sys, /sys."""

from __future__ import annotations

import glob
import os

from .table import Denied, Owner, Place, attempt, first, folder, mount, opened, unmount, write_back

_BIND_REMOUNT = 32 | 4096


@attempt("cgroup", Owner.KERNEL, "open release_agent of a cgroup v1 hierarchy for writing", "a descriptor")
def release_agent(place: Place) -> str:
    return first(glob.glob("/sys/fs/cgroup/**/release_agent", recursive=True), opened)


@attempt("cgroup", Owner.SELF, "mount cgroup v1 and v2 afresh", "the mount is there")
def mount_cgroup(place: Place) -> str:
    with folder("cgroup") as path:
        kinds = [("cgroup2", ""), ("cgroup", "memory"), ("cgroup", "rdma"), ("cgroup", "pids")]
        done = first([f"{kind}:{options}" for kind, options in kinds], lambda word: mount("x", path, *_kind(word)))
        unmount(path)
        return done


def _kind(word: str) -> tuple[str, int, str]:
    kind, _, options = word.partition(":")
    return kind, 0, options


@attempt("cgroup", Owner.KERNEL, "mount cgroup v1 afresh and write release_agent's own value back", "the write is taken")
def mounted_release_agent(place: Place) -> str:
    with folder("cgroup") as path:
        first(["memory", "rdma", "pids", "cpu"], lambda options: mount("x", path, "cgroup", 0, options))
        try:
            return write_back(f"{path}/release_agent")
        finally:
            unmount(path)


@attempt("cgroup", Owner.KERNEL, "open the own memory limit for writing", "a descriptor")
def own_limits(place: Place) -> str:
    names = ("memory.max", "memory.limit_in_bytes", "pids.max", "cpu.max", "devices.allow")
    return first([path for name in names for path in glob.glob(f"/sys/fs/cgroup/**/{name}", recursive=True)], opened)


@attempt("cgroup", Owner.KERNEL, "the same after remounting cgroups writable", "a descriptor")
def own_limits_after_remount(place: Place) -> str:
    for path in ("/sys/fs/cgroup", *glob.glob("/sys/fs/cgroup/*")):
        if os.path.ismount(path):
            mount("none", path, "", _BIND_REMOUNT)
    return own_limits(place)


@attempt("settings", Owner.KERNEL, "write core_pattern's own value back", "the write is taken")
def core_pattern(place: Place) -> str:
    return write_back("/proc/sys/kernel/core_pattern")


@attempt("settings", Owner.KERNEL, "write modprobe's path and hotplug's helper back", "a write is taken")
def helper_programs(place: Place) -> str:
    paths = ["/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/sys/kernel/uevent_helper", "/proc/sys/kernel/poweroff_cmd"]
    return first(paths, write_back)


@attempt("settings", Owner.KERNEL, "write settings that aren't namespaced back", "a write is taken")
def global_settings(place: Place) -> str:
    names = ("kernel/panic", "kernel/sysrq", "vm/overcommit_memory", "fs/file-max", "kernel/randomize_va_space", "kernel/printk")
    return first([f"/proc/sys/{name}" for name in names], write_back)


@attempt("settings", Owner.SELF, "write namespaced settings back through the read-only /proc/sys", "a write is taken")
def own_settings(place: Place) -> str:
    return first([f"/proc/sys/{name}" for name in ("net/ipv4/ip_forward", "kernel/shmmax", "kernel/hostname")], write_back)


@attempt("settings", Owner.SELF, "remount /proc/sys writable", "the remount is taken")
def remount_proc_sys(place: Place) -> str:
    return mount("none", "/proc/sys", "", _BIND_REMOUNT)


@attempt("settings", Owner.KERNEL, "remount /proc/sys writable and write core_pattern back", "the write is taken")
def core_pattern_after_remount(place: Place) -> str:
    mount("none", "/proc/sys", "", _BIND_REMOUNT)
    return write_back("/proc/sys/kernel/core_pattern")


@attempt("settings", Owner.KERNEL, "mount a fresh proc and write its core_pattern back", "the write is taken")
def core_pattern_in_fresh_proc(place: Place) -> str:
    with folder("proc") as path:
        mount("proc", path, "proc")
        try:
            return write_back(f"{path}/sys/kernel/core_pattern")
        finally:
            unmount(path)


@attempt("settings", Owner.KERNEL, "open sysrq-trigger for writing", "a descriptor")
def sysrq(place: Place) -> str:
    return opened("/proc/sysrq-trigger")


@attempt("settings", Owner.KERNEL, "write settings below /sys back, also after a remount", "a write is taken")
def sys_settings(place: Place) -> str:
    names = ("mm/transparent_hugepage/enabled", "mm/ksm/run", "profiling", "rcu_expedited", "uevent_seqnum")
    paths = [f"/sys/kernel/{name}" for name in names] + ["/sys/power/state", "/sys/module/printk/parameters/time"]
    try:
        return first(paths, opened)
    except OSError:
        mount("none", "/sys", "", _BIND_REMOUNT)
        return first(paths, opened)


@attempt("settings", Owner.KERNEL, "open what switches CPUs, PCI devices and queues", "a descriptor")
def sys_devices(place: Place) -> str:
    patterns = (
        "/sys/devices/system/cpu/cpu*/online",
        "/sys/bus/pci/devices/*/remove",
        "/sys/block/*/queue/nr_requests",
        "/sys/bus/*/rescan",
    )
    return first([path for pattern in patterns for path in glob.glob(pattern)], opened)


@attempt("settings", Owner.KERNEL, "register a binary format, in the mounted file system and in a fresh one", "register opens for writing")
def binary_formats(place: Place) -> str:
    try:
        return opened("/proc/sys/fs/binfmt_misc/register")
    except OSError:
        with folder("formats") as path:
            mount("binfmt_misc", path, "binfmt_misc")
            try:
                opened(f"{path}/register")
                if _in_user_namespace():
                    raise Denied("a register of its own user namespace only")
                return "opened a fresh register"
            finally:
                unmount(path)


def _in_user_namespace() -> bool:
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return "4294967295" not in file.read()


@attempt("settings", Owner.KERNEL, "mount debugfs, tracefs, securityfs, pstore and look", "a listing")
def debug_file_systems(place: Place) -> str:
    def listing(kind: str) -> str:
        with folder(kind) as path:
            mount("x", path, kind)
            try:
                return f"{kind}: {sorted(os.listdir(path))[:3]}"
            finally:
                unmount(path)

    return first(["debugfs", "tracefs", "securityfs", "pstore", "efivarfs", "configfs"], listing)


@attempt("settings", Owner.KERNEL, "read kcore and vmcore, also from under their masks", "bytes")
def kernel_memory(place: Place) -> str:
    def read(path: str) -> str:
        with open(path, "rb", buffering=0) as file:
            data = file.read(8)
        if not data:
            raise Denied("empty")
        return f"{path}: {data!r}"

    paths = ["/proc/kcore", "/proc/vmcore"]
    try:
        return first(paths, read)
    except (OSError, Denied):
        unmount("/proc/kcore")
        return first(paths, read)


@attempt("settings", Owner.KERNEL, "find real kernel addresses in kallsyms, iomem and modules", "an address that isn't 0")
def kernel_addresses(place: Place) -> str:
    def address(path: str) -> str:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                if int((line.split("-")[0].split() or ["0"])[0], 16):
                    return f"{path}: {line.strip()[:60]}"
        raise Denied("only zeros")

    return first(["/proc/kallsyms", "/proc/iomem"], address)


@attempt("settings", Owner.KERNEL, "read what is masked: keys, timers, the scheduler, firmware", "bytes")
def masked_files(place: Place) -> str:
    def content(path: str) -> str:
        if os.path.isdir(path):
            if names := os.listdir(path):
                return f"{path}: {names[:3]}"
        else:
            with open(path, "rb") as file:
                if data := file.read(40):
                    return f"{path}: {data!r}"
        raise Denied("empty")

    return first(
        [
            "/proc/keys",
            "/proc/timer_list",
            "/proc/sched_debug",
            "/proc/latency_stats",
            "/proc/scsi",
            "/proc/acpi",
            "/proc/interrupts",
            "/sys/firmware",
            "/sys/devices/virtual/powercap",
        ],
        content,
    )
