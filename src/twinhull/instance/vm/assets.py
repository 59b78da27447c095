"""The guest's kernel, modules and initrd: made once from the distribution's kernel package, which is unpacked and never installed.

    python -m twinhull.instance.vm.assets build --out build/guest

Layout of the folder: `vmlinux`, `initrd`, `modules/NAME.ko`, `manifest.json`, and `agent`, which `make -C agent` puts there.
Invariant: `manifest.json` is written last, so a folder whose manifest matches its files is whole. The same package and agent give
the same bytes. Idempotent and offline once done: a new agent rebuilds the initrd only; a new kernel is fetched with `--upgrade`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from twinhull import home
from twinhull.errors import PermanentError, TwinhullError, UnsupportedError
from twinhull.instance.vm import cpio, kernel
from twinhull.sys import fs, proc

_FORMAT = 1
_META_PACKAGES = {"debian": "linux-image-amd64", "ubuntu": "linux-image-generic"}
_PART = re.compile(r"linux-(image|modules)-")
_HINT = "run `make setup`, or `python -m twinhull.instance.vm.assets build`"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Assets:
    """What a VM boots from. `key` names the pair of kernel and initrd by content (32 hexadecimal digits)."""

    kernel: Path
    initrd: Path
    release: str
    key: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """`manifest.json`. `packages`: file names with versions; digests are SHA-256 in hexadecimal."""

    format: int
    packages: tuple[str, ...]
    release: str
    modules: tuple[str, ...]
    vmlinux: str
    initrd: str
    agent: str


def load(folder: Path | None = None) -> Assets:
    """The assets of a folder (default: `home.assets()`). Raises UnsupportedError if they aren't there or are half-made."""
    where = folder or home.assets()
    manifest = _read_manifest(where)
    paths = where / "vmlinux", where / "initrd"
    if manifest is None or not all(path.exists() for path in paths):
        raise UnsupportedError(f"no guest kernel in {where}", _HINT)
    key = hashlib.sha256(f"{manifest.vmlinux} {manifest.initrd}".encode()).hexdigest()[:32]
    return Assets(*paths, manifest.release, key)


def build(out: Path, *, agent: Path | None = None, debs: Sequence[Path] = (), upgrade: bool = False, say: Say = print) -> Manifest:
    """Make or complete the folder. `debs`: kernel packages at hand instead of downloading them."""
    out.mkdir(parents=True, exist_ok=True)
    program = agent or out / "agent"
    if not program.exists():
        raise PermanentError(f"build guest assets: no agent at {program}", "run `make -C agent` first")
    old = _read_manifest(out)
    if old is None or upgrade or debs or not _kernel_whole(out, old):
        old = _build_kernel(out, debs, say)
    return _build_initrd(out, program.read_bytes(), old, say)


def _kernel_whole(out: Path, manifest: Manifest) -> bool:
    files = all((out / "modules" / f"{name}.ko").exists() for name in manifest.modules)
    return files and _digest_of(out / "vmlinux") == manifest.vmlinux


def _build_kernel(out: Path, debs: Sequence[Path], say: Say) -> Manifest:
    """vmlinux and modules/ from the packages; the manifest is not yet written."""
    with tempfile.TemporaryDirectory(prefix=".kernel-", dir=out) as name:
        work = Path(name)
        packages = list(debs) or _download(work, say)
        for package in packages:
            say(f"unpacking {package.name}")
            proc.run_blocking(("dpkg-deb", "-x", str(package), str(work / "root")))
        release, image = _find_kernel(work / "root")
        say(f"extracting the kernel {release}")
        vmlinux = kernel.vmlinux(image.read_bytes())
        folder = _modules_folder(work / "root", release)
        modules = kernel.load_order(kernel.WANTED, kernel.find_modules(folder), kernel.builtin(folder))
    (out / "manifest.json").unlink(missing_ok=True)
    fs.write_atomic(out / "vmlinux", vmlinux)
    _write_modules(out / "modules", modules)
    names = tuple(module.name for module in modules)
    return Manifest(_FORMAT, tuple(p.name for p in packages), release, names, _digest(vmlinux), "", "")


def _write_modules(folder: Path, modules: Iterable[kernel.Module]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for module in modules:
        (folder / f"{module.name}.ko").write_bytes(module.image)


def _build_initrd(out: Path, agent: bytes, old: Manifest, say: Say) -> Manifest:
    initrd = initrd_of(agent, [(name, (out / "modules" / f"{name}.ko").read_bytes()) for name in old.modules])
    new = Manifest(_FORMAT, old.packages, old.release, old.modules, old.vmlinux, _digest(initrd), _digest(agent))
    if new == _read_manifest(out) and _digest_of(out / "initrd") == new.initrd:
        say(f"guest assets are up to date: kernel {new.release}, {len(new.modules)} modules")
        return new
    fs.write_atomic(out / "initrd", initrd)
    fs.write_atomic(out / "manifest.json", json.dumps(asdict(new), indent=1) + "\n")
    say(f"guest assets made: kernel {new.release}, {len(new.modules)} modules, initrd {len(initrd) >> 10} KiB")
    return new


def initrd_of(agent: bytes, modules: Sequence[tuple[str, bytes]]) -> bytes:
    """/init, /modules/NAME.ko, and /modules.list with their paths in the order of loading, one a line."""
    listing = "".join(f"/modules/{name}.ko\n" for name, _ in modules).encode()
    entries = [
        cpio.folder("dev"),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", agent, 0o755),
        cpio.file("modules.list", listing),
        cpio.folder("modules"),
        *(cpio.file(f"modules/{name}.ko", image) for name, image in modules),
    ]
    return cpio.archive(entries)


def _find_kernel(root: Path) -> tuple[str, Path]:
    """(release, bzImage); some packages keep it in usr/lib/modules/RELEASE/vmlinuz."""
    for image in sorted(root.glob("boot/vmlinuz-*")):
        return image.name.removeprefix("vmlinuz-"), image
    for image in sorted(root.glob("usr/lib/modules/*/vmlinuz")):
        return image.parent.name, image
    raise PermanentError("build guest assets: the package holds no kernel image")


def _modules_folder(root: Path, release: str) -> Path:
    for parent in ("usr/lib/modules", "lib/modules"):
        folder = root / parent / release
        if folder.is_dir():
            return folder
    raise PermanentError(f"build guest assets: the packages hold no modules for {release}")


def _download(work: Path, say: Say) -> list[Path]:
    """The packages that the distribution's kernel meta package stands for, through apt (signatures checked there)."""
    names = _resolve(_meta_package())
    for name in names:
        say(f"downloading {name}")
    # root: apt's own unprivileged user can't write into our folder, and only warns about that
    proc.run_blocking(("apt-get", "-o", "APT::Sandbox::User=root", "download", *names), cwd=work)
    return sorted(work.glob("*.deb"))


def _meta_package() -> str:
    if platform.machine() != "x86_64":
        raise UnsupportedError(f"VMs on {platform.machine()} are not supported", "use runtime container")
    release = platform.freedesktop_os_release()
    for name in (release["ID"], *release.get("ID_LIKE", "").split()):
        if name in _META_PACKAGES:
            return _META_PACKAGES[name]
    raise UnsupportedError(f"no kernel package is known for {release['ID']}", "give packages with --deb")


def _resolve(meta: str) -> list[str]:
    """Names of the real packages below a meta package: those with files in linux-image-* and linux-modules-*."""
    found: dict[str, None] = {}
    waiting = [meta]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        shown = proc.run_blocking(("apt-cache", "show", "--no-all-versions", name), check=False)
        if shown.status != 0:
            raise PermanentError(f"download kernel: apt doesn't know {name}", "run `apt-get update`")
        if name != meta:
            found[name] = None
        waiting += kernel_parts(shown.text)
    return sorted(found)


def kernel_parts(control: str) -> list[str]:
    """The linux-image-* and linux-modules-* packages in a control paragraph's Depends; the first of alternatives."""
    line = next((line for line in control.splitlines() if line.startswith("Depends:")), "")
    names = [part.split("|")[0].split("(")[0].strip() for part in line.removeprefix("Depends:").split(",")]
    return [name for name in names if _PART.match(name)]


def _read_manifest(folder: Path) -> Manifest | None:
    try:
        raw = json.loads((folder / "manifest.json").read_text())
        manifest = Manifest(**raw | {"packages": tuple(raw["packages"]), "modules": tuple(raw["modules"])})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return manifest if manifest.format == _FORMAT else None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_of(path: Path) -> str:
    return _digest(path.read_bytes()) if path.exists() else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; errors go to stderr with their hint."""
    parser = argparse.ArgumentParser(prog="python -m twinhull.instance.vm.assets", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["build"])
    parser.add_argument("--out", type=Path, default=home.assets(), help="folder to fill (default: %(default)s)")
    parser.add_argument("--agent", type=Path, help="the agent's program (default: OUT/agent)")
    parser.add_argument("--deb", type=Path, action="append", default=[], help="a kernel package at hand; may be repeated")
    parser.add_argument("--upgrade", action="store_true", help="fetch the distribution's newest kernel")
    options = parser.parse_args(arguments)
    try:
        build(options.out, agent=options.agent, debs=options.deb, upgrade=options.upgrade, say=lambda line: print(line, flush=True))
    except TwinhullError as error:
        print(f"error: {error.message}", *([f"hint: {error.hint}"] if error.hint else []), sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
