"""Networks, names, ports, the way out; between all pairs of runtimes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.conformance.instance import PYTHON, Instance, Maker, network, wait_for
from tests.conformance.outside import MACHINE, WORLD, Outside
from tests.harness import Daemon

TCP_SERVER = """
import socket, sys
s = socket.create_server((sys.argv[2] if len(sys.argv) > 2 else "", int(sys.argv[1])), reuse_port=False)
print("ready", flush=True)
while True:
    c, peer = s.accept()
    data = b""
    while part := c.recv(65536):
        data += part
    c.sendall(peer[0].encode() + b" " + data)
    c.close()
    print("peer", peer[0], flush=True)
"""
TCP_CLIENT = """
import socket, sys
c = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
c.sendall(sys.argv[3].encode()); c.shutdown(1)
data = b""
while part := c.recv(65536):
    data += part
print(data.decode())
"""
UDP_SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", int(sys.argv[1])))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(65536)
    s.sendto(peer[0].encode() + b" " + data, peer)
"""
UDP_CLIENT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1); s.connect((sys.argv[1], int(sys.argv[2])))
for attempt in range(20):
    try:
        s.send(sys.argv[3].encode()); print(s.recv(65536).decode()); break
    except (TimeoutError, ConnectionRefusedError): pass
"""


def fetch(client: Instance, server: Instance) -> str:
    """The page's text, "" without an answer. By address: busybox is static, and can't look names up as programs do."""
    script = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {server.address} 80"
    return client.exec("sh", "-c", script, check=False).text.rpartition("\n")[2]


@pytest.fixture(scope="module")
def server(daemon: Daemon, runtime: str) -> Iterator[Instance]:
    """TCP on 9000, UDP on 9001, both saying who asks."""
    maker = Maker(daemon, runtime)
    made = maker(
        "-p", "18000:9000", "-p", "18001:9001/udp", "--network-alias", f"alias-{runtime}", image=PYTHON, command=["sleep", "1000000"]
    )
    for script, port in ((TCP_SERVER, "9000"), (UDP_SERVER, "9001")):
        made.exec("python3", "-c", script, port, flags=["-d"])
    wait_for("the servers", lambda: {"9000", "9001"} <= set(re.findall(r":(\d+) ", made.sh("ss -Hltun || true"))))
    yield made
    maker.clear()


@pytest.fixture(scope="module")
def peer(daemon: Daemon, other_runtime: str) -> Iterator[Instance]:
    """The other side, of each runtime."""
    maker = Maker(daemon, other_runtime)
    yield maker(image=PYTHON)
    maker.clear()


def test_tcp_by_name_between_any_two_runtimes(server: Instance, peer: Instance) -> None:
    assert peer.py(TCP_CLIENT, server.name, "9000", "hello") == f"{peer.address} hello"


def test_udp_by_name_between_any_two_runtimes(server: Instance, peer: Instance) -> None:
    assert peer.py(UDP_CLIENT, server.name, "9001", "hello") == f"{peer.address} hello"


def test_ping_between_any_two_runtimes(server: Instance, peer: Instance) -> None:
    assert " 0% packet loss" in peer.sh(f"ping -n -c 3 -i 0.2 -W 10 {server.address}")


def test_alias_and_instance_name_lead_to_the_instance(server: Instance, box: Instance) -> None:
    script = "import socket,sys; print(*sorted({a[4][0] for a in socket.getaddrinfo(sys.argv[1],1,socket.AF_INET)}))"
    assert box.py(script, server.name) == server.address
    assert box.py(script, f"alias-{server.runtime}") == server.address


def test_reverse_lookup_names_the_instance(server: Instance, box: Instance) -> None:
    script = "import socket,sys; print(socket.gethostbyaddr(sys.argv[1])[0].split('.')[0])"
    assert box.py(script, server.address) == server.name


def test_unknown_name_is_refused_quickly(box: Instance) -> None:
    script = (
        "import socket,time\nt=time.monotonic()\n"
        "try: socket.getaddrinfo('no-such-instance',1)\nexcept socket.gaierror as e: print(e.errno, time.monotonic()-t<5)"
    )
    assert box.py(script) in ("-2 True", "-5 True")


def test_own_name_and_localhost_need_no_server(box: Instance) -> None:
    script = "import socket; print(socket.gethostbyname(socket.gethostname()), socket.gethostbyname('localhost'))"
    assert box.py(script) == f"{box.address} 127.0.0.1"


def test_published_tcp_port_keeps_the_clients_address(server: Instance, outside: Outside) -> None:
    assert outside.python(TCP_CLIENT, MACHINE, "18000", "from afar") == f"{WORLD} from afar"


def test_published_udp_port_keeps_the_clients_address(server: Instance, outside: Outside) -> None:
    assert outside.python(UDP_CLIENT, MACHINE, "18001", "from afar") == f"{WORLD} from afar"


def test_published_port_answers_on_the_machine_itself(server: Instance, daemon: Daemon) -> None:
    for address in ("127.0.0.1", server.view()["addresses"][0]["gateway"]):
        assert daemon.net.run(sys.executable, "-c", TCP_CLIENT, address, "18000", "local").text.endswith(" local")


def test_published_port_answers_other_instances(server: Instance, box: Instance, outside: Outside) -> None:
    assert box.py(TCP_CLIENT, MACHINE, "18000", "hairpin").endswith(" hairpin")


def test_port_command_lists_what_is_published(server: Instance) -> None:
    lines = set(server.act("port").lines)
    assert any(line.startswith("9000/tcp -> ") and line.endswith(":18000") for line in lines)
    assert any(line.startswith("9001/udp -> ") and line.endswith(":18001") for line in lines)
    assert server.daemon.cli("port", server.name, "9000").text.endswith(":18000")


def test_port_that_is_taken_is_refused_and_nothing_is_left(server: Instance, make: Maker) -> None:
    done = make.foreground("-p", "18000:80", command=["true"], check=False)
    assert done.code == 125
    assert b"18000" in done.err


def test_free_host_port_is_chosen_and_ends_with_the_instance(make: Maker, outside: Outside) -> None:
    made = make("-p", "80", command=["httpd", "-f", "-p", "80", "-h", "/var/www"])
    port = made.view()["ports"][0]["host_port"]
    assert port > 0
    ask = f"import urllib.request as u; print(u.urlopen('http://{MACHINE}:{port}/',timeout=5).read().decode())"
    wait_for("page", lambda: "hello" in outside.net.run("python3", "-c", ask, check=False).text)
    made.act("stop", "-t", "0")
    assert outside.net.run("python3", "-c", ask, check=False).code != 0


def test_way_out_is_translated_to_the_machines_address(box: Instance, outside: Outside) -> None:
    process = outside.start(TCP_SERVER, "7000")
    try:
        assert box.py(TCP_CLIENT, WORLD, "7000", "out") == f"{MACHINE} out"
    finally:
        process.kill()
        process.communicate()


def test_a_gigabyte_each_way_arrives_unbroken(box: Instance, outside: Outside) -> None:
    common = (
        "import socket,sys\nN=1024; block=bytes(range(251))*4178; block=block[:1<<20]\n"
        "def send(s):\n for i in range(N): s.sendall(i.to_bytes(4,'big')+block[4:])\n"
        "def receive(s):\n buf=bytearray(1<<20); good=0\n for i in range(N):\n  v=memoryview(buf)\n"
        "  while v:\n   n=s.recv_into(v)\n   if not n: return good\n   v=v[n:]\n"
        "  good+=buf[:4]==i.to_bytes(4,'big') and buf[4:]==block[4:]\n return good\n"
    )
    server = (
        common
        + "l=socket.create_server(('',7001)); print('ready',flush=True); s,_=l.accept(); print(receive(s),flush=True); send(s); s.close()"
    )
    client = common + f"s=socket.create_connection(('{WORLD}',7001)); send(s); print(receive(s), s.recv(1))"
    process = outside.start(server)
    try:
        assert box.py(client, timeout=280) == "1024 b''"
        assert process.stdout is not None
        assert process.stdout.readline() == b"1024\n"
    finally:
        process.kill()
        process.communicate()


def test_interface_has_address_mtu_and_no_more(box: Instance) -> None:
    links = json.loads(box.sh("ip -j address"))
    assert {link["ifname"] for link in links} == {"lo", "eth0"}
    eth0 = next(link for link in links if link["ifname"] == "eth0")
    assert eth0["mtu"] == 1500
    assert [address["local"] for address in eth0["addr_info"] if address["family"] == "inet"] == [box.address]
    assert eth0["address"] == box.view()["addresses"][0]["mac"]


@pytest.mark.except_for("sandbox", "its network stack ignores 'don't fragment'")
def test_mtu_holds_end_to_end(box: Instance, outside: Outside) -> None:
    assert " 0% packet loss" in box.sh(f"ping -n -c 2 -i 0.2 -W 10 -M do -s 1472 {WORLD}")
    assert box.exec("ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1473", WORLD, check=False).code != 0


def test_networks_are_apart_and_an_instance_can_be_on_two(make: Maker, daemon: Daemon) -> None:
    with network(daemon, f"left-{make.runtime}") as left, network(daemon, f"right-{make.runtime}") as right:
        one = make("--network", left, command=["httpd", "-f", "-p", "80", "-h", "/var/www"])
        two = make("--network", right)
        both = make("--network", left, "--network", right)
        assert fetch(both, one) == "hello from busybox"
        assert fetch(two, one) == ""
        assert one.address in both.exec("nslookup", "-type=a", one.name).text
        assert two.exec("nslookup", "-type=a", one.name, check=False).code == 1
        assert {address["network"] for address in both.view()["addresses"]} == {left, right}
        refused = daemon.cli("network", "rm", left, check=False)
        assert refused.code != 0
        assert one.name.encode() in refused.err or b"use" in refused.err
        make.clear()


def test_internal_network_has_no_way_out(make: Maker, daemon: Daemon, outside: Outside) -> None:
    with network(daemon, f"inner-{make.runtime}", "--internal") as inner:
        one, two = make("--network", inner, command=["httpd", "-f", "-p", "80", "-h", "/var/www"]), make("--network", inner)
        assert fetch(two, one) == "hello from busybox"
        assert two.exec("ping", "-c", "1", "-W", "2", WORLD, check=False).code != 0
        make.clear()


def test_a_network_has_the_subnet_and_addresses_asked_for(make: Maker, daemon: Daemon) -> None:
    with network(daemon, f"fixed-{make.runtime}", "--subnet", "10.77.3.0/24") as fixed:
        made = make("--network", fixed, "--ip", "10.77.3.77")
        assert made.address == "10.77.3.77"
        assert "10.77.3.77" in made.sh("ip address show dev eth0")
        make.clear()


def test_without_a_network_there_is_loopback_only(make: Maker) -> None:
    done = make.foreground(
        "--network", "none", command=["sh", "-c", "ls /sys/class/net; ping -c 1 -W 5 127.0.0.1 >/dev/null && echo lo works"]
    )
    assert done.text.split("\n") == ["lo", "lo works"]


def test_extra_hosts_and_dns_are_written(make: Maker) -> None:
    flags = ["--add-host", "db.example:192.0.2.7", "--dns", "192.0.2.53", "--dns-search", "ship.example"]
    done = make.foreground(*flags, command=["cat", "/etc/hosts", "/etc/resolv.conf"])
    assert re.search(r"^192\.0\.2\.7\s+db\.example$", done.text, re.MULTILINE)
    assert "ship.example" in done.text


def test_host_gateway_is_the_machine(make: Maker) -> None:
    made = make("--add-host", "machine:host-gateway")
    assert made.view()["addresses"][0]["gateway"] in made.sh("grep -w machine /etc/hosts")


def test_a_new_instance_is_known_by_name_at_once_and_forgotten_after(make: Maker, box: Instance) -> None:
    made = make()
    assert box.sh(f"getent hosts {made.name}").split()[0] == made.address
    made.act("rm", "-f")
    wait_for("the name to be forgotten", lambda: box.exec("getent", "hosts", made.name, check=False).code == 2)


def test_address_stays_with_a_restart(make: Maker) -> None:
    made = make()
    before = made.view()["addresses"][0]
    made.act("restart", "-t", "0")
    after = made.view()["addresses"][0]
    assert (before["address"], before["mac"]) == (after["address"], after["mac"])
    assert before["mac"] in made.sh("ip link show dev eth0")


def test_traffic_is_counted(box: Instance, outside: Outside) -> None:
    def received() -> int:
        rows = json.loads(box.act("stats", "--no-stream", "--format", "json").out)
        return int((rows[0] if isinstance(rows, list) else rows)["net_rx"])

    before = received()
    box.sh(f"ping -n -c 10 -i 0.01 -s 1400 {WORLD} >/dev/null")
    assert 14_000 <= received() - before < 200_000


def test_closed_port_is_refused_at_once(box: Instance, server: Instance) -> None:
    script = (
        "import socket,sys,time\nt=time.monotonic()\n"
        "try: socket.create_connection((sys.argv[1],4),20)\nexcept ConnectionRefusedError: print(time.monotonic()-t<3)"
    )
    assert box.py(script, server.address) == "True"


def test_source_addresses_cannot_be_forged(make: Maker, box: Instance, daemon: Daemon) -> None:
    listener = daemon.popen("exec", box.name, "timeout", "60", "python3", "-c", UDP_SERVER, "9002", stdout=subprocess.PIPE)
    try:
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"ready\n"
        made = make("--cap-add", "NET_ADMIN", image=PYTHON)
        script = (
            "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(2)\n"
            "if sys.argv[2]: s.bind((sys.argv[2],0))\ns.sendto(b'x',(sys.argv[1],9002))\n"
            "try: print(s.recv(99).decode())\nexcept TimeoutError: print('lost')"
        )
        assert made.py(script, box.address, "") == f"{made.address} x"
        made.sh("ip address add 203.0.113.9/32 dev eth0")
        assert made.py(script, box.address, "203.0.113.9") == "lost"
    finally:
        listener.kill()
        listener.wait()
