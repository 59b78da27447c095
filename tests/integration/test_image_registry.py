"""Push and pull against a real registry on loopback, with and without a password."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.images import base, registry
from tests.images.archive import layer

from twinhull import home
from twinhull.errors import NotFoundError, TemporaryError, UserError
from twinhull.image.base import BuildSpec
from twinhull.image.store import ImageStore

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="containers/storage as root"),
    pytest.mark.skipif(not registry.installed(), reason="docker-registry and apache2-utils aren't installed"),
]


async def data(raw: bytes) -> AsyncIterator[bytes]:
    yield raw


async def lines(stream: AsyncIterator[str]) -> list[str]:
    return [line async for line in stream]


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not the machine's own: each test says what it has."""
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
async def store(tmp_path: Path) -> ImageStore:
    store = ImageStore(home.at(tmp_path / "home"))
    await store.load(data(base.archive("busybox").read_bytes()))
    return store


@pytest.fixture
def other(tmp_path: Path) -> ImageStore:
    return ImageStore(home.at(tmp_path / "other"))


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[registry.Registry]:
    with registry.serve(tmp_path / "registry") as server:
        yield server


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[registry.Registry]:
    with registry.serve(tmp_path / "guarded", password=True) as server:
        yield server


async def test_there_and_back(store: ImageStore, other: ImageStore, plain: registry.Registry) -> None:
    image = await store.commit(
        (await store.resolve("busybox")).id, data(layer(lambda new: new.add("x"))), "mine", "", ("HEALTHCHECK CMD true",)
    )
    name = f"{plain.address}/shop/mine:1"
    said = await lines(store.push("mine", name, tls_verify=False))
    assert said[-1] == f"id: {image.id}"
    digest = said[-2].removeprefix("digest: ")
    assert len(digest) == 71
    pulled = await lines(other.pull(name, tls_verify=False))
    assert pulled[-1] == f"id: {image.id}"
    view = await other.resolve(name)
    assert (view.id, view.config, view.layers, view.names) == (image.id, image.config, image.layers, (name,))
    assert f"{plain.address}/shop/mine@{digest}" in view.digests
    assert (await other.resolve("shop/mine:1")).id == (await other.resolve("mine:1")).id == image.id


async def test_by_digest(store: ImageStore, other: ImageStore, plain: registry.Registry) -> None:
    name = f"{plain.address}/mine"
    digest = (await lines(store.push("busybox", name, tls_verify=False)))[-2].removeprefix("digest: ")
    said = await lines(other.pull(f"{name}@{digest}", tls_verify=False))
    view = await other.resolve(f"{name}@{digest}")
    assert said[-1] == f"id: {view.id}"
    assert view.names == ()
    assert f"{name}@{digest}" in view.digests
    assert await other.images({"dangling": ("true",)}) == ()
    assert await other.prune() == ()


async def test_a_name_with_a_registry_is_pushed_where_it_says(store: ImageStore, other: ImageStore, plain: registry.Registry) -> None:
    await store.tag("busybox", f"{plain.address}/direct:5")
    await lines(store.push(f"{plain.address}/direct:5", tls_verify=False))
    await lines(other.pull(f"{plain.address}/direct:5", tls_verify=False))


async def test_a_local_name_has_nowhere_to_go(store: ImageStore) -> None:
    with pytest.raises(UserError, match="belongs to no registry"):
        await lines(store.push("busybox"))


async def test_a_commit_on_a_pulled_image(store: ImageStore, other: ImageStore, plain: registry.Registry) -> None:
    """Its layers came compressed; the storage knows them by what they were unpacked from all the same."""
    await lines(store.push("busybox", f"{plain.address}/b", tls_verify=False))
    await lines(other.pull(f"{plain.address}/b", tls_verify=False))
    below = await other.resolve("b")
    view = await other.commit(below.id, data(layer(lambda new: new.add("x"))), "more")
    assert (await other.layers(view.id))[1:] == await other.layers(below.id)
    await lines(other.push("more", f"{plain.address}/more", tls_verify=False))
    assert (await lines(store.pull(f"{plain.address}/more", tls_verify=False)))[-1] == f"id: {view.id}"


async def test_with_the_right_password(
    store: ImageStore, other: ImageStore, guarded: registry.Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(guarded.auth_file(tmp_path / "auth.json")))
    await lines(store.push("busybox", f"{guarded.address}/b", tls_verify=False))
    await lines(other.pull(f"{guarded.address}/b", tls_verify=False))
    assert (await other.resolve("b")).id == (await store.resolve("busybox")).id


@pytest.mark.parametrize("place", ["containers/auth.json", ".docker/config.json"])
async def test_the_usual_places_of_credentials(store: ImageStore, guarded: registry.Registry, tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir()
    guarded.auth_file(tmp_path / place)
    await lines(store.push("busybox", f"{guarded.address}/b", tls_verify=False))


async def test_without_or_with_a_wrong_password(
    store: ImageStore, guarded: registry.Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            await lines(store.push("busybox", f"{guarded.address}/b", tls_verify=False))
        assert "podman login" in caught.value.hint
        with pytest.raises(UserError) as caught:
            await lines(store.pull(f"{guarded.address}/b", tls_verify=False))
        assert "podman login" in caught.value.hint
        assert registry.PASSWORD not in str(caught.value)
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(guarded.auth_file(tmp_path / "auth.json", "wrong-word")))


async def test_what_isnt_there(other: ImageStore, plain: registry.Registry) -> None:
    with pytest.raises(NotFoundError, match="manifest unknown"):
        await lines(other.pull(f"{plain.address}/nosuch:1", tls_verify=False))
    assert os.listdir(other.home.cache / "scratch") == []
    assert await other.images() == ()


async def test_nobody_answers(other: ImageStore) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(TemporaryError, match="connection refused"):
            await lines(other.pull(f"127.0.0.1:{free.getsockname()[1]}/x", tls_verify=False))


async def test_tls_is_asked_for_unless_told_otherwise(other: ImageStore, plain: registry.Registry) -> None:
    with pytest.raises(UserError, match="HTTP response to HTTPS client") as caught:
        await lines(other.pull(f"{plain.address}/x"))
    assert "--tls-verify=false" in caught.value.hint


async def test_a_build_pulls_a_missing_base_and_prefers_the_local_one(
    store: ImageStore, other: ImageStore, plain: registry.Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{plain.address}/base"
    await lines(store.push("busybox", name, tls_verify=False))
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Containerfile").write_text(f"FROM {name}\nRUN true\n")
    (tmp_path / "registries.conf").write_text(f'[[registry]]\nlocation = "{plain.address}"\ninsecure = true\n')
    monkeypatch.setattr("twinhull.image.tools._SYSTEM_REGISTRIES", tmp_path / "registries.conf")
    assert (await lines(other.build(BuildSpec(str(tmp_path / "context")))))[-1].startswith("id: ")
    asked = plain.log.stat().st_size
    assert (await lines(other.build(BuildSpec(str(tmp_path / "context"), no_cache=True))))[-1].startswith("id: ")
    assert plain.log.stat().st_size == asked
