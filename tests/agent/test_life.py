"""The workload: configured, started, ended; what it sees of its world."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace

import pytest
from tests.agent.lab import AGENT, Lab, collect, config, privileged, sh, tool, until, until_true

from twinhull.errors import CannotRunError, ConflictError, TwinhullError, UserError
from twinhull.instance.base import HostMount, InjectedFile, Process
from twinhull.instance.vm.agent import AgentClient
from twinhull.instance.vm.frames import GuestState
from twinhull.instance.vm.guest import GuestIdentity
from twinhull.spec.instance import Ulimit


async def test_states_and_exit_code(lab: Lab) -> None:
    client = await lab.connect()
    assert client.state is GuestState.FRESH
    await client.configure(config("sh", "-c", "echo out; echo err >&2; exit 7"))
    assert client.state is GuestState.CONFIGURED
    assert lab.output == []
    await client.start()
    ended = await client.wait_exit()
    assert (ended.code, ended.oom) == (7, False)
    assert client.state is GuestState.EXITED
    assert (lab.text(1), lab.text(2)) == (b"out\n", b"err\n")
    with pytest.raises(ConflictError):
        await client.configure(config("true"))
    with pytest.raises(ConflictError):
        await client.start()
    with pytest.raises(ConflictError):
        await sh(client, "true")


async def test_start_without_configuration_is_refused(lab: Lab) -> None:
    client = await lab.connect()
    with pytest.raises(ConflictError, match="not configured"):
        await client.start()


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["no-such-program"], 127, 'exec: "no-such-program": executable file not found in $PATH'),
        (["/bin/none"], 127, 'exec: "/bin/none": stat /bin/none: no such file or directory'),
        (["/etc"], 126, 'exec: "/etc": is a directory'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
async def test_programs_that_cannot_run_fail_at_configure_and_exec(lab: Lab, argv: list[str], code: int, text: str) -> None:
    client = await lab.connect()
    with pytest.raises(CannotRunError) as caught:
        await client.configure(config(*argv))
    assert (caught.value.exit_code, caught.value.message) == (code, text)


async def test_a_file_that_is_no_program_is_126_at_start(lab: Lab) -> None:
    (lab.root / "etc/not-a-program").chmod(0o755)
    client = await lab.connect()
    await client.configure(config("/etc/not-a-program"))
    with pytest.raises(CannotRunError, match="exec format error") as caught:
        await client.start()
    assert caught.value.exit_code == 126


async def test_exec_errors_leave_the_workload_alone(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("sleep", "1000"))
    await client.start()
    with pytest.raises(CannotRunError) as caught:
        await client.exec(Process(argv=("nope",), env=()))
    assert caught.value.exit_code == 127
    with pytest.raises(UserError, match="unable to find user ghost: no matching entries in passwd file"):
        await sh(client, "true", user="ghost")
    with pytest.raises(UserError, match="unable to find group ghosts: no matching entries in group file"):
        await sh(client, "true", user="web:ghosts")
    with pytest.raises(UserError):
        await client.exec(Process(argv=(), env=()))
    assert await sh(client, "echo still here") == (0, b"still here\n", b"")


async def test_the_workload_is_pid_1_with_its_own_world(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("sh", "-c", "echo $$; hostname; cat /proc/1/comm; ls /dev; echo $HOME; pwd; umask"))
    await client.start()
    await client.wait_exit()
    lines = lab.text().decode().split("\n")
    assert lines[:3] == ["1", "lab", "sh"]
    assert " ".join(lines[3:18]) == "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert lines[18:21] == ["/root", "/", "0022"]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", b"0 0 0 /root\n"),
        ("web", b"101 102 102 500 /home/web\n"),
        ("101", b"101 102 102 500 /home/web\n"),
        ("web:extra", b"101 500 500 /home/web\n"),
        ("4711:42", b"4711 42 42 /\n"),
    ],
)
async def test_users(lab: Lab, user: str, expected: bytes) -> None:
    client = await lab.connect()
    await client.configure(config("sh", "-c", "echo $(id -u) $(id -g) $(id -G) $HOME", user=user))
    await client.start()
    await client.wait_exit()
    assert lab.text() == expected
    assert lab.text(2) == b""


async def test_environment_is_passed_as_it_is(lab: Lab) -> None:
    odd = ("PATH=/bin", "EMPTY=", "LINES=a\nb", "UMLAUT=grüß", "HOME=/elsewhere", "RAW=\udcff")
    client = await lab.connect()
    await client.configure(config("cat", "/proc/self/environ", env=odd))
    await client.start()
    await client.wait_exit()
    assert lab.text() == b"PATH=/bin\0EMPTY=\0LINES=a\nb\0UMLAUT=gr\xc3\xbc\xc3\x9f\0HOME=/elsewhere\0RAW=\xff\0"


async def test_working_directory_is_made(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("pwd", cwd="/deep/er/place"))
    await client.start()
    await client.wait_exit()
    assert lab.text() == b"/deep/er/place\n"
    assert (lab.root / "deep/er/place").is_dir()


async def test_capabilities_and_no_new_privileges(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("grep", "-E", "^(Cap|NoNew|Seccomp:)", "/proc/self/status"))
    await client.start()
    await client.wait_exit()
    status = dict(line.split(":\t") for line in lab.text().decode().splitlines())
    assert status["CapBnd"] == status["CapEff"] == status["CapPrm"] == "00000000a80425fb"
    assert status["CapInh"] == status["CapAmb"] == "0000000000000000"
    assert status["NoNewPrivs"] == "1"


async def test_a_user_has_no_capabilities(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("grep", "CapEff", "/proc/self/status", user="web"))
    await client.start()
    await client.wait_exit()
    assert lab.text() == b"CapEff:\t0000000000000000\n"


@pytest.mark.parametrize("no_new_privileges", [True, False])
async def test_seccomp_program_is_applied(lab: Lab, no_new_privileges: bool) -> None:
    # Load the number; mkdir (83) and mkdirat (258) give EPERM; the rest is allowed.
    program = b"".join(
        (
            (0x20).to_bytes(2, "little") + bytes([0, 0]) + (0).to_bytes(4, "little"),
            (0x15).to_bytes(2, "little") + bytes([1, 0]) + (83).to_bytes(4, "little"),
            (0x15).to_bytes(2, "little") + bytes([0, 1]) + (258).to_bytes(4, "little"),
            (0x06).to_bytes(2, "little") + bytes([0, 0]) + (0x00050001).to_bytes(4, "little"),
            (0x06).to_bytes(2, "little") + bytes([0, 0]) + (0x7FFF0000).to_bytes(4, "little"),
        )
    )
    client = await lab.connect()
    await client.configure(config("sh", "-c", "mkdir /x; echo $?; exec sleep 1000", seccomp=program, no_new_privileges=no_new_privileges))
    await client.start()
    await until(lambda: lab.text() == b"1\n")
    assert b"Operation not permitted" in lab.text(2)
    assert (await sh(client, "mkdir /x"))[0] == 1
    assert (await sh(client, "mkdir /x", privileged=True))[0] == 1
    (lab.root / "t").mkdir()
    assert (await tool(client, "tar-in", "/t", data=_one_folder()))[0] == 0, "tools aren't filtered"
    assert (lab.root / "t/made").is_dir()


def _one_folder() -> bytes:
    import io
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("made")
        entry.type = tarfile.DIRTYPE
        entry.mode = 0o755
        archive.addfile(entry)
    return stream.getvalue()


async def test_masked_and_read_only_kernel_paths(lab: Lab) -> None:
    script = (
        "cat /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls /sys/firmware | wc -l;"
        "echo 1 > /proc/sys/vm/swappiness; echo $?; touch /sys/x; mount -t tmpfs x /tmp; echo $?"
    )
    client = await lab.connect()
    await client.configure(config("sh", "-c", script))
    await client.start()
    await client.wait_exit()
    assert lab.text() == b"0\n0\n1\n1\n"
    assert lab.text(2).count(b"Read-only file system") == 2


async def test_privileged_may_mount(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(privileged(config("sh", "-c", "mount -t tmpfs x /tmp && echo yes")))
    await client.start()
    await client.wait_exit()
    assert lab.text() == b"yes\n"


async def test_read_only_root(lab: Lab) -> None:
    mounts = (HostMount("/scratch", None, tmpfs_size=1 << 20, tmpfs_mode=0o755),)
    script = "touch /x; echo $?; touch /scratch/x /dev/shm/x && echo ok"
    client = await lab.connect()
    await client.configure(config("sh", "-c", script, read_only=True, mounts=mounts))
    await client.start()
    await client.wait_exit()
    assert lab.text() == b"1\nok\n"
    assert b"Read-only file system" in lab.text(2)


async def test_tmpfs_and_shm_have_their_sizes(lab: Lab) -> None:
    mounts = (HostMount("/small", None, tmpfs_size=64 * 1024, tmpfs_mode=0o700), HostMount("/small/in/side", None))
    script = (
        "df -k /small /dev/shm | awk 'NR>1 {print $2}'; stat -c %a /small /small/in/side; dd if=/dev/zero of=/small/x bs=100000 count=1"
    )
    client = await lab.connect()
    await client.configure(config("sh", "-c", script, mounts=mounts, shm_size=128 * 1024))
    await client.start()
    assert (await client.wait_exit()).code == 1
    assert lab.text() == b"64\n128\n700\n1777\n"
    assert b"No space left" in lab.text(2)


async def test_volumes_files_and_folders(lab: Lab) -> None:
    for number in "01":
        (lab.volumes / number).mkdir(parents=True)
    (lab.volumes / "2").write_text("a file\n")
    (lab.volumes / "1" / "kept").write_text("kept\n")
    mounts = (
        HostMount("/data", lab.volumes / "0"),
        HostMount("/protected", lab.volumes / "1", read_only=True),
        HostMount("/etc/one-file", lab.volumes / "2"),
    )
    script = "echo x > /data/new; cat /protected/kept /etc/one-file; touch /protected/y; echo $?"
    numbers = {"/data": 0, "/protected": 1, "/etc/one-file": 2}
    client = await lab.connect()
    await client.configure(config("sh", "-c", script, mounts=mounts, volumes=numbers))
    await client.start()
    await client.wait_exit()
    assert lab.text() == b"kept\na file\n1\n"
    assert (lab.volumes / "0/new").read_text() == "x\n"
    assert not (lab.volumes / "1/y").exists()


async def test_injected_files(lab: Lab) -> None:
    (lab.root / "etc/resolv.conf").symlink_to("../run/resolve/stub")
    files = (
        InjectedFile("/run/secrets/key", b"\0\xffsecret", mode=0o400, uid=101, gid=102, secret=True, read_only=True),
        InjectedFile("/etc/hosts", b"127.0.0.1 localhost\n"),
        InjectedFile("/etc/resolv.conf", b"nameserver 10.0.0.1\n"),
        InjectedFile("/etc/empty", b""),
        InjectedFile("/etc/large", b"x" * (1 << 20)),
    )
    script = (
        "stat -c '%a %u %g %s' /run/secrets/key; od -An -tx1 /run/secrets/key; echo y > /run/secrets/key;"
        "echo more >> /etc/hosts; cat /etc/hosts /run/resolve/stub /etc/resolv.conf;"
        "wc -c < /etc/empty; wc -c < /etc/large; readlink /etc/resolv.conf"
    )
    client = await lab.connect()
    await client.configure(config("sh", "-c", script, files=files))
    await client.start()
    await client.wait_exit()
    assert lab.text().decode().split("\n") == [
        "400 101 102 8",
        " 00 ff 73 65 63 72 65 74",
        "127.0.0.1 localhost",
        "more",
        "nameserver 10.0.0.1",
        "nameserver 10.0.0.1",
        "0",
        str(1 << 20),
        "../run/resolve/stub",
        "",
    ]
    assert b"Read-only" in lab.text(2)
    assert (lab.root / "etc/hosts").read_bytes() == b"", "injected content never reaches the writable layer"


async def test_links_in_the_image_lead_nowhere_outside(lab: Lab) -> None:
    (lab.root / "up").symlink_to("../../../../../../escaped")
    (lab.root / "abs").symlink_to("/tmp/inner")
    client = await lab.connect()
    files = (InjectedFile("/up/file", b"1"), InjectedFile("/abs/file", b"2"))
    await client.configure(config("cat", "/escaped/file", "/tmp/inner/file", files=files))
    await client.start()
    await client.wait_exit()
    assert lab.text() == b"12"


async def test_a_link_loop_is_an_error(lab: Lab) -> None:
    (lab.root / "loop").symlink_to("loop")
    client = await lab.connect()
    with pytest.raises(TwinhullError, match=r"make /loop/x: .*[Ss]ymbolic link"):
        await client.configure(config("true", files=(InjectedFile("/loop/x", b""),)))


async def test_limits_and_sysctls(lab: Lab) -> None:
    limits = (Ulimit("nofile", 100, 200), Ulimit("core", 0, 0))
    client = await lab.connect()
    guest = config("sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/sys/net/ipv4/ping_group_range; exec sleep 1000")
    await client.configure(replace(guest, rlimits=limits, sysctls=(("net.ipv4.ping_group_range", "0 2147483647"),)))
    await client.start()
    await until(lambda: lab.text().count(b"\n") == 4)
    assert lab.text().split() == [b"100", b"200", b"0", b"0", b"2147483647"]
    assert (await sh(client, "ulimit -Sn"))[1] == b"100\n"


async def test_a_bad_sysctl_is_the_users_fault(lab: Lab) -> None:
    client = await lab.connect()
    with pytest.raises(UserError, match=r"sysctl net\.no\.such: No such file"):
        await client.configure(config("true", sysctls=(("net.no.such", "1"),)))


async def test_signals_reach_pid_1(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("sh", "-c", "trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.05; done"))
    await client.start()
    await until(lambda: lab.text() == b"ready\n")
    with pytest.raises(UserError):
        await client.signal(0)
    await client.signal(signal.SIGTERM)
    assert (await client.wait_exit()).code == 3
    assert lab.text() == b"ready\ngot\n"


async def test_kill_is_137_and_takes_everybody_along(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("sleep", "1000"))
    await client.start()
    session = await client.exec(Process(argv=("sleep", "1000"), env=("PATH=/bin",)))
    await client.signal(signal.SIGKILL)
    assert (await client.wait_exit()).code == 137
    assert await session.wait() == 137


async def test_init_forwards_reaps_and_reports(lab: Lab) -> None:
    script = "(sleep 0.01 &) ; trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done"
    client = await lab.connect()
    await client.configure(config("sh", "-c", script, init=True))
    await client.start()
    await until(lambda: lab.text() == b"ready\n")
    rows = await client.top()
    assert rows[0]["PID"] == "1"
    assert rows[0]["COMMAND"].startswith(f"{AGENT} init -- sh -c")
    await client.signal(signal.SIGUSR1)
    assert (await client.wait_exit()).code == 9


async def test_init_still_says_127(lab: Lab) -> None:
    client = await lab.connect()
    with pytest.raises(CannotRunError) as caught:
        await client.configure(config("nope", init=True))
    assert caught.value.exit_code == 127


async def test_pause_is_a_workload_that_tools_can_use(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config(AGENT, "pause"))
    await client.start()
    code, out, _ = await tool(client, "stat", "/etc/passwd")
    assert (code, out.split(b"\0")[0]) == (0, b"/etc/passwd")
    await client.signal(signal.SIGTERM)
    assert (await client.wait_exit()).code == 0


async def test_tools_work_before_the_start(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("true"))
    assert (await tool(client, "stat", "/etc/passwd"))[0] == 0
    await client.start()
    assert (await client.wait_exit()).code == 0


async def test_host_side_tools_are_outside_the_root_and_need_no_workload(lab: Lab) -> None:
    (lab.volumes / "upper/etc").mkdir(parents=True)
    (lab.volumes / "upper/etc/new").touch()
    argv = (AGENT, "diff", str(lab.volumes / "upper"), str(lab.root))
    client = await lab.connect()
    (lab.volumes / "upper/made/for").mkdir(parents=True)
    (lab.volumes / "upper/made/for/mount").touch()
    before = await collect(await client.exec(Process(argv=argv, env=()), host_side=True))
    made = b"A /made\0A /made/for\0A /made/for/mount\0"
    assert before == (0, b"C /etc\0A /etc/new\0" + made, b"")
    await client.configure(config("sh", "-c", "exit 2", init=True, files=(InjectedFile("/made/for/mount", b"x"),)))
    before = (0, before[1].removesuffix(made), b"")
    assert await collect(await client.exec(Process(argv=argv, env=(), tty=True), host_side=True)) == before
    await client.start()
    assert (await client.wait_exit()).code == 2
    assert await collect(await client.exec(Process(argv=argv, env=()), host_side=True)) == before


async def test_stats_and_top(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("sh", "-c", "sleep 1000 & exec sleep 2000", user="web"))
    await client.start()
    await until_rows(client, 2)
    rows = await client.top()
    assert [(row["PID"] == "1", row["USER"]) for row in rows] == [(True, "web"), (False, "web")]
    assert {row["COMMAND"] for row in rows} == {"sleep 1000", "sleep 2000"}
    assert all(row["TIME"] == "0:00:00" for row in rows)
    stats = await client.stats()
    assert stats.guest_total > stats.guest_available > 1 << 20


async def until_rows(client: AgentClient, count: int) -> None:
    async def there() -> bool:
        return len([row for row in await client.top() if row["COMMAND"].startswith("sleep")]) == count

    await until_true(there)


async def test_shutdown_kills_all_and_ends(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("sh", "-c", "trap '' TERM; while :; do sleep 1; done"))
    await client.start()
    await client.exec(Process(argv=("sleep", "1000"), env=("PATH=/bin",)))
    await client.shutdown()
    assert await lab.wait_gone() == 0
    await asyncio.wait_for(client.lost.wait(), 5)


async def test_shutdown_of_a_fresh_guest(lab: Lab) -> None:
    client = await lab.connect()
    await client.shutdown()
    assert await lab.wait_gone() == 0


async def test_attach_before_start_misses_nothing(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("cat", stdin=True))
    session = await client.attach()
    await session.send(b"early ")
    await client.start()
    await session.send(b"late")
    await session.close_stdin()
    assert await collect(session) == (0, b"early late", b"")
    assert lab.text() == b"early late"
    late = await client.attach()
    assert await collect(late) == (0, b"", b"")


async def test_a_guest_begins_anew_after_its_workload(lab: Lab) -> None:
    client = await lab.connect()
    await client.configure(config("sh", "-c", "echo first; exit 3"))
    with pytest.raises(ConflictError, match="hasn't ended"):
        await client.reset()
    await client.start()
    assert (await client.wait_exit()).code == 3
    await client.reset()
    assert client.state is GuestState.FRESH
    lab.output.clear()
    client.listen(lab._log)
    await client.configure(config("sh", "-c", "echo second; read line; echo $line", stdin=True))
    await client.start()
    session = await client.attach()
    await session.send(b"third\n")
    assert (await client.wait_exit()).code == 0
    assert lab.text() == b"second\nthird\n"
    assert lab.output[0][0] == 0


async def test_a_workload_becomes_somebody_else(lab: Lab) -> None:
    files = (InjectedFile("/etc/hosts", b"old"), InjectedFile("/run/token", b"much longer than the new one", read_only=True))
    client = await lab.connect()
    await client.configure(
        config("sh", "-c", "echo before; while read x; do echo $(hostname) $(cat /etc/hosts /run/token); done", stdin=True, files=files)
    )
    await client.start()
    await until(lambda: lab.text() == b"before\n")
    new = GuestIdentity("other", (InjectedFile("/etc/hosts", b"new"), InjectedFile("/run/token", b"short")), ())
    lab.output.clear()
    await client.resume(new)
    session = await client.attach()
    await session.send(b"go\n")
    await session.close_stdin()
    assert (await client.wait_exit()).code == 0
    assert lab.text() == b"other newshort\n"
    assert lab.output[0][0] == 0
