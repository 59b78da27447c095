"""Mounts by system call, idmapped clones, overlays, and path lookups that can't leave a root.

Invariant: no program is started; a descriptor returned here is the caller's to close. Paths handed in are trusted
(the daemon's own) except where the docstring says `inside`: those come from images and are resolved with RESOLVE_IN_ROOT.
System call numbers above 423 are the same on every architecture.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from twinhull.errors import PermanentError
from twinhull.sys.namespaces import IDS, libc, os_error, user_namespace

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_ATTR_RDONLY = 0x1
_ATTR_IDMAP = 0x100000
_CANONICAL = "redirect_dir=off,metacopy=off,index=off,"
_MAX_LINKS = 40
_OPTIONS_LIMIT = 4095
"""mount(2) takes one page of options."""


class _Attributes(ctypes.Structure):
    """struct mount_attr."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _OpenHow(ctypes.Structure):
    """struct open_how."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def mount(source: str | None, target: Path | str, kind: str | None, flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError, or PermanentError when the options don't fit into a page."""
    raw = os.fsencode(options)
    if len(raw) > _OPTIONS_LIMIT:
        raise PermanentError(f"mount {target}: {len(raw)} bytes of options, {_OPTIONS_LIMIT} fit")
    arguments = (
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        raw or None,
    )
    if libc().mount(*arguments) != 0:
        raise os_error(str(target))


def unmount(target: Path | str, flags: int = MNT_DETACH) -> bool:
    """Unmount what is topmost at `target`. False: nothing was mounted there (or the path is gone)."""
    if libc().umount2(os.fsencode(target), ctypes.c_int(flags)) == 0:
        return True
    if ctypes.get_errno() in (errno.EINVAL, errno.ENOENT):
        return False
    raise os_error(str(target))


def unmount_all(target: Path | str) -> None:
    """Unmount everything stacked at `target`."""
    while unmount(target):
        pass


def mounted_below(folder: Path | str) -> list[str]:
    """Mount points at or below `folder` in this namespace, deepest first."""
    prefix = os.path.realpath(folder)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [_unescape(line.split(" ", 5)[4]) for line in file]
    return sorted((p for p in points if p == prefix or p.startswith(prefix + "/")), key=len, reverse=True)


def bind(source: Path | str, target: Path | str, *, recursive: bool = False) -> None:
    """A plain bind mount."""
    mount(str(source), target, None, MS_BIND | (MS_REC if recursive else 0))


def clone(path: Path | str | int, *, recursive: bool = False) -> int:
    """A descriptor of a detached copy of the mount at a path, or of a descriptor."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    base, name = (path, b"") if isinstance(path, int) else (_AT_FDCWD, os.fsencode(path))
    if isinstance(path, int):
        flags |= _AT_EMPTY_PATH
    return _checked(_SYS_OPEN_TREE, base, ctypes.c_char_p(name), ctypes.c_uint(flags), name=str(path))


def set_attributes(descriptor: int, *, user_namespace_fd: int | None = None, read_only: bool = False, recursive: bool = False) -> None:
    """mount_setattr(2) on a detached mount."""
    wanted = (_ATTR_RDONLY if read_only else 0) | (0 if user_namespace_fd is None else _ATTR_IDMAP)
    attributes = _Attributes(wanted, 0, 0, 0 if user_namespace_fd is None else user_namespace_fd)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _checked(
        _SYS_MOUNT_SETATTR, descriptor, ctypes.c_char_p(b""), ctypes.c_uint(flags), ctypes.byref(attributes), size, name="mount_setattr"
    )


def attach(descriptor: int, target: Path | str) -> None:
    """Put a detached mount at `target`, on top of what is mounted there."""
    name = ctypes.c_char_p(os.fsencode(target))
    flags = ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)
    _checked(_SYS_MOVE_MOUNT, descriptor, ctypes.c_char_p(b""), _AT_FDCWD, name, flags, name=str(target))


def idmapped_clone(path: Path | str, id_base: int, count: int = IDS, *, read_only: bool = False, recursive: bool = False) -> int:
    """A detached copy of the mount at `path` in which id 0 on disk is seen as `id_base`, and so on. The caller attaches and closes it.

    Inside a user namespace with the same mapping, files of uid 1000 on disk are uid 1000's, and what root makes there is root's on disk.
    Raises PermanentError with a hint where the file system can't do it.
    """
    namespace = user_namespace(id_base, count)
    try:
        return idmapped_clone_with(path, namespace, read_only=read_only, recursive=recursive)
    finally:
        os.close(namespace)


def idmapped_clone_with(path: Path | str | int, namespace: int, *, read_only: bool = False, recursive: bool = False) -> int:
    """`idmapped_clone` of a path or descriptor, with the descriptor of a user namespace that is there already."""
    descriptor = clone(path, recursive=recursive)
    try:
        set_attributes(descriptor, user_namespace_fd=namespace, read_only=read_only, recursive=recursive)
    except OSError as error:
        os.close(descriptor)
        raise _idmap_error(path, error) from error
    return descriptor


def overlay(target: Path, lowers: Sequence[int], upper: str | None, work: str | None, *, extra: str = "") -> None:
    """Mount an overlay at `target`: `lowers` are descriptors of attached mounts or folders, topmost first.

    Descriptors keep each layer at some 17 bytes of the option page, which takes the 127 layers an image may have.
    An idmapped upper must map this process's own user too (`user_namespace(…, daemon_as=IDS)`): the overlay makes its working files
    as the mounter, and would silently be read-only otherwise. Features that make a layer unreadable by itself are off, whatever the
    kernel's defaults are.
    """
    options = _CANONICAL + "lowerdir=" + ":".join(f"/proc/self/fd/{descriptor}" for descriptor in lowers)
    if upper is not None:
        options += f",upperdir={upper},workdir={work}"
    mount("overlay", target, "overlay", 0, options + extra)


def open_inside(root: int, path: str, flags: int, mode: int = 0) -> int:
    """Open `path` as if `root` (a descriptor) were "/": links, also absolute ones and "..", stay inside (openat2, RESOLVE_IN_ROOT)."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    for _ in range(8):  # EAGAIN: a rename elsewhere raced with ".."; the kernel asks to try again
        try:
            return _checked(_SYS_OPENAT2, root, ctypes.c_char_p(os.fsencode(path)), ctypes.byref(how), size, name=path)
        except BlockingIOError:
            continue
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def open_straight(path: Path | str) -> int:
    """An O_PATH descriptor of an absolute path that must not lead through any symbolic link. Raises OSError (ELOOP)."""
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    return _checked(_SYS_OPENAT2, _AT_FDCWD, ctypes.c_char_p(os.fsencode(path)), ctypes.byref(how), size, name=str(path))


def read_inside(root: int, path: str, limit: int = 1 << 20) -> bytes | None:
    """The first `limit` bytes of a regular file inside; None when there is none. Never waits on a fifo or device."""
    try:
        descriptor = open_inside(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit) if _is_regular(descriptor) else None


def exists_inside(root: int, path: str) -> bool:
    """Whether `path`, links followed, is there."""
    try:
        os.close(open_inside(root, path, os.O_PATH))
    except OSError:
        return False
    return True


def make_inside(root: int, path: str, *, is_folder: bool, owner: int) -> None:
    """Make `path` inside (a folder, or an empty file) and all folders on the way, owned by `owner`; what is there is left alone.

    Links are followed inside the root, also ones whose target isn't there yet. Only for a root in which nothing runs.
    Raises OSError (ELOOP after 40 links, ENOTDIR …).
    """
    parts, base, links = path.split("/")[::-1], "/", 0
    while parts:
        name = parts.pop()
        if name in ("", "."):
            continue
        if name == "..":
            base = os.path.dirname(base)
            continue
        target = _link_inside(root, base, name)
        if target is None:
            base = _step_inside(root, base, name, is_folder or bool(parts), owner)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        base = "/" if target.startswith("/") else base
        parts += target.split("/")[::-1]


def _link_inside(root: int, base: str, name: str) -> str | None:
    """Where the symbolic link `name` points to; None if it isn't one."""
    with _opened(open_inside(root, base, os.O_PATH | os.O_DIRECTORY)) as parent:
        try:
            return os.readlink(name, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise


def _step_inside(root: int, base: str, name: str, is_folder: bool, owner: int) -> str:
    """Make one entry if it is missing; its path."""
    with _opened(open_inside(root, base, os.O_PATH | os.O_DIRECTORY)) as parent, contextlib.suppress(FileExistsError):
        if is_folder:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=parent))
        os.chown(name, owner, owner, dir_fd=parent, follow_symlinks=False)
    return os.path.join(base, name)


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def folder(path: Path | str) -> Iterator[int]:
    """An O_PATH descriptor of a folder, closed afterwards."""
    with _opened(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as descriptor:
        yield descriptor


def _is_regular(descriptor: int) -> bool:
    return os.fstat(descriptor).st_mode & 0o170000 == 0o100000


def _unescape(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def _name(path: Path | str | int) -> str:
    return os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else str(path)


def _checked(number: int, *arguments: object, name: str) -> int:
    result = int(libc().syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise os_error(name)
    return result


def _idmap_error(path: Path | str | int, error: OSError) -> Exception:
    if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return PermanentError(
            f"idmap the mount of {_name(path)}: {error.strerror}",
            "the file system has no idmapped mounts here: use ext4, xfs, btrfs or tmpfs (Linux 6.3) below Twinhull's folders",
        )
    return error
