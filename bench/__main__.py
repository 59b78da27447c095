"""The table of `make bench`: start latency, crowds, idle cost and long runs, against docker, podman and bare crun on this machine.

    .venv/bin/python -m bench [--only ROW]… [--without PEER]… [--rounds 30] [--seed N] [--out build/bench] [sizes: see --help]

Rows: true, http, warm-up, containers, vms, overhead, idle, cycles, fuzz. All that starts one thing at a time is interleaved in one loop,
with one round before it that isn't counted. Every row names its start and its end event (bench/model.py). Prints n, p50, p99 and the
ratios that there are targets for; writes the raw samples as CSV and a picture. Needs root, docker.io, podman and netavark.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.images.base import archive

from bench import crowds, fuzz, starts, world
from bench.model import CROWD_CONTAINERS, CROWD_VMS, HTTP, PARKED, PARKED_SNAPSHOT, SNAPSHOT, TRUE, WARM, Samples
from bench.peers import BareCrun, Docker, Peer, Podman, Twinhull
from bench.report import report
from bench.world import Daemon
from twinhull.spec.instance import Resources, Runtime

ROWS = ("true", "http", "warm-up", "containers", "vms", "overhead", "idle", "cycles", "fuzz")
_PLAIN = '[vm]\nparked = 0\n[network]\npool = "10.231.0.0/16"\n'
_READY = '[vm]\nparked = 2\n[network]\npool = "{pool}"\n'
_CROWD = '[vm]\nparked = {count}\nparked_memory = {memory}\n[network]\npool = "10.234.0.0/16"\n'
_SERVICE = "localhost/debian-python:bookworm"


@dataclass(frozen=True, slots=True)
class _World:
    """What runs. Daemons: `plain` without pools, `ready` with parked guests, `warm` with parked clones of a snapshot.

    `crowd`: with as many parked as there are VMs at once.
    """

    rows: Sequence[str]
    plain: Daemon
    ready: Daemon
    warm: Daemon
    crowd: Daemon
    peers: dict[str, Peer]


def main() -> int:
    """The program."""
    options = _options()
    if missing := [name for name in ("dockerd", "podman", "crun") if shutil.which(name) is None]:
        print(f"bench: without {', '.join(missing)}: apt-get install docker.io podman netavark crun", file=sys.stderr)
        return 1
    rows = options.only or list(ROWS)
    samples = Samples()
    images = [archive("busybox"), *([archive("debian-python")] if "warm-up" in rows else [])]
    world.isolate()
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(world.scratch())
        plain = stack.enter_context(world.daemon(scratch / "h", images, _PLAIN))
        pools = () if options.no_pools or "http" not in rows else ("10.232.0.0/16", "10.233.0.0/16")
        others = [stack.enter_context(world.daemon(scratch / f"r{at}", images, _READY.format(pool=pool))) for at, pool in enumerate(pools)]
        ready, warm = others or (plain, plain)
        many = _CROWD.format(count=options.vms, memory=options.vms * (256 << 20))
        crowd = plain if options.no_pools or "vms" not in rows else stack.enter_context(world.daemon(scratch / "c", images, many))
        peers = {peer.name: peer for peer in _peers(scratch, images[0]) if _wanted(peer.name, options)}
        for peer in peers.values():
            stack.callback(peer.down)
            peer.up()
        try:
            _run(_World(rows, plain, ready, warm, crowd, peers), options, samples)
        finally:
            report(samples, Path(options.out))
    if "fuzz" in rows:
        for target in fuzz.TARGETS:
            count = options.frames if target == "agent" else options.frames // 10
            print(f"fuzz {target}: {fuzz.run(target, count, options.seed):,} taken, nothing broke")
    return 0


def _run(world_: _World, options: argparse.Namespace, samples: Samples) -> None:
    """Each kind of row after the other; within a kind, subjects take turns."""
    rows, plain, peers = world_.rows, world_.plain, world_.peers
    ours = [Twinhull(plain, Runtime.CONTAINER), Twinhull(plain, Runtime.VM)]
    pools = [] if options.no_pools else _pools(world_)
    turns: list[starts.Turn] = []
    if "true" in rows:
        turns += starts.turns(TRUE, [*peers.values(), ours[0]])
    if "http" in rows:
        turns += starts.turns(HTTP, [peer for peer in (*peers.values(), *ours, *pools) if _wanted(peer.name, options)])
    if "warm-up" in rows:
        turns += starts.turns(WARM, [peer for peer in _services(world_, options) if _wanted(peer.name, options)])
    if turns:
        starts.take(turns, options.rounds, options.seed, samples)
    docker = [peers["docker"]] if "docker" in peers else []
    if "containers" in rows:
        crowds.at_once(CROWD_CONTAINERS, [*docker, ours[0]], options.containers, options.crowds, samples)
    if "vms" in rows:
        prepared = [] if options.no_pools else _crowd(world_, options.vms)
        crowds.at_once(CROWD_VMS, [*docker, ours[1], *prepared], options.vms, options.crowds, samples)
    if "overhead" in rows:
        crowds.overhead(plain, {Runtime.CONTAINER: options.clones, Runtime.VM: options.clones}, samples)
    if "idle" in rows:
        counts = {Runtime.CONTAINER: options.idle_containers, Runtime.VM: options.idle_vms}
        crowds.idle(plain, counts, options.minute, samples)
    if "cycles" in rows:
        for runtime in (Runtime.CONTAINER, Runtime.VM):
            crowds.cycles(plain, runtime, options.cycles, samples)


def _peers(scratch: Path, image: Path) -> list[Peer]:
    return [Docker(scratch, image), Podman(scratch, image), BareCrun(scratch, image)]


def _pools(world_: _World) -> list[Peer]:
    return [
        Twinhull(world_.ready, Runtime.VM, PARKED, parked=1),
        Twinhull(world_.plain, Runtime.VM, SNAPSHOT, snapshot="app"),
        Twinhull(world_.warm, Runtime.VM, PARKED_SNAPSHOT, parked=1, snapshot="app"),
    ]


def _crowd(world_: _World, count: int) -> list[Peer]:
    return [
        Twinhull(world_.plain, Runtime.VM, SNAPSHOT, snapshot="app"),
        Twinhull(world_.crowd, Runtime.VM, PARKED_SNAPSHOT, parked=count, snapshot="app"),
    ]


def _services(world_: _World, options: argparse.Namespace) -> list[Peer]:
    """The slow service: cold as a container, and from its snapshot as a VM."""
    spec = {"image": _SERVICE, "command": starts.slow_service(options.load), "resources": Resources(memory=512 << 20), "page": "/"}
    return [Twinhull(world_.plain, Runtime.CONTAINER, **spec), Twinhull(world_.plain, Runtime.VM, SNAPSHOT, snapshot="app", **spec)]


def _wanted(name: str, options: argparse.Namespace) -> bool:
    return not any(word in name for word in options.without)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=ROWS, help="this row (may be repeated)")
    parser.add_argument("--without", action="append", default=[], metavar="PEER", help="leave out subjects whose name contains this word")
    parser.add_argument("--no-pools", action="store_true", help="no parked guests and no snapshots in http, and no daemons for them")
    parser.add_argument("--rounds", type=int, default=30, help="starts of each subject")
    parser.add_argument("--crowds", type=int, default=3, help="times that many start at once")
    parser.add_argument("--containers", type=int, default=50)
    parser.add_argument("--vms", type=int, default=20)
    parser.add_argument("--clones", type=int, default=20, help="instances of a runtime that idle for the overhead")
    parser.add_argument("--idle-containers", type=int, default=150)
    parser.add_argument("--idle-vms", type=int, default=40)
    parser.add_argument("--minute", type=float, default=60.0, help="seconds for which the idle daemon is watched")
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--load", type=float, default=3.0, help="seconds of processor time that the slow service needs")
    parser.add_argument("--frames", type=int, default=1_000_000, help="for the fuzzed agent client; the others get a tenth")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--out", default="build/bench")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
