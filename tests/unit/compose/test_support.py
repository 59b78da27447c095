"""What isn't honoured: the table, its rows against files, and its copy in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.compose.app import App

from twinhull.compose import schema, support

DOCS = Path(__file__).parents[3] / "docs" / "compose.md"


def notes(app: App, *lines: str, after: str = "") -> dict[str, bool]:
    """Key → fatal of what a service's lines give."""
    text = "services:\n  web:\n    image: x\n" + "".join(f"    {line}\n" for line in lines) + after
    return {note.key.removeprefix("services.web."): note.fatal for note in app.spec(text).notes}


@pytest.mark.parametrize(
    ("line", "key", "fatal"),
    [
        ("privileged: true", "privileged", True),
        ("devices: [/dev/x]", "devices", True),
        ("gpus: all", "gpus", True),
        ("pid: host", "pid", True),
        ("ipc: host", "ipc", True),
        ("uts: host", "uts", True),
        ("userns_mode: host", "userns_mode", True),
        ("cgroup: host", "cgroup", True),
        ("cgroup_parent: x", "cgroup_parent", True),
        ("network_mode: service:b", "network_mode", True),
        ("external_links: [x]", "external_links", True),
        ("credential_spec: {file: x}", "credential_spec", True),
        ("group_add: [x]", "group_add", True),
        ("use_api_socket: true", "use_api_socket", True),
        ("pre_start: [{command: x}]", "pre_start", True),
        ("deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}", "deploy.resources.reservations.devices", True),
        ("volumes: [{type: image, source: x, target: /x}]", "volumes[0].type", True),
        ("volumes: ['./a:/a:shared']", "volumes[0].bind.propagation", True),
        ("ports: ['80/sctp']", "ports[0].protocol", True),
        ("post_start: [{command: x, privileged: true}]", "post_start[0].privileged", True),
        ("deploy: {placement: {constraints: [a]}}", "deploy.placement", False),
        ("deploy: {mode: global}", "deploy.mode", False),
        ("links: [b]", "links", False),
        ("logging: {driver: syslog}", "logging.driver", False),
        ("mem_reservation: 1g", "mem_reservation", False),
        ("ports: ['8000-8010:80']", "ports[0].published", False),
        ("networks: {default: {ipv6_address: '::1'}}", "networks.default.ipv6_address", False),
        ("x-twinhul: {}", "x-twinhul", False),
    ],
)
def test_rows(app: App, line: str, key: str, fatal: bool) -> None:
    assert notes(app, line, after="  b: {image: b}\n") == {key: fatal}


@pytest.mark.parametrize(
    "line",
    [
        "privileged: false",
        "ipc: private",
        "pid: ''",
        "devices: []",
        "network_mode: host",
        "security_opt: ['no-new-privileges:true']",
        "x-mine: {}",
    ],
)
def test_what_is_said_about_nothing(app: App, line: str) -> None:
    assert notes(app, line) == {}


def test_a_vm_is_never_in_the_hosts_network(app: App) -> None:
    assert notes(app, "network_mode: host", "runtime: vm") == {"network_mode": True}


def test_the_top_level(app: App) -> None:
    found = app.spec(
        "version: '3'\n"
        "services: {web: {image: x, networks: [n, m], volumes: ['v:/v']}}\n"
        "networks: {n: {driver: macvlan}, m: {driver: overlay, enable_ipv6: true}}\n"
        "volumes: {v: {driver: rexray}}\n"
        "jobs: {j: {image: x, triggers: {schedule: ['* * * * *']}}}\n"
    ).notes
    assert {note.key: note.fatal for note in found} == {
        "version": False,
        "networks.n.driver": True,
        "networks.m.driver": False,
        "networks.m.enable_ipv6": False,
        "volumes.v.driver": True,
        "jobs.j": False,
        "jobs.j.triggers.schedule": True,
    }
    assert found[0].where == f"{app.folder}/compose.yaml:1"


def test_every_key_of_the_table_is_in_the_specification() -> None:
    """Found in the schema step by step, so that a row can't outlive its key."""
    for limit in support.LIMITS:
        *above, last = (0 if step == "*" and before in _LISTS else "x" if step == "*" else step for before, step in _steps(limit.key))
        free = "driver_opts" in above  # its keys are the driver's
        assert free or isinstance(last, int) or last == "x" or last in schema._known(list(above)), limit.key


_LISTS = ("ports", "volumes", "watch", "config", "post_start", "pre_stop")


def _steps(key: str) -> list[tuple[str, str]]:
    steps = key.split(".")
    # the `volumes` at the top is a mapping, that of a service a list
    return [("" if index == 1 else before, step) for index, (before, step) in enumerate(zip(["", *steps], steps, strict=False))]


def test_the_documentation_has_this_table() -> None:
    text = DOCS.read_text()
    assert support.table() in text, (
        "docs/compose.md: replace its table by `python -c 'from twinhull.compose import support; print(support.table())'`"
    )
