"""Our own metrics: read back with the parsers of Prometheus' library, and bounded whatever the names are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain
from tests.fakes.server import Server, serving

from twinhull import home as homes
from twinhull.client import Client, http, target
from twinhull.daemon.exposition import LABEL, Snapshot, render
from twinhull.engine.apps.base import AppView, ScaleView, ServiceView, TargetView, UpOptions
from twinhull.gateway.base import BackendStats
from twinhull.spec.app import APP_LABEL, SERVICE_LABEL, AppSpec, ScaleSpec, ScaleTarget, ServiceSpec
from twinhull.spec.instance import InstanceSpec

WEB = ServiceView("web", "updating", "vm", "shop/web", "1", "f", 3, 2)
SCALE = ScaleView(
    "shop", "web", 2, 3, 2, 0, 9, "target queue:nats://shop:word@queue/A/b", "a sentence",
    (TargetView("queue:nats://shop:word@queue/A/b", 5.0, 12.0, 13.0, 14.0, 0.5, 3), TargetView("p95", 0.2, note="p95 is missing")),
    granted=-1, ups=4, downs=3, wakes=2, passed=9, held_seconds=1.5, refused=1,
)  # fmt: skip
TRAFFIC = BackendStats("shop/web", 7.0, 4, 1, 1000, 3, 0.25, ())
SNAPSHOT = Snapshot("1", (AppView("shop", "updating", 4, 0, 0, services=(WEB,)),), (SCALE,), (TRAFFIC,))


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="th-") as folder, serving(homes.at(Path(folder))) as made:
        yield made


def samples(families: list[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(each.name, tuple(sorted(each.labels.items()))): each.value for family in families for each in family.samples}


def ours(snapshot: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text, _ = render(snapshot)
    return samples(list(plain(text.decode())))


def test_services_with_what_decided_their_number() -> None:
    found, web = ours(SNAPSHOT), (("app", "shop"), ("service", "web"))
    assert found["twinhull_service_desired_instances", web] == 3
    assert found["twinhull_service_ready_instances", web] == 2
    assert [labels[2][1] for (name, labels), value in found.items() if name == "twinhull_service_state" and value] == ["updating"]
    queue = (*web, ("target", "queue"))
    assert [found[f"twinhull_service_target{end}", queue] for end in ("", "_value", "_wish")] == [5, 12, 3]
    assert found["twinhull_service_decided_by", (web[0], ("reason", "target queue"), web[1])] == 1
    assert ("twinhull_service_target_value", (*web, ("target", "p95"))) not in found  # nothing is known, so nothing is said
    assert ("twinhull_service_granted_instances", web) not in found
    assert found["twinhull_service_wakes_total", web] == 2
    assert found["twinhull_activator_held_seconds_total", web] == 1.5
    assert [found["twinhull_service_scale_changes_total", (web[0], ("direction", way), web[1])] for way in ("up", "down")] == [4, 3]
    assert found["twinhull_gateway_requests_total", web] == 1000
    assert found["twinhull_gateway_p95_seconds", web] == 0.25
    assert found["process_start_time_seconds", ()] > 0


def test_both_formats_say_the_same() -> None:
    text, media_type = render(SNAPSHOT, "application/openmetrics-text; version=1.0.0")
    assert media_type.startswith("application/openmetrics-text")
    ignored = ("process_", "twinhull_build")
    strict = {key: value for key, value in samples(list(open_metrics(text.decode()))).items() if not key[0].startswith(ignored)}
    assert strict == {key: value for key, value in ours(SNAPSHOT).items() if not key[0].startswith(ignored)}


def test_no_label_is_long_or_secret_or_breaks_the_text() -> None:
    odd = 'a"\\\n{}' + "é" * 500 + "\udcff"
    text, _ = render(replace(SNAPSHOT, apps=(AppView(odd, odd, 1, 0, 0, services=(replace(WEB, name=odd, state=odd),)),)))
    assert b"word" not in text
    labels = {value for family in plain(text.decode()) for each in family.samples for value in each.labels.values()}
    assert max(map(len, labels)) <= LABEL


def test_the_address_answers_with_all_there_is(server: Server) -> None:
    server.engine.backends = (TRAFFIC,)
    labels = {APP_LABEL: "shop", SERVICE_LABEL: "web"}
    spec = ServiceSpec("web", InstanceSpec("busybox"), scale=ScaleSpec(0, 5, (ScaleTarget("rps", 50),)))
    with Client(str(server.home.socket)) as client:
        client.app_up(AppSpec("shop", {"web": spec, "db": ServiceSpec("db", InstanceSpec("busybox"))}), UpOptions())
        for name in ("web-1", "web-2"):
            client.create(InstanceSpec("busybox", name=name, command=("sleep",), labels=labels))
        client.start("web-1")
        assert client.traffic() == (TRAFFIC,)
        with http.Connection(target.Target(socket=str(server.home.socket))).exchange("GET", "/v1/metrics", None) as answer:
            assert answer.status == 200
            assert answer.headers["content-type"].startswith("text/plain")
            found = samples(list(plain(answer.read().decode())))
    web = (("app", "shop"), ("service", "web"))
    assert found["twinhull_service_max_instances", web] == 5
    assert not [labels for name, labels in found if name == "twinhull_service_max_instances" and ("service", "db") in labels]
    instance = (web[0], ("instance", "web-1"), ("runtime", "container"), web[1])
    assert found["twinhull_instance_memory_bytes", instance] == 4096
    assert len([name for name, _ in found if name == "twinhull_instance_memory_bytes"]) == 1
    assert found["twinhull_instances", (("runtime", "container"), ("state", "running"))] == 1
    assert found["twinhull_instances", (("runtime", "container"), ("state", "created"))] == 1
