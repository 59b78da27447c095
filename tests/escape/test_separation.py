"""Networks, the host's services and metadata are out of reach, over IPv4 and IPv6, asked politely or with forged packets.

Everything that could be reached has a recorder behind it, and every recorder is shown to work. The machine of the tests is the
daemon's network namespace: 203.0.113.10 and 169.254.169.254 are addresses of its own, with services on all addresses.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conformance.instance import PYTHON, Instance, Maker, network, wait_for
from tests.harness import Daemon

PORT, HOST_PORT, PUBLISHED = 9000, 19000, 18200
MACHINE, METADATA, MACHINE6, METADATA6 = "203.0.113.10", "169.254.169.254", "2001:db8:5::10", "fd00:ec2::254"
RECORDER = """
import select, socket, sys
path, *ports = sys.argv[1:]
out = open(path, "a", buffering=1)
made = []
for port in map(int, ports):
    for family, any_ in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            try:
                s = socket.socket(family, kind)
                if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind((any_, port))
            except OSError:
                continue
            if kind == socket.SOCK_STREAM: s.listen(64)
            made.append(s)
print("ready", file=out)
while True:
    for s in select.select(made, [], [])[0]:
        if s.type == socket.SOCK_STREAM:
            c, peer = s.accept()
            c.settimeout(5)
            try:
                print("tcp", peer[0], c.recv(1000).decode("utf-8", "replace"), file=out); c.sendall(b"answer")
            except OSError as error: print("tcp", peer[0], error, file=out)
            c.close()
        else:
            data, peer = s.recvfrom(2000)
            print("udp", peer[0], data.decode("utf-8", "replace"), file=out)
            try: s.sendto(b"answer", peer)
            except OSError: pass
"""
ASK = """
import concurrent.futures, json, socket, sys
def ask(target):
    kind, address, port = target
    token = f"ASKED {kind} {address} {port}".encode()
    try:
        info = socket.getaddrinfo(address, port, 0, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)[0]
        with socket.socket(info[0], info[1]) as s:
            s.settimeout(5 if kind == "tcp" else 1.5)
            if kind == "udp": s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            s.connect(info[4])
            s.send(token)
            return s.recv(100).decode()
    except OSError as error:
        return type(error).__name__
with concurrent.futures.ThreadPoolExecutor(40) as pool:
    targets = json.load(sys.stdin)
    print(json.dumps(list(pool.map(ask, targets))))
"""
Target = tuple[str, str, int]


@dataclass
class Machine:
    """The daemon's network namespace, dressed up as a host with services."""

    daemon: Daemon
    log: Path
    recorder: subprocess.Popen[bytes]

    def seen(self) -> list[str]:
        """What the host's services heard."""
        return self.log.read_text().splitlines()

    def ask(self, *targets: Target) -> list[str]:
        """From the host itself."""
        return list(json.loads(self.daemon.net.run(sys.executable, "-c", ASK, stdin=json.dumps(targets).encode()).out))


@pytest.fixture(scope="module")
def machine(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Addresses on a bridge without ports (it stands for the machine's other interfaces), and a recorder on all of them."""
    net = daemon.net
    log = tmp_path_factory.mktemp("machine") / "log"
    net.run("ip", "link", "add", "meta0", "type", "bridge")
    net.run("sysctl", "-qw", "net.ipv6.conf.meta0.disable_ipv6=0", "net.ipv6.conf.meta0.accept_dad=0")
    for address in (f"{MACHINE}/24", f"{METADATA}/32"):
        net.run("ip", "address", "add", address, "dev", "meta0")
    for address in (f"{MACHINE6}/64", f"{METADATA6}/128"):
        net.run("ip", "-6", "address", "add", address, "dev", "meta0", "nodad")
    net.run("ip", "link", "set", "meta0", "up")
    recorder = net.popen(sys.executable, "-c", RECORDER, str(log), str(HOST_PORT), "80")
    wait_for("the host's recorder", lambda: log.exists() and "ready" in log.read_text())
    yield Machine(daemon, log, recorder)
    recorder.kill()
    recorder.wait()
    net.run("ip", "link", "del", "meta0")


class Recorder:
    """An instance that writes down who reaches it."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        instance.exec("python3", "-c", RECORDER, "/tmp/log", str(PORT), flags=["-d"])
        wait_for("a recorder", lambda: "ready" in instance.sh("cat /tmp/log 2>/dev/null || true"))

    def seen(self) -> list[str]:
        """Line by line."""
        return self.instance.sh("cat /tmp/log").splitlines()


@pytest.fixture(scope="module")
def others(daemon: Daemon, runtime: str) -> Iterator[tuple[Recorder, Recorder, Instance]]:
    """A victim on a network of its own with a published port, a neighbour on the attackers' network, and the victim's friend."""
    maker = Maker(daemon, "container")
    with network(daemon, f"apart-{runtime}") as apart:
        victim = Recorder(maker("--network", apart, "-p", f"{PUBLISHED}:{PORT}", image=PYTHON))
        neighbour = Recorder(maker(image=PYTHON))
        yield victim, neighbour, maker("--network", apart, image=PYTHON)
        maker.clear()


@pytest.fixture(params=["box", "strong"])
def attacker(request: pytest.FixtureRequest) -> Instance:
    """With the default capabilities, and with all."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def gateway(instance: Instance) -> str:
    """Of its first network."""
    return str(instance.view()["addresses"][0]["gateway"])


def ask(instance: Instance, *targets: Target) -> dict[Target, str]:
    """From inside."""
    answers = json.loads(instance.exec("python3", "-c", ASK, stdin=json.dumps(targets).encode()).out)
    return dict(zip(targets, answers, strict=True))


def test_the_recorders_work(machine: Machine, others: tuple[Recorder, Recorder, Instance], box: Instance) -> None:
    victim, neighbour, friend = others
    from_host = [("tcp", address, port) for address in (MACHINE, METADATA, MACHINE6, METADATA6) for port in (HOST_PORT, 80)]
    assert machine.ask(*from_host, ("udp", MACHINE, HOST_PORT), ("udp", MACHINE6, HOST_PORT)) == ["answer"] * 10
    reached = [(kind, victim.instance.address, PORT) for kind in ("tcp", "udp")]
    assert set(ask(friend, *reached).values()) == {"answer"}
    assert ask(box, ("udp", neighbour.instance.address, PORT)) == {("udp", neighbour.instance.address, PORT): "answer"}


def test_published_ports_are_reachable(machine: Machine, others: tuple[Recorder, Recorder, Instance], attacker: Instance) -> None:
    assert machine.ask(("tcp", MACHINE, PUBLISHED)) == ["answer"]
    assert ask(attacker, ("tcp", MACHINE, PUBLISHED)) == {("tcp", MACHINE, PUBLISHED): "answer"}


def test_nothing_else_answers(machine: Machine, others: tuple[Recorder, Recorder, Instance], attacker: Instance) -> None:
    victim, _, _ = others
    addresses = [gateway(attacker), gateway(victim.instance), MACHINE, METADATA, "127.0.0.1", "169.254.1.1", "0.0.0.0"]
    targets: list[Target] = [(kind, address, port) for kind in ("tcp", "udp") for address in addresses for port in (HOST_PORT, 80, 22)]
    targets += [(kind, victim.instance.address, port) for kind in ("tcp", "udp") for port in (PORT, PUBLISHED)]
    targets += [("udp", address, port) for address in ("255.255.255.255", "224.0.0.251") for port in (HOST_PORT, PORT)]
    answers = ask(attacker, *targets)
    assert {target for target, answer in answers.items() if answer == "answer"} == set()
    assert [
        line for line in machine.seen() + victim.seen() if attacker.address in line and "ASKED" in line and str(PUBLISHED) not in line
    ] == []


def test_nothing_answers_over_ipv6(machine: Machine, others: tuple[Recorder, Recorder, Instance], attacker: Instance) -> None:
    """The networks have no IPv6: one that is put up inside by hand leads nowhere."""
    before = len(machine.seen())
    if attacker.exec("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=0", check=False).code == 0 or attacker.runtime == "sandbox":
        attacker.sh("ip -6 address add fe80::bad/64 dev eth0 nodad; ip -6 address add 2001:db8:5::bad/64 dev eth0 nodad", check=False)
    bridges = machine.daemon.net.run("sh", "-c", "ip -6 -o address show | awk '/fe80/ {print $4}'").text.replace("/64", "").split()
    addresses = [MACHINE6, METADATA6, *(f"{address}%eth0" for address in (*bridges, "fe80::1", "ff02::1", "ff02::fb"))]
    targets = [(kind, address, port) for kind in ("tcp", "udp") for address in addresses for port in (HOST_PORT, PORT, 80)]
    assert set(ask(attacker, *targets).values()) & {"answer"} == set()
    assert machine.seen()[before:] == []


def test_forged_packets_reach_nobody(
    machine: Machine, others: tuple[Recorder, Recorder, Instance], attacker: Instance, runtime: str
) -> None:
    victim, neighbour, _ = others
    before = network_view(neighbour.instance)
    wanted = {
        "own": attacker.address,
        "mac": attacker.view()["addresses"][0]["mac"],
        "gateway": gateway(attacker),
        "neighbour": neighbour.instance.address,
        "neighbour_mac": neighbour.instance.view()["addresses"][0]["mac"],
        "victim": victim.instance.address,
        "broadcast": attacker.address.rpartition(".")[0] + ".255",
        "port": PORT,
        "host_port": HOST_PORT,
        "host": MACHINE,
    }
    script = Path(__file__).with_name("packets.py").read_text()
    left = json.loads(attacker.exec("python3", "-c", script, json.dumps(wanted), timeout=120).out)
    assert len(left) > 50 or runtime == "sandbox", left
    # What was sent has arrived or never will: a packet after them has made its way.
    assert ask(attacker, ("udp", neighbour.instance.address, PORT)) == {("udp", neighbour.instance.address, PORT): "answer"}
    heard = machine.seen() + victim.seen() + neighbour.seen()
    true = {word for word in ("TRUE, raw", "TRUE, link") if any(f"udp {attacker.address} {word}" in line for line in heard)}
    assert true == {name for name in left if name.startswith("TRUE")}, "packets of this make arrive when they say who they are from"
    assert [line for line in heard if any(word in line for word in ("FORGED", "BROADCAST", "DIRECT"))] == []
    assert network_view(neighbour.instance) == before


def network_view(instance: Instance) -> list[str]:
    """What a neighbour believes of the network: its gateway's MAC, routes and addresses, IPv6's too."""
    ask(instance, ("udp", gateway(instance), 53))
    commands = (
        f"ip -o neigh show {gateway(instance)} | cut -d' ' -f1-5",
        "ip route",
        "ip route get 203.0.113.77",
        "ip -6 route",
        "ip -6 address",
    )
    return instance.sh("; ".join(commands)).splitlines()
