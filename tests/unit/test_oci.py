"""config.json as a whole (golden files), and what is refused while it is built."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twinhull.errors import UserError
from twinhull.instance import conmon, oci
from twinhull.instance.base import HostMount, Launch, Paths, Process, Root
from twinhull.instance.users import Identity
from twinhull.spec.instance import Resources, Security, Ulimit

GOLDEN = Path(__file__).parent
HOST = oci.Host(hard_limits={"nofile": 20000, "core": -1}, disk=(8, 16))
LAUNCH = Launch(
    id="0123456789abcdef" * 4,
    name="web",
    paths=Paths(Path("/s/i"), Path("/r/i")),
    root=Root("img", (Path("/l/1"), Path("/l/0"))),
    process=Process(argv=("httpd", "-f"), env=("PATH=/bin", "HOME=/root"), cwd="/srv"),
    hostname="web",
    mounts=(),
    files=(),
    interfaces=(),
    resources=Resources(),
    security=Security(),
    ulimits=(),
    sysctls={},
    shm_size=64 << 20,
    init=False,
    id_base=0x70000000,
    cgroup="twinhull-1a2b3/0123456789ab",
    log_max_size=1 << 20,
    log_max_files=3,
)
STAGE = oci.Stage(Path("/stage/root"), (oci.Bind("/run/twinhull/agent", Path("/a/agent"), read_only=True),))


def built(launch: Launch, identity: Identity | None = None, stage: oci.Stage = STAGE, host: oci.Host = HOST) -> dict[str, Any]:
    config = oci.config(launch, identity or Identity(), stage, host)
    if "seccomp" in config["linux"]:
        config["linux"]["seccomp"] = "see test_seccomp.py"
    return json.loads(json.dumps(config))  # type: ignore[no-any-return]


def test_defaults() -> None:
    assert built(LAUNCH) == json.loads((GOLDEN / "oci_defaults.json").read_text())


def test_everything() -> None:
    launch = replace(
        LAUNCH,
        process=Process(argv=("sh",), env=(), user="app", tty=True, rows=30, cols=100),
        mounts=(HostMount("/a/b", None, tmpfs_size=4096, tmpfs_mode=0o700), HostMount("/dev/shm", None, read_only=True)),
        resources=Resources(cpus=0.5, cpu_shares=512, cpuset="0", memory=1 << 20, memory_swap=-1, pids=7, read_bps=10, write_iops=20),
        security=Security(cap_drop=("ALL",), cap_add=("NET_ADMIN",), read_only=True, no_new_privileges=False, seccomp="unconfined"),
        ulimits=(Ulimit("nofile", 100, 20000), Ulimit("core", -1, -1)),
        sysctls={"net.ipv4.ip_forward": "1", "kernel.shmmax": "1"},
        netns="/run/netns/x",
    )
    stage = replace(STAGE, binds=(oci.Bind("/a", Path("/stage/m0")), *STAGE.binds), sysfs=Path("/stage/sys"))
    config = built(launch, Identity(1000, 1001, (10, 29), "/home/app", "app"), stage)
    assert config == json.loads((GOLDEN / "oci_everything.json").read_text())


def test_privileged_is_the_hosts_root() -> None:
    device = oci.Device("/dev/kvm", "c", 10, 232, 0o660, 0, 107)
    config = built(replace(LAUNCH, security=Security(privileged=True)), host=replace(HOST, devices=(device,)))
    linux = config["linux"]
    assert "uidMappings" not in linux and {"type": "user"} not in linux["namespaces"]
    assert "seccomp" not in linux and linux["maskedPaths"] == linux["readonlyPaths"] == []
    assert linux["devices"] == [{"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232, "fileMode": 0o660, "uid": 0, "gid": 107}]
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert len(config["process"]["capabilities"]["bounding"]) == 41
    assert not config["process"]["noNewPrivileges"]


def test_the_hosts_network() -> None:
    config = built(replace(LAUNCH, host_network=True), stage=replace(STAGE, sysfs=Path("/stage/sys")))
    assert "network" not in [namespace["type"] for namespace in config["linux"]["namespaces"]]
    assert config["linux"]["sysctl"] == {}


def test_init_is_the_agent() -> None:
    assert oci.argv(LAUNCH) == ("httpd", "-f")
    assert oci.argv(replace(LAUNCH, init=True)) == ("/run/twinhull/agent", "init", "--", "httpd", "-f")


def test_swap_is_left_out_where_the_kernel_does_not_count_it() -> None:
    limits = replace(LAUNCH, resources=Resources(memory=1 << 20))
    assert built(limits)["linux"]["resources"]["memory"] == {"limit": 1 << 20, "swap": 1 << 20}
    assert built(limits, host=replace(HOST, swap_accounting=False))["linux"]["resources"]["memory"] == {"limit": 1 << 20}


def test_exec_gets_the_instances_limits_and_may_be_privileged() -> None:
    launch = replace(LAUNCH, security=Security(cap_drop=("ALL",)), ulimits=(Ulimit("nofile", 5, 6),))
    plain = oci.process(launch, Process(argv=("id",), env=()), Identity(), HOST)
    assert plain["capabilities"]["bounding"] == [] and plain["noNewPrivileges"]
    assert plain["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}]
    assert len(oci.process(launch, Process(argv=("id",), env=(), privileged=True), Identity(), HOST)["capabilities"]["effective"]) == 41


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ulimits": (Ulimit("nofile", 1, 20001),)}, "the daemon itself has a hard limit of 20000"),
        ({"ulimits": (Ulimit("nofile", 1, -1),)}, "the daemon itself has a hard limit of 20000"),
        ({"ulimits": (Ulimit("nofile", 9, 8),)}, "soft limit is above"),
        ({"ulimits": (Ulimit("nofile", -1, 8),)}, "soft limit is above"),
        ({"ulimits": (Ulimit("files", 1, 1),)}, "unknown ulimit 'files'"),
        ({"sysctls": {"kernel.panic": "1"}}, "isn't namespaced"),
        ({"sysctls": {"vm.swappiness": "1"}}, "isn't namespaced"),
        ({"sysctls": {"net.core.somaxconn": "1"}, "host_network": True}, "the network is the host's"),
        ({"resources": Resources(read_bps=1)}, "isn't on a block device"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        built(replace(LAUNCH, **change), host=replace(HOST, disk=None))


def test_ids_beyond_the_user_namespace_are_refused() -> None:
    with pytest.raises(UserError, match="don't exist in this instance"):
        built(LAUNCH, Identity(uid=65536))
    assert built(replace(LAUNCH, id_base=0), Identity(uid=65536))["process"]["user"]["uid"] == 65536


def test_conmons_command_line() -> None:
    words = conmon.argv(
        conmon="/usr/bin/conmon",
        runtime=["/usr/bin/crun", "--root", "/r/oci"],
        instance="abc",
        name="web",
        folders=conmon.Folders(Path("/r/i")),
        log=Path("/s/i/log"),
        tty=False,
        stdin=True,
    )
    assert " ".join(words) == (
        "/usr/bin/conmon --api-version 1 --cid abc --cuuid abc --name web --runtime /usr/bin/crun --runtime-arg=--root --runtime-arg=/r/oci"
        " --bundle /r/i/bundle --full-attach --container-pidfile /r/i/pid --conmon-pidfile /r/i/conmon.pid --exit-dir /r/i/exit"
        " --persist-dir /r/i/persist --log-path k8s-file:/s/i/log --log-level error --no-sync-log --stdin"
    )


def test_conmons_answers() -> None:
    assert conmon.parse_answer(b'{"data": 12}\n') == 12
    assert conmon.parse_answer(b'{"pid": 12, "message": ""}\n') == 12
    with pytest.raises(RuntimeError, match="no such thing"):
        conmon.parse_answer(b'{"data": -1, "message": "no such thing"}\n')
    for torn in (b"", b"[]", b"{", b'{"data": "x"}'):
        with pytest.raises(Exception, match="conmon answered"):
            conmon.parse_answer(torn)
    assert conmon.last_message(b'{"msg": "one"}\n{"msg": "two"}\nhalf a li') == "two"
    assert conmon.last_message(b"") == ""
