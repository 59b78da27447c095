"""The life cycle: run, stop, kill, wait, restart, pause, restart policies, health, reasons for the end."""

from __future__ import annotations

import time

import pytest
from tests.conformance.instance import BUSYBOX, Maker, wait_for
from tests.harness import Daemon

TRAP = "trap 'echo bye; exit 42' TERM; echo up; while :; do sleep 0.1; done"

END_ON_FILE = "while ! test -e /end; do sleep 0.1; done; rm /end; exit 3"


def test_run_ends_with_the_workloads_code_and_streams(make: Maker) -> None:
    done = make.foreground("-i", command=["sh", "-c", "cat; echo err >&2; exit 7"], stdin=b"in\0put\xff", check=False)
    assert (done.code, done.out, done.err) == (7, b"in\0put\xff", b"err\n")


def test_rm_leaves_no_instance(make: Maker, daemon: Daemon) -> None:
    done = make.foreground("--label", "of=rm", command=["true"])
    assert done.code == 0
    wait_for("removal", lambda: not daemon.cli("ps", "-aq", "--filter", "label=of=rm").text)


def test_detached_run_prints_the_id_and_works(make: Maker) -> None:
    made = make()
    view = made.view()
    assert len(view["id"]) == 64
    assert set(view["id"]) <= set("0123456789abcdef")
    assert (view["state"], view["runtime"], view["name"]) == ("running", made.runtime, made.name)
    assert made.daemon.cli("inspect", view["id"][:12]).code == 0


def test_missing_program_is_127_and_an_unrunnable_one_126(make: Maker) -> None:
    missing = make.foreground(command=["no-such-program"], check=False)
    assert (missing.code, missing.out) == (127, b"")
    assert b"no-such-program" in missing.err
    assert make.foreground(command=["/etc/passwd"], check=False).code == 126


def test_errors_of_ours_are_125(make: Maker) -> None:
    assert make.foreground(image="localhost/no-such-image:1", command=["true"], check=False).code == 125
    done = make.foreground("--user", "nosuchuser", command=["true"], check=False)
    assert done.code in (125, 126)
    assert b"nosuchuser" in done.err


def test_command_entrypoint_environment_user_and_folder(make: Maker) -> None:
    flags = ["-e", "A=1", "-e", "B=", "-w", "/var/www", "--user", "app:33", "--entrypoint", "/bin/sh", "--hostname", "ship"]
    script = 'echo "$0|$1|$A|$B|$PWD|$(id -u):$(id -g)|$(hostname)"; env | grep -c "^B=$"'
    assert make.foreground(*flags, command=["-c", script, "zero", "one two"]).lines == ["zero|one two|1||/var/www|1000:33|ship", "1"]


def test_missing_working_directory_is_made(make: Maker) -> None:
    assert make.foreground("-w", "/made/for/it", command=["pwd"]).text == "/made/for/it"


def test_stop_sends_term_and_waits(make: Maker) -> None:
    made = make(command=["sh", "-c", TRAP])
    made.wait_log("up")
    made.act("stop", "-t", "30")
    view = made.view()
    assert (view["state"], view["exit_code"]) == ("exited", 42)
    assert "bye" in made.logs()


def test_stop_kills_after_its_grace(make: Maker) -> None:
    made = make(command=["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"])
    made.wait_log("up")
    began = time.monotonic()
    made.act("stop", "-t", "2")
    took = time.monotonic() - began
    assert 2 <= took < 12
    assert made.view()["exit_code"] == 137


def test_own_stop_signal(make: Maker) -> None:
    made = make("--stop-signal", "USR1", command=["sh", "-c", "trap 'exit 9' USR1; trap '' TERM; echo up; while :; do sleep 0.1; done"])
    made.wait_log("up")
    made.act("stop", "-t", "30")
    assert made.view()["exit_code"] == 9


def test_kill_sends_any_signal_and_kill_is_137(make: Maker) -> None:
    made = make(command=["sh", "-c", "trap 'echo hup' HUP; echo up; while :; do sleep 0.1; done"])
    made.wait_log("up")
    made.act("kill", "-s", "HUP")
    made.wait_log("hup")
    assert made.state == "running"
    made.act("kill")
    assert made.wait_exit() == 137
    assert made.view()["oom_killed"] is False


def test_wait_is_answered_for_every_waiter_and_afterwards(make: Maker) -> None:
    import subprocess

    made = make("--stop-signal", "TERM", command=["sh", "-c", TRAP])
    made.wait_log("up")
    waiters = [made.daemon.popen("wait", made.name, stdout=subprocess.PIPE) for _ in range(3)]
    made.act("kill", "-s", "TERM")
    assert [process.communicate(timeout=30)[0].strip() for process in waiters] == [b"42"] * 3
    assert made.wait_exit() == 42


def test_writable_layer_survives_stop_and_start_but_processes_do_not(make: Maker) -> None:
    made = make(command=["sh", "-c", "date +%s%N >>/starts; sleep 1000000"])
    wait_for("first start", lambda: made.sh("cat /starts 2>/dev/null || true"))
    made.sh("echo kept >/root/file; mkfifo /root/pipe; chown 33:1000 /root/file; chmod 4711 /root/file; rm /var/www/index.html")
    made.act("stop", "-t", "0")
    assert made.view()["exit_code"] in (137, 143)  # TERM, if it was quicker than KILL
    made.act("start")
    made.wait_state("running")
    assert wait_for("second start", lambda: len(made.sh("cat /starts").splitlines()) == 2)
    assert made.sh("cat /root/file; stat -c '%a %u:%g' /root/file; test -p /root/pipe; test -e /var/www/index.html; echo $?").split() == [
        "kept",
        "4711",
        "33:1000",
        "1",
    ]


def test_restart_begins_again(make: Maker) -> None:
    made = make()
    before = made.view()["started_at"]
    made.act("restart", "-t", "0")
    after = made.view()
    assert after["state"] == "running"
    assert after["started_at"] > before


def test_create_runs_nothing_until_start(make: Maker) -> None:
    made = make(verb="create", command=["sh", "-c", "echo ran; exit 5"])
    view = made.view()
    assert (view["state"], view["started_at"]) == ("created", 0)
    assert made.logs() == ""
    done = made.daemon.cli("start", "-a", made.name, check=False)
    assert (done.code, done.out) == (5, b"ran\n")


def test_pause_stops_time_for_all_processes(make: Maker) -> None:
    made = make(command=["sh", "-c", "while :; do echo x; sleep 0.1; done"])
    made.wait_log("x")
    made.act("pause")
    assert made.state == "paused"
    time.sleep(0.5)  # what was under way reaches the log
    still = len(made.logs())
    time.sleep(1)  # the subject of the test is that nothing happens in this time
    assert len(made.logs()) == still
    assert made.exec("true", check=False, timeout=30).code != 0
    made.act("unpause")
    assert made.state == "running"
    wait_for("more output", lambda: len(made.logs()) > still)


def test_stop_of_a_paused_instance_ends_it(make: Maker) -> None:
    made = make()
    made.act("pause")
    made.act("stop", "-t", "1")
    assert made.state == "exited"


def test_init_reaps_orphans_and_passes_signals_on(make: Maker) -> None:
    script = f"for i in 1 2 3 4 5; do (sleep 0.1 & exec true) & done; {TRAP}"
    made = make("--init", command=["sh", "-c", script])
    made.wait_log("up")
    wait_for("no zombies", lambda: "Z" not in made.sh("cat /proc/[0-9]*/stat 2>/dev/null | sed 's/.*) //' | cut -c1"))
    made.act("stop", "-t", "30")
    assert made.view()["exit_code"] == 42


def test_memory_limit_ends_the_workload_as_out_of_memory(make: Maker) -> None:
    made = make("--memory", "128m", command=["sh", "-c", "echo up; tail /dev/zero"])
    code = made.wait_exit(120)
    view = made.view()
    assert code in (1, 137)
    assert view["oom_killed"] is True
    assert "oom" in view["exit_reason"]


def test_on_failure_restarts_so_often_and_no_more(make: Maker) -> None:
    made = make("--restart", "on-failure:2", command=["sh", "-c", "echo start; exit 3"])
    view = made.wait_state("exited", timeout=120)
    assert view["restart_count"] == 2
    assert view["exit_code"] == 3
    assert made.logs().count("start") == 3


def test_on_failure_lets_success_be(make: Maker) -> None:
    made = make("--restart", "on-failure", command=["true"])
    assert made.wait_exit() == 0
    assert made.wait_state("exited")["restart_count"] == 0


def test_always_restarts_after_an_end_but_not_after_stop(make: Maker) -> None:
    made = make("--restart", "always", command=["sh", "-c", END_ON_FILE])
    made.sh("touch /end")
    wait_for("restart", lambda: (view := made.view())["restart_count"] == 1 and view["state"] == "running", 60)
    made.act("stop", "-t", "5")
    view = made.view()
    assert (view["state"], view["restart_count"]) == ("exited", 1)


def test_health_goes_from_starting_to_healthy_to_unhealthy(make: Maker) -> None:
    flags = ["--health-cmd", "test -e /well", "--health-interval", "1s", "--health-retries", "2", "--health-timeout", "20s"]
    made = make(*flags, "--health-start-period", "60s")
    assert made.view()["health"]["status"] == "starting"
    made.sh("touch /well")
    wait_for("healthy", lambda: made.view()["health"]["status"] == "healthy", 60)
    made.sh("rm /well")
    health = wait_for("unhealthy", lambda: h if (h := made.view()["health"])["status"] == "unhealthy" else None, 60)
    assert health["failing_streak"] >= 2
    assert health["log"][-1]["code"] == 1
    assert made.state == "running"


def test_attach_sees_output_and_gives_input(make: Maker) -> None:
    import subprocess

    made = make("-i", command=["sh", "-c", "while read -r line; do echo got $line; done; echo eof"])
    process = made.daemon.popen("attach", made.name, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"got one\n"
    out, _ = process.communicate(timeout=30)
    assert out == b"eof\n"
    assert made.wait_exit() == 0


def test_run_on_a_terminal(make: Maker) -> None:
    from tests.conformance.terminal import Terminal

    argv = ["run", "--rm", "-it", "--name", make.name(), "--runtime", make.runtime, BUSYBOX, "sh"]
    with Terminal(make.daemon, *argv, rows=33, cols=77) as tty:
        tty.expect("# ")
        tty.send("stty size; test -t 0 && echo a 'terminal'\n")
        tty.expect("33 77")
        tty.expect("a terminal")
        tty.send("exit 4\n")
        assert tty.wait() == 4


def test_names_are_unique_and_can_change(make: Maker, daemon: Daemon) -> None:
    first, second = make(verb="create"), make(verb="create")
    assert daemon.cli("rename", first.name, second.name, check=False).code != 0
    other = make.name()
    daemon.cli("rename", first.name, other)
    assert daemon.cli("inspect", first.name, check=False).code != 0
    daemon.cli("rename", other, first.name)
    done = daemon.cli("create", "--name", second.name, BUSYBOX, check=False)
    assert done.code != 0
    assert second.name.encode() in done.err


def test_a_running_instance_is_removed_by_force_only(make: Maker) -> None:
    made = make()
    refused = made.act("rm", check=False)
    assert refused.code != 0
    assert made.state == "running"
    made.act("rm", "-f")
    assert made.daemon.cli("inspect", made.name, check=False).code != 0


def test_a_kill_by_the_user_is_respected_as_in_docker(make: Maker) -> None:
    made = make("--restart", "always")
    made.act("kill")
    made.wait_state("exited")
    time.sleep(1)  # longer than the first back-off: the subject is that nothing happens
    view = made.view()
    assert (view["state"], view["restart_count"], view["exit_code"]) == ("exited", 0, 137)


def test_update_changes_the_restart_policy(make: Maker) -> None:
    made = make(command=["sh", "-c", END_ON_FILE])
    made.act("update", "--restart", "always")
    made.sh("touch /end")
    wait_for("restart", lambda: (view := made.view())["restart_count"] == 1 and view["state"] == "running", 60)
    made.act("stop", "-t", "0")


@pytest.mark.parametrize("verb", ["start", "pause", "unpause", "kill"])
def test_verbs_in_the_wrong_state_are_refused(make: Maker, verb: str) -> None:
    made = make(verb="create") if verb != "start" else make()
    if verb == "start":  # starting what runs is no error, as in Docker
        assert made.act("start").code == 0
        return
    done = made.act(verb, check=False)
    assert done.code != 0
    assert made.state == "created"
