"""What the virtual address of a service costs: requests per second through it, and direct to an instance, in one run.

    .venv/bin/python -m bench.east_west [--rounds 10] [--seconds 3] [--services 300] [--seed 1] [--out build/bench]

Instances are network namespaces on one network of the benchmark's own; HAProxy answers 1 KB in each of five of them, wrk asks in
another. Three ways in turns, in random order within each round, one round before as warm-up:
  direct   the address of one instance
  one      a virtual address with one endpoint: the same work, and the translation
  three    a virtual address with three endpoints
and each with connections that are kept and with a new one per request. Beside it stand `--services` other services, as on a
full machine; how long it takes to change the endpoints of one among them is measured, too. Prints n, medians, and their ratios to
direct: of requests per second, and, for a machine that others use as well, of requests per second of CPU that client and servers
used. Writes the raw samples as CSV. Needs root, haproxy and wrk.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from twinhull import home as homes
from twinhull.network.host import NetworkHost, interface
from twinhull.network.netns import Netns
from twinhull.network.ports import Port
from twinhull.spec.network import NetworkRecord
from twinhull.spec.service import ServiceRecord, ServiceSide
from twinhull.sys import namespaces

NETWORK = NetworkRecord("bench", "bench", 0, "10.186.0.0/20", "10.186.0.1")
CLIENT = "10.186.0.2"
SERVERS = ("10.186.0.3", "10.186.0.4", "10.186.0.5", "10.186.0.6", "10.186.0.7")
"""The first is asked directly, the second through one address, the others through the other: no way meets another's flows."""
WAYS = {"direct": SERVERS[0], "one": "10.186.15.1", "three": "10.186.15.2"}
ENDPOINTS = {"one": SERVERS[1:2], "three": SERVERS[2:]}
NO_TIME_WAIT = {"net.ipv4.tcp_max_tw_buckets": "0"}
"""A new connection per request uses up a client's ports in seconds; one that is used again must find nobody waiting."""
KINDS: Mapping[str, tuple[str, ...]] = {"kept": (), "new": ("-H", "Connection: close")}
CONNECTIONS = 32
Samples = dict[tuple[str, str], list[tuple[float, float]]]
"""By kind and way: (requests per second, requests per second of CPU)."""
SERVER = """\
global
    nbthread 1
defaults
    mode http
    timeout client 30s
frontend web
    bind :80
    http-request return status 200 content-type text/plain string {text}
"""


def main() -> int:
    """The program."""
    options = _options()
    if shutil.which("wrk") is None or shutil.which("haproxy") is None:
        print("bench: needs haproxy and wrk: apt-get install haproxy wrk", file=sys.stderr)
        return 1
    namespaces.unshare(namespaces.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/tmp") as scratch:
        samples = asyncio.run(_run(Path(scratch), options))
    _report(samples, Path(options.out))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--services", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--out", default="build/bench")
    return parser.parse_args()


async def _run(scratch: Path, options: argparse.Namespace) -> Samples:
    scratch.chmod(0o755)
    home = homes.at(scratch / "h")
    home.run.mkdir(parents=True)
    network = NetworkHost(home)
    await network.open()
    servers: list[subprocess.Popen[bytes]] = []
    held: list[Netns] = []
    try:
        await network.sync((NETWORK,), ())
        for number, address in enumerate((CLIENT, *SERVERS)):
            held.append(await network.attach_netns((Port(NETWORK, number, interface(NETWORK, address)),), sysctls=NO_TIME_WAIT))
        await _add_services(network, options.services)
        await _time_changes(network, options.services)
        config = scratch / "haproxy.cfg"
        config.write_text(SERVER.format(text="x" * 1024))
        servers += [subprocess.Popen(["nsenter", f"--net={space.path}", "haproxy", "-f", str(config), "-db"]) for space in held[1:]]
        await asyncio.gather(*map(_listening, SERVERS))
        return _measure(held[0], [server.pid for server in servers], options)
    finally:
        for server in servers:
            server.kill()
            server.wait()
        for space in held:
            space.close()
        await network.close(remove=True)


async def _listening(address: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _reader, writer = await asyncio.open_connection(address, 80)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return


async def _add_services(network: NetworkHost, count: int) -> None:
    for name, endpoints in ENDPOINTS.items():
        await network.set_service(_service(name, WAYS[name], endpoints))
    for number in range(count):
        await network.set_service(_service(f"other{number}", f"10.186.{8 + number // 250}.{1 + number % 250}", SERVERS))


async def _time_changes(network: NetworkHost, services: int) -> None:
    times = []
    for number in range(200):
        record = _service("changed", "10.186.15.3", SERVERS[: 2 + number % 3])
        begin = time.perf_counter()
        await network.set_service(record)
        times.append(time.perf_counter() - begin)
    milliseconds = sorted(1000 * each for each in times)
    middle, late = statistics.median(milliseconds), milliseconds[int(0.9 * len(milliseconds))]
    print(f"change of endpoints among {services} services: n={len(times)}, median {middle:.2f} ms, 90th percentile {late:.2f} ms")


def _service(name: str, address: str, endpoints: tuple[str, ...]) -> ServiceRecord:
    return ServiceRecord(f"bench.{name}", (ServiceSide(NETWORK.id, address, (name,), tuple((each, 1) for each in endpoints)),))


def _measure(client: Netns, servers: list[int], options: argparse.Namespace) -> Samples:
    order = random.Random(options.seed)
    turns = [(kind, way) for kind in KINDS for way in WAYS]
    samples: Samples = {turn: [] for turn in turns}
    for number in range(options.rounds + 1):
        for kind, way in order.sample(turns, len(turns)):
            before = _cpu(servers)
            requests, rate = _wrk(client, WAYS[way], KINDS[kind], options.seconds if number else 1)
            if number:
                samples[kind, way].append((rate, requests / (_cpu(servers) - before)))
        print(f"\rround {number}/{options.rounds} (seed {options.seed})", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return samples


def _cpu(servers: list[int]) -> float:
    """Seconds of CPU that the servers and all finished children have used."""
    mine = resource.getrusage(resource.RUSAGE_CHILDREN)
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in servers]
    return mine.ru_utime + mine.ru_stime + sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def _wrk(client: Netns, address: str, options: tuple[str, ...], seconds: int) -> tuple[int, float]:
    """Requests, and requests per second. Raises RuntimeError if one of them failed."""
    argv = ["nsenter", f"--net={client.path}", "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", *options, f"http://{address}/"]
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    found = re.search(r"(\d+) requests in .*Requests/sec:\s+([0-9.]+)", text, re.DOTALL)
    if found is None or re.search(r"Socket errors: (?!connect 0, read 0, write 0, timeout 0)|Non-2xx", text):
        raise RuntimeError(text)
    return int(found[1]), float(found[2])


def _report(samples: Samples, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "east_west.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("connections", "way", "sample", "requests_per_second", "requests_per_cpu_second"))
        writer.writerows((*key, number, *value) for key, values in samples.items() for number, value in enumerate(values))
    print(f"{'connections':14}{'way':10}{'n':>5}{'req/s':>11}{'of direct':>11}{'req/CPU s':>11}{'of direct':>11}")
    for (kind, way), values in samples.items():
        mine, direct = _medians(values), _medians(samples[kind, "direct"])
        columns = "".join(f"{each:11,.0f}{each / base:11.3f}" for each, base in zip(mine, direct, strict=True))
        print(f"{kind:14}{way:10}{len(values):5}{columns}")


def _medians(values: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(rate for rate, _ in values), statistics.median(per_cpu for _, per_cpu in values)


if __name__ == "__main__":
    sys.exit(main())
