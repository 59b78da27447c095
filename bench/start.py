"""Start latency against docker, podman and bare crun, in one run on one machine.

    .venv/bin/python -m bench.start [--rounds 20] [--seed 1] [--only true|http] [--without vm] [--out build/bench]

Two measurements, each with its start and its end event:
  true   spawn of the CLI → its exit, `run --rm IMAGE true`
  http   request to start (for the peers: spawn of `run -d`; for twinhull: the API request) → first HTTP 200

Everything runs in a network namespace and a mount namespace of its own. The order within each round is random (seeded); one
round is run before as warm-up and not counted. Prints n, median, p99 and the ratio of medians to docker; writes the raw samples as CSV.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.peers import BareCrun, Docker, Peer, Podman, Twinhull
from twinhull import home as homes
from twinhull.client import Client
from twinhull.spec.instance import Runtime
from twinhull.sys import namespaces

ARCHIVE = Path("build/test-cache/busybox.tar")


def main() -> int:
    """The program."""
    options = _options()
    if shutil.which("dockerd") is None or not ARCHIVE.exists():
        print("bench: needs dockerd, podman, crun and the test image: apt-get install docker.io netavark; make setup", file=sys.stderr)
        return 1
    _isolate()
    scratch = Path(tempfile.mkdtemp(prefix="tb-", dir="/tmp"))
    try:
        with _daemon(scratch) as (home, client):
            peers: list[Peer] = [
                Docker(scratch, ARCHIVE.resolve()),
                Podman(scratch, ARCHIVE.resolve()),
                BareCrun(scratch, ARCHIVE.resolve()),
                Twinhull(home, client, Runtime.CONTAINER),
                Twinhull(home, client, Runtime.VM),
            ]
            chosen = [peer for peer in peers if not options.without or not any(word in peer.name for word in options.without)]
            samples = _measure(chosen, options)
        _report(samples, Path(options.out))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--only", choices=("true", "http"))
    parser.add_argument(
        "--without", action="append", metavar="PEER", help="leave out peers whose name contains this word (may be repeated)"
    )
    parser.add_argument("--out", default="build/bench")
    return parser.parse_args()


def _isolate() -> None:
    namespaces.unshare(namespaces.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    namespaces.prepare_daemon_namespace()


@contextlib.contextmanager
def _daemon(scratch: Path) -> Iterator[tuple[homes.Home, Client]]:
    folder = scratch / "h"
    home = homes.at(folder)
    os.environ["TWINHULL_HOME"] = str(folder)
    program = str(Path(sys.executable).with_name("twinhull"))
    subprocess.run([program, "daemon", "--detach"], check=True)
    try:
        subprocess.run([program, "load", "-i", str(ARCHIVE)], check=True, stdout=subprocess.DEVNULL)
        yield home, Client()
    finally:
        subprocess.run([program, "daemon", "stop", "--all"], check=True)


def _measure(peers: list[Peer], options: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    order = random.Random(options.seed)
    ports = itertools.count(20_000)
    kinds = [options.only] if options.only else ["true", "http"]
    samples: dict[tuple[str, str], list[float]] = {}
    with contextlib.ExitStack() as stack:
        for peer in peers:
            stack.callback(peer.down)
            peer.up()
        for number in range(options.rounds + 1):
            turns = [(kind, peer) for kind in kinds for peer in peers]
            order.shuffle(turns)
            for kind, peer in turns:
                seconds = peer.run_true() if kind == "true" else peer.serve(next(ports))
                if number:
                    samples.setdefault((kind, peer.name), []).append(seconds)
            print(f"\rround {number}/{options.rounds} (seed {options.seed})", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return samples


def _report(samples: dict[tuple[str, str], list[float]], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "start.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("kind", "peer", "sample", "seconds"))
        writer.writerows((*key, number, value) for key, values in samples.items() for number, value in enumerate(values))
    for kind in dict.fromkeys(kind for kind, _ in samples):
        docker = statistics.median(samples[kind, "docker run"])
        print(f"\n{kind:24}{'n':>5}{'median ms':>12}{'p99 ms':>10}{'of docker':>11}")
        for (row, peer), values in samples.items():
            if row == kind:
                middle = statistics.median(values)
                print(f"{peer:24}{len(values):5}{middle * 1000:12.1f}{_p99(values) * 1000:10.1f}{middle / docker:11.2f}")


def _p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


if __name__ == "__main__":
    sys.exit(main())
