"""Hostile and broken archives, and full disks: one clear error each, and nothing is left."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import random
import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.images import base, smallfs
from tests.images.archive import Layer, docker_archive, layer

from twinhull import home
from twinhull.errors import PermanentError, UserError
from twinhull.image.store import ImageStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers/storage as root")
MEGABYTE = 1 << 20


async def data(raw: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(raw), 1 << 16):
        yield raw[start : start + (1 << 16)]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(home.at(tmp_path / "home"))


def nothing_left(store: ImageStore) -> None:
    root = store.storage.roots[0]
    assert os.listdir(store.home.cache / "scratch") == []
    assert store.storage.catalog().images == {}
    assert [name for name in os.listdir(root / "overlay") if len(name) == 64] == [] if (root / "overlay").exists() else True
    assert store.storage.layers() == {}
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(store.home.cache.parent) in line]


def packed(fill: Any, tmp_path: Path) -> bytes:
    """A docker archive with one layer."""
    docker_archive(tmp_path / "packed.tar", ["bad:1"], [layer(fill)], {})
    return (tmp_path / "packed.tar").read_bytes()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not a tar at all",
        gzip.compress(b"not a tar at all"),
        gzip.compress(b"x" * 10_000)[:-20],
        bz2.compress(b"x" * 10_000)[:-5],
        b"\x1f\x8b garbage",
        b"\x28\xb5\x2f\xfd garbage",
        random.Random(1).randbytes(100_000),
    ],
    ids=["empty", "text", "gzipped-text", "gzip-cut", "bzip2-cut", "gzip-garbage", "zstd", "noise"],
)
async def test_no_archive(store: ImageStore, raw: bytes) -> None:
    with pytest.raises(UserError):
        await store.load(data(raw))
    with pytest.raises(UserError):
        await store.import_(data(raw), "x")
    nothing_left(store)


async def test_an_empty_tar_is_an_empty_image_but_no_archive(store: ImageStore) -> None:
    with pytest.raises(UserError, match="neither a docker nor an OCI archive"):
        await store.load(data(bytes(1024)))
    nothing_left(store)
    assert await store.layers((await store.import_(data(bytes(1024)), "empty")).id)


async def test_cut_at_every_part(store: ImageStore) -> None:
    whole = base.archive("busybox").read_bytes()
    for cut in (600, 100_000, len(whole) // 2, len(whole) - 10_000, len(whole) - 8 * 1024):
        with pytest.raises(UserError):
            await store.load(data(whole[:cut]))
    nothing_left(store)


async def test_a_wrong_layer(store: ImageStore, tmp_path: Path) -> None:
    """The bytes don't have the digest that the configuration tells."""
    raw = bytearray(packed(lambda new: new.add("file", b"content of the file"), tmp_path))
    at = raw.index(b"content of the file")
    raw[at] ^= 1
    with pytest.raises(UserError):
        await store.load(data(bytes(raw)))
    nothing_left(store)


def traversal(new: Layer) -> None:
    new.add("../../../../../../../../tmp/twinhull-evil-dots", b"evil")


def through_a_link(new: Layer) -> None:
    new.symlink("out", "/tmp")
    new.add("out/twinhull-evil-link", b"evil")


def through_a_relative_link(new: Layer) -> None:
    new.symlink("up", "../../../../../../../../../../tmp")
    new.add("up/twinhull-evil-up", b"evil")


def hard_link_out(new: Layer) -> None:
    new.link("shadow", "../../../../../../../../etc/shadow")


def hard_link_absolute(new: Layer) -> None:
    new.link("shadow", "/etc/shadow")


def link_then_hard_link(new: Layer) -> None:
    new.symlink("etc", "/etc")
    new.link("shadow", "etc/shadow")


def link_replaced(new: Layer) -> None:
    new.directory("etc")
    new.symlink("etc", "/etc")
    new.add("etc/twinhull-evil", b"evil")


EVIL = [traversal, through_a_link, through_a_relative_link, hard_link_out, hard_link_absolute, link_then_hard_link, link_replaced]


@pytest.mark.parametrize("fill", EVIL)
async def test_nothing_is_written_or_read_outside(store: ImageStore, tmp_path: Path, fill: Any) -> None:
    """Refused, or unpacked inside the image's own root."""
    raw, shadow = layer(fill), Path("/etc/shadow").stat()
    for attempt in (store.import_(data(raw), "evil"), store.load(data(packed(fill, tmp_path)))):
        try:
            await attempt
        except UserError:
            continue
    assert list(Path("/tmp").glob("twinhull-evil*")) == []
    assert not Path("/etc/twinhull-evil").exists()
    assert Path("/etc/shadow").stat().st_nlink == shadow.st_nlink
    for folder in (store.storage.roots[0] / "overlay").glob("*/diff"):
        assert not (folder / "shadow").exists() or (folder / "shadow").stat().st_ino != shadow.st_ino
    assert os.listdir(store.home.cache / "scratch") == []


@pytest.mark.parametrize("fill", [traversal, hard_link_out, hard_link_absolute, link_then_hard_link])
async def test_an_import_that_points_outside_is_refused_at_once(store: ImageStore, fill: Any) -> None:
    with pytest.raises(UserError, match=r"points outside|isn't in the archive"):
        await store.import_(data(layer(fill)), "evil")
    nothing_left(store)


async def test_device_nodes_are_kept_as_docker_keeps_them(store: ImageStore) -> None:
    """They are harmless: the storage is closed to users, and instances have their own device rules. No device is opened."""

    def fill(new: Layer) -> None:
        new.add("disk", mode=0o666, type=tarfile.BLKTYPE, devmajor=8, devminor=0)

    view = await store.import_(data(layer(fill)), "devices")
    (folder,) = await store.layers(view.id)
    assert (folder / "disk").lstat().st_rdev == os.makedev(8, 0)
    assert store.storage.roots[0].joinpath("overlay").stat().st_mode & 0o077 == 0 or folder.parent.stat().st_mode & 0o077 == 0
    assert (await store.erofs(view.id)).exists()


async def test_manifest_with_strange_types(store: ImageStore) -> None:
    for body in ([[]], [{"Config": 3, "Layers": [4]}], {"a": 1}, [None], [{"Config": "c.json", "Layers": "x"}]):

        def fill(new: Layer, body: object = body) -> None:
            new.add("c.json", b'{"rootfs": {"diff_ids": []}}')
            new.add("manifest.json", json.dumps(body).encode())

        with pytest.raises(UserError):
            await store.load(data(layer(fill)))
    nothing_left(store)


async def test_bad_names_in_an_archive_are_refused(store: ImageStore, tmp_path: Path) -> None:
    docker_archive(tmp_path / "a.tar", ["--all:1", "UPPER:1"], [layer(lambda new: new.add("f"))], {})
    (only,) = await store.load(data((tmp_path / "a.tar").read_bytes()))
    assert only.startswith("sha256:")


class TestFullDisk:
    def test_no_room_for_the_stream(self, tmp_path: Path) -> None:
        async def body() -> None:
            store = ImageStore(home.at(tmp_path / "small"))
            raw = layer(lambda new: new.add("big", random.Random(1).randbytes(20 * MEGABYTE)))
            for attempt in (store.import_(data(raw), "x"), store.load(data(raw))):
                with pytest.raises(PermanentError, match="no space left") as caught:
                    await attempt
                assert "prune" in caught.value.hint
                nothing_left_but_mount(store)

        smallfs.run(tmp_path / "small", 8 * MEGABYTE, body)

    def test_a_compressed_bomb(self, tmp_path: Path) -> None:
        async def body() -> None:
            store = ImageStore(home.at(tmp_path / "small"))
            raw = gzip.compress(bytes(200 * MEGABYTE), 1)
            with pytest.raises(PermanentError, match="no space left"):
                await store.import_(data(raw), "x")
            nothing_left_but_mount(store)

        smallfs.run(tmp_path / "small", 16 * MEGABYTE, body)

    def test_no_room_in_the_storage(self, tmp_path: Path) -> None:
        """Seen by skopeo only: the layer is compressed inside the archive."""
        here = home.at(tmp_path / "home")
        store = ImageStore(replace(here, images=tmp_path / "small"))

        async def body() -> None:
            with pytest.raises(PermanentError, match="no space left"):
                await store.load(data(compressed_layer(tmp_path, 40 * MEGABYTE)))
            nothing_left_but_mount(store)
            names = await store.load(data(base.archive("busybox").read_bytes()))
            assert (await store.resolve(names[0])).names == names

        smallfs.run(tmp_path / "small", 16 * MEGABYTE, body)

    def test_no_room_for_the_erofs_file(self, tmp_path: Path) -> None:
        here = home.at(tmp_path / "home")
        store = ImageStore(replace(here, cache=tmp_path / "small"))

        async def body() -> None:
            await ImageStore(here).import_(data(layer(lambda new: new.add("big", random.Random(1).randbytes(10 * MEGABYTE)))), "big")
            image = await store.resolve("big")
            with pytest.raises(PermanentError, match="no space left"):
                await store.erofs(image.id)
            assert os.listdir(tmp_path / "small" / "scratch") == []
            assert os.listdir(tmp_path / "small" / "erofs") == []

        smallfs.run(tmp_path / "small", 4 * MEGABYTE, body)


def compressed_layer(tmp_path: Path, size: int) -> bytes:
    import hashlib
    import io

    docker_archive(tmp_path / "c.tar", ["big:1"], [layer(lambda new: new.add("zeros", bytes(size)))], {})
    out = io.BytesIO()
    with tarfile.open(tmp_path / "c.tar") as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            content = old.extractfile(member).read()  # type: ignore[union-attr]
            if len(content) > MEGABYTE:
                assert member.name == f"{hashlib.sha256(content).hexdigest()}.tar"
                content = gzip.compress(content, 1)
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return out.getvalue()


def nothing_left_but_mount(store: ImageStore) -> None:
    root = store.storage.roots[0]
    assert os.listdir(store.home.cache / "scratch") == []
    assert store.storage.catalog().images == {}
    assert store.storage.layers() == {}
    assert [name for name in os.listdir(root / "overlay") if len(name) == 64] == [] if (root / "overlay").exists() else True
