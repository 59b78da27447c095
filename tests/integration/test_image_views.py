"""An image looks the same as overlay over its layers and as erofs file; and the file's bytes depend on the image alone."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.images import torture, views
from tests.images.archive import docker_archive

from twinhull import home
from twinhull.image import rootfs
from twinhull.image.store import ImageStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts")


async def chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            yield data


@pytest.fixture
async def torture_store(tmp_path: Path) -> ImageStore:
    store = ImageStore(home.at(tmp_path / "home"))
    docker_archive(tmp_path / "t.tar", ["localhost/torture:latest"], torture.layers(), {})
    assert await store.load(chunks(tmp_path / "t.tar")) == ("localhost/torture:latest",)
    return store


def compared(erofs: Path, layers: tuple[Path, ...]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, views.__file__, str(erofs), *map(str, layers)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


async def test_overlay_and_erofs_are_identical(torture_store: ImageStore) -> None:
    image = await torture_store.resolve("torture")
    layers = await torture_store.layers(image.id)
    assert len(layers) == 3
    answer = compared(await torture_store.erofs(image.id), layers)
    assert answer["differences"] == []
    names = {bytes.fromhex(name) for name in answer["names"]}
    assert {path.encode() for path in torture.THERE} <= names
    assert not {path.encode() for path in torture.GONE} & names
    assert {b"odd/" + name for name in torture.ODD_NAMES} <= names
    assert answer["entries"] > 1600


async def test_torture_survives_the_storage(torture_store: ImageStore) -> None:
    """What the comparison would miss because both views had lost it."""
    image = await torture_store.resolve("torture")
    seen: views.Entries = {}
    for layer in reversed(await torture_store.layers(image.id)):
        seen |= views.walk(os.fsencode(layer))
    assert seen[b"modes/setuid"]["mode"] == oct(0o104755)
    assert seen[b"modes/sticky"]["mode"] == oct(0o041777)
    assert seen[b"modes/setgid-folder"]["mode"] == oct(0o042775)
    assert (seen[b"modes/uid"]["uid"], seen[b"modes/uid"]["gid"]) == (4_000_000_000, 3_000_000_000)
    assert seen[b"modes/nano"]["mtime"] == 981173106_123456789
    assert seen[b"modes/ping"]["xattrs"]["security.capability"] == torture.CAPABILITY.hex()
    assert seen[b"modes/user"]["xattrs"] == {"user.test": b"value".hex(), "user.binary": b"\0\xff\n".hex()}
    assert seen[b"modes/trusted"]["xattrs"] == {"trusted.test": b"t".hex()}
    assert seen[b"modes/acl"]["xattrs"]["system.posix_acl_access"] == torture.ACL.hex()
    assert seen[b"dev/wide"]["device"] == os.makedev(259, 70_000)
    assert seen[b"hard/b"]["links"] == sorted(name.encode().hex() for name in ("hard/b", "hard/other/c", "hard/a", "hard/whited"))
    assert seen[b"odd/long"]["size"] == 4095
    assert seen[b"odd/sparse"]["size"] == torture.SPARSE_SIZE


async def test_a_sparse_file_takes_no_room(torture_store: ImageStore) -> None:
    image = await torture_store.resolve("torture")
    assert (await torture_store.erofs(image.id)).stat().st_size < torture.SPARSE_SIZE // 2


async def test_the_same_image_gives_the_same_bytes_in_another_storage(torture_store: ImageStore, tmp_path: Path) -> None:
    other = ImageStore(home.at(tmp_path / "other"))
    await other.load(chunks(tmp_path / "t.tar"))
    image = await torture_store.resolve("torture")
    files = [await torture_store.erofs(image.id), await other.erofs(image.id)]
    assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in files}) == 1


async def test_many_ask_at_once_and_one_makes_it(torture_store: ImageStore) -> None:
    """In this process and in another; nothing but the one file is left."""
    image = await torture_store.resolve("torture")
    program = (
        "import asyncio, sys; from pathlib import Path; from twinhull import home; from twinhull.image.store import ImageStore\n"
        "print(asyncio.run(ImageStore(home.at(Path(sys.argv[1]))).erofs(sys.argv[2])).stat().st_ino)"
    )
    root = torture_store.home.state.parent
    others = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(root), image.id, stdout=asyncio.subprocess.PIPE)
        for _ in range(2)
    ]
    paths = await asyncio.gather(*(torture_store.erofs(image.id) for _ in range(4)))
    inodes = {path.stat().st_ino for path in paths} | {int((await other.communicate())[0]) for other in others}
    assert len(inodes) == 1
    assert os.listdir(rootfs.folder(torture_store.home)) == [f"{image.id}.erofs"]
    assert os.listdir(torture_store.home.cache / "scratch") == []


async def test_a_cancelled_maker_leaves_nothing_and_the_next_one_succeeds(torture_store: ImageStore) -> None:
    image = await torture_store.resolve("torture")
    task = asyncio.create_task(torture_store.erofs(image.id))
    while not list((torture_store.home.cache / "scratch").glob("*/root.erofs")):
        await asyncio.sleep(0.001)
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(rootfs.folder(torture_store.home)) == []
    assert os.listdir(torture_store.home.cache / "scratch") == []
    assert (await torture_store.erofs(image.id)).exists()


async def test_collect_removes_roots_of_gone_images_only(torture_store: ImageStore) -> None:
    image = await torture_store.resolve("torture")
    made = await torture_store.erofs(image.id)
    assert await torture_store.collect(set()) == ()
    await torture_store.remove("torture")
    assert await torture_store.collect({image.id}) == ()
    assert made.exists()
    assert await torture_store.collect(set()) == (image.id,)
    assert not made.exists()
