"""Our own metrics, for Prometheus: from views to families. Pure; `api/metrics.py` gathers and answers.

What a label may say is bounded: names of applications, services and instances (as many as there are, at most LABEL characters), and words
of ours. Reasons, which are sentences, and URLs, which may hold a password, are in `twinhull scale explain` and never here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from twinhull.engine.apps.base import AppView, ScaleView
from twinhull.engine.base import InstanceView
from twinhull.gateway.base import BackendStats
from twinhull.instance.base import Stats
from twinhull.plan.actions import Phase
from twinhull.plan.lifecycle import State
from twinhull.spec.app import APP_LABEL, SERVICE_LABEL
from twinhull.spec.instance import Runtime

LABEL = 128
"""Characters of a label's value."""
_SERVICE = ("app", "service")
_INSTANCE = ("app", "service", "instance", "runtime")
_PHASES = (*map(str, Phase), "inactive", "removing")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is at one moment. stats: by instance id, of those that run and answered."""

    version: str
    apps: tuple[AppView, ...] = ()
    scales: tuple[ScaleView, ...] = ()
    traffic: tuple[BackendStats, ...] = ()
    instances: tuple[InstanceView, ...] = ()
    stats: Mapping[str, Stats] = field(default_factory=dict)
    streams: int = 0


def render(snapshot: Snapshot, accept: str = "") -> tuple[bytes, str]:
    """The text, and its media type: OpenMetrics if the Accept header asks for it, else Prometheus' own."""
    registry = CollectorRegistry()
    registry.register(_Families(snapshot))
    ProcessCollector(registry=registry)
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class _Families:
    """A collector, as the library calls it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """All families."""
        found = self._snapshot
        yield InfoMetricFamily("twinhull_build", "Which Twinhull this is.", {"version": found.version})
        yield _gauge("twinhull_streams", "Streams that clients have open.", (), [((), found.streams)])
        yield from _apps(found.apps)
        yield from _scales(found.scales)
        yield from _traffic(found.traffic)
        yield from _instances(found.instances, found.stats)


Rows = Iterable[tuple[tuple[str, ...], float]]


def _gauge(name: str, told: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = GaugeMetricFamily(name, told, labels=labels)
    for values, value in rows:
        family.add_metric([_cut(each) for each in values], value)
    return family


def _counter(name: str, told: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = CounterMetricFamily(name, told, labels=labels)
    for values, value in rows:
        family.add_metric([_cut(each) for each in values], value)
    return family


def _cut(value: str) -> str:
    return value[:LABEL].encode("utf-8", "replace").decode()


def _apps(apps: tuple[AppView, ...]) -> Iterator[Metric]:
    services = [((app.name, service.name), service) for app in apps for service in app.services]
    states = [((*key, state), float(service.state == state)) for key, service in services for state in _PHASES]
    yield _gauge("twinhull_app_settled", "1: nothing is left to do.", ("app",), [((app.name,), app.settled) for app in apps])
    yield _gauge("twinhull_app_revision", "The revision that is wanted.", ("app",), [((app.name,), app.revision) for app in apps])
    yield _gauge("twinhull_service_state", "1: the service is in this state.", (*_SERVICE, "state"), states)
    yield _gauge(
        "twinhull_service_desired_instances", "Instances that are wanted.", _SERVICE, [(key, each.desired) for key, each in services]
    )
    yield _gauge("twinhull_service_ready_instances", "Instances that serve.", _SERVICE, [(key, each.ready) for key, each in services])


def _scales(scales: tuple[ScaleView, ...]) -> Iterator[Metric]:
    """Of services that scale by themselves."""
    found = [((each.app, each.service), each) for each in scales]
    targets = [((*key, target.target.partition(":")[0]), target) for key, each in found for target in each.targets]
    named = (*_SERVICE, "target")
    yield _gauge("twinhull_service_min_instances", "Never fewer.", _SERVICE, [(key, each.min) for key, each in found])
    yield _gauge("twinhull_service_max_instances", "Never more.", _SERVICE, [(key, each.max) for key, each in found])
    yield _gauge("twinhull_service_target", "What each instance is to bear.", named, [(key, each.value) for key, each in targets])
    yield _gauge(
        "twinhull_service_target_value", "The metric's average over the window.", named, _known((key, each.stable) for key, each in targets)
    )
    yield _gauge("twinhull_service_target_age_seconds", "Age of its last value.", named, _known((key, each.age) for key, each in targets))
    yield _gauge(
        "twinhull_service_target_wish", "Instances that the target asks for.", named, _known((key, each.wish) for key, each in targets)
    )
    decided = [((*key, each.decided_by.partition(":")[0]), 1.0) for key, each in found]
    yield _gauge("twinhull_service_decided_by", "1: the target or bound that decided the number last.", (*_SERVICE, "reason"), decided)
    yield _gauge("twinhull_service_panic", "1: the short window counts.", _SERVICE, [(key, each.panic) for key, each in found])
    yield _gauge("twinhull_service_waiting", "Requests that the activator holds.", _SERVICE, [(key, each.waiting) for key, each in found])
    yield _gauge("twinhull_service_last_used_seconds", "When it was last used.", _SERVICE, [(key, each.last_used) for key, each in found])
    changes = [((*key, way), float(count)) for key, each in found for way, count in (("up", each.ups), ("down", each.downs))]
    yield _counter("twinhull_service_scale_changes", "Changes of the number.", (*_SERVICE, "direction"), changes)
    yield _counter("twinhull_service_wakes", "Changes from zero.", _SERVICE, [(key, each.wakes) for key, each in found])
    yield _counter("twinhull_activator_passed", "Connections handed over.", _SERVICE, [(key, each.passed) for key, each in found])
    held = [(key, each.held_seconds) for key, each in found]
    yield _counter("twinhull_activator_held_seconds", "How long those were held, summed up.", _SERVICE, held)
    yield _counter("twinhull_activator_refused", "Connections refused.", _SERVICE, [(key, each.refused) for key, each in found])
    granted = [(key, float(each.granted)) for key, each in found if each.granted >= 0]
    yield _gauge("twinhull_service_granted_instances", "What the machine's budget allows.", _SERVICE, granted)


def _known(rows: Iterable[tuple[tuple[str, ...], float | None]]) -> Rows:
    """A value that isn't known has no sample."""
    return [(key, value) for key, value in rows if value is not None]


def _traffic(traffic: tuple[BackendStats, ...]) -> Iterator[Metric]:
    """Of services that the gateway leads to."""
    found = [((app, service), each) for each in traffic for app, _, service in [each.name.partition("/")]]
    yield _counter("twinhull_gateway_requests", "Requests.", _SERVICE, [(key, each.requests) for key, each in found])
    yield _counter("twinhull_gateway_server_errors", "Answers of status 5xx.", _SERVICE, [(key, each.responses_5xx) for key, each in found])
    yield _gauge(
        "twinhull_gateway_sessions", "Requests and connections that are open.", _SERVICE, [(key, each.sessions) for key, each in found]
    )
    yield _gauge("twinhull_gateway_queue", "Requests that wait for an instance.", _SERVICE, [(key, each.queue) for key, each in found])
    late = [(key, each.p95) for key, each in found if each.p95]
    yield _gauge("twinhull_gateway_p95_seconds", "95th percentile of the last ten seconds' answers.", _SERVICE, late)


def _instances(instances: tuple[InstanceView, ...], stats: Mapping[str, Stats]) -> Iterator[Metric]:
    counts = Counter((each.runtime, each.state) for each in instances)
    states = [((str(runtime), str(state)), float(counts[(str(runtime), str(state))])) for runtime in Runtime for state in State]
    yield _gauge("twinhull_instances", "Instances, by hull and state.", ("runtime", "state"), states)
    named = {
        each.id: (each.spec.labels.get(APP_LABEL, ""), each.spec.labels.get(SERVICE_LABEL, ""), each.name, each.runtime)
        for each in instances
    }
    restarts = [(named[each.id], each.restart_count) for each in instances]
    yield _counter("twinhull_instance_restarts", "Restarts by its policy.", _INSTANCE, restarts)
    used = [(named[key], found) for key, found in stats.items() if key in named]
    yield _counter("twinhull_instance_cpu_seconds", "Processor time.", _INSTANCE, [(key, each.cpu_ns / 1e9) for key, each in used])
    yield _gauge("twinhull_instance_memory_bytes", "Memory in use.", _INSTANCE, [(key, each.memory) for key, each in used])
    limits = [(key, each.memory_limit) for key, each in used if each.memory_limit > 0]
    yield _gauge("twinhull_instance_memory_limit_bytes", "Memory it may use.", _INSTANCE, limits)
    yield _gauge("twinhull_instance_processes", "Processes.", _INSTANCE, [(key, each.pids) for key, each in used])
    yield _counter("twinhull_instance_received_bytes", "From its networks.", _INSTANCE, [(key, each.net_rx) for key, each in used])
    yield _counter("twinhull_instance_sent_bytes", "To its networks.", _INSTANCE, [(key, each.net_tx) for key, each in used])
    yield _counter("twinhull_instance_read_bytes", "From disks.", _INSTANCE, [(key, each.block_read) for key, each in used])
    yield _counter("twinhull_instance_written_bytes", "To disks.", _INSTANCE, [(key, each.block_write) for key, each in used])
