"""engine/apps/resolve.py: what an `up` writes down, with images and marks."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from twinhull.engine.apps.base import UpOptions
from twinhull.engine.apps.resolve import Resolver, asked
from twinhull.engine.apps.state import App
from twinhull.engine.secrets import SecretStore
from twinhull.errors import NotFoundError
from twinhull.spec.app import AppNetwork, AppSpec, Dependency, ServiceSpec
from twinhull.spec.instance import FileSpec, InstanceSpec, NetworkAttachment
from twinhull.store.apps import AppRow, AppTable, Revision, Wanted
from twinhull.store.db import Database


class Machine:
    """Has images by name, and takes everything."""

    def __init__(self) -> None:
        self.images = {"one": "1" * 64, "two": "2" * 64}
        self.launcher = SimpleNamespace(
            images=self, volumes=SimpleNamespace(exists=lambda _name: False), refuse_unsupported=lambda _spec: None
        )

    async def resolve(self, name: str) -> Any:
        if name not in self.images:
            raise NotFoundError(f"no such image: {name}")
        return SimpleNamespace(id=self.images[name], config={})


class Scene:
    """A resolver, and the application that its revisions make."""

    def __init__(self, folder: Path) -> None:
        self.machine = Machine()
        balance: Any = SimpleNamespace(check=lambda _spec: None)
        instances: Any = self.machine
        self.resolver = Resolver(instances, balance, list, SecretStore(folder / "secrets"))
        self.app = App(AppTable(Database(folder / "db")), AppRow("shop", 1.0, 0, Wanted()), [])

    def up(self, file: AppSpec, *services: str, **options: Any) -> Revision:
        """The revision, written down."""
        present = self.app if self.app.revisions else None
        revision = asyncio.run(self.resolver.revision(present, file, UpOptions(services=services, **options), store=True))
        self.app.save(revision=revision)
        return revision


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def file(**images: str) -> AppSpec:
    """web depends on db; tool is by itself."""
    services = {name: ServiceSpec(name, InstanceSpec(image)) for name, image in images.items()}
    if {"web", "db"} <= services.keys():
        services["web"] = replace(services["web"], depends_on=(Dependency("db"),))
    return AppSpec("shop", services)


def images(revision: Revision) -> dict[str, str]:
    """The first digit of each service's image."""
    return {name: pin.image_id[0] for name, pin in sorted(revision.pins.items())}


def test_services_that_are_not_named_keep_description_and_mark(scene: Scene) -> None:
    before = scene.up(file(db="one", web="one", tool="one"))
    scene.machine.images["one"] = "3" * 64  # built anew
    after = scene.up(file(db="one", web="two"), "web", no_deps=True)
    assert images(after) == {"db": "1", "tool": "1", "web": "2"}
    assert {name: after.pins[name] for name in ("db", "tool")} == {name: before.pins[name] for name in ("db", "tool")}
    assert images(scene.up(file(db="one", web="two"), "web")) == {"db": "3", "tool": "1", "web": "2"}
    assert images(scene.up(file(db="one", web="two"), "web", remove_orphans=True)) == {"db": "3", "web": "2"}
    assert images(scene.up(file(db="one", web="two"))) == {"db": "3", "web": "2"}


def test_images_of_others_need_not_be_there(scene: Scene) -> None:
    assert images(scene.up(file(db="one", web="two", tool="nowhere"), "web")) == {"db": "1", "web": "2"}
    with pytest.raises(NotFoundError, match="service tool: no such image"):
        scene.up(file(db="one", web="two", tool="nowhere"))


def test_networks_of_others_need_not_be_there(scene: Scene) -> None:
    plain = file(db="one", tool="one")
    outside = replace(plain.services["tool"], template=InstanceSpec("one", networks=(NetworkAttachment("lan"),)))
    spec = replace(plain, services={**plain.services, "tool": outside}, networks={"lan": AppNetwork("lan", external=True)})
    assert images(scene.up(spec, "db")) == {"db": "1"}
    with pytest.raises(NotFoundError, match="external network lan"):
        scene.up(spec, "tool")


def test_one_offs_describe_only_what_they_depend_on(scene: Scene) -> None:
    assert images(scene.up(file(db="one", web="one"), "web", one_off=True)) == {"db": "1"}
    assert images(scene.up(file(db="one", web="one"), "web", one_off=True, no_deps=True)) == {"db": "1"}
    assert asked(file(db="one", web="one"), UpOptions(services=("web",), one_off=True)) == {"db"}
    with pytest.raises(NotFoundError, match="no service nope"):
        asked(file(db="one"), UpOptions(services=("nope",), no_deps=True))


def test_secrets_of_services_that_stay_are_not_asked_for_again(scene: Scene) -> None:
    spec = file(db="one", web="one")
    template = replace(spec.services["db"].template, files=(FileSpec("/run/secrets/word", "secret:word"),))
    spec = replace(spec, services={**spec.services, "db": replace(spec.services["db"], template=template)})
    before = scene.up(replace(spec, secret_values={"word": "hidden"}))
    after = scene.up(spec, "web", no_deps=True)
    assert (after.pins["db"], after.spec.services["db"]) == (before.pins["db"], before.spec.services["db"])
