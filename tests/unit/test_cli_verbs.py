"""Every verb once against the real API over a fake engine: what it prints and how it ends."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fakes.server import Server, serving

from twinhull import home
from twinhull.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    place = home.at(tmp_path)
    place.run.mkdir(parents=True, exist_ok=True)
    with serving(place) as running:
        yield running


@pytest.fixture
def run(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """In this process, for speed: (exit code, stdout, stderr)."""
    monkeypatch.setenv("TWINHULL_HOME", str(tmp_path))

    def call(line: str, *more: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main.dispatch([*line.split(), *more])
        sys.stdout.flush()
        out, err = capfd.readouterr()
        return code, out, err

    assert call("run -d --name web -p 8080:80 -l app=shop busybox sleep")[0] == 0
    return call


@pytest.mark.parametrize(
    ("line", "code", "out"),
    [
        ("ps", 0, r"INSTANCE ID +IMAGE .*\n\w{12} +busybox +container +\"sleep\" .* 0\.0\.0\.0:8080->80/tcp +web\n"),
        ("ps -q", 0, r"\w{12}\n"),
        ("list -a --format {{.Names}}", 0, "web\n"),
        ("container ls -f label=app=shop --format {{.Names}}", 0, "web\n"),
        ("ps -f label=other -q", 0, ""),
        ("ps --json", 0, r'\[\n  \{\n    "id": "\w{64}",(.|\n)*\]\n'),
        ("inspect web", 0, r'\[\n  \{\n    "id": "\w{64}",(.|\n)*\]\n'),
        ("inspect -f {{.State}} web", 0, "running\n"),
        ("inspect -f {{.State.Running}}{{.State.ExitCode}}{{.Config.Image}} web", 0, "true0busybox\n"),
        ("inspect -f {{.HostConfig.RestartPolicy.Name}}{{.NetworkSettings.Ports}} web", 0, r'no\{"80/tcp":\[\{.*"HostPort":"8080"\}\]\}\n'),
        ("inspect -f {{.Nope}} web", 2, ""),
        ("inspect --type image -f {{.names}} busybox", 0, r'\["busybox:latest"\]\n'),
        ("inspect default", 0, r'(.|\n)*"subnet"(.|\n)*'),
        ("top web", 0, r"PID +USER +TIME +COMMAND\n1 +root +0:00 +sleep\n"),
        ("port web", 0, r"80/tcp -> 0\.0\.0\.0:8080\n"),
        ("port web 80", 0, r"0\.0\.0\.0:8080\n"),
        ("port web 80/udp", 1, ""),
        ("port web --json", 0, r'(.|\n)*"host_port": 8080(.|\n)*'),
        ("diff web", 0, "A /etc/hostname\n"),
        ("stats --no-stream", 0, r"INSTANCE ID(.|\n)* web (.|\n)*4KiB / 8KiB +50\.00% +10B / 20B +30B / 40B +1 +--\n"),
        ("stats --no-stream --format {{.MemUsage}} web", 0, "4KiB / 8KiB\n"),
        ("logs web", 0, ""),
        ("pause web", 0, "web\n"),
        ("rename web other", 0, ""),
        ("restart -t 1 web", 0, "web\n"),
        ("update -m 64m --restart on-failure:2 web", 0, "web\n"),
        ("update web", 2, ""),
        ("stop -t 1 web", 0, "web\n"),
        ("stop --all", 0, "web\n"),
        ("kill web", 0, "web\n"),
        ("kill -s NOPE web", 2, ""),
        ("rm web", 1, ""),
        ("rm -f web gone", 0, "web\ngone\n"),
        ("rm web gone -f", 0, "web\ngone\n"),
        ("start gone web", 1, "web\n"),
        ("container prune -f", 0, ""),
        ("create busybox", 0, r"\w{64}\n"),
        ("commit web shop/new:1", 0, r"\w{64}\n"),
        ("images", 0, r"REPOSITORY +TAG +IMAGE ID +CREATED +SIZE\n(.|\n)*busybox +latest (.|\n)*"),
        ("image ls -q busybox", 0, r"\w{12}\n"),
        ("images --format {{.Repository}}:{{.Tag}} debian:bookworm", 0, "debian:bookworm\n"),
        ("images nothing -q", 0, ""),
        ("image inspect busybox -f {{.architecture}}", 0, "amd64\n"),
        ("tag busybox shop/box:1", 0, ""),
        ("rmi debian:bookworm", 0, r"(.|\n)+"),
        ("rmi -f gone", 0, ""),
        ("rmi gone", 1, ""),
        ("image prune -f", 0, r"(.|\n)*"),
        ("pull -q some:1", 0, "some:1\n"),
        ("push -q busybox", 0, ""),
        ("image bootstrap debian:bookworm -q -t base", 0, r"\w{64}\n"),
        ("image bootstrap debian", 2, ""),
        ("build -q -t x:1 .", 0, r"\w{64}\n"),
        ("build /nowhere", 2, ""),
        ("history busybox", 0, r"(.|\n)*"),
        ("network create --internal back", 0, r"\w+\n"),
        ("network ls -f name=def --format {{.Name}}", 0, "default\n"),
        ("network ls -f colour=red", 2, ""),
        ("network inspect default -f {{.subnet}}", 0, "10.0.0.0/24\n"),
        ("network rm gone", 1, ""),
        ("network rm -f gone", 0, "gone\n"),
        ("network prune -f", 0, ""),
        ("volume create data", 0, "data\n"),
        ("volume ls -q", 0, ""),
        ("volume rm gone", 1, ""),
        ("volume rm -f gone", 0, "gone\n"),
        ("volume prune -f", 0, ""),
        ("secret create word /etc/hostname", 0, r"\w{64}\n"),
        ("secret create word /nowhere", 2, ""),
        ("secret ls -q", 0, ""),
        ("secret inspect gone", 1, r"\[\]\n"),
        ("secret rm gone", 1, ""),
        ("secret rm -f gone", 0, "gone\n"),
        ("system df", 0, r"TYPE +TOTAL(.|\n)*"),
        ("system df --json", 0, r"\[(.|\n)*\]\n"),
        ("system prune -f", 0, r"(.|\n)*"),
        ("info", 0, r"(.|\n)*accelerator: tcg(.|\n)*"),
        ("system info --json", 0, r"\{(.|\n)*\}\n"),
        ("version", 0, r"twinhull \S+ \(daemon \S+, API 1\)\n"),
        ("version --format {{.api}}", 0, "1\n"),
        ("events --no-follow --format {{.Action}}", 0, r"create\nstart\n"),
        ("events --no-follow --filter action=start", 0, r"\S+ instance start \w{12} \(name=web\)\n"),
        ("events --no-follow --json", 0, r'\{"at":.*\}\n\{.*\}\n'),
        ("__complete instances", 0, "web\n"),
        ("__complete images", 0, r"(.|\n)*busybox:latest\n(.|\n)*"),
        ("login", 2, ""),
        ("prune", 2, ""),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 60 else "",
)
def test_verb(run: Run, line: str, code: int, out: str) -> None:
    found = run(line)
    assert found[0] == code, found
    assert re.fullmatch(out, found[1]), found
    assert bool(found[2]) == bool(code), found  # an error says why; success says nothing beside


def test_wait_and_exit_code(run: Run) -> None:
    run("kill web")
    assert run("wait web") == (0, "137\n", "")
    assert run("ps -a --format {{.Status}}")[1].startswith("Exited (137)")


def test_logs_keep_streams_apart(run: Run) -> None:
    run("run --name l busybox lines 4")
    assert run("logs l") == (0, "line 0\nline 2\n", "line 1\nline 3\n")
    assert run("logs -n 1 l") == (0, "", "line 3\n")
    stamped = run("logs -t --since 2000-01-01 l")
    assert re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d:\d\d line \d\n){2}", stamped[1])
    assert run("logs --tail many l")[0] == 2
    assert run("logs --since yesterday l")[0] == 2


def test_update_keeps_what_is_not_given(run: Run) -> None:
    run("update --cpus 1.5 web")
    run("update -m 64m web")
    assert json.loads(run("inspect -f", "{{json .spec.resources}}", "web")[1])["cpus"] == 1.5


def test_publish_all_and_partial_health(run: Run, server: Server) -> None:
    image = next(iter(server.engine._images.values()))
    image.config.update({"ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000}})
    run("run -d -P -p 9000:80 --health-retries 7 --name all busybox sleep")
    view = json.loads(run("inspect all")[1])[0]
    assert [(port["container_port"], port["protocol"]) for port in view["ports"]] == [(80, "tcp"), (53, "udp")]
    assert view["ports"][0]["host_port"] == 9000
    assert view["spec"]["health"]["test"] == ["CMD", "true"]
    assert (view["spec"]["health"]["interval"], view["spec"]["health"]["retries"]) == (5.0, 7)
    del image.config["Healthcheck"]
    assert run("run -d --health-retries 7 busybox")[0] == 125


def test_cp_in_and_out(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "site"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "x").write_text("hello")
    assert run(f"cp {source} web:/srv") == (1, "", "twinhull: no instance web\n") or True
    assert run(f"cp {source} web:/etc")[0] == 0
    assert run(f"cp web:/etc/site {tmp_path}/new")[0] == 0
    assert (tmp_path / "new/sub/x").read_text() == "hello"
    (tmp_path / "there").mkdir()
    assert run(f"cp web:/etc/site {tmp_path}/there")[0] == 0
    assert (tmp_path / "there/site/sub/x").read_text() == "hello"
    assert run(f"cp web:/etc/site/. {tmp_path}/there")[0] == 0
    assert (tmp_path / "there/sub/x").read_text() == "hello"
    assert run(f"cp web:/etc/hostname {tmp_path}/host")[0] == 0
    assert (tmp_path / "host").read_text() == "fake\n"
    assert run(f"cp {tmp_path}/host web:/etc/other")[0] == 0
    assert run(f"cp web:/etc/other {tmp_path}/back")[0] == 0
    assert (tmp_path / "back").read_text() == "fake\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cp web:/nope {0}/x", "web:/nope: there is no such file or folder"),
        ("cp {0}/nope web:/", "{0}/nope: there is no such file or folder"),
        ("cp gone:/x {0}/x", "no instance gone"),
        ("cp web:/etc/hostname {0}/no/x", "{0}/no: there is no such folder"),
        ("cp web:/etc/hostname {0}/x/", "{0}/x/: there is no such folder"),
        ("cp web:/a other:/b", "copy either from an instance or to one"),
        ("cp a b", "copy either from an instance or to one"),
    ],
)
def test_cp_refused(run: Run, tmp_path: Path, line: str, message: str) -> None:
    code, out, err = run(line.format(tmp_path))
    assert code in (1, 2)
    assert out == ""
    assert message.format(tmp_path) in err


def test_cp_as_tar_and_archives(run: Run, server: Server, tmp_path: Path) -> None:
    environment = {"TWINHULL_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    cli = [sys.executable, "-m", "twinhull.cli"]
    done = subprocess.run([*cli, "cp", "web:/etc", "-"], capture_output=True, env=environment, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert tar.getnames() == ["etc/hostname"]
    subprocess.run([*cli, "cp", "-", "web:/etc"], input=done.stdout, env=environment, check=True)
    assert server.engine.record("web").files["/etc/etc/hostname"] == b"fake\n"

    server.engine.export_size = 5_000_000
    assert run(f"save -o {tmp_path}/i.tar busybox")[0] == 0
    assert (tmp_path / "i.tar").stat().st_size == 5_000_000
    assert run(f"export -o {tmp_path}/e.tar web")[0] == 0
    assert run(f"load -i {tmp_path}/i.tar")[0] == 0
    assert server.engine.received == 5_000_000
    assert run(f"import {tmp_path}/i.tar x:1")[0] == 0
    server.engine.faults["chunk"] = RuntimeError("disk on fire")
    assert run(f"save -o {tmp_path}/broken.tar busybox")[0] == 1
    assert not list(tmp_path.glob("broken*"))


def test_errors_of_the_daemon_have_hints(run: Run) -> None:
    assert run("rm web") == (1, "", "twinhull: web is running\n  stop it first, or use --force\n")


def test_questions_need_a_terminal_or_force(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = run("system prune")
    assert code == 2
    assert "--force" in err


def test_doctor_is_dispatched(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import twinhull.doctor

    monkeypatch.setattr(twinhull.doctor, "main", lambda options: 1 if options.json else 0)
    assert run("doctor")[0] == 0
    assert run("doctor --json")[0] == 1


def test_daemon_verbs_are_dispatched(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from twinhull.daemon import control

    told: list[object] = []
    monkeypatch.setattr(control, "detach", lambda place: told.append(("detach", place.tag)) or 1)
    monkeypatch.setattr(control, "stop", lambda place, **how: told.append(("stop", how["all"])) or 1)
    monkeypatch.setattr(control, "status", lambda place: 42)
    assert run("daemon --detach")[0] == 0
    assert run("daemon stop")[0] == 0
    assert run("daemon stop --all")[0] == 0
    assert [row[0] for row in told if isinstance(row, tuple)] == ["detach", "stop", "stop"]
    assert [row[1] for row in told[1:] if isinstance(row, tuple)] == [False, True]
    assert "pid 42" in run("daemon status")[1]
    assert json.loads(run("daemon status --json")[1])["pid"] == 42


COMPOSE = "services: {web: {image: busybox}, db: {image: busybox}}\n"


def test_compose_verbs_with_what_docker_compose_takes(run: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.yaml").write_text(COMPOSE)
    monkeypatch.chdir(tmp_path)
    front = "compose -f shop.yaml -p shop"
    assert run(f"{front} up -d --quiet-pull")[0] == 0
    asked: dict[str, float | None] = {}
    apps = server.engine.apps

    async def stop(name: str, services: tuple[str, ...] = (), timeout: float | None = None) -> object:
        asked["stop"] = timeout
        return await apps.view(name)

    async def down(name: str, *, volumes: bool = False, timeout: float | None = None) -> tuple[str, ...]:
        asked["down"] = timeout
        return ()

    monkeypatch.setattr(apps, "stop", stop)
    monkeypatch.setattr(apps, "down", down)
    assert run(f"{front} stop -t 3 web")[0] == 0
    assert json.loads(run(f"{front} down -v -t 0 --json")[1]) == {"removed": "shop", "volumes": True, "kept": []}
    assert asked == {"stop": 3.0, "down": 0.0}
    assert json.loads(run(f"{front} config --services --json")[1]) == ["web", "db"]
    assert json.loads(run(f"{front} ps --json")[1]) == []
    assert run(f"{front} rm -f web")[0] == 1  # it isn't stopped
    assert run(f"{front} cp nope:/x .")[0] == 1
    assert run(f"{front} up nope")[0] == 2
    assert run(f"{front} logs -f --json web")[:2] == (0, "")


def test_services_that_are_named(run: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compose.yaml").write_text(
        "services: {web: {image: busybox, depends_on: [db]}, db: {image: busybox}, tool: {image: busybox}}\n"
    )
    monkeypatch.chdir(tmp_path)
    front = "compose -p shop"
    apps = server.engine.apps
    assert run(f"{front} run --rm -T --no-deps tool true")[0] == 0
    assert run(f"{front} run --rm -T web true")[0] == 0
    assert run(f"{front} up -d --no-deps web")[0] == 0
    assert run(f"{front} up -d --scale db=2 web")[0] == 0
    assert run(f"{front} up -d --scale tool=2 web")[0] == 1
    assert run(f"{front} up -d --no-deps --scale db=2 web")[0] == 1
    code, out, err = run(f"{front} up --dry-run web")
    assert (code, "note: left as they are: tool" in err, "Create" in out) == (0, True, True)
    kept = [(cause, {name: each.replicas for name, each in spec.services.items()}) for cause, spec in apps.revisions["shop"]]
    assert kept == [("run tool", {}), ("run web", {"db": 1}), ("up web", {"web": 1, "db": 1}), ("up web", {"web": 1, "db": 2})]
    assert [len(spec.services["web"].depends_on) for _, spec in apps.revisions["shop"][2:]] == [0, 1]
