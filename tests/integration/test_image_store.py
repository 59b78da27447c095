"""The image store against the real skopeo and buildah, without a network."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.images import base
from tests.images.archive import Layer, docker_archive, layer

from twinhull import home
from twinhull.errors import ConflictError, NotFoundError, UserError
from twinhull.image.base import BuildSpec
from twinhull.image.store import ImageStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers/storage as root")


async def data(raw: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for start in range(0, len(raw), size):
        yield raw[start : start + size]


async def lines(stream: AsyncIterator[str]) -> list[str]:
    return [line async for line in stream]


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(home.at(tmp_path / "home"))


@pytest.fixture
async def loaded(store: ImageStore) -> ImageStore:
    assert await store.load(data(base.archive("busybox").read_bytes())) == ("localhost/busybox:latest",)
    return store


def mounts_below(path: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {path}" in line]


def context(tmp_path: Path, text: str, **files: str) -> BuildSpec:
    folder = tmp_path / "context"
    folder.mkdir(exist_ok=True)
    (folder / "Containerfile").write_text(text)
    for name, content in files.items():
        (folder / name).write_text(content)
    return BuildSpec(str(folder), tags=("web",))


class TestLooking:
    async def test_every_way_to_name_an_image(self, loaded: ImageStore) -> None:
        image = await loaded.resolve("busybox")
        digest = image.digests[0].partition("@")[2]
        for ref in (
            "busybox:latest",
            "localhost/busybox",
            "localhost/busybox:latest",
            image.id,
            f"sha256:{image.id}",
            image.id[:12],
            image.id[:4],
            f"busybox@{digest}",
            f"localhost/busybox@{digest}",
        ):
            assert (await loaded.resolve(ref)).id == image.id, ref
        assert image.names == ("localhost/busybox:latest",)
        assert image.config["Cmd"] == ["sh"]
        assert image.created_at == base.EPOCH
        assert image.size > 1_000_000
        assert len(image.layers) == 1

    @pytest.mark.parametrize("ref", ["nosuch", "busybox:2", "0" * 64, "quay.io/busybox", "busybox@sha256:" + "0" * 64])
    async def test_unknown(self, loaded: ImageStore, ref: str) -> None:
        with pytest.raises(NotFoundError) as caught:
            await loaded.resolve(ref)
        assert "twinhull image pull" in caught.value.hint

    async def test_a_near_miss_is_told(self, loaded: ImageStore) -> None:
        with pytest.raises(NotFoundError) as caught:
            await loaded.resolve("bosybox")
        assert "did you mean busybox:latest?" in caught.value.hint

    @pytest.mark.parametrize("ref", ["../x", "", "--all", "A B"])
    async def test_bad_names(self, loaded: ImageStore, ref: str) -> None:
        with pytest.raises(UserError, match="bad image reference"):
            await loaded.resolve(ref)

    async def test_an_ambiguous_prefix(self, loaded: ImageStore, tmp_path: Path) -> None:
        first = (await loaded.resolve("busybox")).id[0]
        number, twin = 0, ""
        while not twin.startswith(first):
            number += 1
            twin = docker_archive(tmp_path / "t.tar", [], [layer(lambda new: new.add("x"))], {"Labels": {"n": str(number)}})
        await loaded.load(data((tmp_path / "t.tar").read_bytes()))
        with pytest.raises(UserError, match="ambiguous"):
            await loaded.resolve(first)

    async def test_looking_starts_no_program_and_sees_changes_by_others(self, loaded: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
        other = ImageStore(loaded.home)
        image = await other.resolve("busybox")
        await loaded.tag("busybox", "renamed:1")

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("a program was started")

        monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
        assert (await other.resolve("renamed:1")).id == image.id
        await other.layers(image.id)
        begin = time.perf_counter()
        for _ in range(100):
            await other.resolve("busybox")
            await other.layers(image.id)
        assert time.perf_counter() - begin < 0.5  # 5 ms each on a very busy machine; 0.1 ms measured

    async def test_filters(self, loaded: ImageStore, tmp_path: Path) -> None:
        view = await loaded.import_(data(layer(lambda new: new.add("x"))), "shop/web:2", ("LABEL tier=front",))

        async def names(**filters: tuple[str, ...]) -> set[str]:
            return {name for image in await loaded.images(filters) for name in image.names}

        both = {"localhost/shop/web:2", "localhost/busybox:latest"}
        assert await names() == both
        assert (await loaded.images())[0].id == view.id
        assert await names(reference=("shop/*",)) == {"localhost/shop/web:2"}
        assert await names(reference=("busybox", "shop/web")) == both
        assert await names(label=("tier=front",)) == await names(label=("tier",)) == {"localhost/shop/web:2"}
        assert await names(label=("tier=back",)) == set()
        assert await names(before=("shop/web:2",)) == {"localhost/busybox:latest"}
        assert await names(since=("busybox",)) == {"localhost/shop/web:2"}
        assert await names(until=(str(base.EPOCH + 1),)) == {"localhost/busybox:latest"}
        assert await names(dangling=("true",)) == set()
        with pytest.raises(UserError, match="unknown image filter"):
            await loaded.images({"colour": ("red",)})

    async def test_an_empty_home_has_no_images(self, store: ImageStore) -> None:
        assert await store.images() == ()
        assert (await store.usage()).size == 0
        assert await store.collect(set()) == ()


class TestArchives:
    @pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
    async def test_saved_images_come_back_the_same(self, loaded: ImageStore, tmp_path: Path, form: str) -> None:
        await loaded.commit(
            (await loaded.resolve("busybox")).id, data(layer(lambda new: new.add("x"))), "more", "", ("HEALTHCHECK CMD true",)
        )
        await loaded.tag("more", "r.example:5000/shop/more:2")
        raw = b"".join([chunk async for chunk in loaded.save(("more", "busybox", "r.example:5000/shop/more:2"), form)])
        other = ImageStore(home.at(tmp_path / "other"))
        assert set(await other.load(data(gzip.compress(raw, 1)))) == {
            "localhost/more:latest",
            "localhost/busybox:latest",
            "r.example:5000/shop/more:2",
        }
        for name in ("more", "busybox", "r.example:5000/shop/more:2"):
            before, after = await loaded.resolve(name), await other.resolve(name)
            assert (before.id, before.config, before.layers, set(before.names)) == (after.id, after.config, after.layers, set(after.names))
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            assert len(tar.getnames()) == len(set(tar.getnames()))

    async def test_other_tools_read_what_is_saved(self, loaded: ImageStore, tmp_path: Path) -> None:
        for form in ("docker-archive", "oci-archive"):
            path = tmp_path / f"{form}.tar"
            path.write_bytes(b"".join([chunk async for chunk in loaded.save(("busybox",), form)]))
            shown = subprocess.run(["skopeo", "inspect", "--config", f"{form}:{path}"], check=True, capture_output=True)
            assert json.loads(shown.stdout)["config"]["Cmd"] == ["sh"]

    async def test_a_nameless_image(self, store: ImageStore, tmp_path: Path) -> None:
        identity = docker_archive(tmp_path / "t.tar", [], [layer(lambda new: new.add("x"))], {})
        assert await store.load(data((tmp_path / "t.tar").read_bytes())) == (f"sha256:{identity}",)
        assert (await store.resolve(identity)).names == ()
        raw = b"".join([chunk async for chunk in store.save((identity[:12],), "oci-archive")])
        assert await ImageStore(home.at(tmp_path / "other")).load(data(raw)) == (f"sha256:{identity}",)

    async def test_save_refuses(self, loaded: ImageStore) -> None:
        for refs, form, said in (
            ((), "docker-archive", "no image"),
            (("nosuch",), "docker-archive", "no image"),
            (("busybox",), "zip", "format"),
        ):
            with pytest.raises(UserError, match=said):
                [chunk async for chunk in loaded.save(refs, form)]

    async def test_import(self, store: ImageStore) -> None:
        def fill(new: Layer) -> None:
            new.directory("./")
            new.add("./bin/tool", b"#!", mode=0o4755)

        view = await store.import_(data(gzip.compress(layer(fill))), "tool", ('CMD ["/bin/tool"]', "USER 5"), message="why")
        assert view.names == ("localhost/tool:latest",)
        assert view.config == {"Cmd": ["/bin/tool"], "User": "5"}
        assert ((await store.layers(view.id))[0] / "bin/tool").stat().st_mode & 0o7777 == 0o4755
        (row,) = await store.history("tool")
        assert (row["Comment"], row["CreatedBy"]) == ("why", "twinhull image import")

    async def test_commit_adds_exactly_one_layer(self, loaded: ImageStore) -> None:
        image = await loaded.resolve("busybox")

        def fill(new: Layer) -> None:
            new.add("etc/.wh.shells")
            new.add("etc/new", b"new")
            new.link("etc/linked", "etc/new")

        tar = layer(fill)
        view = await loaded.commit(image.id, data(tar), "mine:1", "message", ("ENV A=1", "HEALTHCHECK --interval=5s CMD true"))
        assert view.layers[:-1] == image.layers
        assert len(view.layers) == 2
        assert view.config["Env"] == [*image.config["Env"], "A=1"]  # type: ignore[misc]
        assert view.config["Cmd"] == ["sh"]
        assert view.config["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9}
        upper, lower = await loaded.layers(view.id)
        assert (await loaded.layers(image.id)) == (lower,)
        assert os.stat(upper / "etc/shells").st_rdev == 0
        assert os.listdir(upper) == ["etc"]
        assert [row["Comment"] for row in await loaded.history("mine:1")] == ["message", ""]
        await loaded.remove("busybox")
        assert (await loaded.layers(view.id)) == (upper, lower)

    async def test_a_commit_on_a_commit(self, loaded: ImageStore) -> None:
        ids = [(await loaded.resolve("busybox")).id]
        for number in range(3):
            tar = layer(lambda new, number=number: new.add(f"file-{number}", b"x"))
            ids.append((await loaded.commit(ids[-1], data(tar), f"step:{number}")).id)
        assert len(await loaded.layers(ids[-1])) == 4
        assert len(await loaded.history("step:2")) == 4


class TestBuild:
    async def test_build(self, loaded: ImageStore, tmp_path: Path) -> None:
        text = (
            "FROM busybox\nARG WHO=nobody\nRUN echo hello $WHO > /greeting && rm /etc/shells\nCOPY page /var/www/\n"
            "ENV A=1\nUSER app\nWORKDIR /home/app\nEXPOSE 80\nVOLUME /data\nLABEL tier=front\nSTOPSIGNAL SIGINT\n"
            'HEALTHCHECK --interval=3s --retries=2 CMD wget -q localhost\nENTRYPOINT ["httpd"]\nCMD ["-f"]\n'
        )
        spec = context(tmp_path, text, page="<p>")
        spec = BuildSpec(spec.context, tags=("web", "r.example/web:2"), args={"WHO": "world"}, labels={"l": "v"})
        said = await lines(loaded.build(spec))
        view = await loaded.resolve("web")
        assert said[-1] == f"id: {view.id}"
        assert any(line.startswith("STEP 3/") for line in said)
        assert set(view.names) == {"localhost/web:latest", "r.example/web:2"}
        wanted = {
            "Entrypoint": ["httpd"], "Cmd": ["-f"], "User": "app", "WorkingDir": "/home/app", "StopSignal": "SIGINT",
            "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}},
            "Healthcheck": {"Test": ["CMD-SHELL", "wget -q localhost"], "Interval": 3 * 10**9, "Retries": 2},
        }  # fmt: skip
        assert {key: view.config[key] for key in wanted} == wanted
        assert view.config["Labels"].items() >= {"tier": "front", "l": "v"}.items()  # type: ignore[attr-defined]
        merged = {path.relative_to(root).as_posix() for root in await loaded.layers(view.id) for path in root.rglob("*")}
        assert {"greeting", "var/www/page"} <= merged

    async def test_a_second_build_is_cached_unless_told_otherwise(self, loaded: ImageStore, tmp_path: Path) -> None:
        spec = context(tmp_path, "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id\n")
        ids = [(await lines(loaded.build(each)))[-1] for each in (spec, spec, BuildSpec(spec.context, tags=("web",), no_cache=True))]
        assert ids[0] == ids[1] != ids[2]

    async def test_stages_and_target(self, loaded: ImageStore, tmp_path: Path) -> None:
        text = "FROM busybox AS one\nRUN echo 1 > /one\nFROM scratch AS two\nCOPY --from=one /one /copied\nFROM busybox AS three\n"
        spec = BuildSpec(context(tmp_path, text).context, tags=("two",), target="two")
        await lines(loaded.build(spec))
        folders = await loaded.layers((await loaded.resolve("two")).id)
        assert [(folder / "copied").read_text() for folder in folders] == ["1\n"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("FROM busybox\n\nRUN echo x && \\\n  exit 3\n", "build Containerfile:3: RUN echo x &&   exit 3: exit status 3"),
            ("FROM busybox\nCOPY nosuch /\n", "build Containerfile:2: COPY nosuch /: "),
            ("FROM busybox\nFETCH x\n", "build Containerfile:2: FETCH x: Unknown instruction"),
            ("FROM busybox\nRUN\n", "build Containerfile:2: RUN needs an argument"),
            ("RUN x\n", "no FROM instruction"),
            ("FROM busybox\nCOPY --from=nosuch /x /y\n", "build Containerfile"),
        ],
    )
    async def test_failures_name_the_line_and_leave_nothing(self, loaded: ImageStore, tmp_path: Path, text: str, said: str) -> None:
        with pytest.raises(UserError) as caught:
            await lines(loaded.build(context(tmp_path, text)))
        assert caught.value.message.startswith(said) or said in caught.value.message
        with pytest.raises(NotFoundError):
            await loaded.resolve("web")
        clean(loaded)

    async def test_a_cancelled_build_leaves_nothing(self, loaded: ImageStore, tmp_path: Path) -> None:
        begun = asyncio.Event()

        async def watch() -> None:
            async for line in loaded.build(context(tmp_path, "FROM busybox\nRUN echo now; exec sleep 1000\n")):
                if line == "now":
                    begun.set()

        task = asyncio.create_task(watch())
        await asyncio.wait_for(begun.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        clean(loaded)

    async def test_a_local_base_needs_no_network(self, loaded: ImageStore, tmp_path: Path) -> None:
        """In a network namespace without any interface; a base that is missing is a clear error there."""
        context(tmp_path, "FROM busybox\nRUN ! ip route | grep .\n")
        program = (
            "import asyncio, sys; from pathlib import Path; from twinhull import home; from twinhull.image.store import ImageStore\n"
            "from twinhull.image.base import BuildSpec\n"
            "async def main():\n"
            "    async for line in ImageStore(home.at(Path(sys.argv[1]))).build(BuildSpec(sys.argv[2], tags=('web',))): print(line)\n"
            "asyncio.run(main())\n"
        )
        argv = ["unshare", "--net", sys.executable, "-c", program, str(tmp_path / "home"), str(tmp_path / "context")]
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith("id: ")
        context(tmp_path, "FROM nosuch/base\n")
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False)
        assert "TemporaryError: build Containerfile:1: FROM nosuch/base: pinging container registry" in done.stderr


class TestNamesAndRemoval:
    async def test_names_go_one_by_one_and_the_image_with_the_last(self, loaded: ImageStore) -> None:
        image = await loaded.resolve("busybox")
        await loaded.tag("busybox", "second:2")
        with pytest.raises(ConflictError, match="several names"):
            await loaded.remove(image.id[:12])
        assert await loaded.remove("busybox") == ("untagged: localhost/busybox:latest",)
        assert (await loaded.resolve("second:2")).id == image.id
        assert await loaded.remove("second:2") == ("untagged: localhost/second:2", f"deleted: {image.id}")
        assert await loaded.images() == ()
        assert [name for name in os.listdir(loaded.home.images / "overlay") if len(name) == 64] == []  # type: ignore[operator]

    async def test_force_removes_all_names(self, loaded: ImageStore) -> None:
        await loaded.tag("busybox", "second:2")
        await loaded.remove((await loaded.resolve("busybox")).id, force=True)
        assert await loaded.images() == ()

    async def test_a_name_moves(self, loaded: ImageStore) -> None:
        view = await loaded.import_(data(layer(lambda new: new.add("x"))), "other")
        before = await loaded.resolve("busybox")
        await loaded.tag("other", "busybox")
        assert (await loaded.resolve("busybox")).id == view.id
        assert (await loaded.resolve(before.id)).names == ()

    async def test_prune(self, loaded: ImageStore) -> None:
        image = await loaded.resolve("busybox")
        nameless = await loaded.import_(data(layer(lambda new: new.add("x"))))
        kept = await loaded.import_(data(layer(lambda new: new.add("y"))))
        assert await loaded.prune(keep={kept.id}) == (nameless.id,)
        assert set(await loaded.prune(all_=True, keep={image.id})) == {kept.id}
        assert [view.id for view in await loaded.images()] == [image.id]

    async def test_unknown(self, loaded: ImageStore) -> None:
        with pytest.raises(NotFoundError):
            await loaded.remove("nosuch")
        with pytest.raises(NotFoundError):
            await loaded.tag("nosuch", "x")
        with pytest.raises(UserError, match="bad image reference"):
            await loaded.tag("busybox", "X Y")

    async def test_usage_counts_shared_layers_once(self, loaded: ImageStore) -> None:
        image = await loaded.resolve("busybox")
        tar = layer(lambda new: new.add("x", b"x" * 5000))
        more = await loaded.commit(image.id, data(tar), "more")
        usage = await loaded.usage()
        assert usage.images == 2
        assert usage.size == more.size
        assert usage.unique[image.id] == 0
        assert 0 < usage.unique[more.id] == more.size - image.size


def clean(store: ImageStore) -> None:
    """Nothing is left of an operation that failed: scratch folders, working containers, mounts."""
    assert os.listdir(store.home.cache / "scratch") == []
    containers = store.home.images / "overlay-containers" / "containers.json"  # type: ignore[operator]
    assert not containers.exists() or json.loads(containers.read_text() or "[]") == []
    assert mounts_below(store.home.state.parent) == []
