"""Starts QEMU in its jail: a short-lived program of its own, because it changes namespaces and identity, which a daemon with threads can't.

    python -I -S -c BOOT <folder of the package> <run folder>      (the description comes as JSON on stdin)

What QEMU gets: mount, pid, ipc, uts, net and user namespaces, ids `id_base`…+65535 and nothing else of the host's users, no new
privileges, a read-only root of its libraries and nothing of the host but the volumes, no capabilities (with volumes four of the user
namespace's, so that 9p keeps ownership), the descriptors it was given, its cgroup, and the system calls of `syscalls.py`. The mount
namespace belongs to the host's user namespace: nothing inside can change it.

The filter is there before QEMU is. It doesn't allow `execve`, it asks: the launcher hears that once, says yes, and is gone; from then on
the kernel answers ENOSYS.

Invariant: `vm.json` in the run folder names QEMU's pid before QEMU's first instruction. Whoever is killed at whatever moment, a process
that isn't recorded has the run folder among its arguments (see `process.lost`) and ends by itself when its launcher does.
Imports are light on purpose: this is on the way of every start.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import stat
import struct
import sys
from typing import TYPE_CHECKING

from twinhull.errors import PermanentError
from twinhull.instance.vm import syscalls
from twinhull.sys import mounts, namespaces

if TYPE_CHECKING:
    from typing import TypedDict

    class Volume(TypedDict):
        """A folder or file for the guest, at `number` below the share."""

        number: int
        source: str
        read_only: bool
        mapped: bool

    class Description(TypedDict):
        """What stdin has. `stderr`: descriptor for QEMU's messages; `cgroups`: folders to join; `devices`: nodes that QEMU may open."""

        argv: list[str]
        root: str
        id_base: int
        files: dict[str, str]
        folders: list[str]
        devices: list[str]
        volumes: list[Volume]
        cgroups: list[str]
        stderr: int


BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from twinhull.instance.vm import jail; jail.main(sys.argv[2])"
BOOT_AHEAD = "import sys; sys.path.insert(0, sys.argv[1]); from twinhull.instance.vm import jail; jail.wait(*map(int, sys.argv[2:]))"
"""The same for a launcher that waits for its description (launchers.py): descriptor of its socket, pid of its daemon."""
RECORD = "vm.json"
VOLUMES = "/volumes"

_VOLUME_CAPABILITIES = (0, 1, 3, 4)
"""CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID: 9p serves files of all the guest's users."""
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_SIGKILL = 9
_MESSAGE, _DESCRIPTORS = 1 << 18, 250
"""Bytes of a description, and descriptors with it (SCM_MAX_FD is 253), at most."""
_LAST_CAPABILITY = 63
_SYS_PIVOT_ROOT = 155
_ROOT_OPTIONS = "size=256k,nr_inodes=1024,mode=0755"

_SYS_SECCOMP, _SYS_PIDFD_GETFD = 317, 438
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_INSTRUCTION = 8
_QUESTION, _ANSWER = struct.Struct("QIIiIQ6Q"), struct.Struct("QqiI")
"""struct seccomp_notif (id, pid, flags, struct seccomp_data) and seccomp_notif_resp (id, value, error, flags): 80 and 24 bytes."""
_NOTIF_RECV, _NOTIF_SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
"""Of linux/seccomp.h."""
_LISTENER = b"listener "
"""How the child tells the launcher its descriptor's number; anything else it says is trouble."""


def main(run: str) -> None:
    """Start QEMU and end. Exit status 0: it runs (or ended since); else stderr says why not."""
    _report(json.load(sys.stdin), run)


def _report(description: Description, run: str) -> None:
    try:
        launch(description, run)
    except (OSError, PermanentError) as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def wait(descriptor: int, daemon: int) -> None:
    """`main` for one description that comes later, with its descriptors; ends without one, and with the daemon."""
    import socket  # on nobody else's way

    namespaces.libc().prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != daemon:
        os._exit(1)
    with socket.socket(fileno=descriptor) as waiting:
        data, received, _, _ = socket.recv_fds(waiting, _MESSAGE, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        os._exit(0)
    message = json.loads(data)
    _renumber(received, message["descriptors"])
    _report(message["description"], message["run"])


def _renumber(received: list[int], wanted: list[int]) -> None:
    """Give descriptors the numbers that they have on QEMU's command line."""
    free = max(*received, *wanted, 2) + 1
    apart = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, free) for number in received]
    for number in received:
        os.close(number)
    for number, target in zip(apart, wanted, strict=True):
        os.dup2(number, target, inheritable=True)
        os.close(number)


def launch(description: Description, run: str) -> None:
    """See the module. Returns when QEMU was executed."""
    os.setsid()
    for folder in description["cgroups"]:
        _write(f"{folder}/cgroup.procs", "0")
    users = namespaces.user_namespace(description["id_base"])
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    flags = namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWNET
    namespaces.unshare(flags)
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    _build_root(description, users)
    namespaces.unshare(namespaces.CLONE_NEWPID)
    go_read, go_write = os.pipe2(os.O_CLOEXEC)
    status_read, status_write = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(go_write)
        _be_child(description, users, null, go_read, status_write)
    os.close(status_write)
    _record(run, child)
    os.write(go_write, b"1")
    said = os.read(status_read, 4096)
    if said.startswith(_LISTENER):
        _let_it_execute(child, int(said.removeprefix(_LISTENER)))
        said = os.read(status_read, 4096)
    if said:
        raise OSError(said.decode("utf-8", "replace"))


def _be_child(description: Description, users: int, null: int, go: int, status: int) -> None:
    """Never returns: executes QEMU, or writes the trouble to `status`."""
    try:
        if os.read(go, 1):
            _enter_root(description["root"])
            _become_nobody(users, keep_capabilities=bool(description["volumes"]))
            _execute(description, null, status)
    except BaseException as error:
        os.write(status, f"start QEMU: {error}"[:4000].encode("utf-8", "replace"))
    os._exit(1)


def _build_root(description: Description, users: int) -> None:
    """A small tmpfs with binds of what QEMU reads; read-only at the end."""
    root = description["root"]
    mounts.mount("tmpfs", root, "tmpfs", mounts.MS_NOSUID, _ROOT_OPTIONS)
    for name in ("proc", "dev", "volumes"):
        os.mkdir(f"{root}/{name}")
    _link_libraries(root)
    for folder in description["folders"]:
        _bind(folder, root + folder)
    for inside, source in description["files"].items():
        _bind(source, root + inside)
    for device in description["devices"]:
        _device(device, root + device, description["id_base"])
    for volume in description["volumes"]:
        _volume(volume, root + VOLUMES, users)
    mounts.mount(None, root, None, mounts.MS_REMOUNT | mounts.MS_RDONLY | mounts.MS_NOSUID)


def _link_libraries(root: str) -> None:
    """/lib and the like, where they are links as on all present systems."""
    for name in ("lib", "lib32", "lib64"):
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")


def _bind(source: str, target: str) -> None:
    """A read-only bind of a file or folder."""
    _place_for(source, target)
    tree = mounts.clone(source)
    mounts.set_attributes(tree, read_only=True)
    mounts.attach(tree, target)
    os.close(tree)


def _volume(volume: Volume, share: str, users: int) -> None:
    """An idmapped bind, so that ids on disk are the guest's, unless they are its as the host counts them.

    Submounts come along where they can be mapped too.

    No link is followed: the source was resolved before, and whoever has the volume might have changed it since (see instance/sources.py).
    """
    target = f"{share}/{volume['number']}"
    source = mounts.open_straight(volume["source"])
    _place(target, is_folder=stat.S_ISDIR(os.fstat(source).st_mode))
    tree = _mapped(source, users, volume["read_only"]) if volume["mapped"] else mounts.clone(source)
    if not volume["mapped"]:
        mounts.set_attributes(tree, read_only=volume["read_only"])
    mounts.attach(tree, target)
    os.close(tree)
    os.close(source)


def _mapped(source: int, users: int, read_only: bool) -> int:
    try:
        return mounts.idmapped_clone_with(source, users, read_only=read_only, recursive=True)
    except (OSError, PermanentError):
        return mounts.idmapped_clone_with(source, users, read_only=read_only)


def _place_for(source: str, target: str) -> None:
    _place(target, is_folder=os.path.isdir(source))


def _place(target: str, *, is_folder: bool) -> None:
    """An empty folder or file to mount on."""
    if is_folder:
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_CLOEXEC, 0o600))


def _device(source: str, target: str, owner: int) -> None:
    """A node of our own for the same device: the host's belongs to groups that don't exist inside."""
    os.mknod(target, os.stat(source).st_mode & 0o170000 | 0o600, os.stat(source).st_rdev)
    os.chown(target, owner, owner)


def _enter_root(root: str) -> None:
    """Make `root` the root, with a /proc of the new pid namespace, and drop the old one."""
    mounts.mount("proc", f"{root}/proc", "proc", mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC)
    os.chdir(root)
    if namespaces.libc().syscall(_SYS_PIVOT_ROOT, b".", b".") != 0:
        raise namespaces.os_error("pivot_root")
    mounts.unmount(".")
    os.chdir("/")


def _become_nobody(users: int, *, keep_capabilities: bool) -> None:
    """Ids of the user namespace, and its capabilities cut to what is kept at exec."""
    namespaces.setns(users, namespaces.CLONE_NEWUSER)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    kept = _VOLUME_CAPABILITIES if keep_capabilities else ()
    for number in range(_LAST_CAPABILITY + 1):
        if number not in kept:
            namespaces.libc().prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # EINVAL beyond the kernel's last one
    if namespaces.libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise namespaces.os_error("no_new_privs")


def _execute(description: Description, null: int, status: int) -> None:
    """The last step. From the filter on, this process is held as QEMU will be, and `execve` waits for the launcher's word."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0)  # 9p sets modes as the guest says
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(description["stderr"], 2)
    volumes = "-fsdev" in description["argv"]  # also for a template, which has the device and nothing behind it yet
    listener = _filter(syscalls.program(kvm="/dev/kvm" in description["devices"], volumes=volumes))
    os.write(status, _LISTENER + str(listener).encode())
    os.execve(description["argv"][0], description["argv"], {"PATH": "/usr/bin", "LC_ALL": "C"})


def _filter(program: bytes) -> int:
    """Install a seccomp filter for good; the descriptor on which it asks (closed at exec)."""
    lines = ctypes.create_string_buffer(program, len(program))
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // _INSTRUCTION, ctypes.addressof(lines)))
    listener = namespaces.libc().syscall(_SYS_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, described)
    if listener < 0:
        raise namespaces.os_error("install QEMU's system call filter (a filter around this daemon may have a listener already)")
    return int(listener)


def _let_it_execute(child: int, number: int) -> None:
    """Answer the one question that the filter asks before QEMU: may it execute? Nobody listens after that."""
    process = os.pidfd_open(child)
    listener = namespaces.libc().syscall(_SYS_PIDFD_GETFD, process, number, 0)
    if listener < 0:
        raise namespaces.os_error("pidfd_getfd")
    question = bytearray(_QUESTION.size)
    fcntl.ioctl(listener, _NOTIF_RECV, question)
    asked, _, _, call = _QUESTION.unpack_from(question)[:4]
    if call != syscalls.EXECVE:
        raise PermanentError(f"start QEMU: asked for system call {call}")
    fcntl.ioctl(listener, _NOTIF_SEND, bytearray(_ANSWER.pack(asked, 0, 0, _CONTINUE)))
    os.close(listener)
    os.close(process)


def _record(run: str, pid: int) -> None:
    """Write vm.json: the pid and its start time (field 22 of its stat), which together name a process for good."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rsplit(") ", 1)[1].split()
    path = f"{run}/.{RECORD}"
    _write(path, json.dumps({"pid": pid, "started": int(fields[19])}), os.O_CREAT | os.O_TRUNC)
    os.rename(path, f"{run}/{RECORD}")


def _write(path: str, text: str, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
