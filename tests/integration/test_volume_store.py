"""Volumes: life, names, and the copy of the image's content at first use."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from pathlib import Path

import pytest
from tests.images import smallfs, torture, views
from tests.images.archive import docker_archive

from twinhull import home
from twinhull.errors import ConflictError, NotFoundError, PermanentError, UnsupportedError, UserError
from twinhull.image.store import ImageStore
from twinhull.volume import store as module
from twinhull.volume.base import VolumeSpec
from twinhull.volume.store import VolumeStore


@pytest.fixture
def volumes(tmp_path: Path) -> VolumeStore:
    return VolumeStore(home.at(tmp_path / "home"))


class TestLife:
    async def test_create_inspect_list_remove(self, volumes: VolumeStore) -> None:
        made = await volumes.create(VolumeSpec("data", labels={"a": "1"}))
        assert await volumes.inspect("data") == made
        assert made.labels == {"a": "1"}
        assert Path(made.mountpoint).is_dir()
        assert os.stat(made.mountpoint).st_mode & 0o7777 == 0o755
        (view,) = await volumes.list({"data": ("web-1",)})
        assert view.used_by == ("web-1",)
        with pytest.raises(ConflictError, match="in use by web-1"):
            await volumes.remove("data", used_by=("web-1",), force=True)
        await volumes.remove("data")
        assert await volumes.list() == ()
        assert os.listdir(volumes.folder) == []

    async def test_another_store_sees_it(self, volumes: VolumeStore, tmp_path: Path) -> None:
        made = await volumes.create(VolumeSpec("data"))
        assert await VolumeStore(home.at(tmp_path / "home")).inspect("data") == made

    async def test_creating_twice(self, volumes: VolumeStore, tmp_path: Path) -> None:
        made = await volumes.create(VolumeSpec("data"))
        (Path(made.mountpoint) / "kept").touch()
        assert await volumes.create(VolumeSpec("data")) == made
        with pytest.raises(ConflictError, match="other options"):
            await volumes.create(VolumeSpec("data", options={"type": "none", "o": "bind", "device": str(tmp_path)}))
        assert os.listdir(made.mountpoint) == ["kept"]

    async def test_many_at_once_make_one(self, volumes: VolumeStore) -> None:
        made = await asyncio.gather(*(volumes.create(VolumeSpec("data")) for _ in range(20)))
        assert len({view.created_at for view in made}) == 1
        assert os.listdir(volumes.folder) == ["data"]

    async def test_anonymous_ones(self, volumes: VolumeStore) -> None:
        names = {(await volumes.create(VolumeSpec())).name for _ in range(3)}
        assert len(names) == 3
        assert all(len(name) == 64 for name in names)
        await volumes.create(VolumeSpec("named"))
        used = {next(iter(names)): ("web",)}
        assert set(await volumes.prune(used)) == names - set(used)
        assert await volumes.prune(used, all=True) == ("named",)
        assert [view.name for view in await volumes.list()] == list(used)

    @pytest.mark.parametrize("name", ["", "..", ".", ".hidden", "a/b", "../x", "-a", "a b", "a\n", "ä", "a" * 256, "/etc"])
    async def test_bad_names(self, volumes: VolumeStore, name: str) -> None:
        for attempt in (volumes.inspect, volumes.remove):
            with pytest.raises(UserError, match="bad volume name"):
                await attempt(name)
        if name:
            with pytest.raises(UserError, match="bad volume name"):
                await volumes.create(VolumeSpec(name))
        assert not volumes.folder.exists() or os.listdir(volumes.folder) == []

    async def test_missing(self, volumes: VolumeStore) -> None:
        with pytest.raises(NotFoundError):
            await volumes.inspect("nosuch")
        with pytest.raises(NotFoundError):
            await volumes.remove("nosuch")
        await volumes.remove("nosuch", force=True)

    @pytest.mark.parametrize(
        ("spec", "kind"),
        [
            (VolumeSpec("v", driver="nfs"), UnsupportedError),
            (VolumeSpec("v", options={"type": "tmpfs", "device": "tmpfs"}), UnsupportedError),
            (VolumeSpec("v", options={"type": "nfs", "o": "addr=10.0.0.1", "device": ":/x"}), UnsupportedError),
            (VolumeSpec("v", options={"colour": "red"}), UserError),
            (VolumeSpec("v", options={"type": "none", "o": "bind", "device": "relative"}), UserError),
            (VolumeSpec("v", options={"type": "none", "o": "bind", "device": "/nosuch/folder"}), UserError),
        ],
    )
    async def test_options_that_cant_be(self, volumes: VolumeStore, spec: VolumeSpec, kind: type[Exception]) -> None:
        with pytest.raises(kind):
            await volumes.create(spec)
        assert not volumes.folder.exists()

    async def test_a_volume_that_is_a_folder_of_the_host(self, volumes: VolumeStore, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "file").touch()
        view = await volumes.create(VolumeSpec("v", options={"type": "none", "o": "bind", "device": str(tmp_path / "there")}))
        assert view.mountpoint == str(tmp_path / "there")
        assert volumes.path("v") == tmp_path / "there"
        await volumes.remove("v")
        assert (tmp_path / "there" / "file").exists()

    async def test_what_a_killed_daemon_left_is_swept(self, volumes: VolumeStore) -> None:
        await volumes.create(VolumeSpec("data"))
        (volumes.folder / ".new-x" / "_data").mkdir(parents=True)
        (volumes.folder / ".old-y").mkdir()
        assert [view.name for view in await volumes.list()] == ["data"]
        await volumes.sweep()
        assert os.listdir(volumes.folder) == ["data"]

    async def test_damaged_metadata_is_told(self, volumes: VolumeStore) -> None:
        await volumes.create(VolumeSpec("data"))
        (volumes.folder / "data" / "volume.json").write_text("{")
        with pytest.raises(PermanentError, match="damaged"):
            await volumes.inspect("data")

    async def test_removing_a_tree_deeper_than_python_recurses(self, volumes: VolumeStore) -> None:
        here = os.open((await volumes.create(VolumeSpec("deep"))).mountpoint, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
        assert (await volumes.sizes())["deep"] > 0
        await volumes.remove("deep")
        assert os.listdir(volumes.folder) == []

    async def test_subpaths_stay_inside(self, volumes: VolumeStore, tmp_path: Path) -> None:
        await volumes.create(VolumeSpec("data"))
        data = volumes.path("data")
        (data / "sub" / "deep").mkdir(parents=True)
        os.symlink("/sub", data / "inside")
        os.symlink("../../../../../../../etc", data / "up")
        assert volumes.path("data", "sub/deep") == volumes.path("data", "inside/deep") == data / "sub" / "deep"
        for bad in ("up", "nosuch", "sub/nosuch"):
            with pytest.raises(NotFoundError):
                volumes.path("data", bad)
        for bad in ("/etc", "../x", "sub/../.."):
            with pytest.raises(UserError, match="bad subpath"):
                volumes.path("data", bad)

    async def test_ensure_takes_what_is_there(self, volumes: VolumeStore, tmp_path: Path) -> None:
        made = await volumes.create(VolumeSpec("host", options={"device": str(tmp_path)}))
        assert await volumes.ensure(VolumeSpec("host", labels={"x": "1"})) == made
        assert (await volumes.ensure(VolumeSpec("new"))).name == "new"

    async def test_sizes(self, volumes: VolumeStore, tmp_path: Path) -> None:
        data = Path((await volumes.create(VolumeSpec("data"))).mountpoint)
        (data / "big").write_bytes(random.Random(1).randbytes(1 << 20))
        os.link(data / "big", data / "same")
        os.symlink("/usr", data / "link")
        with (data / "sparse").open("wb") as file:
            file.truncate(1 << 40)
        await volumes.create(VolumeSpec("host", options={"device": "/usr"}))
        sizes = await volumes.sizes()
        assert 1 << 20 <= sizes["data"] < (1 << 20) + 64_000
        assert sizes["host"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts and owners")
class TestFill:
    @pytest.fixture
    async def layers(self, tmp_path: Path) -> tuple[Path, ...]:
        images = ImageStore(home.at(tmp_path / "home"))
        docker_archive(tmp_path / "t.tar", ["torture:1"], torture.layers(), {})

        async def data() -> object:
            yield (tmp_path / "t.tar").read_bytes()

        await images.load(data())  # type: ignore[arg-type]
        return await images.layers((await images.resolve("torture:1")).id)

    async def filled(self, volumes: VolumeStore, layers: tuple[Path, ...], target: str) -> Path:
        view = await volumes.create(VolumeSpec("v"))
        assert await volumes.copy_up("v", layers, target)
        assert sorted(os.listdir(volumes.folder / "v")) == ["_data", "volume.json"]
        return Path(view.mountpoint)

    @pytest.mark.parametrize("target", ["/modes", "/odd", "/hard", "/dev", "/empty", "/opaque", "/again", "/deep", "odd/", "/"])
    async def test_everything_is_copied(self, volumes: VolumeStore, layers: tuple[Path, ...], target: str) -> None:
        """Compared with the kernel's own merged view."""
        data = await self.filled(volumes, layers, target)
        wanted, got = merged(layers, target), views.walk(os.fsencode(data))
        for entries in (wanted, got):
            entries[b"."].pop("mtime")
        outside_links(wanted, got)
        assert views.compare(wanted, got) == []

    async def test_the_folders_own_owner_and_mode_come_too(self, volumes: VolumeStore, layers: tuple[Path, ...]) -> None:
        status = os.stat(await self.filled(volumes, layers, "/empty/er"))
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o700, 4_000_000_000, 4_294_967_294)

    async def test_holes_stay_holes(self, volumes: VolumeStore, layers: tuple[Path, ...]) -> None:
        source = next(layer / "odd/sparse" for layer in layers if (layer / "odd/sparse").exists())
        os.truncate(source, 0)
        os.truncate(source, torture.SPARSE_SIZE)
        assert os.stat(await self.filled(volumes, layers, "/odd") / "sparse").st_blocks == 0

    @pytest.mark.parametrize("target", ["/nosuch", "/etc/kept", "/odd/dangling", "/odd/outside", "/odd/long"])
    async def test_no_folder_nothing_to_copy(self, volumes: VolumeStore, layers: tuple[Path, ...], target: str) -> None:
        await volumes.create(VolumeSpec("v"))
        assert not await volumes.copy_up("v", layers, target)
        assert os.listdir(volumes.path("v")) == []

    async def test_links_are_followed_inside_the_image_only(self, volumes: VolumeStore, layers: tuple[Path, ...], tmp_path: Path) -> None:
        (tmp_path / "host").mkdir()
        (tmp_path / "host" / "secret").touch()
        os.symlink(f"{tmp_path}/host", layers[0] / "trap")
        os.symlink("../../../../../../odd", layers[0] / "alias")
        await volumes.create(VolumeSpec("v"))
        assert not await volumes.copy_up("v", layers, "/trap")
        assert await volumes.copy_up("v", layers, "/alias")
        assert (volumes.path("v") / torture.LONG_NAME).read_bytes() == b"255"

    async def test_a_volume_with_content_is_left_alone(self, volumes: VolumeStore, layers: tuple[Path, ...]) -> None:
        await volumes.create(VolumeSpec("v"))
        (volumes.path("v") / "mine").touch()
        assert not await volumes.copy_up("v", layers, "/modes")
        assert os.listdir(volumes.path("v")) == ["mine"]

    async def test_several_at_once(self, volumes: VolumeStore, layers: tuple[Path, ...]) -> None:
        await volumes.create(VolumeSpec("v"))
        assert sorted(await asyncio.gather(*(volumes.copy_up("v", layers, "/many") for _ in range(5)))) == [False] * 4 + [True]
        assert len(os.listdir(volumes.path("v"))) == 1500

    async def test_a_copy_that_was_cut_short_is_done_again(self, volumes: VolumeStore, layers: tuple[Path, ...]) -> None:
        await volumes.create(VolumeSpec("v"))
        data = volumes.path("v")
        inode = data.stat().st_ino
        (data / "half").mkdir()
        (data / "half" / "file").touch()
        (volumes.folder / "v" / "filling").touch()
        assert await volumes.copy_up("v", layers, "/modes")
        assert "half" not in os.listdir(data)
        assert data.stat().st_ino == inode  # it may be mounted somewhere

    async def test_nothing_of_it_stays(self, volumes: VolumeStore, layers: tuple[Path, ...]) -> None:
        before, threads = Path("/proc/self/mountinfo").read_text(), threading.active_count()
        descriptors = len(os.listdir("/proc/self/fd"))
        await self.filled(volumes, layers, "/many")
        assert Path("/proc/self/mountinfo").read_text() == before
        assert len(os.listdir("/proc/self/fd")) == descriptors
        for thread in threading.enumerate():
            thread.join(10) if thread.name == "volume-fill" else None
        assert threading.active_count() <= threads + 1  # asyncio's own worker

    async def test_without_layers_worth_mounting_it_is_quick(self, volumes: VolumeStore, layers: tuple[Path, ...]) -> None:
        await volumes.create(VolumeSpec("v"))
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for _ in range(20):
            await volumes.copy_up("v", layers, "/nosuch")
        assert (loop.time() - begin) / 20 < 0.05  # measured: about 1 ms

    def test_full_disk(self, tmp_path: Path) -> None:
        small = tmp_path / "small"
        (tmp_path / "layer" / "data").mkdir(parents=True)
        for number in range(8):
            (tmp_path / "layer" / "data" / f"{number}").write_bytes(bytes([number]) * (1 << 20))

        async def body() -> None:
            volumes = VolumeStore(home.at(small))
            await volumes.create(VolumeSpec("v"))
            with pytest.raises(PermanentError, match="no space left"):
                await volumes.copy_up("v", (tmp_path / "layer",), "/data")
            assert os.listdir(volumes.path("v")) == []

        smallfs.run(small, 4 << 20, body)


def merged(layers: tuple[Path, ...], target: str) -> views.Entries:
    """The kernel's overlay, seen by a walk in another process."""
    import subprocess
    import sys

    program = (
        "import json, os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from tests.images import views; from twinhull.sys import mounts, namespaces\n"
        "namespaces.unshare(namespaces.CLONE_NEWNS); mounts.mount(None, '/', None, mounts.MS_REC | mounts.MS_PRIVATE)\n"
        "fds = [os.open(layer, os.O_PATH) for layer in sys.argv[3:]]\n"
        "mounts.mount('tmpfs', '/mnt', 'tmpfs'); os.mkdir('/mnt/m'); os.mkdir('/mnt/e'); fds.append(os.open('/mnt/e', os.O_PATH))\n"
        "mounts.overlay(Path('/mnt/m'), fds, None, None)\n"
        "entries = views.walk(os.fsencode('/mnt/m/' + sys.argv[2].strip('/')))\n"
        "print(json.dumps({path.hex(): entry for path, entry in entries.items()}))\n"
    )
    checkout = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", program, checkout, target, *map(str, layers)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {bytes.fromhex(path): entry for path, entry in json.loads(done.stdout).items()}


def outside_links(*both: views.Entries) -> None:
    """Groups of links are compared where both sides can know them: a file with one name in the copied folder stands alone."""
    for entries in both:
        for entry in entries.values():
            if len(entry.get("links", ())) < 2:
                entry.pop("links", None)


def test_the_module_says_what_it_refuses() -> None:
    assert "--tmpfs" in (module.__doc__ or "")
