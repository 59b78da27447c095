"""Applications under load: every kind of planned change without one failed request, healing after every kind of accident, and bad
revisions that go back by themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.apps import App, command_line, load, workload
from tests.harness import Daemon

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the daemon needs root"),
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("apps"),
]
RATE = {"container": 100.0, "vm": 15.0}
"""Requests a second that two instances stand also where everything is emulated: each starts a program."""
UNDER_WAY = 10
"""Requests that may be on their way through a gateway, or to an instance, at the moment when it is killed."""
OTHER = {"container": "vm", "vm": "container"}


@pytest.fixture
def app(machine: Daemon, runtime: str, tmp_path: Path) -> Iterator[App]:
    found = App(machine, tmp_path, runtime=runtime)
    yield found
    machine.cli("down", "-p", found.name, "-v", check=False, timeout=240)


def test_planned_changes_lose_no_request(app: App, tmp_path: Path) -> None:
    """Configuration, scale, rollback, a gateway that reloads for another application, a daemon that is killed."""
    app.up()
    with load(app, RATE[app.runtime]) as counted:
        app.up(TEXT="two")
        app.cli("scale", "web=3")
        app.cli("scale", "web=2")
        other = App(app.daemon, tmp_path, name="other")
        other.up()
        assert other.get() == "one"
        other.cli("down", "-v")
        app.cli("rollback", "1")
        app.daemon.kill()
        app.daemon.start()
        app.until_ready()
        assert app.get() == "one"
    assert counted.failed == 0, counted
    assert set(counted.report["bodies"]) == {"one", "two"}
    assert [each["cause"] for each in json.loads(app.cli("revisions", "--json").text)] == ["rollback to 1", "up", "up"]


def test_a_service_moves_between_hulls_without_losing_a_request(app: App) -> None:
    app.up()
    with load(app, RATE["vm"]) as counted:
        for runtime in (OTHER[app.runtime], app.runtime):
            app.cli("isolate", "web", runtime)
            assert {member.runtime for member in app.view().services[0].members} == {runtime}
    assert counted.failed == 0, counted
    causes = [each["cause"] for each in json.loads(app.cli("revisions", "--json").text)]
    assert causes == [f"isolate web {app.runtime}", f"isolate web {OTHER[app.runtime]}", "up"]


BAD = {
    "crash": ({"CRASH": "no disk"}, "code 3", "cannot go on: no disk"),
    "errors": ({"CODE": "500"}, "requests failed", "serving"),
    "sick": ({"TEXT": "sick"}, "unhealthy", "serving sick"),
}
NOT_SICK, ALIVE = "[ $$TEXT != sick ]", "timeout 2 wget -q -O /dev/null http://127.0.0.1:8080/cgi-bin/x"


def _with_check(app: App, command: str) -> None:
    check = f"    healthcheck: {{test: [CMD-SHELL, '{command}'], interval: 1s, timeout: 3s, retries: 2, start_period: 2s}}\n"
    app.file.write_text(app.file.read_text().replace("    stop_grace_period", check + "    stop_grace_period"))


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_revision_goes_back_by_itself(app: App, fault: str) -> None:
    env, reason, line = BAD[fault]
    if fault == "sick":
        _with_check(app, NOT_SICK)
    app.up()
    before = {member.fingerprint for member in app.view().services[0].members}
    with load(app, RATE[app.runtime]) as counted:
        done = app.cli("up", "--wait", check=False, **env)
        view = app.until("back", lambda view: _back(view.services[0].rollout) and view.settled)
    rollout = view.services[0].rollout
    assert rollout is not None
    assert done.code == 1
    assert "rolled back" in done.err.decode()
    assert {member.fingerprint for member in view.services[0].members} == before
    assert reason in rollout.reason, rollout
    assert line in done.err.decode()
    assert counted.failed == 0, counted  # what got an error was asked of another instance


def _back(rollout: object) -> bool:
    return getattr(rollout, "status", "") == "rolled-back"


def _kill(find: Callable[[App], int], app: App) -> None:
    """KILL, and wait until another is in its place."""
    pid = find(app)
    os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        with contextlib.suppress(AssertionError, OSError, IndexError):
            return find(app) != pid
        return False

    _eventually(replaced)


def _named(program: str) -> Callable[[App], int]:
    """A process of the gateway or the resolver of this daemon."""

    def find(app: App) -> int:
        home = str(app.daemon.home.state.parent)
        for entry in sorted(Path("/proc").iterdir(), key=lambda path: path.name.zfill(9)):
            if not entry.name.isdigit():
                continue
            words = command_line(entry)
            if words and words[0].rpartition("/")[2] == program and (home in " ".join(words) or home in _folder(entry)):
                return int(entry.name)
        raise AssertionError(f"no {program}")

    return find


def _folder(process: Path) -> str:
    try:
        return os.readlink(process / "cwd")
    except OSError:
        return ""


def test_accidents_are_healed(app: App) -> None:
    """A program that is killed, a gateway, a resolver; only requests under way to them may fail. A program that hangs is replaced."""
    _with_check(app, ALIVE)
    app.up()
    with load(app, RATE[app.runtime]) as counted:
        for find in (lambda app: workload(app, app.view().services[0].members[0]), _named("haproxy"), _named("dnsmasq")):
            _kill(find, app)
            app.until_ready()
            _eventually(lambda: app.get() == "one")
            _eventually(lambda: bool(_resolve(app, "web", "web.demo.internal")))
            assert _fetch(app, "web", _resolve(app, "web", "web.demo.internal")) == "one"
    assert counted.failed <= UNDER_WAY, counted
    hung = app.view().services[0].members[0]
    app.cli("compose exec", "-T", "--index", str(hung.slot), "web", "killall", "-STOP", "httpd")
    app.until("rid of the one that hangs", lambda view: all(member.id != hung.id for member in view.services[0].members))
    app.until_ready()
    assert app.get() == "one"
    assert len({member.id for member in app.view().services[0].members}) == 2


def _resolve(app: App, service: str, name: str) -> str:
    """The address of a name as seen from a service, "" if it has none there. (busybox's own resolver: a static glibc has none.)"""
    lines = app.cli("compose exec", "-T", service, "nslookup", name, check=False).lines
    found = [line.split()[1] for line in lines if line.startswith("Address") and ":53" not in line]
    return found[0] if found else ""


def _fetch(app: App, service: str, address: str) -> str:
    """A page from an address as seen from a service, "" if it can't be had."""
    ask = ("timeout", "5", "wget", "-q", "-O", "-", f"http://{address}:8080/cgi-bin/x")
    return str(app.cli("compose exec", "-T", service, *ask, check=False).text)


def _eventually(condition: Callable[[], bool], patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


APART = """
  inner:
    image: busybox
    runtime: {runtime}
    command: [sleep, "1000"]
    networks: [back]
    stop_signal: KILL
  both:
    image: busybox
    runtime: {runtime}
    command: [sleep, "1000"]
    networks: {{default: {{aliases: [twin]}}, back: }}
    stop_signal: KILL
    deploy: {{update_config: {{monitor: 500ms}}, rollback_config: {{monitor: 500ms}}}}
    secrets: [word, {{source: outer, target: theirs, mode: 0400}}]
    volumes: [data:/data]
  own:
    image: busybox
    runtime: {runtime}
    command: [sleep, "1000"]
    environment: {{ROUND: "${{ROUND:-1}}"}}
    volumes: [/state]
    deploy: {{replicas: 2, update_config: {{parallelism: 2, monitor: 500ms}}}}
    stop_signal: KILL
networks: {{back: {{internal: true}}}}
secrets: {{word: {{environment: WORD}}, outer: {{external: true}}}}
volumes: {{data: }}
"""


def test_services_find_each_other_where_the_file_lets_them(machine: Daemon, runtime: str, tmp_path: Path) -> None:
    app = App(machine, tmp_path, name="apart", runtime=runtime, more=APART.format(runtime=runtime))
    missing = app.cli("up", "--wait", check=False, WORD="hidden-42")
    assert (missing.code, "external secret outer doesn't exist" in missing.err.decode()) == (1, True), missing
    machine.cli("secret", "create", "outer", "-", stdin=b"hidden-43\n\0")
    app.up(WORD="hidden-42")
    try:
        address = _resolve(app, "both", "web.apart.internal")
        assert _fetch(app, "both", address) == "one"
        assert _fetch(app, "inner", address) == ""
        assert _resolve(app, "inner", "web.apart.internal") == ""
        assert _resolve(app, "web", "twin") == _resolve(app, "web", "both")
        assert _resolve(app, "inner", "both") != "" == _resolve(app, "inner", "twin")
        assert app.cli("compose exec", "-T", "both", "cat", "/run/secrets/word").text == "hidden-42"
        theirs = app.cli("compose exec", "-T", "both", "sh", "-c", "stat -c %a /run/secrets/theirs; cat /run/secrets/theirs")
        assert theirs.out == b"400\nhidden-43\n\0"
        app.cli("compose exec", "-T", "both", "sh", "-c", "echo kept > /data/x")
        app.cli("compose restart", "both")
        assert app.cli("compose exec", "-T", "both", "cat", "/data/x").text == "kept"
        with open(machine.log) as log:
            assert "hidden-4" not in log.read()
        assert "hidden-4" not in machine.cli("inspect", "apart-both-1").text
        assert machine.cli("secret", "rm", "outer", check=False).code == 1
        assert app.cli("compose run", "--rm", "-T", "--no-deps", "both", "cat", "/data/x").text.strip() == "kept"
        _volumes_and_secrets_follow_revisions(app)
        machine.cli(
            "run",
            "-d",
            "--name",
            "stranger",
            "--network",
            "apart_back",
            "-v",
            "apart_data:/x",
            "--stop-signal",
            "KILL",
            "busybox",
            "sleep",
            "1000",
        )
    finally:
        down = app.cli("down", "-v")
        machine.cli("secret", "rm", "outer")
    # what others use stays, and they aren't disturbed; everything else has gone
    assert down.err.decode().splitlines() == [
        "network apart_back is used by stranger; it stays",
        "volume apart_data is used by stranger; it stays",
    ]
    assert machine.cli("ls", "-q").text == ""
    assert machine.cli("exec", "stranger", "cat", "/x/x").text == "kept"
    machine.cli("rm", "-f", "stranger")
    machine.cli("network", "rm", "apart_back")
    machine.cli("volume", "rm", "apart_data")
    assert machine.cli("volume", "ls", "-q").text == ""
    assert machine.cli("network", "ls", "--format", "{{.Name}}").lines == ["default"]


SOME = """
  db:
    image: busybox
    command: [sleep, "1000"]
    environment: {ROUND: "${ROUND:-1}"}
    stop_signal: KILL
  api:
    image: busybox
    command: [sleep, "1000"]
    environment: {ROUND: "${ROUND:-1}"}
    depends_on: [db]
    deploy: {update_config: {monitor: 500ms}}
    stop_signal: KILL
  tool:
    image: busybox
    command: [sh, -c, "echo $$ROUND; cat /data/x 2>/dev/null; echo $$ROUND > /data/x"]
    environment: {ROUND: "${ROUND:-1}"}
    networks: [back]
    volumes: [data:/data]
    profiles: [tools]
networks: {back: }
volumes: {data: }
"""


def test_services_that_are_not_named_stay_as_they_are(machine: Daemon, tmp_path: Path) -> None:
    """`up SERVICE`, with and without what it depends on, `run`, and the way back; what hull they are in doesn't matter."""
    app = App(machine, tmp_path, name="some", more=SOME)

    def ids() -> dict[str, str]:
        return {service.name: member.id for service in app.view().services for member in service.members}

    def changed(*words: str, **env: str) -> set[str]:
        """Services with another last instance than before."""
        before = ids()
        app.cli(*words, **env)
        after = ids()
        return {name for name in before | after if before.get(name) != after.get(name)}

    def causes() -> list[str]:
        return [each["cause"] for each in json.loads(app.cli("revisions", "--json").text)]

    try:
        assert app.cli("compose run", "--rm", "-T", "tool").lines == ["1"]
        assert (app.view().services, app.view().state, causes()) == ((), "inactive", ["run tool"])
        app.up()
        assert set(ids()) == {"web", "db", "api"}
        planned = app.cli("up", "--dry-run", "--json", "--no-deps", "api", ROUND="2")
        assert {step["subject"].partition("/")[0] for step in json.loads(planned.text) if step["action"] == "Create"} == {"api"}
        assert changed("up", "--wait", "--no-deps", "api", TEXT="two", ROUND="2") == {"api"}
        assert changed("up", "--wait", "api", TEXT="two", ROUND="3") == {"api", "db"}
        assert changed("compose run", "--rm", "-T", "tool", ROUND="4") == set()
        assert app.cli("compose run", "--rm", "-T", "tool", ROUND="5").lines == ["5", "4"]
        assert (app.get(), causes()) == ("one", ["up api", "up api", "up", "run tool"])
        assert changed("rollback") == {"api", "db"}
        assert causes() == ["rollback to 3", "up api", "up api", "up", "run tool"]
        assert changed("rollback", "1") == {"web", "api", "db"}
        assert ids() == {}
        assert machine.cli("ps", "-q").text == ""
        app.up(TEXT="two")
        assert app.get() == "two"
        app.more = ""
        app.write()
        app.up()
        assert len(machine.cli("ps", "-q").lines) == 4  # db and api are orphans now, which only `down` takes with it
    finally:
        app.cli("down", "-v")
    assert machine.cli("ps", "-aq").text == ""
    assert machine.cli("volume", "ls", "-q").text == ""


def _volumes_and_secrets_follow_revisions(app: App) -> None:
    """An instance that is replaced hands its slot's anonymous volume on; an external secret changes with `up`, and back with `rollback`."""

    def states() -> list[str]:
        ask = ("sh", "-c", "cat /state/x 2>/dev/null || echo none")
        return [app.cli("compose exec", "-T", "--index", str(slot), "own", *ask).text for slot in (1, 2)]

    def theirs() -> str:
        return str(app.cli("compose exec", "-T", "both", "cat", "/run/secrets/theirs").text)

    for slot in ("1", "2"):
        app.cli("compose exec", "-T", "--index", slot, "own", "sh", "-c", f"echo {slot} > /state/x")
    before = {member.id for service in app.view().services for member in service.members if service.name == "own"}
    app.daemon.cli("secret", "create", "--replace", "outer", "-", stdin=b"other")
    app.up(ROUND="2")
    assert before.isdisjoint(member.id for service in app.view().services for member in service.members)
    assert (states(), theirs()) == (["1", "2"], "other")
    app.cli("rollback", "1")
    assert (states(), theirs()) == (["1", "2"], "hidden-43\n\0")
    app.env["ROUND"] = "3"
    app.cli("up", "--wait", "-V", "own")
    assert states() == ["none", "none"]


def test_a_killed_daemon_finishes_what_was_begun(machine: Daemon, tmp_path: Path) -> None:
    """kill -9 at seeded moments of up, change and down; the next daemon makes it so."""
    app = App(machine, tmp_path, name="cut")
    for delay in (0.2, 0.4, 0.6, 1.0):
        running = machine.popen("up", "-d", "-f", str(app.file))
        time.sleep(delay)
        machine.kill()
        running.wait(60)
        machine.start()
        if not any(view == "cut" for view in machine.cli("ls", "-q").lines):
            continue  # it was killed before it had heard of it
        app.until_ready()
        assert app.get() == "one"
        down = machine.popen("down", "-f", str(app.file))
        time.sleep(delay)
        machine.kill()
        down.wait(60)
        machine.start()
        _eventually(lambda: "cut" not in machine.cli("ls", "-q").lines or app.view().state != "removing", 120)
        machine.cli("down", "-p", "cut", check=False, timeout=240)
    assert machine.cli("ps", "-aq").text == ""
