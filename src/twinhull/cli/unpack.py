"""Unpack a tar that an instance made, into a folder of the host. The archive is hostile.

Laws, each with a test:
- Nothing is written, linked or changed outside the folder: every step down is an `openat` that refuses symbolic links, whether the
  archive made them or somebody else did meanwhile; absolute names and ".." are refused.
- A symbolic link is made only if it stays inside the copied tree; a hard link only to a file that this archive made. Device nodes and
  pipes are left out.
- Modes are kept, but for set-user-ID, set-group-ID and the sticky bit. Owners are the caller, unless `keep_owner`.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from twinhull.cli.style import printable
from twinhull.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twinhull.cli.transfer import ChunkReader, Target

_CHUNK = 1024 * 1024
_STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE_MASK = 0o777


class ArchiveError(UserError):
    """The archive is broken, or wants out."""


def unpack(stream: ChunkReader, target: Target, *, keep_owner: bool = False, warn: Callable[[str], None]) -> None:
    """Unpack all of it. What is left out is told to `warn`. Raises ArchiveError, or UserError for the host's own refusals."""
    unpacker = _Unpacker(target, keep_owner, warn)
    try:
        with tarfile.open(fileobj=stream, mode="r|", errorlevel=1) as archive:  # type: ignore[call-overload]
            for member in archive:
                unpacker.add(member, archive)
        unpacker.finish()
    except tarfile.TarError as error:
        raise ArchiveError(f"the archive is broken: {error}") from error
    except OSError as error:
        raise UserError(f"write {printable(str(error.filename or target.folder))}: {error.strerror}") from error
    finally:
        unpacker.close()


class _Unpacker:
    """State of one unpacking. Descriptors: the folder's, and that of the directory used last."""

    def __init__(self, target: Target, keep_owner: bool, warn: Callable[[str], None]) -> None:
        self._target = target
        self._keep_owner = keep_owner
        self._warn = warn
        self._root = os.open(target.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._last: tuple[tuple[str, ...], int] = ((), -1)
        self._files: set[tuple[str, ...]] = set()
        self._folders: dict[tuple[str, ...], tarfile.TarInfo] = {}

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self._root)
        if self._last[1] >= 0:
            os.close(self._last[1])

    def add(self, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        """One entry."""
        parts = self._place(member.name)
        if not parts:
            if not member.isdir():
                raise ArchiveError("the archive's root is no folder")
            return  # the folder itself is there, and keeps its mode
        if member.isdir():
            self._add_folder(member, parts)
        elif member.isreg():
            self._add_file(archive, member, parts)
        elif member.issym():
            self._add_symlink(member, parts)
        elif member.islnk():
            self._add_hard_link(member, parts)
        else:
            self._leave_out(parts, "it is a device or a pipe")

    def finish(self) -> None:
        """Modes and times of folders, the deepest first: earlier, a read-only one couldn't be filled, nor would its time last."""
        for parts, member in sorted(self._folders.items(), key=lambda item: -len(item[0])):
            folder = os.open(parts[-1], _STEP, dir_fd=self._folder(parts[:-1]))
            try:
                self._finish(folder, member)
            finally:
                os.close(folder)

    def _place(self, name: str) -> tuple[str, ...]:
        """Parts below the folder. Raises ArchiveError for names that lead out."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts:
            raise ArchiveError(f"the archive holds {printable(name)!r}, which leads outside")
        rest = tuple(parts[self._target.strip :])
        return (self._target.name, *rest) if self._target.name else rest

    def _folder(self, parts: tuple[str, ...]) -> int:
        """Descriptor of a directory below the folder, made if missing; it stays ours."""
        if not parts:
            return self._root
        if self._last[0] == parts:
            return self._last[1]
        current = os.dup(self._root)
        for index, part in enumerate(parts):
            try:
                following = self._step(current, part, parts[: index + 1])
            finally:
                os.close(current)
            current = following
        if self._last[1] >= 0:
            os.close(self._last[1])
        self._last = (parts, current)
        return current

    def _step(self, folder: int, part: str, path: tuple[str, ...]) -> int:
        with suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=folder)
        try:
            return os.open(part, _STEP, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise ArchiveError(f"{self._show(path)} is no folder here, but a link or file: it isn't followed") from error
            raise

    def _add_folder(self, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        os.close(self._step(self._folder(parts[:-1]), parts[-1], parts))
        self._folders[parts] = member

    def _add_file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        folder = self._folder(parts[:-1])
        self._clear(folder, parts)
        descriptor = os.open(parts[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            content = archive.extractfile(member)
            if content is not None:
                _copy(content, descriptor)
            self._finish(descriptor, member)
        except BaseException:
            os.unlink(parts[-1], dir_fd=folder)
            raise
        finally:
            os.close(descriptor)
        self._files.add(parts)

    def _add_symlink(self, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        if not self._inside(member.linkname, parts):
            self._leave_out(parts, f"it is a link to {printable(member.linkname)}, which leads outside")
            return
        folder = self._folder(parts[:-1])
        self._clear(folder, parts)
        os.symlink(member.linkname, parts[-1], dir_fd=folder)
        self._files.discard(parts)

    def _inside(self, link: str, parts: tuple[str, ...]) -> bool:
        """Whether a link in that place stays in the tree. ".." counts only at its beginning, where it starts from a real directory."""
        steps = [step for step in link.split("/") if step not in ("", ".")]
        ups = next((index for index, step in enumerate(steps) if step != ".."), len(steps))
        own_name = 1 if self._target.name and len(parts) > 1 else 0
        return not link.startswith("/") and ".." not in steps[ups:] and ups <= len(parts) - 1 - own_name

    def _add_hard_link(self, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        source = self._place(member.linkname)
        if source not in self._files:
            self._leave_out(parts, f"it is a hard link to {printable(member.linkname)}, which isn't in the archive")
            return
        if source == parts:
            return
        holder = os.dup(self._folder(source[:-1]))
        try:
            folder = self._folder(parts[:-1])
            self._clear(folder, parts)
            os.link(source[-1], parts[-1], src_dir_fd=holder, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(holder)
        self._files.add(parts)

    def _clear(self, folder: int, parts: tuple[str, ...]) -> None:
        """Make room: a file or link of that name goes, a folder stays and is an error."""
        try:
            found = os.lstat(parts[-1], dir_fd=folder)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise UserError(f"{self._show(parts)} is a folder: a file can't replace it")
        os.unlink(parts[-1], dir_fd=folder)

    def _finish(self, descriptor: int, member: tarfile.TarInfo) -> None:
        if self._keep_owner:
            os.fchown(descriptor, member.uid, member.gid)
        os.fchmod(descriptor, member.mode & _MODE_MASK)
        moment = max(member.mtime, 0)
        os.utime(descriptor, (moment, moment))

    def _leave_out(self, parts: tuple[str, ...], why: str) -> None:
        if len(parts) == 1 and self._target.name:
            raise UserError(
                f"{self._show(parts)} isn't copied: {why}", "copy what a link points to with --follow-link, or everything as a tar with -"
            )
        self._warn(f"{self._show(parts)} is left out: {why}")

    def _show(self, parts: tuple[str, ...]) -> str:
        return printable("/".join(parts))


def _copy(content: IO[bytes], descriptor: int) -> None:
    while data := content.read(_CHUNK):
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
