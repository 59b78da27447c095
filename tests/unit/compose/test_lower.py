"""From the resolved file to what the engine is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.compose.app import App

from twinhull.compose import ComposeError
from twinhull.spec.app import (
    AppNetwork,
    AppVolume,
    Build,
    Condition,
    Dependency,
    FailureAction,
    Hook,
    RolloutSpec,
    RouteSpec,
    ScaleSpec,
    ScaleTarget,
    Schedule,
    Strategy,
    UpdateOrder,
    UpdatePolicy,
    WatchRule,
)
from twinhull.spec.instance import (
    FileSpec,
    HealthCheck,
    InstanceSpec,
    LogOptions,
    MountSpec,
    MountType,
    NetworkAttachment,
    NetworkMode,
    PortMapping,
    Resources,
    RestartPolicy,
    RestartWhen,
    Runtime,
    Security,
    Ulimit,
)

MIB = 1024 * 1024


def test_a_bare_service(app: App) -> None:
    spec = app.spec("services: {web: {image: x}}\n")
    web = spec.services["web"]
    assert web.template == InstanceSpec("x", networks=(NetworkAttachment("app_default"),))
    assert (web.replicas, web.job, web.ports, web.expose, web.build, web.routes, web.scale) == (1, False, (), (), None, (), None)
    assert (web.update, web.rollback) == (UpdatePolicy(), UpdatePolicy(failure_action=FailureAction.PAUSE))
    assert spec.networks == {"app_default": AppNetwork("app_default")}
    assert (spec.name, spec.folder, spec.volumes, spec.notes, spec.secret_values) == ("app", str(app.folder), {}, (), {})


@pytest.mark.parametrize(
    ("line", "field", "expected"),
    [
        ("runtime: vm", "runtime", Runtime.VM),
        ("runtime: kata-qemu", "runtime", Runtime.VM),
        ("runtime: runsc", "runtime", Runtime.SANDBOX),
        ("command: a 'b c'", "command", ("a", "b c")),
        ("command: []", "command", ()),
        ("command: null", "command", None),
        ("entrypoint: /x --y", "entrypoint", ("/x", "--y")),
        ("environment: {A: 1, B: true, C: 1.5, D: '', E: }", "env", ("A=1", "B=true", "C=1.5", "D=")),
        ("user: 1:2", "user", "1:2"),
        ("working_dir: /w", "workdir", "/w"),
        ("hostname: h", "hostname", "h"),
        ("tty: true", "tty", True),
        ("stdin_open: 'true'", "stdin", True),
        ("init: yes", "init", True),
        ("labels: [a=b]", "labels", {"a": "b"}),
        ("tmpfs: '/t:size=1m,mode=755,ro'", "mounts", (MountSpec(MountType.TMPFS, "/t", "", True, tmpfs_size=MIB, tmpfs_mode=0o755),)),
        ("cpus: 1.5", "resources", Resources(cpus=1.5)),
        ("cpu_quota: 50000", "resources", Resources(cpus=0.5)),
        ("mem_limit: 64m", "resources", Resources(memory=64 * MIB)),
        ("pids_limit: -1", "resources", Resources()),
        ("cpuset: 0-1", "resources", Resources(cpuset="0-1")),
        ("deploy: {resources: {limits: {cpus: '2', memory: 1g, pids: 9}}}", "resources", Resources(cpus=2.0, memory=1024 * MIB, pids=9)),
        ("blkio_config: {device_read_bps: [{path: /d, rate: 1mb}]}", "resources", Resources(read_bps=MIB)),
        ("cap_add: [NET_ADMIN]", "security", Security(cap_add=("NET_ADMIN",))),
        ("read_only: true", "security", Security(read_only=True)),
        (
            "security_opt: ['no-new-privileges:false', seccomp=unconfined]",
            "security",
            Security(no_new_privileges=False, seccomp="unconfined"),
        ),
        ("ulimits: {nofile: 9, core: {soft: 0, hard: -1}}", "ulimits", (Ulimit("nofile", 9, 9), Ulimit("core", 0, -1))),
        ("sysctls: {net.core.somaxconn: 1024}", "sysctls", {"net.core.somaxconn": "1024"}),
        ("dns: 1.1.1.1", "dns", ("1.1.1.1",)),
        ("dns_search: [a, b]", "dns_search", ("a", "b")),
        ("extra_hosts: {a: 1.2.3.4, b: '::1'}", "extra_hosts", ("a:1.2.3.4", "b:::1")),
        ("shm_size: 1m", "shm_size", MIB),
        ("stop_signal: SIGINT", "stop_signal", "SIGINT"),
        ("stop_grace_period: 1m30s", "stop_timeout", 90.0),
        ("restart: always", "restart", RestartPolicy(RestartWhen.ALWAYS)),
        ("restart: on-failure:3", "restart", RestartPolicy(RestartWhen.ON_FAILURE, 3)),
        ("deploy: {restart_policy: {condition: on-failure, max_attempts: 2}}", "restart", RestartPolicy(RestartWhen.ON_FAILURE, 2)),
        ("deploy: {restart_policy: {}}", "restart", RestartPolicy(RestartWhen.ALWAYS)),
        ("healthcheck: {test: curl x}", "health", HealthCheck(("CMD-SHELL", "curl x"))),
        ("healthcheck: {test: NONE}", "health", HealthCheck(("NONE",))),
        ("healthcheck: {disable: true}", "health", HealthCheck(("NONE",))),
        ("healthcheck: {interval: 1s, retries: 9}", "health", HealthCheck((), interval=1.0, retries=9)),
        ("logging: {driver: local, options: {max-size: 1m, max-file: 3}}", "logging", LogOptions(MIB, 3)),
        ("x-twinhull: {snapshot: app}", "snapshot", "app"),
        ("x-twinhull: {snapshot: {from: app}}", "snapshot", "app"),
        ("x-twinhull: {snapshot: {from: app, reconnect: yes}}", "snapshot_reconnect", True),
        ("network_mode: none", "network_mode", NetworkMode.NONE),
        ("network_mode: host", "network_mode", NetworkMode.HOST),
    ],
)
def test_template(app: App, line: str, field: str, expected: Any) -> None:
    assert getattr(app.template(line), field) == expected


def test_mounts(app: App) -> None:
    found = app.template(
        "volumes:",
        "  - data:/d:ro",
        "  - ./rel:/r/",
        "  - /abs:/a",
        "  - /anonymous",
        "  - {type: volume, source: data, target: /s, volume: {subpath: a/b, nocopy: true}}",
        "  - {type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 0700}}",
        "  - {type: volume, source: folder, target: /f}",
        after="volumes:\n  data: {name: real}\n  folder: {driver_opts: {type: none, o: bind, device: ./srv}}\n",
    ).mounts
    assert found == (
        MountSpec(MountType.VOLUME, "/d", "real", True),
        MountSpec(MountType.BIND, "/r", f"{app.folder}/rel"),
        MountSpec(MountType.BIND, "/a", "/abs"),
        MountSpec(MountType.VOLUME, "/anonymous"),
        MountSpec(MountType.VOLUME, "/s", "real", subpath="a/b", no_copy=True),
        MountSpec(MountType.TMPFS, "/t", tmpfs_size=MIB, tmpfs_mode=0o700),
        MountSpec(MountType.BIND, "/f", f"{app.folder}/srv"),
    )


def test_folders_to_make(app: App) -> None:
    spec = app.spec(
        "services: {web: {image: x, volumes: ['./a:/a', {type: bind, source: ./b, target: /b, bind: {create_host_path: false}}]}}\n"
    )
    assert spec.host_paths == (f"{app.folder}/a",)


def test_volumes_from(app: App) -> None:
    spec = app.spec(
        "services:\n  web: {image: x, volumes_from: ['b:ro'], volumes: ['v:/v']}\n  b: {image: x, volumes: ['w:/w']}\nvolumes: {v: , w: }\n"
    )
    assert spec.services["web"].template.mounts == (
        MountSpec(MountType.VOLUME, "/w", "app_w", True),
        MountSpec(MountType.VOLUME, "/v", "app_v"),
    )
    assert spec.services["web"].depends_on == (Dependency("b"),)


def test_volumes(app: App) -> None:
    text = "services: {web: {image: x, volumes: ['a:/a', 'b:/b', 'c:/c', 'd:/d']}}\n"
    volumes = "volumes:\n  a: {labels: {x: y}}\n  b: {external: true}\n  c: {external: {name: real}}\n"
    volumes += "  d: {driver_opts: {type: tmpfs, o: size=1m}}\n  unused: {}\n"
    assert app.spec(text + volumes).volumes == {
        "app_a": AppVolume("app_a", labels={"x": "y"}),
        "b": AppVolume("b", external=True),
        "real": AppVolume("real", external=True),
        "app_d": AppVolume("app_d", driver="tmpfs", options={"type": "tmpfs", "o": "size=1m"}),
    }


def test_secrets_and_configs(app: App) -> None:
    spec = app.spec(
        "services:\n"
        "  web:\n"
        "    image: x\n"
        "    secrets: [file, env, {source: out, target: /t, uid: '1', gid: '2', mode: 0400}]\n"
        "    configs: [file, {source: text, target: /etc/text, mode: '0644'}, env]\n"
        "secrets: {file: {file: ./s}, env: {environment: SECRET}, out: {external: true, name: real}}\n"
        "configs: {file: {file: ./c}, text: {content: 'a $VALUE'}, env: {environment: VALUE}}\n",
        environment={"SECRET": "hidden", "VALUE": "v"},
    )
    assert spec.services["web"].template.files == (
        FileSpec("/file", f"{app.folder}/c"),
        FileSpec("/etc/text", content="a v", mode=0o644),
        FileSpec("/env", content="v"),
        FileSpec("/run/secrets/file", f"{app.folder}/s", secret=True),
        FileSpec("/run/secrets/env", "secret:env", secret=True),
        FileSpec("/t", "secret:real", uid=1, gid=2, mode=0o400, secret=True),
    )
    assert spec.secret_values == {"env": "hidden"}
    assert "hidden" not in repr(spec)


def test_a_secret_without_its_variable_stops_up_only(app: App) -> None:
    (note,) = app.spec("services: {web: {image: x, secrets: [s]}}\nsecrets: {s: {environment: GONE}}\n").notes
    assert note.fatal
    assert "GONE isn't set" in note.text


def test_ports(app: App) -> None:
    web = app.service(
        "ports: ['80', '8080:80', '127.0.0.1:90-91:90-91/udp', '9000-9002:99', {target: 5, published: '6', host_ip: '::1'}]",
        "expose: [80, '100-101', 7/udp]",
    )
    assert web.ports == (
        PortMapping(80),
        PortMapping(80, 8080),
        PortMapping(90, 90, "127.0.0.1", "udp"),
        PortMapping(91, 91, "127.0.0.1", "udp"),
        PortMapping(99, 9000),
        PortMapping(5, 6, "::1"),
    )
    assert web.expose == (80, 99, 5, 100, 101)
    assert web.template.ports == ()


def test_networks(app: App) -> None:
    spec = app.spec(
        "services:\n"
        "  web:\n"
        "    image: x\n"
        "    networks: {a: {aliases: [w], ipv4_address: 10.0.0.9}, b: {priority: 5, mac_address: '02:00:00:00:00:01'}, c: , d: }\n"
        "networks:\n"
        "  a: {ipam: {config: [{subnet: 'fd00::/64'}, {subnet: 10.0.0.0/24}]}, labels: [x=y]}\n"
        "  b: {internal: true, name: own}\n"
        "  c: {external: true}\n"
        "  d: {external: true, name: real}\n"
        "  unused: {}\n"
    )
    assert spec.services["web"].template.networks == (
        NetworkAttachment("own", mac="02:00:00:00:00:01"),
        NetworkAttachment("app_a", ("w",), "10.0.0.9"),
        NetworkAttachment("c"),
        NetworkAttachment("real"),
    )
    assert spec.networks == {
        "app_a": AppNetwork("app_a", subnet="10.0.0.0/24", labels={"x": "y"}),
        "own": AppNetwork("own", internal=True),
        "c": AppNetwork("c", external=True),
        "real": AppNetwork("real", external=True),
    }


def test_network_modes(app: App) -> None:
    spec = app.spec("services: {a: {image: x, network_mode: bridge}, b: {image: x, network_mode: none}}\n")
    assert spec.services["a"].template.networks == (NetworkAttachment("default"),)
    assert spec.services["b"].template.networks == ()
    assert spec.networks == {"default": AppNetwork("default", external=True)}


def test_links(app: App) -> None:
    spec = app.spec("services:\n  web: {image: x, links: ['db:database', cache]}\n  db: {image: x}\n  cache: {image: x}\n")
    assert spec.services["db"].template.networks == (NetworkAttachment("app_default", ("database",)),)
    assert spec.services["web"].depends_on == (Dependency("db", restart=True), Dependency("cache", restart=True))


def test_order_and_dependencies(app: App) -> None:
    spec = app.spec(
        "services:\n"
        "  c: {image: x, depends_on: {b: {condition: service_healthy, restart: true, required: false}}}\n"
        "  b: {image: x, depends_on: {a: {condition: service_completed_successfully}}}\n"
        "  a: {image: x, restart: 'no'}\n"
    )
    assert list(spec.services) == ["a", "b", "c"]
    assert spec.services["c"].depends_on == (Dependency("b", Condition.HEALTHY, restart=True, required=False),)
    assert (spec.services["a"].job, spec.services["b"].job) == (True, False)


def test_a_long_chain_of_dependencies(app: App) -> None:
    chain = "".join(f"  s{n}: {{image: x, depends_on: [s{n + 1}]}}\n" for n in range(1100))
    assert next(iter(app.spec(f"services:\n{chain}  s1100: {{image: x}}\n").services)) == "s1100"


def test_updates(app: App) -> None:
    config = "update_config: {parallelism: 0, delay: 1s, monitor: 9s, failure_action: pause, max_failure_ratio: 0.5, order: stop-first}"
    web = app.service(f"deploy: {{{config}, rollback_config: {{parallelism: 2, failure_action: continue}}}}")
    assert web.update == UpdatePolicy(0, 1.0, 9.0, FailureAction.PAUSE, 0.5, UpdateOrder.STOP_FIRST)
    assert web.rollback == UpdatePolicy(2, failure_action=FailureAction.CONTINUE, order=UpdateOrder.STOP_FIRST)


def test_never_two_writers(app: App) -> None:
    volume, start_first = "volumes: ['v:/v']", "deploy: {update_config: {order: start-first}}"
    assert app.service(volume, after="volumes: {v: }\n").update.order is UpdateOrder.STOP_FIRST
    assert app.service("volumes: ['v:/v:ro']", after="volumes: {v: }\n").update.order is UpdateOrder.START_FIRST
    assert app.service(volume, start_first, after="volumes: {v: }\n").update.order is UpdateOrder.STOP_FIRST
    assert app.service("volumes: ['./x:/v']", start_first).update.order is UpdateOrder.START_FIRST
    (note,) = app.spec(f"services:\n  web:\n    image: x\n    {volume}\n    {start_first}\nvolumes: {{v: }}\n").notes
    assert (note.key, note.fatal) == ("services.web.deploy.update_config.order", False)


def test_what_scale_can_not_do_is_said_with_its_line(app: App) -> None:
    ports = "ports: ['53:53/udp', '53:53', {target: 54, protocol: udp}]"

    def notes(runtime: str, scale: str) -> dict[str, str]:
        lines = ("runtime: " + runtime, ports, "x-twinhull:", "  scale:", *(f"    {each}" for each in scale.split(", ")))
        text = "services:\n  web:\n    image: x\n" + "".join(f"    {line}\n" for line in lines)
        found = app.spec(text).notes
        assert not any(note.fatal for note in found)
        return {note.where.rpartition("compose.yaml:")[2]: note.key for note in found}

    both = {"5": "services.web.ports[2]", "9": "services.web.x-twinhull.scale.keep_warm"}
    assert notes("container", "min: 0, keep_warm: 1") == both
    assert notes("sandbox", "min: 1, keep_warm: 1") == {"9": both["9"]}
    assert notes("vm", "min: 0, keep_warm: 1") == {"5": both["5"]}
    assert notes("vm", "min: 1, keep_warm: 1") == {}


@pytest.mark.parametrize(
    ("line", "count", "job"),
    [
        ("scale: 3", 3, False),
        ("deploy: {replicas: 0}", 0, False),
        ("deploy: {mode: global, replicas: 1}", 1, False),
        ("deploy: {mode: replicated-job, replicas: 2}", 2, True),
    ],
)
def test_replicas(app: App, line: str, count: int, job: bool) -> None:
    web = app.service(line)
    assert (web.replicas, web.job) == (count, job)


def test_build(app: App) -> None:
    web = app.service(
        "build:",
        "  context: ./src",
        "  dockerfile: ../Dockerfile",
        "  args: [A, B=1, GONE]",
        "  target: prod",
        "  labels: {l: 1}",
        "  secrets: [s, {source: s, target: other}]",
        "  tags: [t]",
        "  no_cache: true",
        "pull_policy: build",
        after="secrets: {s: {file: ./s}}\n",
        environment={"A": "a"},
    )
    secret = f"{app.folder}/s"
    assert web.build == Build(
        f"{app.folder}/src",
        "../Dockerfile",
        "",
        "prod",
        {"A": "a", "B": "1"},
        {"l": "1"},
        {"s": secret, "other": secret},
        ("t",),
        no_cache=True,
    )
    assert web.pull_policy == "build"
    other = app.spec("services: {Web: {build: {context: 'https://x/y.git#main', dockerfile_inline: FROM scratch}}}\n").services["Web"]
    assert (other.template.image, other.build) == ("app-web", Build("https://x/y.git#main", inline="FROM scratch"))


def test_hooks_and_watch(app: App) -> None:
    web = app.service(
        "post_start: [{command: a b, user: u, working_dir: /w, environment: [A=1]}]",
        "pre_stop: [{command: [c]}]",
        "develop: {watch: [{path: ./src, action: sync+exec, target: /t, ignore: x, include: [y], exec: {command: reload}}]}",
    )
    assert web.post_start == (Hook(("a", "b"), "u", "/w", ("A=1",)),)
    assert web.pre_stop == (Hook(("c",)),)
    assert web.watch == (WatchRule(f"{app.folder}/src", "sync+exec", "/t", ("x",), ("y",), Hook(("reload",))),)


def test_other_keys(app: App) -> None:
    web = app.service("container_name: one", "attach: false", "deploy: {endpoint_mode: dnsrr}", "pull_policy: daily")
    assert (web.container_name, web.attach, web.dnsrr, web.pull_policy) == ("one", False, True, "always")


def test_extension(app: App) -> None:
    web = app.service(
        "expose: [80]",
        "x-twinhull:",
        "  route:",
        "    - {host: A.localhost, rate_limit: 1.5, headers: {request: {a: 1}, response: {b: x}}, timeout: 500ms, auth: sso, tls: own}",
        "    - {host: t.localhost, protocol: tcp, tls: passthrough, port: 443, max_concurrency: 5}",
        "  rollout: {strategy: canary, steps: [5, 50], interval: 1m}",
        "  scale:",
        "    min: 0",
        "    max: 9",
        "    target: {p95: 250ms, queue: {source: 'nats://q/S/c', value: 5}}",
        "    schedule: [{cron: '* * * * *', min: 1, duration: 1h}]",
    )
    assert web.routes == (
        RouteSpec(
            "a.localhost", rate_limit=1.5, request_headers={"a": "1"}, response_headers={"b": "x"}, timeout=0.5, auth="sso", tls="own"
        ),
        RouteSpec("t.localhost", protocol="tcp", tls="passthrough", port=443, max_concurrency=5),
    )
    assert web.rollout == RolloutSpec(Strategy.CANARY, (5, 50), 60.0)
    targets = (ScaleTarget("p95", 0.25), ScaleTarget("queue", 5.0, "nats://q/S/c"))
    assert web.scale == ScaleSpec(0, 9, targets, schedules=(Schedule("* * * * *", 1, 3600.0),))


def test_one_route_without_a_list(app: App) -> None:
    assert app.service("x-twinhull: {route: {path: /a, strip: true}}").routes == (RouteSpec(path="/a", strip=True),)


def test_values_from_variables_are_typed(app: App) -> None:
    web = app.service(
        "privileged: $F",
        "scale: $N",
        "ports: ['$N:$N']",
        "healthcheck: {retries: $N, interval: '${N}s', test: x}",
        "depends_on: {b: {condition: service_started, required: $F}}",
        "x-twinhull: {route: {port: $N, strip: $T}}",
        after="  b: {image: x}\n",
        environment={"F": "false", "T": "true", "N": "2"},
    )
    assert (web.replicas, web.ports, web.depends_on) == (2, (PortMapping(2, 2),), (Dependency("b", required=False),))
    assert (web.routes[0].port, web.routes[0].strip) == (2, True)


def test_five_hundred_services(app: App) -> None:
    """Within the issue's second by a wide margin on any machine; the time itself is measured by bench, not here."""
    text = (
        "services:\n"
        + "".join(f"  s{n}:\n    image: x\n    ports: ['{8000 + n}:80']\n    networks: [a]\n" for n in range(500))
        + "networks: {a: }\n"
    )
    assert len(app.spec(text).services) == 500


def test_a_port_belongs_to_one_service(app: App) -> None:
    text = "services: {{a: {{image: x, ports: ['{}']}}, b: {{image: x, ports: ['{}']}}}}\n"
    app.spec(text.format("127.0.0.1:80:80", "127.0.0.2:80:80"))
    app.spec(text.format("80:80", "80:80/udp"))
    with pytest.raises(ComposeError, match="port 80/tcp is published by 'a' and by 'b'"):
        app.spec(text.format("80:80", "127.0.0.2:80:80"))
