"""A folder tree written as one erofs file: every attribute kept, the same tree always the same bytes.

Why not mkfs.erofs: Debian 12's (1.5) refuses names of 255 bytes and paths over 4096, writes holes out in full and keeps no promise about
the order of what it writes. Invariants: entries are walked in the order of their names' bytes; nothing of the machine (inode numbers, times
of writing, allocation) reaches the file; a hole is a chunk whose bytes are all zero, however it is stored on the host.

Called in a process of its own by `rootfs.py` (see `main`), because it may run for seconds and mounts an overlay in a private mount
namespace. On-disk format: the kernel's fs/erofs/erofs_fs.h. Features used: extended inodes, inline tails, inline xattrs; chunk-based
files (Linux 5.15) for sparse files only.

    block 0          superblock at byte 1024
    data blocks      files, then folders and links that don't fit into the metadata
    metadata         inode (64 bytes), xattrs, inline data; the root comes first, so that its 16-bit number fits
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import struct
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 4096
_MAGIC = 0xE0F5E1E2
_SUPER_OFFSET = 1024
_FEATURE_MTIME = 0x2
_FEATURE_CHUNKED = 0x4
_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHH38x")
_INODE = struct.Struct("<HHHHQ4sIIIqII16x")
_DIRENT = struct.Struct("<QHBB")
_XATTR_HEADER = 12
_PLAIN, _INLINE, _CHUNKED = 0, 2, 4
_SLOT = 32
"""Inode numbers count these; inodes are put at multiples of two, so that none crosses a block."""
_INLINE_LIMIT = 2048
"""Files up to this size lie beside their inode; larger ones begin at a block, so that read-ahead finds them in one piece."""
_INLINE_BUDGET = 64 << 20
"""Bytes of such files held in memory at most; the rest get blocks."""
_CHUNK = 64 << 10
_CHUNKS_MAX = 1 << 16
_SPARSE_SAVING = 1 << 20
"""Zeros below this many bytes a file are written out: the index isn't worth it."""
_HOLE = 0xFFFFFFFF
_FILE_TYPES = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5, stat.S_IFSOCK: 6, stat.S_IFLNK: 7}
_PREFIXES = (
    ("user.", 1),
    ("system.posix_acl_access", 2),
    ("system.posix_acl_default", 3),
    ("trusted.", 4),
    ("security.", 6),
)
_OF_THE_HOST = ("trusted.overlay.", "security.selinux")
"""Written by the host's overlay driver or its policy; no part of the image."""


@dataclass(slots=True)
class _Node:
    """One inode on its way into the file."""

    status: os.stat_result
    xattrs: bytes
    layout: int = _PLAIN
    inline: bytes = b""
    chunks: list[int] = field(default_factory=list)
    chunk_bits: int = 0
    size: int = 0
    block: int = 0
    links: int = 1
    children: list[tuple[bytes, _Node]] = field(default_factory=list)
    offset: int = 0
    """In the metadata area, bytes."""

    @property
    def number(self) -> int:
        return self.offset // _SLOT

    @property
    def head(self) -> int:
        return _INODE.size + len(self.xattrs)


def write(root: int, out: int, identity: uuid.UUID, created: int) -> None:
    """Write the tree below the descriptor `root` to the empty file behind `out`. Raises OSError.

    created: the root folder's time, in seconds since 1970; containers/storage doesn't keep the image's.
    """
    _Writer(out, created).write(root, identity)


class _Writer:
    def __init__(self, out: int, created: int) -> None:
        self.out = out
        self.created = created
        self.block = 1
        self.inline_left = _INLINE_BUDGET
        self.seen: dict[tuple[int, int], _Node] = {}
        self.incompatible = 0

    def write(self, root: int, identity: uuid.UUID) -> None:
        top = _node(os.fstat(root), f"/proc/self/fd/{root}")
        self._scan_folder(root, top)
        nodes = list(_breadth_first(top))
        for node in nodes:
            self._place_folder(node)
        metadata = self.block
        size = _allocate(nodes)
        _Folders(self.out, top).write(nodes)
        for number, node in enumerate(nodes, 1):
            self._write_inode(metadata * BLOCK, number, node)
        blocks = metadata + -(-size // BLOCK)
        os.ftruncate(self.out, blocks * BLOCK)
        _put(self.out, _SUPER_OFFSET, self._superblock(top, len(nodes), blocks, metadata, identity))

    def _superblock(self, top: _Node, count: int, blocks: int, metadata: int, identity: uuid.UUID) -> bytes:
        fields = (_MAGIC, 0, _FEATURE_MTIME, 12, 0, top.number, count, 0, 0, blocks, metadata, 0, identity.bytes, bytes(16))
        return _SUPER.pack(*fields, self.incompatible, 0, 0, 0)

    def _scan_folder(self, folder: int, node: _Node) -> None:
        """Fill in `node.children`, data of files written as they are met."""
        node.links = 2
        for name in sorted(os.fsencode(name) for name in os.listdir(folder)):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            known = self.seen.get((status.st_dev, status.st_ino)) if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode) else None
            if known:
                known.links += 1
            node.children.append((name, known or self._scan(folder, name, status)))
            node.links += stat.S_ISDIR(status.st_mode)

    def _scan(self, folder: int, name: bytes, status: os.stat_result) -> _Node:
        node = _node(status, os.path.join(f"/proc/self/fd/{folder}".encode(), name))
        if stat.S_ISDIR(status.st_mode):
            with _opened(folder, name, os.O_DIRECTORY) as below:
                self._scan_folder(below, node)
            return node
        if status.st_nlink > 1:
            self.seen[status.st_dev, status.st_ino] = node
        if stat.S_ISREG(status.st_mode) and status.st_size:
            with _opened(folder, name) as file:
                self._file(file, node, status.st_size)
        elif stat.S_ISLNK(status.st_mode):
            self._tail_or_blocks(node, os.readlink(name, dir_fd=folder))
        return node

    def _file(self, file: int, node: _Node, size: int) -> None:
        node.size = size
        if size <= min(_INLINE_LIMIT, self.inline_left):
            self.inline_left -= size
            self._tail_or_blocks(node, os.pread(file, size, 0))
        elif not self._sparse_file(file, node):
            node.block = self.block
            _copy(file, 0, self.out, self.block * BLOCK, size)
            self.block += -(-size // BLOCK)

    def _tail_or_blocks(self, node: _Node, data: bytes) -> None:
        """Beside the inode if both fit into one block, else in blocks of its own."""
        node.size = len(data)
        if node.head + len(data) <= BLOCK:
            node.layout, node.inline = _INLINE, data
            return
        node.block = self.block
        _put(self.out, self.block * BLOCK, data)
        self.block += -(-len(data) // BLOCK)

    def _sparse_file(self, file: int, node: _Node) -> bool:
        """Write it chunk by chunk without the zeros, if that saves enough. Nothing is written otherwise."""
        chunk = _CHUNK
        while node.size > chunk * _CHUNKS_MAX:
            chunk *= 2
        if node.size < _SPARSE_SAVING:
            return False
        data = _chunks_with_data(file, node.size, chunk)
        if node.size - len(data) * chunk < _SPARSE_SAVING:
            return False
        node.layout, node.chunk_bits = _CHUNKED, chunk.bit_length() - BLOCK.bit_length()
        node.chunks = [_HOLE] * -(-node.size // chunk)
        self.incompatible |= _FEATURE_CHUNKED
        for index in data:
            length = min(chunk, node.size - index * chunk)
            node.chunks[index] = self.block
            _copy(file, index * chunk, self.out, self.block * BLOCK, length)
            self.block += -(-length // BLOCK)
        return True

    def _place_folder(self, node: _Node) -> None:
        """Size and place of a folder's own data, before the numbers in it are known."""
        if not stat.S_ISDIR(node.status.st_mode):
            return
        names = _dirent_blocks(node)
        last = _used(names[-1])
        node.size = (len(names) - 1) * BLOCK + last
        fits = node.head + last <= BLOCK
        node.layout = _INLINE if fits else _PLAIN
        node.block = self.block if len(names) > fits else 0
        self.block += len(names) - fits

    def _write_inode(self, metadata: int, number: int, node: _Node) -> None:
        status = node.status
        union = struct.pack("<I", node.block)
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            union = struct.pack("<I", _device(status.st_rdev))
        elif node.layout == _CHUNKED:
            union = struct.pack("<HH", node.chunk_bits, 0)
        count = 0 if not node.xattrs else (len(node.xattrs) - _XATTR_HEADER) // 4 + 1
        seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9) if number > 1 else (self.created, 0)
        fields = (status.st_uid, status.st_gid, seconds, nanoseconds, node.links)
        head = _INODE.pack(1 | node.layout << 1, count, status.st_mode, 0, node.size, union, number, *fields)
        index = struct.pack(f"<{len(node.chunks)}I", *node.chunks)
        _put(self.out, metadata + node.offset, head + node.xattrs + node.inline + index)


class _Folders:
    """The second pass over folders: their entries, now that every inode has a number."""

    def __init__(self, out: int, top: _Node) -> None:
        self.out = out
        self.parents = {id(top): top}

    def write(self, nodes: list[_Node]) -> None:
        """`nodes` come breadth first: a parent before its children."""
        for node in nodes:
            if stat.S_ISDIR(node.status.st_mode):
                self._remember(node)
                self._write(node)

    def _remember(self, node: _Node) -> None:
        for _, child in node.children:
            if stat.S_ISDIR(child.status.st_mode):
                self.parents[id(child)] = node

    def _write(self, node: _Node) -> None:
        targets = dict(node.children) | {b".": node, b"..": self.parents[id(node)]}
        blocks = [_dirents(names, targets) for names in _dirent_blocks(node)]
        if node.layout == _INLINE:
            node.inline = blocks.pop()
        _put(self.out, node.block * BLOCK, b"".join(block.ljust(BLOCK, b"\0") for block in blocks))


def _dirent_blocks(node: _Node) -> list[list[bytes]]:
    """Names of a folder, "." and ".." among them, in order, as many a block as fit."""
    blocks: list[list[bytes]] = [[]]
    used = 0
    for name in sorted([b".", b"..", *(name for name, _ in node.children)]):
        if used + _DIRENT.size + len(name) > BLOCK:
            blocks.append([])
            used = 0
        blocks[-1].append(name)
        used += _DIRENT.size + len(name)
    return blocks


def _used(names: list[bytes]) -> int:
    return sum(_DIRENT.size + len(name) for name in names)


def _dirents(names: list[bytes], targets: dict[bytes, _Node]) -> bytes:
    heads, offset = [], _DIRENT.size * len(names)
    for name in names:
        node = targets[name]
        heads.append(_DIRENT.pack(node.number, offset, _FILE_TYPES[stat.S_IFMT(node.status.st_mode)], 0))
        offset += len(name)
    return b"".join(heads + names)


def _breadth_first(top: _Node) -> Iterator[_Node]:
    """Every inode once, the root first."""
    queue, seen = [top], {id(top)}
    for node in queue:
        yield node
        for _, child in node.children:
            if id(child) not in seen:
                seen.add(id(child))
                queue.append(child)


def _allocate(nodes: list[_Node]) -> int:
    """Give each inode its place in the metadata; the area's size in bytes is returned."""
    position = 0
    for node in nodes:
        position = -(-position // (2 * _SLOT)) * 2 * _SLOT
        inline = node.size % BLOCK if stat.S_ISDIR(node.status.st_mode) else len(node.inline)
        if node.layout == _INLINE and position % BLOCK + node.head + inline > BLOCK:
            position = -(-position // BLOCK) * BLOCK
        node.offset = position
        position += node.head + (inline if node.layout == _INLINE else 4 * len(node.chunks))
    return position


def _node(status: os.stat_result, path: str | bytes) -> _Node:
    return _Node(status, _xattrs(path))


def _xattrs(path: str | bytes) -> bytes:
    """The inline xattr area: header and entries, in the order of their names; b"" without any."""
    entries = b""
    follow = isinstance(path, str)  # only the root is given by a descriptor alone
    for name in sorted(os.listxattr(path, follow_symlinks=follow)):
        prefix = next(((text, index) for text, index in _PREFIXES if name.startswith(text)), None)
        if prefix and not name.startswith(_OF_THE_HOST):
            rest = os.fsencode(name.removeprefix(prefix[0]))
            value = os.getxattr(path, name, follow_symlinks=follow)
            entry = struct.pack("<BBH", len(rest), prefix[1], len(value)) + rest + value
            entries += entry + bytes(-len(entry) % 4)
    return bytes(_XATTR_HEADER) + entries if entries else b""


def _chunks_with_data(file: int, size: int, chunk: int) -> list[int]:
    """Numbers of the chunks that aren't all zero. Holes of the host's file are skipped unread."""
    found, zero, index = [], bytes(chunk), 0
    while index * chunk < size:
        try:
            index = os.lseek(file, index * chunk, os.SEEK_DATA) // chunk
        except OSError:  # ENXIO: nothing but a hole to the end
            break
        piece = os.pread(file, chunk, index * chunk)
        if piece != zero[: len(piece)]:
            found.append(index)
        index += 1
    return found


def _copy(source: int, start: int, out: int, target: int, size: int) -> None:
    """`size` bytes from one file to another. A source that shrank meanwhile leaves zeros."""
    os.lseek(source, start, os.SEEK_SET)
    os.lseek(out, target, os.SEEK_SET)
    while size:
        moved = os.sendfile(out, source, None, min(size, 1 << 30))
        if moved == 0:
            return
        size -= moved


def _put(out: int, offset: int, data: bytes) -> None:
    """All of `data` at `offset`: a short write is how a full disk begins."""
    view = memoryview(data)
    while view:
        written = os.pwrite(out, view, offset)
        view, offset = view[written:], offset + written


def _device(number: int) -> int:
    """The kernel's new_encode_dev."""
    major, minor = os.major(number), os.minor(number)
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


@contextlib.contextmanager
def _opened(folder: int, name: bytes, flags: int = 0) -> Iterator[int]:
    """A descriptor of an entry that is never a link, closed at the end."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def main(arguments: list[str]) -> int:
    """FILE HEX32 SECONDS LAYER…: the overlay over the layers, topmost first, mounted in a mount namespace of this process's own."""
    path, identity, created, *layers = arguments
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with _opened_root(layers, os.path.dirname(path)) as root:
            write(root, out, uuid.UUID(identity), int(created))
        os.fsync(out)
    except (OSError, RecursionError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return os.EX_IOERR if getattr(error, "errno", 0) != errno.ENOSPC else os.EX_TEMPFAIL
    return 0


@contextlib.contextmanager
def _opened_root(layers: list[str], scratch: str) -> Iterator[int]:
    """The merged view. An empty folder below the layers makes an overlay of a single one too, so that its whiteouts are honoured."""
    from twinhull.sys import mounts, namespaces

    _many_descriptors()
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    lowers = [os.open(layer, os.O_PATH | os.O_DIRECTORY) for layer in layers]
    mounts.mount("tmpfs", scratch, "tmpfs")
    empty, merged = os.path.join(scratch, "empty"), os.path.join(scratch, "merged")
    os.mkdir(empty)
    os.mkdir(merged)
    lowers.append(os.open(empty, os.O_PATH | os.O_DIRECTORY))
    mounts.overlay(Path(merged), lowers, None, None)
    here = os.open(scratch, os.O_PATH)
    with _opened(here, b"merged", os.O_DIRECTORY) as root:
        yield root


def _many_descriptors() -> None:
    """One is open for every level of the tree."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setrecursionlimit(20_000)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
