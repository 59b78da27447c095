"""Copies of a compose file's service: what of it they have, what never, and how they are loaded."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from twinhull import compose
from twinhull.compare import service
from twinhull.compare.service import Around, Copy
from twinhull.compare.workload import Definition, Page
from twinhull.errors import NotFoundError, UserError
from twinhull.spec.instance import FileSpec, MountType, NetworkAttachment

if TYPE_CHECKING:
    from twinhull.client import Client

COMPOSE = """
name: shop
services:
  api:
    image: shop/api
    command: [serve]
    environment: {PASSWORD: hunter2}
    hostname: api
    labels: {a: b}
    restart: always
    ports: ["9000:9000"]
    volumes: ["data:/data", "./static:/static:ro"]
    secrets: [token]
    depends_on: [db]
    networks: {front: {aliases: [www]}, back: {}}
    deploy: {resources: {limits: {memory: 64M}}}
    x-twinhull: {route: {host: "*.shop.localhost", port: 8080, path: /v1}}
  db:
    image: postgres
    volumes: ["./files:/files"]
    healthcheck: {test: [CMD, pg_isready]}
    ports: ["5432"]
  job: {image: shop/job, network_mode: host}
volumes: {data: {}}
networks: {front: {}, back: {}}
secrets: {token: {environment: TOKEN}}
"""
STORED = FileSpec("/run/secrets/token", "/state/secrets/shop/d1ge57", secret=True)
UP = Around(frozenset({"shop_front", "shop_back"}), up=True, ready=frozenset({"db"}), files=(STORED,))


def copy(name: str, around: Around, folder: Path, text: str = COMPOSE) -> Copy:
    file = folder / "compose.yaml"
    file.write_text(text)
    app = compose.load([file], environment={"TOKEN": "s3cret"})
    return service.made(app, app.services[name], around)


def test_a_copy_is_the_service_without_what_others_know_it_by(tmp_path: Path) -> None:
    found = copy("api", UP, tmp_path).template
    assert (found.image, found.command, found.env, found.resources.memory) == ("shop/api", ("serve",), ("PASSWORD=hunter2",), 64 << 20)
    assert (found.name, found.hostname, found.labels, found.ports, found.restart.when) == ("", "", {}, (), "no")
    assert found.networks == (NetworkAttachment("shop_front"), NetworkAttachment("shop_back"))
    assert found.health is not None
    assert found.health.test == ("NONE",)


def test_a_copy_has_new_volumes_and_files_of_its_own(tmp_path: Path) -> None:
    found = copy("api", UP, tmp_path)
    volume, bind = found.template.mounts
    assert (volume.type, volume.source, bind.type, bind.read_only) == (MountType.VOLUME, "", MountType.BIND, True)
    assert found.template.files == (STORED,)
    assert any("new volume" in remark for remark in found.remarks)
    assert any("running db" in remark for remark in found.remarks)


def test_what_a_copy_can_not_have_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="an application that is up") as refused:
        copy("api", Around(), tmp_path)
    assert refused.value.hint == "twinhull up api"
    with pytest.raises(UserError, match=r"writes to .*files"):
        copy("db", UP, tmp_path)
    with pytest.raises(UserError, match="host's network"):
        copy("job", UP, tmp_path)


def test_without_its_application_it_is_said_what_is_out_of_reach(tmp_path: Path) -> None:
    text = COMPOSE.replace("    secrets: [token]\n", "")
    found = copy("api", Around(), tmp_path, text)
    assert found.template.networks == ()
    assert any("can't reach db" in remark for remark in found.remarks)
    half = copy("api", Around(frozenset({"shop_front"}), up=True), tmp_path, text)
    assert half.template.networks == (NetworkAttachment("shop_front"),)
    assert any("wasn't ready: db" in remark for remark in half.remarks)
    assert any("shop_back" in remark for remark in half.remarks)


def test_its_load_is_requests_for_its_page(tmp_path: Path) -> None:
    found = Definition.parse(copy("api", UP, tmp_path).workload)
    assert found.page == found.target == Page(8080, "/v1", "www.shop.localhost")
    plain = COMPOSE.replace('    volumes: ["./files:/files"]\n', "")
    published = Definition.parse(copy("db", UP, tmp_path, plain).workload)
    assert (published.check, published.page, published.target) == (("pg_isready",), None, Page(5432))
    bare = "name: x\nservices: {a: {image: b}}\n"
    assert copy("a", Around(), tmp_path, bare).workload == {}
    assert Definition.parse(copy("a", Around(port=81), tmp_path, bare).workload).target == Page(81)


def test_the_mark_tells_of_every_change_but_values_of_the_environment(tmp_path: Path) -> None:
    first = copy("api", UP, tmp_path)
    assert copy("api", UP, tmp_path, COMPOSE.replace("hunter2", "other")).mark == first.mark
    assert copy("api", UP, tmp_path, COMPOSE.replace("serve", "other")).mark != first.mark
    assert copy("api", replace(UP, networks=frozenset()), tmp_path).mark != first.mark


class Daemon:
    """A client whose daemon has an image, and no application."""

    def image(self, ref: str) -> SimpleNamespace:
        return SimpleNamespace(id="1", config={"ExposedPorts": {"80/tcp": {}}})

    def networks(self) -> tuple[SimpleNamespace, ...]:
        return ()

    def app(self, name: str) -> None:
        raise NotFoundError(f"no such application: {name}")


def test_a_run_goes_on_with_the_same_service_only(tmp_path: Path) -> None:
    client, file = cast("Client", Daemon()), tmp_path / "compose.yaml"
    file.write_text("name: x\nservices: {web: {image: b}}\n")
    source = service.Source("web", files=(str(file),))
    first = service.copy(client, service.read(source, client), "web")
    assert first.workload == {"load": {"http": ":80/"}}
    fields = json.loads(json.dumps({**asdict(source), "mark": first.mark}))
    assert service.again(client, fields) == first
    for text in ("name: x\nservices: {web: {image: b, user: '7'}}\n", "name: x\nservices: {api: {image: b}}\n"):
        file.write_text(text)
        with pytest.raises(UserError):
            service.again(client, fields)
