"""Rows with many instances: all at once, idle together, and one after the other for a long time."""

from __future__ import annotations

import itertools
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from tests import leaks

from bench.model import CONTAINER, CYCLES, DRIFT, FAULTS, IDLE_CPU, IDLE_MEMORY, OVERHEAD, VM, Row, Samples
from bench.peers import PORTS, Peer, Twinhull, first_page
from bench.world import Daemon, cpu_seconds, memory
from twinhull.instance.vm import process
from twinhull.spec.instance import Runtime

_PAUSE = 0.05
"""Seconds between two looks at a server of many: fifty pollers must not be the load that is measured."""


def at_once(row: Row, peers: list[Peer], count: int, rounds: int, samples: Samples) -> None:
    """From the first of `count` requests until all answer; milliseconds. Peers take turns, the order is reversed each round.

    One round before isn't counted: what is made once is made then, and what is kept ready is kept by what was in demand.
    """
    for number in range(-1, rounds):
        for peer in peers if number % 2 else reversed(peers):
            ports = [next(PORTS) for _ in range(count)]
            peer.settle()
            with ThreadPoolExecutor(count) as pool:
                start = time.perf_counter()
                list(pool.map(_serve, itertools.repeat(peer), ports))
                taken = (time.perf_counter() - start) * 1000
                if number >= 0:
                    samples.add(row, peer.name, taken)
                list(pool.map(peer.end, ports))


def overhead(daemon: Daemon, counts: dict[Runtime, int], samples: Samples) -> None:
    """MB for each idle instance beyond its workload's own."""
    for runtime, count in counts.items():
        peer = Twinhull(daemon, runtime)
        before = memory(daemon.pid, "Pss")
        ports = _start(peer, count)
        time.sleep(5)  # to settle: not an event that could be waited for
        growth = (memory(daemon.pid, "Pss") - before) / count
        for port in ports:
            samples.add(OVERHEAD, VM if runtime is Runtime.VM else CONTAINER, growth + _of_instance(daemon, runtime, port))
        _end(peer, ports)


def idle(daemon: Daemon, counts: dict[Runtime, int], seconds: float, samples: Samples) -> None:
    """What the daemon itself takes while all idle."""
    started = [(peer, _start(peer, count)) for peer, count in ((Twinhull(daemon, runtime), count) for runtime, count in counts.items())]
    time.sleep(min(20.0, seconds))  # parked guests are refilled, caches written
    pid, begin = daemon.pid, time.perf_counter()
    used = cpu_seconds(pid)
    time.sleep(seconds)
    samples.add(IDLE_CPU, "daemon", (cpu_seconds(pid) - used) / (time.perf_counter() - begin) * 100)
    samples.add(IDLE_MEMORY, "daemon", memory(pid, "Pss"))
    for peer, ports in started:
        _end(peer, ports)


def cycles(daemon: Daemon, runtime: Runtime, count: int, samples: Samples) -> None:
    """Create, start, answer, remove; then what is left behind. A cycle in ms; the ratio of its median at the end to that at first."""
    peer = Twinhull(daemon, runtime)
    for _ in range(3):
        peer.serve(next(PORTS))
    before, failures, taken = leaks.snapshot(daemon.home), 0, []
    for number in range(count):
        start = time.perf_counter()
        try:
            peer.serve(next(PORTS))
        except (OSError, RuntimeError, TimeoutError) as error:
            failures += 1
            print(f"cycle {number}: {error}")
            continue
        taken.append(time.perf_counter() - start)
        samples.add(CYCLES, peer.name, taken[-1] * 1000)
        print(f"{runtime} cycle {number + 1} of {count}", end="\r", flush=True)
    left = _left(daemon, before)
    for leak in left[:20]:
        print(f"left behind: {leak}")
    tenth = max(1, len(taken) // 10)
    samples.add(DRIFT, peer.name, statistics.median(taken[-tenth:]) / statistics.median(taken[:tenth]))
    samples.add(FAULTS, peer.name, failures + len(left))


def _left(daemon: Daemon, before: frozenset[leaks.Leak]) -> list[leaks.Leak]:
    deadline = time.monotonic() + 20
    while (left := leaks.difference(before, leaks.snapshot(daemon.home))) and time.monotonic() < deadline:
        time.sleep(0.5)
    return left


def _serve(peer: Peer, port: int) -> None:
    peer.begin(port)
    first_page(*peer.address(port), time.perf_counter(), _PAUSE)


def _start(peer: Peer, count: int) -> list[int]:
    """Four at a time, each answering before the next."""
    ports = [next(PORTS) for _ in range(count)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_serve, itertools.repeat(peer), ports))
    return ports


def _end(peer: Peer, ports: list[int]) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(peer.end, ports))


def _of_instance(daemon: Daemon, runtime: Runtime, port: int) -> float:
    run = daemon.home.instance_run(daemon.client().inspect(f"b{port}").id)
    if runtime is Runtime.VM:
        vmm = process.recorded(run)
        assert vmm is not None
        return memory(vmm.pid, "Anonymous")
    return memory(int((run / "conmon.pid").read_text()), "Pss")
