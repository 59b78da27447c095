"""What is told about instances: logs, lists, filters, events."""

from __future__ import annotations

import json
import re
import subprocess
import time

from tests.conformance.instance import BUSYBOX, Instance, Maker, wait_for
from tests.harness import Daemon


def test_log_keeps_streams_apart_and_is_complete_after_the_end(make: Maker) -> None:
    made = make(command=["sh", "-c", "echo out; echo err >&2; printf 'no newline'"])
    made.wait_exit()
    done = made.act("logs")
    assert (done.out, done.err) == (b"out\nno newline", b"err\n")


def test_log_since_tail_and_timestamps(make: Maker) -> None:
    made = make(command=["sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done; sleep 1.5; echo last; sleep 1000000"])
    made.wait_log("last")
    assert made.logs("--tail", "2").splitlines() == ["line 5", "last"]
    assert made.logs("--tail", "0") == ""
    stamped = made.logs("-t").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d) ", line) for line in stamped)
    assert made.logs("--since", stamped[-1].split()[0]).splitlines() == ["last"]
    assert "last" not in made.logs("--until", stamped[4].split()[0])


def test_log_follows_until_the_end(make: Maker) -> None:
    made = make(command=["sh", "-c", "echo one; while ! test -e /go; do sleep 0.1; done; echo two"])
    follower = made.daemon.popen("logs", "-f", made.name, stdout=subprocess.PIPE)
    assert follower.stdout is not None
    assert follower.stdout.readline() == b"one\n"
    made.sh("touch /go")
    assert follower.communicate(timeout=60)[0] == b"two\n"
    assert follower.returncode == 0


def test_log_is_binary_clean_and_keeps_long_lines(make: Maker) -> None:
    made = make(command=["sh", "-c", r"printf '\377\0\001\n'; head -c 100000 /dev/zero | tr '\0' x; echo; printf 'ü\n'"])
    made.wait_exit()
    assert made.act("logs").out == b"\xff\0\x01\n" + b"x" * 100_000 + b"\n" + "ü\n".encode()


def test_five_megabytes_of_log_are_complete(make: Maker) -> None:
    made = make(command=["seq", "1", "700000"])
    assert made.wait_exit(240) == 0
    out = made.act("logs").out
    assert out == "".join(f"{number}\n" for number in range(1, 700_001)).encode()


def test_log_is_rotated_and_old_files_go(make: Maker) -> None:
    made = make("--log-opt", "max-size=100k", "--log-opt", "max-file=2", command=["sh", "-c", "seq 1 60000; echo end; sleep 1000000"])
    made.wait_log("end", 120)
    wait_for("rotation", lambda: len(made.logs()) < 350_000, 90)
    assert made.logs("--tail", "1").strip() == "end"


def test_logs_of_runs_are_kept_over_a_restart(make: Maker) -> None:
    made = make(command=["sh", "-c", "echo run; sleep 1000000"])
    made.wait_log("run")
    made.act("restart", "-t", "0")
    wait_for("both", lambda: made.logs().count("run") == 2)


def test_list_shows_state_and_filters(make: Maker, daemon: Daemon) -> None:
    mark = f"test={make.runtime}-list"
    one, two = make("--label", mark), make("--label", mark, verb="create")

    def names(*flags: str) -> set[str]:
        return set(daemon.cli("ps", "--format", "{{.Names}}", "--filter", f"label={mark}", *flags).lines)

    assert names() == {one.name}
    assert names("-a") == {one.name, two.name}
    assert names("-a", "--filter", "status=created") == {two.name}
    assert names("-a", "--filter", f"name={two.name}") == {two.name}
    assert names("-a", "--filter", f"runtime={make.runtime}") == {one.name, two.name}
    assert names("-a", "--filter", f"ancestor={BUSYBOX}") == {one.name, two.name}
    assert names("-a", "--filter", "name=no-such") == set()
    rows = json.loads(daemon.cli("ps", "-a", "--format", "json", "--filter", f"label={mark}").out)
    assert {row["name"] for row in rows} == {one.name, two.name}
    assert len(daemon.cli("ps", "-q", "--filter", f"label={mark}").lines) == 1


def test_events_tell_a_life_in_order(make: Maker, daemon: Daemon) -> None:
    since = str(time.time())
    made = make(command=["sh", "-c", "exit 3"])
    made.wait_exit()
    made.act("rm")
    lines = daemon.cli(
        "events", "--since", since, "--until", str(time.time()), "--format", "json", "--filter", f"instance={made.name}"
    ).lines
    events = [json.loads(line) for line in lines]
    order = [event["action"] for event in events if event["kind"] == "instance"]
    assert [action for action in order if action in ("create", "start", "die", "destroy", "remove")][:3] == ["create", "start", "die"]
    assert order[-1] in ("destroy", "remove")
    die = next(event for event in events if event["action"] == "die")
    assert die["attributes"]["exit_code"] == "3"


def test_events_follow(make: Maker, daemon: Daemon) -> None:
    follower = daemon.popen("events", "--since", str(time.time()), "--format", "json", stdout=subprocess.PIPE)
    try:
        assert follower.stdout is not None
        made = make(verb="create")
        seen = (json.loads(line) for line in follower.stdout)
        assert next(event for event in seen if event["action"] == "create" and event["name"] == made.name)["kind"] == "instance"
    finally:
        follower.kill()
        follower.communicate()


def test_inspect_says_what_was_asked_for(make: Maker) -> None:
    flags = ["--memory", "200m", "--cpus", "1", "--label", "a=b", "-e", "X=y", "--stop-timeout", "3", "--read-only"]
    view = make(*flags, verb="create").view()
    spec = view["spec"]
    assert (spec["resources"]["memory"], spec["resources"]["cpus"]) == (200 << 20, 1.0)
    assert spec["labels"] == {"a": "b"}
    assert "X=y" in spec["env"]
    assert spec["stop_timeout"] == 3
    assert spec["security"]["read_only"] is True
    assert view["image"] == BUSYBOX


def test_accelerator_is_said_of_a_vm_only(box: Instance) -> None:
    accelerator = box.view()["accelerator"]
    assert accelerator in (("kvm", "tcg") if box.runtime == "vm" else ("",))
