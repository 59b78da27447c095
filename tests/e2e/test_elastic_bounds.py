"""What bounds services that scale: the machine's budget, memory that is short, what each instance uses; containers and VMs together."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.apps import App, Counted, load, prepared, workload
from tests.harness import Daemon

from twinhull.client import Client, http, target
from twinhull.engine.apps.base import ScaleView, ServiceView

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the daemon needs root"),
    pytest.mark.timeout(600),
]
MIB = 1 << 20
CPUS, MEMORY, WINDOW = 2.0, 320 * MIB, 12
CONFIG = f"[vm]\nparked = 0\n[scale]\ncpus = {CPUS}\nmemory = {MEMORY}\nuse_window = {WINDOW}\n"
SERVER = "mkdir /www; echo one > /www/x; exec httpd -f -p 8080 -h /www"
SCALE = "max: 3, target: {rps: 5}, panic_window: 1s, scale_down_delay: 1s"
CROWDED = f"""\
name: crowded
services:
  high:
    image: busybox
    command: [sh, -c, "{SERVER}"]
    stop_signal: KILL
    tmpfs: /fill
    deploy: {{resources: {{limits: {{cpus: "0.5"}}}}}}
    x-twinhull: {{route: {{host: high.localhost, port: 8080}}, scale: {{{SCALE}, min: 1, window: 3s, priority: 9}}}}
  low:
    image: busybox
    command: [sh, -c, "dd if=/dev/zero of=/fill/x bs=1M count=60; {SERVER}"]
    stop_signal: KILL
    tmpfs: /fill
    deploy: {{resources: {{limits: {{cpus: "0.5"}}}}}}
    x-twinhull: {{route: {{host: low.localhost, port: 8080}}, scale: {{{SCALE}, min: 0, window: 3s, priority: 5}}}}
  least:
    image: busybox
    runtime: vm
    command: [sh, -c, "{SERVER}"]
    stop_signal: KILL
    deploy: {{resources: {{limits: {{cpus: "0.5", memory: 96M}}}}}}
    x-twinhull: {{route: {{host: least.localhost, port: 8080}}, scale: {{{SCALE}, min: 0, window: 20s, priority: 1}}}}
"""
SIZED = """\
name: sized
services:
  web:
    image: busybox
    command: [sh, -c, "while [ ! -e /fill/burn ]; do sleep 0.1; done; while :; do :; done"]
    stop_signal: KILL
    tmpfs: /fill
    deploy: {resources: {limits: {cpus: "1.0", memory: 128M}}}
    x-twinhull: {scale: {min: 1, max: 1, target: {cpu: 90}, auto_resources: true}}
  guest:
    image: busybox
    runtime: vm
    command: [sleep, "100000"]
    stop_signal: KILL
    deploy: {resources: {limits: {cpus: "1.0", memory: 192M}}}
    x-twinhull: {scale: {min: 1, max: 1, target: {cpu: 90}, auto_resources: true}}
"""


@dataclass
class Bounded(App):
    """An application by its whole text."""

    text: str = ""

    def __post_init__(self) -> None:
        self.file = self.folder / f"{self.name}.yaml"
        self.file.write_text(self.text)

    def service(self, name: str) -> ServiceView:
        """Now."""
        return next(service for service in self.view().services if service.name == name)

    def ids(self, name: str) -> set[str]:
        """Of its instances."""
        return {member.id for member in self.service(name).members}

    def explain(self, name: str) -> ScaleView:
        """Why."""
        with Client(str(self.daemon.home.socket)) as client:
            return client.app_scale_explain(self.name, name)

    def reasons(self, action: str, service: str) -> list[str]:
        """Of the events so far."""
        with Client(str(self.daemon.home.socket)) as client:
            found = client.events(since=1, follow=False, filters={"event": [action]})
            return [event.attributes["reason"] for event in found if event.attributes.get("service") == service]

    def wait(self, what: str, holds: Callable[[], bool], patience: float = 60.0) -> None:
        """Or fail with what there is."""
        deadline = time.monotonic() + patience
        while not holds():
            assert time.monotonic() < deadline, f"not {what}: {self.view()}\n{self.daemon.log_tail()}"
            time.sleep(0.05)

    def shell(self, service: str, script: str) -> str:
        """In its first instance."""
        return str(self.cli("compose exec", "-T", service, "sh", "-c", script).text)

    @contextlib.contextmanager
    def loaded(self, service: str, rate: float) -> Iterator[Counted]:
        """Requests to one service as long as the block takes; each must be answered."""
        folder = self.folder / service
        folder.mkdir(exist_ok=True)
        other = App(self.daemon, folder, name=service)
        with load(other, rate, path="/x") as counted:
            yield counted
        assert counted.failed == 0, f"{service}: {counted}"


@pytest.fixture(scope="module")
def bounded() -> Iterator[Daemon]:
    """A daemon with a budget, that goes by what was used within the last seconds."""
    with prepared(CONFIG) as daemon:
        yield daemon


@contextlib.contextmanager
def app(daemon: Daemon, folder: Path, name: str, text: str) -> Iterator[Bounded]:
    """Up."""
    made = Bounded(daemon, folder, name=name, text=text)
    made.up()
    try:
        yield made
    finally:
        daemon.cli("down", "-p", name, "-v", check=False, timeout=240)


def granted(daemon: Daemon, service: str) -> float:
    """As the metrics have it."""
    with http.Connection(target.Target(socket=str(daemon.home.socket))).exchange("GET", "/v1/metrics", None) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = (each for family in families for each in family.samples if each.name == "twinhull_service_granted_instances")
    return next(each.value for each in found if each.labels["service"] == service)


def test_the_lowest_priority_shrinks_waits_and_goes_first(bounded: Daemon, tmp_path: Path) -> None:
    """Halves of 2 CPUs: who has precedence gets what it wants, others what is left, and no request fails. Then memory is short."""
    with app(bounded, tmp_path, "crowded", CROWDED) as crowded, crowded.loaded("low", 8):
        with crowded.loaded("least", 8):
            crowded.wait("two of low", lambda: crowded.service("low").ready == 2)
            crowded.wait("less of least than it wants", lambda: crowded.explain("least").decided_by == "budget")
            least = crowded.explain("least")
            assert (least.desired, least.granted) == (1, 1)
            assert least.reason == f"budget: {least.budget}"
            assert "room for 1 of 2; crowded/high, crowded/low have precedence" in least.budget
            assert granted(bounded, "least") == 1
            with crowded.loaded("high", 13):
                crowded.wait("all that high wants", lambda: crowded.service("high").ready == 3)
                crowded.wait("one less of low, none of least", lambda: (len(crowded.ids("low")), len(crowded.ids("least"))) == (1, 0))
                assert (crowded.explain("low").decided_by, granted(bounded, "low"), granted(bounded, "least")) == ("budget", 1, 0)
            crowded.wait("as before", lambda: crowded.service("low").ready == 2 and crowded.service("least").ready == 1)
        for service, words in (("low", "room for 1 of 2; crowded/high has precedence"), ("least", "room for 0 of 2")):
            assert any(words in reason for reason in crowded.reasons("budget", service)), service

        crowded.wait("one of high", lambda: len(crowded.ids("high")) == 1)
        high, low = crowded.ids("high"), crowded.ids("low")
        crowded.shell("high", "dd if=/dev/zero of=/fill/x bs=1M count=170")
        crowded.wait("without least", lambda: not crowded.ids("least"), 30)
        assert "evicted: memory is short, and its priority 1 is the lowest" in crowded.reasons("autoscale", "least")
        crowded.wait("kept away", lambda: crowded.explain("least").granted == 0)
        assert (crowded.ids("high"), crowded.ids("low")) == (high, low)
        crowded.shell("high", "dd if=/dev/zero of=/fill/y bs=1M count=70")
        crowded.wait("one less of low", lambda: len(crowded.ids("low")) == 1, 30)
        assert "evicted: memory is short, and its priority 5 is the lowest" in crowded.reasons("autoscale", "low")
        assert crowded.ids("high") == high
        assert crowded.ids("low") < low


def test_a_size_follows_use(bounded: Daemon, tmp_path: Path) -> None:
    """A container's limits in the kernel, while it runs, down and up; a VM's with its next replacement."""
    with app(bounded, tmp_path, "sized", SIZED) as sized:
        (web,), (guest,) = sized.service("web").members, sized.service("guest").members
        pid = workload(sized, web)
        assert limits(pid) == (1.0, 128 * MIB)
        sized.wait("as little as there may be", lambda: limits(pid) == (0.1, 32 * MIB))
        sized.shell("web", "dd if=/dev/zero of=/fill/x bs=1M count=29")
        sized.wait("a little more memory", lambda: limits(pid)[1] == 48 * MIB)
        sized.shell("web", "touch /fill/burn")
        sized.wait("more and more CPU", lambda: limits(pid)[0] >= 0.3)
        assert sized.ids("web") == {web.id}
        assert any(" MiB within 12 s" in reason for reason in sized.reasons("resize", "web"))

        sized.wait("smaller from now on", lambda: sized.explain("guest").memory == 128 * MIB)
        total = memory_inside(sized)
        assert sized.ids("guest") == {guest.id}
        sized.cli("up", "-d", "--force-recreate", "guest")
        sized.wait("replaced", lambda: guest.id not in sized.ids("guest") and sized.service("guest").ready == 1)
        assert 50 * MIB < total - memory_inside(sized) < 80 * MIB, "192 MiB less 64"


def memory_inside(sized: Bounded) -> int:
    """Bytes that the guest's kernel has."""
    return int(sized.shell("guest", "grep MemTotal /proc/meminfo").split()[1]) * 1024


def limits(pid: int) -> tuple[float, int]:
    """(CPUs, bytes) that the kernel allows a process' cgroup, v1 or v2."""
    rows = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    places = {name: path for _, names, path in rows for name in names.split(",")}
    if "memory" in places:
        memory = _read(f"/sys/fs/cgroup/memory{places['memory']}/memory.limit_in_bytes")
        quota, period = (_read(f"/sys/fs/cgroup/cpu{places['cpu']}/cpu.cfs_{name}_us") for name in ("quota", "period"))
    else:
        folder = f"/sys/fs/cgroup{places['']}"
        memory, (quota, period) = _read(f"{folder}/memory.max"), Path(f"{folder}/cpu.max").read_text().split()
    return int(quota) / int(period), int(memory)


def _read(path: str) -> str:
    return Path(path).read_text().strip()
