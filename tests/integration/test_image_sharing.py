"""The storage is shared with podman and buildah, and survives whoever dies in the middle of using it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.images import base
from tests.images.archive import docker_archive, layer

from twinhull import home
from twinhull.errors import ConflictError
from twinhull.image import scratch
from twinhull.image.store import ImageStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers/storage as root")


async def data(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(home.at(tmp_path / "home"))


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """One layer of 4,000 files, which takes skopeo long enough to be caught at it."""
    path = tmp_path / "big.tar"

    def fill(new: object) -> None:
        for number in range(4000):
            new.add(f"file-{number}", b"x" * 10_000)  # type: ignore[attr-defined]

    docker_archive(path, ["big:1"], [layer(fill)], {})
    return path


def layer_folders(store: ImageStore) -> list[str]:
    return [name for name in os.listdir(store.storage.roots[0] / "overlay") if len(name) == 64]


async def test_what_buildah_makes_in_the_systems_storage_is_there_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's storage is the one that storage.conf names."""
    conf = tmp_path / "storage.conf"
    conf.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(conf))
    store = ImageStore(replace(home.at(tmp_path / "home"), images=None))
    assert await store.images() == ()
    (tmp_path / "Containerfile").write_text("FROM scratch\nCOPY Containerfile /\nLABEL a=b\n")
    argv = ["unshare", "--mount", "buildah", "build", "--isolation=chroot", "--quiet", "--tag=theirs", str(tmp_path)]
    await asyncio.to_thread(subprocess.run, argv, check=True, capture_output=True)
    view = await store.resolve("theirs")
    assert view.names == ("localhost/theirs:latest",)
    await store.tag("theirs", "ours")
    listed = await asyncio.to_thread(subprocess.run, ["unshare", "--mount", "buildah", "images"], check=True, capture_output=True)
    assert b"localhost/ours" in listed.stdout
    made = await asyncio.to_thread(
        subprocess.run, ["unshare", "--mount", "buildah", "from", "--name=user", "theirs"], check=True, capture_output=True
    )
    assert made.stdout.strip() == b"user"
    await store.remove("ours")
    with pytest.raises(ConflictError, match="in use"):
        await store.remove("theirs")
    assert (await store.resolve("theirs")).id == view.id


@pytest.mark.parametrize("moment", ["spooling", "unpacking"])
async def test_a_cancelled_load_leaves_nothing(store: ImageStore, big: Path, moment: str) -> None:
    task = asyncio.create_task(store.load(data(big)))
    async with asyncio.timeout(60):
        while not begun(store, moment):  # noqa: ASYNC110 - the file system tells, and nobody else
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(store.home.cache / "scratch") == []
    assert await store.images() == ()
    assert store.storage.layers() == {}
    await store.load(data(base.archive("busybox")))
    assert len(layer_folders(store)) == 1
    await store.load(data(big))
    assert len(layer_folders(store)) == 2


def begun(store: ImageStore, moment: str) -> bool:
    if moment == "spooling":
        return bool(list((store.home.cache / "scratch").glob("*/archive.tar")))
    return bool(list((store.storage.roots[0] / "overlay").glob("*/diff/file-10")))


async def test_a_killed_process_is_cleaned_up_after(store: ImageStore, big: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path; from twinhull import home; from twinhull.image.store import ImageStore\n"
        "async def data():\n    yield Path(sys.argv[2]).read_bytes()\n    print('spooled', flush=True)\n    await asyncio.sleep(1000)\n"
        "asyncio.run(ImageStore(home.at(Path(sys.argv[1]))).load(data()))"
    )
    argv = [sys.executable, "-c", program, str(store.home.state.parent), str(big)]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"spooled\n"
    with scratch.scratch(store.home) as own:
        await store.collect(set())
        assert len(os.listdir(store.home.cache / "scratch")) == 2  # both are in use
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await store.collect(set())
        assert os.listdir(store.home.cache / "scratch") == [own.name]
    assert os.listdir(store.home.cache / "scratch") == []


async def test_operations_at_the_same_time(store: ImageStore, big: Path) -> None:
    other = ImageStore(store.home)
    await asyncio.gather(store.load(data(base.archive("busybox"))), other.load(data(big)), other.load(data(base.archive("busybox"))))
    await asyncio.gather(*(store.tag("busybox", f"name:{number}") for number in range(5)), other.tag("big:1", "name:x"))
    names = {name for image in await store.images() for name in image.names}
    assert names == {"localhost/busybox:latest", "docker.io/library/big:1", "localhost/name:x"} | {f"localhost/name:{n}" for n in range(5)}
