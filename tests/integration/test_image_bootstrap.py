"""Base images from the distribution's archive: the same inputs give the same image, and a cache that never hides an update.

Needs the archive (some 20 s and 40 MB); skipped where it can't be reached.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from twinhull import home
from twinhull.errors import NotFoundError, TemporaryError, UserError
from twinhull.image.base import BootstrapSpec
from twinhull.image.store import ImageStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mmdebstrap as root")
SPEC = BootstrapSpec(variant="essential", date=1_700_000_000)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(home.at(tmp_path / "home"))


async def lines(stream: AsyncIterator[str]) -> list[str]:
    try:
        return [line async for line in stream]
    except TemporaryError as error:
        pytest.skip(f"the archive can't be reached: {error}")


@pytest.mark.timeout(600)
async def test_bootstrap(store: ImageStore) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    said = await lines(store.bootstrap(SPEC))
    assert any("extracting archives" in line for line in said)
    view = await store.resolve("debian:bookworm")
    assert said[-1] == f"id: {view.id}"
    assert view.names == ("localhost/debian:bookworm",)
    assert view.created_at == SPEC.date
    assert view.config["Cmd"] == ["/bin/bash"]
    labels = view.config["Labels"]
    assert isinstance(labels, dict)
    assert labels["org.opencontainers.image.version"] == "bookworm"
    (root,) = await store.layers(view.id)
    assert (root / "etc/debian_version").read_text().startswith("12.")
    assert (root / "usr/bin/bash").exists()
    assert not list((root / "usr/share/man").glob("man*"))
    assert max(path.lstat().st_mtime for path in (root / "etc").rglob("*")) <= SPEC.date

    again = await lines(store.bootstrap(replace(SPEC, tag="again")))
    assert again[0].startswith("cached: ")
    assert again[-1] == said[-1]
    assert (await store.resolve("again")).id == view.id

    fresh = await lines(store.bootstrap(replace(SPEC, refresh=True)))
    assert any("extracting archives" in line for line in fresh)
    assert fresh[-1] == said[-1], "the same inputs gave another image"

    await the_cache_is_asked_only_where_the_archive_is_silent(store)
    assert os.listdir(store.home.cache / "scratch") == []
    assert Path("/proc/self/mountinfo").read_text() == before
    assert len(list((store.home.cache / "bootstrap").glob("*.tar"))) == 1


async def the_cache_is_asked_only_where_the_archive_is_silent(store: ImageStore) -> None:
    """Nothing listens on the mirror: a root of the same inputs is taken with a warning, and never one of others."""
    spec = replace(SPEC, mirror="http://127.0.0.1:9/debian")
    with pytest.raises(TemporaryError, match="can't be reached"):
        [line async for line in store.bootstrap(spec)]
    from twinhull.image import bootstrap

    (note,) = (store.home.cache / "bootstrap").glob("*.json")
    key = f"{bootstrap.inputs(spec)}-0000000000000000"
    os.link(note.with_suffix(".tar"), note.with_name(f"{key}.tar"))
    note.with_name(f"{key}.json").write_text(
        json.dumps(json.loads(note.read_text()) | {"sources": [{"uri": spec.mirror, "suite": spec.suite}]})
    )
    said = [line async for line in store.bootstrap(replace(spec, tag="old"))]
    assert said[0].startswith("W: bootstrap: http://127.0.0.1:9/debian can't be reached")
    with pytest.raises(TemporaryError):
        [line async for line in store.bootstrap(replace(spec, refresh=True))]
    for suffix in (".tar", ".json"):
        note.with_name(key + suffix).unlink()


async def test_what_isnt_in_the_archive(store: ImageStore) -> None:
    with pytest.raises((NotFoundError, TemporaryError)) as caught:
        [line async for line in store.bootstrap(BootstrapSpec(suite="nosuch"))]
    if isinstance(caught.value, TemporaryError):
        pytest.skip("the archive can't be reached")
    assert "has no suite 'nosuch'" in caught.value.message
    with pytest.raises(UserError, match="no mirror is known"):
        [line async for line in store.bootstrap(BootstrapSpec("nosuchdistribution", "x"))]
    assert os.listdir(store.home.cache / "scratch") == []
