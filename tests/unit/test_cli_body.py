"""The JSON that flags become: every key is InstanceSpec's, every value what Docker's users mean."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import ConfigDict, TypeAdapter, with_config

from twinhull.cli import body, table
from twinhull.cli.body import Here
from twinhull.cli.parse import UsageError, parse
from twinhull.engine.base import Engine
from twinhull.instance.base import Process
from twinhull.spec.instance import InstanceSpec, Resources, Runtime
from twinhull.spec.validate import normalize

FILES = {"/env": "# comment\nA=1\r\n\nB\nC=x=y\n", "/labels": "one\ntwo=2\n", "/profile": '{"defaultAction":"SCMP_ACT_ALLOW"}', "/bad": "{"}


def read(path: str) -> str:
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory")
    return FILES[path]


HERE = Here({"B": "from-here", "HOME": "/home/me"}, "/work", read)


def made(*words: str) -> dict[str, Any]:
    command = table.find("run")
    assert command
    return body.instance(parse(command, words), HERE)


def spec(*words: str) -> InstanceSpec:
    found = TypeAdapter(InstanceSpec).validate_python(made(*words))
    return normalize(found)


CASES: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["-it", "--rm", "--init", "--read-only"],
     {"stdin": True, "tty": True, "auto_remove": True, "init": True, "security": {"read_only": True}}),
    (["--name", "web", "-h", "me", "-u", "1:2", "-w", "/x"], {"name": "web", "hostname": "me", "user": "1:2", "workdir": "/x"}),
    (["--runtime", "kata-qemu"], {"runtime": "vm"}),
    (["--runtime", "crun"], {}),
    (["--runtime", "runsc"], {"runtime": "sandbox"}),
    (["--entrypoint", '["a","b"]'], {"entrypoint": ["a", "b"]}),
    (["--entrypoint", "sh"], {"entrypoint": ["sh"]}),
    (["--entrypoint", ""], {"entrypoint": []}),
    (["-e", "A=1", "-e", "B", "-e", "GONE", "-e", "E="], {"env": ["A=1", "B=from-here", "E="]}),
    (["--env-file", "/env", "-e", "A=2"], {"env": ["B=from-here", "C=x=y", "A=2"]}),
    (["-l", "a=b", "-l", "c", "--label-file", "/labels"], {"labels": {"one": "", "two": "2", "a": "b", "c": ""}}),
    (["-v", "data:/data"], {"mounts": [{"type": "volume", "source": "data", "target": "/data"}]}),
    (["-v", "/data"], {"mounts": [{"type": "volume", "target": "/data"}]}),
    (["-v", "/src:/dst:ro,z"], {"mounts": [{"type": "bind", "source": "/src", "target": "/dst", "read_only": True}]}),
    (["-v", "./site:/srv"], {"mounts": [{"type": "bind", "source": "/work/site", "target": "/srv"}]}),
    (["-v", "~/x:/srv"], {"mounts": [{"type": "bind", "source": os.path.expanduser("~/x"), "target": "/srv"}]}),
    (["-v", ".:/srv"], {"mounts": [{"type": "bind", "source": "/work", "target": "/srv"}]}),
    (["-v", "d:/d:nocopy"], {"mounts": [{"type": "volume", "source": "d", "target": "/d", "no_copy": True}]}),
    (["--mount", "type=bind,src=/a,dst=/b,ro"], {"mounts": [{"type": "bind", "source": "/a", "target": "/b", "read_only": True}]}),
    (["--mount", "source=v,target=/v,readonly=false"], {"mounts": [{"type": "volume", "source": "v", "target": "/v", "read_only": False}]}),
    (["--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=0700"],
     {"mounts": [{"type": "tmpfs", "target": "/t", "tmpfs_size": 1 << 20, "tmpfs_mode": 0o700}]}),
    (["--mount", 'type=bind,"src=/a,b",dst=/b'], {"mounts": [{"type": "bind", "source": "/a,b", "target": "/b"}]}),
    (["--tmpfs", "/t:size=64m,mode=1777,noexec"],
     {"mounts": [{"type": "tmpfs", "target": "/t", "tmpfs_size": 64 << 20, "tmpfs_mode": 0o1777}]}),
    (["--tmpfs", "/t"], {"mounts": [{"type": "tmpfs", "target": "/t"}]}),
    (["-p", "80"], {"ports": [{"container_port": 80}]}),
    (["-p", "8080:80/udp"], {"ports": [{"container_port": 80, "host_port": 8080, "protocol": "udp"}]}),
    (["-p", "127.0.0.1:8080:80"], {"ports": [{"container_port": 80, "host_port": 8080, "host_ip": "127.0.0.1"}]}),
    (["-p", "127.0.0.1::80"], {"ports": [{"container_port": 80, "host_ip": "127.0.0.1"}]}),
    (["-p", "[::1]:8080:80"], {"ports": [{"container_port": 80, "host_port": 8080, "host_ip": "::1"}]}),
    (["-p", "8000-8001:80-81"], {"ports": [{"container_port": 80, "host_port": 8000}, {"container_port": 81, "host_port": 8001}]}),
    (["-p", "80-81"], {"ports": [{"container_port": 80}, {"container_port": 81}]}),
    (["--network", "none"], {"network_mode": "none"}),
    (["--network", "host"], {"network_mode": "host"}),
    (["--network", "bridge"], {}),
    (["--network", "a:alias=x,alias=y,ip=10.0.0.9", "--net", "b"],
     {"networks": [{"network": "a", "aliases": ["x", "y"], "address": "10.0.0.9"}, {"network": "b"}]}),
    (["--network", "name=a,alias=x"], {"networks": [{"network": "a", "aliases": ["x"]}]}),
    (["--network", "a", "--network-alias", "x", "--ip", "10.0.0.9"],
     {"networks": [{"network": "a", "address": "10.0.0.9", "aliases": ["x"]}]}),
    (["--network-alias", "x"], {"networks": [{"network": "default", "aliases": ["x"]}]}),
    (["-m", "128m", "--memory-swap", "-1", "--cpus", ".5", "-c", "512", "--cpuset-cpus", "0-1", "--pids-limit", "50"],
     {"resources": {"cpus": 0.5, "cpu_shares": 512, "cpuset": "0-1", "memory": 128 << 20, "memory_swap": -1, "pids": 50}}),
    (["--device-read-bps", "/dev/sda:1m", "--device-write-iops", "100"], {"resources": {"read_bps": 1 << 20, "write_iops": 100}}),
    (["--pids-limit", "-1"], {"resources": {"pids": 0}}),
    (["--shm-size", "1g"], {"shm_size": 1 << 30}),
    (["--cap-add", "net_admin", "--cap-drop", "CAP_CHOWN", "--cap-drop", "all"],
     {"security": {"cap_add": ["CAP_NET_ADMIN"], "cap_drop": ["CAP_CHOWN", "ALL"]}}),
    (["--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges:false"],
     {"security": {"seccomp": "unconfined", "no_new_privileges": False}}),
    (["--security-opt", "no-new-privileges"], {"security": {"no_new_privileges": True}}),
    (["--security-opt", "seccomp=/profile"], {"security": {"seccomp": FILES["/profile"]}}),
    (["--ulimit", "nofile=1024:2048", "--ulimit", "core=0"],
     {"ulimits": [{"name": "nofile", "soft": 1024, "hard": 2048}, {"name": "core", "soft": 0, "hard": 0}]}),
    (["--sysctl", "net.core.somaxconn=1024"], {"sysctls": {"net.core.somaxconn": "1024"}}),
    (["--dns", "1.1.1.1", "--dns-search", "example"], {"dns": ["1.1.1.1"], "dns_search": ["example"]}),
    (["--add-host", "db:10.0.0.1", "--add-host", "gw=host-gateway", "--add-host", "six:[::1]"],
     {"extra_hosts": ["db:10.0.0.1", "gw:host-gateway", "six:::1"]}),
    (["--stop-signal", "QUIT", "--stop-timeout", "3"], {"stop_signal": "QUIT", "stop_timeout": 3.0}),
    (["--restart", "on-failure:3"], {"restart": {"when": "on-failure", "max_retries": 3}}),
    (["--restart", "always"], {"restart": {"when": "always"}}),
    (["--health-cmd", "curl -f x", "--health-interval", "1m30s", "--health-retries", "2"],
     {"health": {"test": ["CMD-SHELL", "curl -f x"], "interval": 90.0, "retries": 2}}),
    (["--health-cmd", '["CMD","true"]'], {"health": {"test": ["CMD", "true"]}}),
    (["--health-cmd", "[ -f /ok ]"], {"health": {"test": ["CMD-SHELL", "[ -f /ok ]"]}}),
    (["--no-healthcheck"], {"health": {"test": ["NONE"]}}),
    (["--log-opt", "max-size=10m", "--log-opt", "max-file=5"], {"logging": {"max_size": 10 << 20, "max_files": 5}}),
    (["--secret", "token.txt"], {"files": [{"source": "/work/token.txt", "target": "/run/secrets/token.txt", "secret": True}]}),
    (["--config", "source=/a/b.conf,target=/etc/b.conf,mode=0440,uid=5"],
     {"files": [{"source": "/a/b.conf", "target": "/etc/b.conf", "uid": 5, "mode": 0o440}]}),
    (["--snapshot", "app"], {"snapshot": "app"}),
    (["--snapshot", "app", "--snapshot-reconnect"], {"snapshot": "app", "snapshot_reconnect": True}),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "expected"), CASES, ids=lambda case: " ".join(case) if isinstance(case, list) else "")
def test_flags_become_spec(flags: list[str], expected: dict[str, Any]) -> None:
    found = made(*flags, "img")
    assert found == {"image": "img", **expected}
    spec(*flags, "img")


def test_command_is_all_after_the_image() -> None:
    assert made("img", "sh", "-c", "echo $A", "--rm")["command"] == ["sh", "-c", "echo $A", "--rm"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--runtime", "vmm"], "--runtime 'vmm': use container, sandbox or vm"),
        (["-p", "80:"], "use [[IP:]HOST:]PORT"),
        (["-p", "0:80"], "use 1 to 65535"),
        (["-p", "99999"], "use 1 to 65535"),
        (["-p", "81-80"], "the smaller one first"),
        (["-p", "8000-8002:80"], "differ in length"),
        (["-p", "80/sctp"], "use tcp or udp"),
        (["-p", "300.1.1.1:80:80"], "is no address"),
        (["-v", "a:b:c:d"], "use [SOURCE:]TARGET"),
        (["-v", "a:relative"], "must be absolute"),
        (["-v", "a:/b:rw,fast"], "unknown option 'fast'"),
        (["--mount", "type=bind,target=/b"], "source=… is missing"),
        (["--mount", "type=nfs,target=/b"], "use bind, volume or tmpfs"),
        (["--mount", "type=bind,surce=/a,target=/b"], "did you mean source?"),
        (["--mount", "type=volume"], "target=… is missing"),
        (["--tmpfs", "/t:size=big"], "use a size"),
        (["--network", "none", "--network", "a"], "can't be combined"),
        (["--network", "host", "--ip", "10.0.0.2"], "can't be combined"),
        (["--network", "container:x"], "isn't supported"),
        (["--network", "a:foo=1"], "unknown key 'foo'"),
        (["-e", "=x"], "use KEY=VALUE"),
        (["--env-file", "/nope"], "--env-file /nope: No such file"),
        (["--ulimit", "nofile"], "use KEY=VALUE"),
        (["--ulimit", "nofile=9:3"], "above the hard one"),
        (["--restart", "sometimes"], "use no, always"),
        (["--restart", "always:3"], "use no, always"),
        (["--rm", "--restart", "always"], "exclude each other"),
        (["--security-opt", "seccomp=/nope"], "read /nope"),
        (["--security-opt", "seccomp=/bad"], "no JSON"),
        (["--security-opt", "selinux=off"], "use seccomp=FILE"),
        (["--add-host", "db"], "use NAME:ADDRESS"),
        (["--no-healthcheck", "--health-cmd", "x"], "exclude each other"),
        (["--log-opt", "tag=x"], "use max-size"),
        (["--secret", "target=x"], "source=PATH is missing"),
        (["--device-read-bps", "/dev/sda:fast"], "use a size"),
        (["--sysctl", "a"], "use KEY=VALUE"),
    ],
)
def test_refused_in_one_line_that_names_the_flag(flags: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(*flags, "img")
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_every_row_names_a_field_of_the_spec() -> None:
    command = table.find("create")
    assert command
    for option in command.options:
        if option.spec:
            _field(InstanceSpec, option.spec)


def test_every_field_of_the_spec_has_a_row() -> None:
    command = table.find("create")
    assert command
    rows = {option.spec.split(".")[0] for option in command.options}
    fields = {field.name for field in dataclasses.fields(InstanceSpec)}
    assert fields - rows == {"image", "command", "network_mode"}  # positional, or told by --network


def test_every_limit_has_a_row() -> None:
    for words in ("create", "update"):
        command = table.find(words)
        assert command
        rows = {option.spec.partition(".")[2] for option in command.options if option.spec.startswith("resources.")}
        wanted = {field.name for field in dataclasses.fields(Resources)}
        assert wanted - rows == (set() if words == "create" else {"read_bps", "write_bps", "read_iops", "write_iops"})


def _field(kind: Any, path: str) -> None:
    """Fails if a dotted path doesn't exist in a tree of dataclasses."""
    for name in path.split("."):
        kind = next((part for part in (kind, *get_args(kind)) if dataclasses.is_dataclass(part)), kind)
        kind = get_type_hints(kind)[name]


@pytest.mark.parametrize("word", ["container", "runc", "crun", "sandbox", "runsc", "vm", "krun", "kata", "kata-clh"])
def test_runtime_words_are_those_of_the_spec(word: str) -> None:
    assert made("--runtime", word, "img").get("runtime", "container") == Runtime.parse(word)


def test_process_is_a_process() -> None:
    command = table.find("exec")
    assert command
    args = parse(command, ["-it", "-u", "me", "-w", "/", "-e", "A=1", "web", "sh", "-c", "x"])
    found = body.process(args, HERE, (40, 100))
    strict = TypeAdapter(with_config(ConfigDict(extra="forbid"))(Process))
    process = strict.validate_python(found)
    assert process == Process(("sh", "-c", "x"), ("A=1",), "/", "me", True, True, 40, 100)
    assert Engine.exec.__doc__ and 'cwd ""' in Engine.exec.__doc__
    assert body.process(parse(command, ["web", "true"]), HERE, (1, 1))["cwd"] == ""
