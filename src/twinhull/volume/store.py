"""Named volumes: folders below the home's state, with Docker's behaviour.

    state/volumes/NAME/_data         what instances see (unless option "device" says another folder)
    state/volumes/NAME/volume.json   what `create` was told
    state/volumes/NAME/filling       there while an image's content is being copied in; found later, that copy was cut short

Laws: a volume is there whole or not at all (made under a hidden name and renamed); it is never removed while somebody uses it. Who uses it
is the engine's to know: callers pass it. Owners on the disk are the image's own ids; the instance's mount maps them.
Options as Docker's local driver has them, as far as they need no mount: `type=none,o=bind,device=/folder`. A tmpfs shared by several
instances and network file systems are refused: use `--tmpfs`, or mount it on the host and name it with `device`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from twinhull.errors import ConflictError, NotFoundError, PermanentError, UnsupportedError, UserError
from twinhull.home import Home
from twinhull.image import scratch
from twinhull.sys import fs, mounts, namespaces, proc, trees
from twinhull.volume import copy
from twinhull.volume.base import VolumeSpec, VolumeView

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}", re.ASCII)
ANONYMOUS = "dev.twinhull.anonymous"
"""Label of volumes that nobody named; `prune` without `all` removes only these."""
Users = Mapping[str, tuple[str, ...]]
"""volume → the instances that use it."""


class VolumeStore:
    """See the module."""

    def __init__(self, home: Home) -> None:
        self.folder = home.state / "volumes"
        self.scratch = home.cache / "scratch"

    async def create(self, spec: VolumeSpec) -> VolumeView:
        """Make it, or return the one that is there if it was made alike. Raises ConflictError if it wasn't."""
        check(spec)
        name = spec.name or secrets.token_hex(32)
        labels = spec.labels if spec.name else {**spec.labels, ANONYMOUS: ""}
        view = VolumeView(name, time.time(), spec.driver, "", dict(labels), dict(spec.options))
        with contextlib.suppress(FileExistsError):
            await asyncio.to_thread(self._make, view)
            return self._read(name)
        present = self._read(name)
        if (present.driver, present.options) != (spec.driver, spec.options):
            raise ConflictError(f"volume {name!r} is there already with other options", "remove it first, or take another name")
        return present

    async def list(self, used: Users | None = None) -> tuple[VolumeView, ...]:
        """All, by name."""
        names = sorted(path.name for path in self.folder.iterdir() if _is_name(path.name)) if self.folder.exists() else []
        found = []
        for name in names:
            with contextlib.suppress(NotFoundError):  # removed meanwhile
                found.append(self._read(name, (used or {}).get(name, ())))
        return tuple(found)

    async def inspect(self, name: str, used_by: tuple[str, ...] = ()) -> VolumeView:
        """Raises NotFoundError."""
        return self._read(name, used_by)

    async def remove(self, name: str, *, used_by: tuple[str, ...] = (), force: bool = False) -> None:
        """With its content, but never the folder behind `device`. force: one that isn't there is no error."""
        if used_by:
            raise ConflictError(f"volume {name!r} is in use by {', '.join(used_by)}", "remove these first")
        try:
            self._read(name)
        except NotFoundError:
            if force:
                return
            raise
        await self._remove(name)

    async def prune(self, used: Users, *, all: bool = False) -> tuple[str, ...]:
        """Remove what nobody uses: anonymous ones, with `all` named ones too. The names removed."""
        chosen = [view.name for view in await self.list() if not used.get(view.name) and (all or ANONYMOUS in view.labels)]
        for name in chosen:
            await self._remove(name)
        await self.sweep()
        return tuple(chosen)

    async def sweep(self) -> None:
        """Finish removals and forget creations that a killed daemon left behind; called at its start."""
        hidden = [path for path in self.folder.iterdir() if path.name.startswith(".")] if self.folder.exists() else []
        for path in hidden:
            await _remove_tree(path)

    async def copy_up(self, name: str, layers: Sequence[Path], target: str) -> bool:
        """Copy the image's content at `target` into the volume if that is empty, as Docker does at first use. Whether it did.

        layers: topmost first. Owner, mode and times of the folder itself are taken over too. Links in `target` are followed inside
        the image. Several calls at once: one copies, the others wait. A full disk: PermanentError, and the volume is empty again.
        """
        view = self._read(name)
        if not self._fillable(Path(view.mountpoint), self.folder / name / "filling"):
            return False
        return await _in_thread(lambda: self._fill(view, layers, target))

    async def ensure(self, spec: VolumeSpec) -> VolumeView:
        """The volume of that name, made if it isn't there; one that is there is taken as it is."""
        with contextlib.suppress(NotFoundError):
            return self._read(spec.name)
        with contextlib.suppress(ConflictError):  # somebody else has just made it
            return await self.create(spec)
        return self._read(spec.name)

    def path(self, name: str, subpath: str = "") -> Path:
        """The folder that instances get, or a file or folder below it. Links in `subpath` stay inside the volume.

        What is found is true at this moment: a workload that has the volume may replace it, so whoever mounts it must not follow
        a link at its end.
        """
        data = Path(self._read(name).mountpoint)
        if not subpath:
            return data
        if subpath.startswith("/") or ".." in subpath.split("/"):
            raise UserError(f"bad subpath {subpath!r} of volume {name!r}", "a path below the volume, without ..")
        with mounts.folder(data) as root:
            try:
                found = mounts.open_inside(root, subpath, os.O_PATH)
            except OSError as error:
                raise NotFoundError(f"volume {name!r} has no {subpath!r}: {error.strerror}") from error
        try:
            return Path(os.readlink(f"/proc/self/fd/{found}"))
        finally:
            os.close(found)

    def exists(self, name: str) -> bool:
        """Whether there is a volume of that name."""
        return _is_name(name) and (self.folder / name / "volume.json").exists()

    async def sizes(self) -> dict[str, int]:
        """Bytes on the disk of each volume; 0 for those with `device`."""
        views = await self.list()
        return {
            view.name: 0 if view.options.get("device") else await asyncio.to_thread(trees.size, Path(view.mountpoint)) for view in views
        }

    def _make(self, view: VolumeView) -> None:
        """Raises FileExistsError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
        try:
            part.chmod(0o711)
            (part / "_data").mkdir()
            (part / "_data").chmod(0o755)
            body = {"created_at": view.created_at, "driver": view.driver, "labels": view.labels, "options": view.options}
            fs.write_atomic(part / "volume.json", json.dumps(body))
            with _lock(self.folder):
                if (self.folder / view.name).exists():
                    raise FileExistsError(view.name)
                os.rename(part, self.folder / view.name)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def _read(self, name: str, used_by: tuple[str, ...] = ()) -> VolumeView:
        if not _is_name(name):
            raise _bad_name(name)
        folder = self.folder / name
        try:
            body: dict[str, Any] = json.loads((folder / "volume.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"no volume {name!r}", f"make it: twinhull volume create {name}") from None
        except ValueError as error:
            raise PermanentError(f"read volume {name!r}: volume.json is damaged: {error}", f"its data is in {folder / '_data'}") from error
        view = VolumeView(name, body["created_at"], body["driver"], str(folder / "_data"), body["labels"], body["options"], used_by)
        device = view.options.get("device")
        return replace(view, mountpoint=device) if device else view

    async def _remove(self, name: str) -> None:
        """Out of sight at once, then away."""
        hidden = self.folder / f".old-{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.folder / name, hidden)
            await _remove_tree(hidden)

    def _fillable(self, data: Path, mark: Path) -> bool:
        if mark.exists():
            return True
        with os.scandir(data) as entries:
            return next(entries, None) is None

    def _fill(self, view: VolumeView, layers: Sequence[Path], target: str) -> bool:
        """In a thread of its own: it takes the thread into a mount namespace, whose overlay goes with the thread."""
        data, mark = Path(view.mountpoint), self.folder / view.name / "filling"
        with _lock(self.folder / view.name):
            if not self._fillable(data, mark):
                return False
            if mark.exists():
                _empty(data)
            with _image_folder(layers, target, self.scratch) as source:
                if source is None:
                    mark.unlink(missing_ok=True)
                    return False
                mark.touch()
                _copy(source, data)
            mark.unlink()
        return True


def check(spec: VolumeSpec) -> None:
    """Raises UserError or UnsupportedError for what can't be made."""
    if spec.name and not _is_name(spec.name):
        raise _bad_name(spec.name)
    if spec.driver != "local":
        raise UnsupportedError(f"volume driver {spec.driver!r} isn't there", "use driver local")
    options = dict(spec.options)
    kind, device, flags = options.pop("type", "none"), options.pop("device", ""), options.pop("o", "bind")
    if options:
        raise UserError(f"unknown volume option {next(iter(options))!r}", "known are type, o and device")
    if spec.options and (kind not in ("none", "bind") or set(flags.split(",")) - {"bind", "rbind", "rw"}):
        raise UnsupportedError(
            f"volume options type={kind}, o={flags} need a mount", "use --tmpfs, or mount it on the host and name it as device"
        )
    if spec.options and not (os.path.isabs(device) and os.path.isdir(device)):
        raise UserError(f"volume device {device!r} isn't an absolute path of a folder")


def _copy(source: int, data: Path) -> None:
    with fs.folder(data) as target:
        try:
            copy.tree(source, target)
        except (OSError, RecursionError) as error:
            _empty(data)
            if isinstance(error, OSError) and scratch.is_disk_full(error):
                raise scratch.disk_full(data) from error
            raise PermanentError(f"copy the image's files into the volume: {error}") from error


@contextlib.contextmanager
def _image_folder(layers: Sequence[Path], target: str, parent: Path) -> Iterator[int | None]:
    """A descriptor of the folder `target` in the merged image; None if there is no such folder."""
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    with contextlib.ExitStack() as stack:
        lowers = [stack.enter_context(mounts.folder(layer)) for layer in layers]
        parent.mkdir(parents=True, exist_ok=True)
        mounts.mount("tmpfs", parent, "tmpfs")
        (parent / "empty").mkdir()
        (parent / "merged").mkdir()
        lowers.append(stack.enter_context(mounts.folder(parent / "empty")))
        mounts.overlay(parent / "merged", lowers, None, None)
        root = stack.enter_context(mounts.folder(parent / "merged"))
        try:
            found: int | None = mounts.open_inside(root, target, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # no such path, no folder, a loop of links
            found = None
        try:
            yield found
        finally:
            if found is not None:
                os.close(found)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with fs.folder(folder) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _empty(folder: Path) -> None:
    """Remove what is in it, the folder itself stays: it may be mounted somewhere."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


async def _remove_tree(path: Path) -> None:
    """By rm, because a workload can nest folders deeper than Python recurses."""
    await proc.run(["rm", "-rf", "--one-file-system", "--", str(path)])


async def _in_thread(work: Callable[[], bool]) -> bool:
    """In a new thread that ends with the work. Cancelled, the caller goes on and the thread ends by itself."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()

    def settle(result: bool, error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(result)

    def run() -> None:
        result, error = False, None
        try:
            result = work()
        except BaseException as failure:
            error = failure
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="volume-fill", daemon=True).start()
    return await future


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def _bad_name(name: str) -> UserError:
    return UserError(f"bad volume name {name[:80]!r}", "letters, digits, '_', '.', '-'; a letter or digit first; at most 255")
