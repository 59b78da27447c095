"""The two images that all tests stand on, made without a registry.

    busybox(path)        docker-archive "localhost/busybox:latest" from Debian's busybox-static; < 1 s, no network
    python_base(path)    docker-archive "localhost/debian-python:bookworm": Debian minbase with python3, iproute2, ping, procps; made
                         from Debian's archive once (half a minute) and kept
    compare_tools(path)  docker-archive of the image whose programs `twinhull compare` measures with; likewise
    archive(name)        the path of any of them in build/test-cache of the checkout, made if it isn't there (one maker, others wait)

Load them with `await ImageStore(home).load(stream)` (`twinhull image load`), or
`skopeo copy docker-archive:PATH containers-storage:localhost/busybox:latest`.
As a script: `python tests/images/base.py [busybox|debian-python] …`.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.images.archive import EPOCH, Layer, docker_archive, layer

from twinhull.compare import tools

CACHE = Path(__file__).resolve().parents[2] / "build" / "test-cache"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PYTHON_PACKAGES = ("python3", "iproute2", "iputils-ping", "procps")

_ACCOUNTS = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\n"
    b"app:x:1000:1000:App:/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": b"root:x:0:\ndaemon:x:1:\ntty:x:5:\naudio:x:29:app\nwww-data:x:33:\nwheel:x:10:root,app\napp:x:1000:\nnogroup:x:65534:\n",
    "etc/shadow": b"root:*:::::::\ndaemon:*:::::::\nwww-data:*:::::::\napp:*:::::::\nnobody:*:::::::\n",
    "etc/shells": b"/bin/sh\n/bin/ash\n",
    "etc/os-release": b'ID=busybox\nNAME="Busybox for tests"\n',
    "etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
    "var/www/index.html": b"hello from busybox\n",
}
_FOLDERS = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "mnt": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "srv": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/bin": 0o755,
    "var": 0o755,
    "var/lib": 0o755,
    "var/tmp": 0o1777,
    "var/www": 0o755,
}


def busybox(path: Path) -> str:
    """Write the archive, return the image's id."""
    config = {"Env": [PATH], "Cmd": ["sh"], "Labels": {"org.opencontainers.image.title": "busybox"}}
    return docker_archive(path, ["localhost/busybox:latest"], [layer(_fill_busybox)], config)


def python_base(path: Path) -> str:
    """Write the archive, return the image's id. Needs Debian's archive."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        root = Path(folder) / "root.tar"
        _mmdebstrap(root, PYTHON_PACKAGES)
        config = {"Env": [PATH], "Cmd": ["bash"], "Labels": {"org.opencontainers.image.title": "debian-python"}}
        return docker_archive(path, ["localhost/debian-python:bookworm"], [root.read_bytes()], config)


def compare_tools(path: Path) -> str:
    """Write the archive, return the image's id. Needs Debian's archive."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        root = Path(folder) / "root.tar"
        _mmdebstrap(root, tools.PACKAGES)
        return docker_archive(path, [tools.IMAGE], [root.read_bytes()], {"Env": [PATH], "Cmd": ["bash"]})


def archive(name: str = "busybox") -> Path:
    """build/test-cache/NAME.tar, made if it isn't there; several processes may ask at once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{name}.tar"
    if not path.exists():
        with (CACHE / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _make(_MAKERS[name], path)
    return path


def _make(maker: Callable[[Path], str], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        maker(temporary)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def _fill_busybox(new: Layer) -> None:
    binary = Path("/bin/busybox").read_bytes()
    for name, mode in _FOLDERS.items():
        new.directory(name, mode)
    new.directory("home/app", 0o755, uid=1000, gid=1000)
    new.add("bin/busybox", binary, mode=0o755)
    applets = subprocess.run(["/bin/busybox", "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            new.symlink(f"bin/{applet}", "busybox")
    new.symlink("usr/bin/env", "../../bin/busybox")
    for name, content in _ACCOUNTS.items():
        new.add(name, content, mode=0o640 if name == "etc/shadow" else 0o644)


def _mmdebstrap(target: Path, packages: Sequence[str]) -> None:
    """In a mount namespace of its own, so that nothing stays mounted when it is killed."""
    slim = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "locale", "doc", "info")]
    argv = ["unshare", "--mount", "mmdebstrap", "--mode=root", "--variant=minbase", "--components=main", "--format=tar"]
    argv += ['--aptopt=Acquire::Languages "none"', *slim, f"--include={','.join(packages)}", "bookworm", str(target)]
    subprocess.run(argv, check=True, env=os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH)}, stdout=sys.stderr)


_MAKERS: dict[str, Callable[[Path], str]] = {"busybox": busybox, "debian-python": python_base, "compare-tools": compare_tools}


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ["busybox"]:
        print(archive(wanted))
