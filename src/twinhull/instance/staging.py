"""What a container needs on the host before its runtime is called: root, binds, files, sysfs. Made by system calls, in this thread.

All of it is below one tmpfs per instance in the daemon's own mount namespace, so that one lazy unmount takes it away. That is
done as soon as the container has its own copies of the mounts (after the runtime's `create`), and again by `delete`.
The place is the same for all daemons, and none sees another's: root inside must be able to walk to its root file system, which it
couldn't through a home that only the host's root may enter. Secrets exist only in that tmpfs.
Ownership on disk is canonical: uid 0 on disk is root inside, whatever `id_base` is.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import secrets
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from twinhull.errors import PermanentError, UserError
from twinhull.instance import oci, sources
from twinhull.instance.base import HostMount, InjectedFile, Launch
from twinhull.instance.oci import AGENT, Bind, Stage
from twinhull.sys import locked, mounts, namespaces, trees

_PRIVATE = mounts.MS_NOSUID | mounts.MS_NODEV
STAGES = Path("/run/twinhull-stage")
"""An empty folder on the host; each daemon has a tmpfs of its own over it."""
_MOUNTPOINTS = ("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/proc", "/sys", "/run", "/etc")
"""Folders that every root has; they come from the lowest layer, so that making them isn't a change of the instance's own."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where things are put, and the user namespaces for idmapping (None: no mapping)."""

    stage: Path
    layers: int | None
    binds: int | None


def prepare(launch: Launch, agent: Path | None, *, boot_id: bool = False) -> Stage:
    """Make it all. After an exception `release` removes what was made. `boot_id`: a new one, as systemd-nspawn gives."""
    release(launch)
    stage = _stage(launch)
    _open_stages()
    launch.paths.run.mkdir(mode=0o711, parents=True, exist_ok=True)
    stage.mkdir(mode=0o711)
    mounts.mount("twinhull", stage, "tmpfs", _PRIVATE, "mode=711")
    with contextlib.ExitStack() as descriptors:
        place = _place(launch, stage, descriptors)
        root = _root(launch, place)
        binds = [_bind(launch, place, number, mount) for number, mount in enumerate(launch.mounts) if mount.source is not None]
        binds += [_file(launch, stage, number, file) for number, file in enumerate(launch.files)]
    _targets(launch, root)
    if boot_id:
        (stage / "boot_id").write_text(f"{uuid.uuid4()}\n")
        binds.append(Bind("/proc/sys/kernel/random/boot_id", stage / "boot_id", read_only=True))
    if agent is not None:
        binds.append(Bind(AGENT, agent, read_only=True))
    return Stage(root, tuple(binds), _network(launch, stage))


def release(launch: Launch) -> None:
    """Unmount what `prepare` mounted; nothing happens if nothing is."""
    stage = _stage(launch)
    mounts.unmount_all(stage)
    trees.remove(stage)


@contextlib.contextmanager
def view(launch: Launch) -> Iterator[int]:
    """A descriptor of a read-only view of the root, for looking up names where the workload's own root can't be reached."""
    _open_stages()
    place = STAGES / f"view-{launch.id[:12]}-{secrets.token_hex(4)}"
    place.mkdir(mode=0o700)
    try:
        with contextlib.ExitStack() as descriptors:
            layers = [mounts.folder(folder) for folder in (launch.paths.state / "upper", *launch.root.layers)]
            mounts.overlay(place, [descriptors.enter_context(layer) for layer in layers], None, None)
        with mounts.folder(place) as root:
            yield root
    finally:
        mounts.unmount_all(place)
        place.rmdir()


def leave_root(launch: Launch) -> None:
    """An empty folder where the root was, for runtimes that step into it before an exec."""
    if not os.path.ismount(STAGES):
        _open_stages()
    (_stage(launch) / "root").mkdir(parents=True, exist_ok=True)


def covered(launch: Launch) -> tuple[str, ...]:
    """Targets below which the root's own files aren't what the workload sees."""
    return (AGENT, "/proc", "/sys", "/dev", *(mount.target for mount in launch.mounts), *(file.target for file in launch.files))


def _stage(launch: Launch) -> Path:
    return STAGES / launch.id[:12]


def _open_stages() -> None:
    """The daemon's tmpfs for all stages. Raises PermanentError where the mount would be everybody's."""
    if os.path.ismount(STAGES):
        return
    if not namespaces.has_own_mounts():
        raise PermanentError("the daemon has no mount namespace of its own", "call sys.namespaces.prepare_daemon_namespace() first")
    STAGES.mkdir(mode=0o711, exist_ok=True)
    mounts.mount("twinhull", STAGES, "tmpfs", _PRIVATE, "mode=711")


def _place(launch: Launch, stage: Path, descriptors: contextlib.ExitStack) -> _Place:
    if not oci.has_user_namespace(launch):
        return _Place(stage, None, None)
    layers = namespaces.user_namespace(launch.id_base, daemon_as=namespaces.IDS)
    descriptors.callback(os.close, layers)
    binds = namespaces.user_namespace(launch.id_base)
    descriptors.callback(os.close, binds)
    return _Place(stage, layers, binds)


def _root(launch: Launch, place: _Place) -> Path:
    """Overlay the layers, and below them a skeleton of mount points, with the writable layer in Paths.state on top."""
    if not launch.root.layers:
        raise PermanentError(f"mount the root of {launch.name}: the image has no layers")
    root, state = place.stage / "root", launch.paths.state
    root.mkdir(mode=0o755)
    _writable_layer(launch)
    _skeleton(launch)
    with contextlib.ExitStack() as descriptors:
        lowers = [_layer(place, layer, descriptors) for layer in launch.root.layers]
        writable = _layer(place, state, descriptors)
        skeleton = os.open("skeleton", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=writable)
        descriptors.callback(os.close, skeleton)
        upper = f"/proc/self/fd/{writable}"
        mounts.overlay(root, [*lowers, skeleton], f"{upper}/upper", f"{upper}/work")
    mounts.unmount_all(place.stage / "layers")
    return root


def _layer(place: _Place, folder: Path, descriptors: contextlib.ExitStack) -> int:
    """A descriptor of a layer's folder, idmapped if there is a user namespace. Attached, as older kernels overlay attached mounts only."""
    if place.layers is None:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    else:
        descriptor = mounts.idmapped_clone_with(folder, place.layers)
    descriptors.callback(os.close, descriptor)
    if place.layers is not None:
        target = place.stage / "layers"
        target.mkdir(exist_ok=True)
        mounts.attach(descriptor, target)
    return descriptor


def _writable_layer(launch: Launch) -> None:
    """upper/ and work/; the root folder itself has the owner and mode of the image's."""
    state = launch.paths.state
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    (state / "work").mkdir(mode=0o700, exist_ok=True)
    upper = state / "upper"
    if not upper.exists():
        like = os.stat(launch.root.layers[0])
        fresh = state / "upper.new"
        fresh.mkdir(exist_ok=True)
        os.chown(fresh, like.st_uid, like.st_gid)
        os.chmod(fresh, stat.S_IMODE(like.st_mode))
        fresh.rename(upper)


def _skeleton(launch: Launch) -> None:
    """Folders and empty files for all mount points, so that mounting there leaves no trace in the writable layer."""
    skeleton = launch.paths.state / "skeleton"
    trees.remove(skeleton)
    files = [AGENT, *(file.target for file in launch.files)]
    files += [mount.target for mount in launch.mounts if mount.source is not None and not mount.source.is_dir()]
    folders = [*_MOUNTPOINTS, *(m.target for m in launch.mounts if m.source is None or m.source.is_dir()), launch.process.cwd or "/"]
    for target in folders:
        os.makedirs(_within(skeleton, target), mode=0o755, exist_ok=True)
    for target in files:
        path = _within(skeleton, target)
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _targets(launch: Launch, root: Path) -> None:
    """Make the mount points that the skeleton doesn't show, because a link of the image leads elsewhere. These are the instance's own."""
    wanted = [(mount.target, mount.source is None or mount.source.is_dir()) for mount in launch.mounts]
    wanted += [(file.target, False) for file in launch.files]
    owner = launch.id_base if oci.has_user_namespace(launch) else 0
    with mounts.folder(root) as descriptor:
        for target, is_folder in wanted:
            if not mounts.exists_inside(descriptor, target):
                mounts.make_inside(descriptor, target, is_folder=is_folder, owner=owner)


def _within(skeleton: Path, target: str) -> str:
    if not target.startswith("/"):
        raise UserError(f"mount target {target!r} isn't absolute")
    return f"{skeleton}/{posixpath.normpath(target).lstrip('/')}"


def _bind(launch: Launch, place: _Place, number: int, mount: HostMount) -> Bind:
    assert mount.source is not None  # the caller leaves tmpfs mounts out
    target = place.stage / f"m{number}"
    with sources.opened(sources.straight(launch, mount.source)) as source:
        _mountpoint(target, stat.S_ISDIR(os.fstat(source).st_mode))
        descriptor = _clone(place, source, mount.read_only)
    try:
        mounts.attach(descriptor, target)
    finally:
        os.close(descriptor)
    if mount.read_only and place.binds is not None:
        _lock(target)
    return Bind(mount.target, target, mount.read_only)


def _lock(target: Path) -> None:
    """Exchange the read-only mount at `target` for a copy that a workload with CAP_SYS_ADMIN can't remount writable."""
    descriptor = locked.clone(target)
    try:
        mounts.unmount(target)
        mounts.attach(descriptor, target)
    finally:
        os.close(descriptor)


def _clone(place: _Place, source: int, read_only: bool) -> int:
    """With submounts if all of them can be idmapped, else without; a read-only one that can't be is bound as it is."""
    if place.binds is None:
        return mounts.clone(source, recursive=True)
    with contextlib.suppress(PermanentError):
        return mounts.idmapped_clone_with(source, place.binds, read_only=read_only, recursive=True)
    try:
        return mounts.idmapped_clone_with(source, place.binds, read_only=read_only)
    except PermanentError:
        if read_only:
            return _unmapped(source)
        raise


def _unmapped(source: int) -> int:
    """A read-only clone of what can't be idmapped: its owners are nobody inside."""
    descriptor = mounts.clone(source, recursive=True)
    try:
        mounts.set_attributes(descriptor, read_only=True, recursive=True)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _mountpoint(path: Path, is_folder: bool) -> None:
    if is_folder:
        path.mkdir()
    else:
        path.touch()


def _file(launch: Launch, stage: Path, number: int, file: InjectedFile) -> Bind:
    """Secrets in the stage's tmpfs; others in Paths.run, where the engine may change them later (/etc/hosts)."""
    folder = stage / "secrets" if file.secret else launch.paths.run / "files"
    folder.mkdir(mode=0o711, exist_ok=True)
    path = folder / str(number)
    _write(path, file, launch.id_base if oci.has_user_namespace(launch) else 0)
    return Bind(file.target, path, file.read_only)


def _write(path: Path, file: InjectedFile, base: int) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(file.content)
        os.fchown(descriptor, base + file.uid, base + file.gid)
        os.fchmod(descriptor, file.mode)


def _network(launch: Launch, stage: Path) -> Path | None:
    """Sysctls, and a sysfs that shows the instance's interfaces, where the runtime can't do it.

    A user namespace may neither mount sysfs for nor write sysctls of a network namespace that belongs to the host's.
    """
    wanted = {k: v for k, v in launch.sysctls.items() if k.startswith("net.")} if launch.netns else {}
    mapped = oci.has_user_namespace(launch) and (launch.netns is not None or launch.host_network)
    if not mapped and not wanted:
        return None
    sysfs = stage / "sys"
    sysfs.mkdir()
    _in_network(launch.netns, lambda: _dress(sysfs if mapped else None, wanted))
    return sysfs if mapped else None


def _dress(sysfs: Path | None, sysctls: dict[str, str]) -> None:
    for name, value in sysctls.items():
        _write_sysctl(name, value)
    if sysfs is not None:
        mounts.mount("sysfs", sysfs, "sysfs", _PRIVATE | mounts.MS_NOEXEC)


def _write_sysctl(name: str, value: str) -> None:
    path = "/proc/sys/" + name.replace(".", "/")
    if ".." in path or not path.startswith("/proc/sys/net/"):
        raise UserError(f"sysctl {name} isn't one")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UserError(f"sysctl {name}: this kernel has none of that name") from None
    try:
        os.write(descriptor, value.encode())
    except OSError as error:
        raise UserError(f"sysctl {name}={value}: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _in_network(path: str | None, work: Callable[[], None]) -> None:
    """Do it in a thread that has entered the network namespace; the thread ends with it."""
    failures: list[BaseException] = []

    def body() -> None:
        try:
            if path is not None:
                _enter(path)
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body, name="twinhull-netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _enter(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        namespaces.setns(descriptor, namespaces.CLONE_NEWNET)
    finally:
        os.close(descriptor)
