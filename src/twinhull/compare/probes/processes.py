"""Other processes, namespaces, identities."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import resource
import socket
import stat
from collections.abc import Callable

from .table import Denied, Owner, Place, attempt, call, canary_below, first, got_past, mount

_NEW_USER, _NEW_NS, _NEW_NET, _NEW_PID = 0x10000000, 0x00020000, 0x40000000, 0x20000000


@attempt("processes", Owner.HOST, "signal, open and trace a process of the host by its number", "one of the calls is taken")
def host_process(place: Place) -> str:
    tries: dict[str, Callable[[], object]] = {
        "kill": lambda: os.kill(place.pid, 0),
        "pidfd_open": lambda: call(434, place.pid, 0),
        "ptrace": lambda: call(101, 0x4206, place.pid, 0, 0),  # PTRACE_SEIZE
        "sched_getaffinity": lambda: os.sched_getaffinity(place.pid),
        "/proc": lambda: os.stat(f"/proc/{place.pid}"),
    }

    def one(name: str) -> str:
        tries[name]()
        return f"{name} {place.pid}"

    return first(list(tries), one)


@attempt("processes", Owner.HOST, "read the memory of a process of the host", "bytes")
def host_memory(place: Place) -> str:
    buffer = ctypes.create_string_buffer(8)
    local = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), 8)
    remote = (ctypes.c_ulong * 2)(0x400000, 8)
    return f"read {call(310, place.pid, local, 1, remote, 1, 0)} bytes"


@attempt("processes", Owner.HOST, "find processes that aren't of this instance", "a kernel thread or the host's process")
def foreign_processes(place: Place) -> str:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            if int(fields[6]) & 0x00200000 or int(name) == place.pid:  # PF_KTHREAD
                return f"process {name}"
    raise Denied("only its own")


@attempt("processes", Owner.SELF, "trace process 1", "PTRACE_SEIZE is taken")
def trace_init(place: Place) -> str:
    if os.getuid() == 0:
        raise Denied("root may trace what is its own, as in Docker")
    call(101, 0x4206, 1, 0, 0)
    return "traced process 1"


@attempt("namespaces", Owner.SELF, "unshare into a new user namespace", "the call is taken")
def unshare_user(place: Place) -> str:
    return f"gave {call(272, _NEW_USER)}"


@attempt("namespaces", Owner.SELF, "a new user namespace, and with its capabilities a mount in a new mount namespace", "a tmpfs over /mnt")
def unshare_and_mount(place: Place) -> str:
    call(272, _NEW_USER | _NEW_NS)
    return mount("x", "/mnt", "tmpfs")


@attempt("namespaces", Owner.KERNEL, "the same, and then core_pattern", "the write is taken")
def unshare_and_core_pattern(place: Place) -> str:
    call(272, _NEW_USER | _NEW_NS | _NEW_PID)
    descriptor = os.open("/proc/sys/kernel/core_pattern", os.O_RDWR)
    os.pwrite(descriptor, os.read(descriptor, 4096), 0)
    return "wrote"


@attempt("namespaces", Owner.SELF, "clone with CLONE_NEWUSER, CLONE_NEWNET", "a child")
def clone_namespaces(place: Place) -> str:
    def clone(flags: str) -> str:
        pid = call(56, int(flags, 16) | 17, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return f"clone({flags})"

    return first([hex(_NEW_USER), hex(_NEW_NET), hex(_NEW_NS)], clone)


@attempt("namespaces", Owner.SELF, "clone3, whose flags no filter sees", "EINVAL: the call was looked at")
def clone3(place: Place) -> str:
    return got_past(435, 0, 0, beyond=(errno.EINVAL, errno.EFAULT))


@attempt("namespaces", Owner.HOST, "enter every namespace that /proc shows", "the host's canary, or its hostname")
def setns(place: Place) -> str:
    def enter(path: str) -> str:
        descriptor = os.open(path, os.O_RDONLY)
        call(308, descriptor, 0)
        return canary_below("/", place)

    paths = glob.glob("/proc/[0-9]*/ns/*") + [f"/proc/{place.pid}/ns/{kind}" for kind in ("mnt", "net", "pid", "user")]
    return first(paths, enter)


@attempt("namespaces", Owner.SELF, "enter process 1's mount namespace", "the call is taken")
def setns_init(place: Place) -> str:
    return f"gave {call(308, os.open('/proc/1/ns/mnt', os.O_RDONLY), _NEW_NS)}"


@attempt("identity", Owner.HOST, "become an id beyond the instance's own", "the call is taken")
def foreign_ids(place: Place) -> str:
    with open("/proc/self/uid_map", encoding="ascii") as file:
        count = int(file.read().split()[2])
    if count == 0xFFFFFFFF:
        raise Denied("all ids are its own: it has a kernel of its own")
    os.setuid(count)
    return f"became {count}"


@attempt("identity", Owner.KERNEL, "raise priority, real-time class, limits, out-of-memory score", "one of them is taken")
def resources(place: Place) -> str:
    tries: dict[str, Callable[[], object]] = {
        "nice": lambda: os.nice(-5),
        "real time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        "limits": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1, resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 1)),
        "out of memory": lambda: _write("/proc/self/oom_score_adj", "-900"),
    }

    def one(name: str) -> str:
        try:
            tries[name]()
        except ValueError as error:
            raise Denied(str(error)) from None
        return name

    return first(list(tries), one)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


@attempt(
    "sockets", Owner.HOST, "connect to the host's sockets by path and by abstract name, docker.sock and twinhull.sock too", "a connection"
)
def host_sockets(place: Place) -> str:
    usual = [
        "docker.sock",
        "containerd/containerd.sock",
        "crio/crio.sock",
        "podman/podman.sock",
        "twinhull/twinhull.sock",
        "dbus/system_bus_socket",
    ]
    paths = [f"{base}/{name}" for base in ("/run", "/var/run") for name in usual]

    def connect(path: str) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("\0" + path[1:] if path.startswith("@") else path)
        return f"connected to {path}"

    return first([*place.sockets, *paths], connect)


@attempt("sockets", Owner.HOST, "find any socket, fifo or foreign device in the file tree", "one")
def odd_files(place: Place) -> str:
    for root in ("/run", "/var/run", "/tmp", "/etc", "/dev"):
        for at, _, names in os.walk(root):
            for name in names:
                mode = os.lstat(f"{at}/{name}").st_mode
                if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
                    return f"{at}/{name}"
    raise Denied("none")


@attempt("sockets", Owner.HOST, "vsock to the hypervisor", "a socket")
def vsock(place: Place) -> str:
    with socket.socket(40, socket.SOCK_STREAM) as made:
        return f"a socket, {made.fileno()}"


@attempt("sockets", Owner.HOST, "vsock, with a family whose upper half a filter on 64 bits would miss", "a socket")
def vsock_wide(place: Place) -> str:
    return f"a socket, {call(41, (1 << 32) + 40, 1, 0)}"
