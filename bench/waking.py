"""Services that scale by themselves, for real: from zero, crowds, steps, spikes, cycles, and a daemon that is killed meanwhile.

    .venv/bin/python -m bench.waking [--only ROW]… [--runtime mixed]… [--rounds 20] [--cycles 20] [--out build/bench] [--seed 1]

(bench/elastic.py is the simulation of the decisions alone.) Rows: zero, crowd, step, spike, cycles, kill, climb. Runtimes: container, vm,
and mixed, a web service of containers and an API of VMs that share each load and scale each for itself (not in zero). One daemon in a
network namespace of its own. In zero, crowd, cycles, kill and climb instances are busybox's web server, which starts soonest (in `zero`,
a parked clone of the warmed application waits while the VM sleeps; elsewhere guests start from the usual template, and nothing is
parked); in step and spike nginx, which an emulated guest bears the whole load with.
`zero` takes turns, in an order drawn anew for each round, with `docker start` of the same image; one round before isn't counted. The
first byte of the same request while the service is awake is the application's own time, and taken off for the row "beyond".
Loads come at a fixed rate whatever the answers take (tests/load.py). `climb` kills while instances that the autoscaler has begun aren't
ready: at the first sight of one, or within half a second of it; their programs listen after one. Exits with 1 where a target isn't met.
Needs root and docker.io.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import itertools
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import leaks
from tests.images.base import archive

from bench import world
from bench.model import Row, Samples, Target, quantile, verdicts
from bench.peers import PORTS
from bench.report import report
from bench.sleepers import HULLS, NGINX, SLOW, DockerStart, Response, Sleeper

DOCKER = DockerStart.name
SUBJECT = {"container": "container", "vm": "VM", "mixed": "mixed"}
"""In `zero`, the VM is a parked clone of the warmed application; elsewhere it starts from the usual template."""
CONFIG = '[vm]\nparked = {parked}\n[network]\npool = "10.236.0.0/16"\n'
CROWD, EACH = 200, 50
NEEDED = 5
"""Instances that the load after the step needs."""
CLIMB = 10
"""The same in climb."""
DELAY = 5.0
"""scale_down_delay of the loads' services, seconds."""
LATE = 0.25
"""Seconds to which p95 has to be back."""


def _bounds(container: float, vm: float, base: str = "") -> tuple[Target, ...]:
    alone = (Target(SUBJECT["container"], container, base), Target(SUBJECT["vm"], vm, base))
    return alone if base else (*alone, Target(SUBJECT["mixed"], max(container, vm)))


ZERO = Row(
    "from zero", "a request for a service without instances (docker: spawn of start)", "its first byte", targets=_bounds(0.5, 1.0, DOCKER)
)
BEYOND = Row("from zero, beyond", "the same", "the same, less the median of requests to the service awake", targets=_bounds(120, 300))
LOST = Row(
    "200 at once",
    "the first of 200 requests for a service without instances",
    "requests without a 200, in all crowds",
    "count",
    _bounds(0, 0),
)
STARTS = Row("starts", "the same", "instances beyond those needed, in all crowds", "count", _bounds(0, 0))
LAST = Row("200 at once, last", "the same", "first byte of the last")
STEP = "a step from 10 requests/s to what --rate says (400)"
FAILED = Row("failed", STEP, "the end of the load: requests that failed", "count", _bounds(0, 0))
SETTLED = Row("settled", "the step", f"the last second whose p95 was above {LATE:g} s", "s", _bounds(10, 10))
OVERSHOOT = Row("overshoot", "the step", "most instances wanted, of those that the load needs", "ratio", _bounds(1.3, 1.3))
FLAPS = Row("flaps", "a spike of ten times the load for 5 s", "scale-downs within scale_down_delay of another", "count", _bounds(0, 0))
SPIKED = Row("spike, failed", "the same", "requests that failed", "count", _bounds(0, 0))
CYCLES = Row("cycles, failed", "cycles to zero and back, by themselves", "requests that failed", "count", _bounds(0, 0))
LEAKS = Row("cycles, leaks", "the same", "things left behind", "count", _bounds(0, 0))
KILLED = Row(
    "kill -9", "kill -9 of the daemon while 20 requests are held", "answers other than 200, or 503 with Retry-After", "count", _bounds(0, 0)
)
CONVERGED = Row("kill -9, after", "the next daemon answers", "first byte of the next request")
CAUGHT = "kill -9 of the daemon while instances of a scale-up from 1 to 3 aren't ready"
CLIMBED = Row("half grown, failed", CAUGHT, "the end of the load: requests that failed", "count", _bounds(0, 0))
STRAY = Row("half grown, stray", CAUGHT, "instances that no service has, or left behind", "count", _bounds(0, 0))
GROWN = Row("half grown, after", "the next daemon answers", "exactly as many as wanted are ready")
ROWS = (
    ZERO,
    BEYOND,
    LOST,
    STARTS,
    LAST,
    FAILED,
    SETTLED,
    OVERSHOOT,
    FLAPS,
    SPIKED,
    CYCLES,
    LEAKS,
    KILLED,
    CONVERGED,
    CLIMBED,
    STRAY,
    GROWN,
)


@dataclass(frozen=True, slots=True)
class _World:
    daemon: world.Daemon
    scratch: Path
    options: argparse.Namespace
    samples: Samples

    def sleeper(self, hull: str, scale: str, **more: Any) -> Sleeper:
        """Up, with a snapshot if it is to have one."""
        made = Sleeper(self.daemon, self.scratch, f"{hull}-{next(_numbers)}", hull, scale, **more)
        made.up()
        if made.snapshot:
            made.keep()
        return made


_numbers = itertools.count(1)


def zero(world_: _World) -> None:
    """From zero to the first byte, in turns with docker."""
    docker = DockerStart(world_.scratch, archive("busybox"))
    scale = "min: 0, max: 4, window: 60s, target: {concurrency: 50}"
    port, order = next(PORTS), random.Random(world_.options.seed)
    with contextlib.ExitStack() as stack:
        stack.callback(docker.down)
        docker.up()
        docker.prepare(port)
        kept = [world_.sleeper(hull, f"{scale}, keep_warm: 1", snapshot=hull == "vm") for hull in world_.options.hull if hull != "mixed"]
        for each in kept:
            stack.callback(each.down)
        turns: list[tuple[str, Callable[[], float]]] = [(DOCKER, lambda: docker.serve(port))]
        own: dict[str, list[float]] = {}
        turns += [(SUBJECT[each.hull], _waker(each, own.setdefault(SUBJECT[each.hull], []))) for each in kept]
        for number in range(world_.options.rounds + 1):
            for subject, measure in order.sample(turns, len(turns)):
                seconds = measure()
                if number:
                    world_.samples.add(ZERO, subject, seconds * 1000)
            print(f"round {number} of {world_.options.rounds}", end="\r", flush=True)
        for subject, values in own.items():
            for total in world_.samples.of(ZERO)[subject]:
                world_.samples.add(BEYOND, subject, total - statistics.median(values) * 1000)


def _waker(sleeper: Sleeper, own: list[float]) -> Callable[[], float]:
    def measure() -> float:
        sleeper.send_to_sleep()
        woken = sleeper.request()
        assert woken.status == 200, woken
        assert woken.wake, woken
        own.append(sleeper.request().seconds)
        return woken.seconds

    return measure


def crowd(world_: _World, hull: str) -> None:
    """200 requests at once; `EACH` of them are one instance's."""
    sleeper = world_.sleeper(hull, f"min: 0, max: 8, window: 60s, target: {{concurrency: {EACH}}}")
    lost, needed = 0, math.ceil(CROWD / len(HULLS[hull]) / EACH)
    extra = 0
    for _ in range(world_.options.crowds):
        sleeper.send_to_sleep()
        with sleeper.watched():
            answers = [each.result() for each in sleeper.crowd(CROWD)]
        lost += sum(answer.status != 200 for answer in answers)
        world_.samples.add(LAST, SUBJECT[hull], max(answer.seconds for answer in answers) * 1000)
        extra += max(0, sleeper.most() - needed)
    world_.samples.add(LOST, SUBJECT[hull], lost)
    world_.samples.add(STARTS, SUBJECT[hull], extra)
    sleeper.down()


def _loaded(world_: _World, hull: str, window: float) -> Sleeper:
    """For step and spike."""
    scale = f"min: 1, max: 12, target: {{rps: {world_.options.rate / NEEDED:g}}}, window: {window:g}s, scale_down_delay: {DELAY:g}s"
    return world_.sleeper(hull, scale, server=NGINX)


def step(world_: _World, hull: str) -> None:
    """10 requests a second, then 400, or what the options say."""
    sleeper = _loaded(world_, hull, 20)
    for round_ in range(world_.options.repeat):
        if round_:
            sleeper.until_ready(1)
        sleeper.load(10, 5)
        with sleeper.watched():
            failed, rows = sleeper.load(world_.options.rate, world_.options.seconds)
        world_.samples.add(FAILED, SUBJECT[hull], failed)
        world_.samples.add(SETTLED, SUBJECT[hull], settled(rows))
        world_.samples.add(OVERSHOOT, SUBJECT[hull], sleeper.most() / math.ceil(NEEDED / len(HULLS[hull])))
    sleeper.down()


def spike(world_: _World, hull: str) -> None:
    """Ten times for 5 s, then quiet."""
    sleeper, most = _loaded(world_, hull, 10), world_.options.rate
    for _ in range(world_.options.repeat):
        with sleeper.watched():
            failed = sum(sleeper.load(rate, seconds)[0] for rate, seconds in ((most / 10, 4), (most, 5), (most / 10, 25)))
        world_.samples.add(SPIKED, SUBJECT[hull], failed)
        curves = [[(at, wanted[service]) for at, wanted in sleeper.curve] for service in HULLS[hull]]
        world_.samples.add(FLAPS, SUBJECT[hull], sum(map(flaps, curves)))
    sleeper.down()


def cycles(world_: _World, hull: str) -> None:
    """A request, and the next when the service sleeps by itself."""
    sleeper = world_.sleeper(hull, "min: 0, max: 2, target: {concurrency: 10}, window: 1s, panic_window: 1s, scale_down_delay: 1s")
    sleeper.until_asleep()
    sleeper.request()
    sleeper.until_asleep()
    before = leaks.snapshot(world_.daemon.home)
    for _ in range(world_.options.repeat):
        answers = list[Response]()
        for _ in range(world_.options.cycles):
            answers.append(sleeper.request())
            sleeper.until_asleep()
        world_.samples.add(CYCLES, SUBJECT[hull], sum(answer.status != 200 or not answer.wake for answer in answers))
        world_.samples.add(LEAKS, SUBJECT[hull], _left(world_, before))
    sleeper.down()


def _left(world_: _World, before: frozenset[leaks.Leak]) -> int:
    """Things that weren't there before; they are told."""
    try:
        leaks.assert_clean(world_.daemon.home, before, timeout=20, ignore=_is_daemon)
    except leaks.LeakError as error:
        print(error, file=sys.stderr)
        return str(error).count("\n")
    return 0


def _is_daemon(leak: leaks.Leak) -> bool:
    """The next one has a pid and a socket of its own."""
    return "twinhull.daemon.main" in leak.detail or "/twinhull.sock" in leak.name


def kill(world_: _World, hull: str) -> None:
    """At a moment drawn from the first half second of a wake."""
    chance = random.Random(world_.options.seed)
    sleeper, bad = world_.sleeper(hull, "min: 0, max: 3, target: {concurrency: 10}, window: 60s"), list[Response]()
    for _ in range(world_.options.kills):
        sleeper.send_to_sleep()
        held = sleeper.crowd(20)
        concurrent.futures.wait(held, chance.uniform(0, 0.5 if hull == "container" else 2.0))
        sleeper.kill_daemon()
        answers = [each.result() for each in held]
        sleeper.restart_daemon()
        bad += [answer for answer in answers if answer.status != 200 and not (answer.status == 503 and answer.retry_after)]
        after = sleeper.request()
        world_.samples.add(CONVERGED, SUBJECT[hull], after.seconds * 1000 if after.status == 200 else math.inf)
    world_.samples.add(KILLED, SUBJECT[hull], len(bad))
    if bad:
        print(f"{hull}: {bad}", file=sys.stderr)
    sleeper.down()


def climb(world_: _World, hull: str) -> None:
    """Under a load for which three are needed, of which one serves; the next daemon brings them, and no other."""
    chance = random.Random(world_.options.seed)
    scale = f"min: 0, max: 3, target: {{rps: {CLIMB}}}, window: 4s, panic_window: 1s, scale_down_delay: 1s"
    sleeper = world_.sleeper(hull, scale, slow=True)
    sleeper.until_asleep()
    before, until = leaks.snapshot(world_.daemon.home), world_.scratch / "until"
    for number in range(world_.options.kills):
        until.unlink(missing_ok=True)
        sleeper.until_led_to()
        loads = sleeper.begin_load(3 * CLIMB * len(sleeper.hosts), until=until)
        states = sleeper.until_half_grown()
        if number % 2:
            time.sleep(chance.uniform(0, SLOW / 2))
            states = sleeper.until_half_grown()
        sleeper.kill_daemon()
        sleeper.restart_daemon()
        begin = time.perf_counter()
        sleeper.until_ready(3)
        world_.samples.add(GROWN, SUBJECT[hull], (time.perf_counter() - begin) * 1000)
        stray = sleeper.instances() - {member.id for view in sleeper.views() for member in view.members}
        until.touch()
        failed, _ = sleeper.finish(loads)
        print(f"{hull}: killed while {', '.join(states)}: {failed} failed, {len(stray)} stray", flush=True)
        sleeper.until_asleep()
        world_.samples.add(CLIMBED, SUBJECT[hull], failed)
        world_.samples.add(STRAY, SUBJECT[hull], len(stray) + _left(world_, before))
    sleeper.down()


def settled(rows: Iterable[tuple[float, float]]) -> float:
    """Seconds until the end of the last second whose 95th percentile was above LATE. rows: (begin, seconds) of answers."""
    seconds: dict[int, list[float]] = {}
    for at, took in rows:
        seconds.setdefault(int(at), []).append(took)
    return max((at + 1.0 for at, values in seconds.items() if quantile(values, 0.95) > LATE), default=0.0)


def flaps(curve: Sequence[tuple[float, int]]) -> int:
    """Scale-downs that come within DELAY of the one before; half a second is forgiven to the looks."""
    downs = [later[0] for earlier, later in itertools.pairwise(curve) if later[1] < earlier[1]]
    return sum(later - earlier < DELAY - 0.5 for earlier, later in itertools.pairwise(downs))


EACH_HULL: dict[str, Callable[[_World, str], None]] = {
    "crowd": crowd,
    "step": step,
    "spike": spike,
    "cycles": cycles,
    "kill": kill,
    "climb": climb,
}


def main() -> int:
    """The program."""
    options = _options()
    samples, rows = Samples(), options.only or ["zero", *EACH_HULL]
    world.isolate()
    os.environ["PYTHONUNBUFFERED"] = "1"
    with world.scratch() as scratch:
        try:
            if "zero" in rows:
                with world.daemon(scratch / "z", [archive("busybox")], CONFIG.format(parked=2)) as daemon:
                    zero(_World(daemon, scratch, options, samples))
            images = [archive("busybox"), *([archive("compare-tools")] if {"step", "spike"} & set(rows) else [])]
            with world.daemon(scratch / "h", images, CONFIG.format(parked=0)) as daemon:
                for name, hull in itertools.product(EACH_HULL, options.hull):
                    if name in rows:
                        print(f"{name}, {hull}", flush=True)
                        EACH_HULL[name](_World(daemon, scratch, options, samples), hull)
        finally:
            report(samples, Path(options.out), ROWS, "waking")
    return 0 if all(verdict.met for row in ROWS for verdict in verdicts(row, samples.of(row))) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=["zero", *EACH_HULL], metavar="ROW")
    parser.add_argument("--runtime", dest="hull", action="append", choices=list(SUBJECT))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--crowds", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--rate", type=float, default=400.0, help="requests a second after the step, and of the spike")
    parser.add_argument("--repeat", type=int, default=3, help="steps, spikes, and rounds of cycles")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=25.0, help="how long the load after the step takes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="build/bench")
    options = parser.parse_args()
    options.hull = options.hull or list(SUBJECT)
    return options


if __name__ == "__main__":
    sys.exit(main())
