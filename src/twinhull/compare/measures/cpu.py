"""CPU: sysbench's prime numbers on one core and on all."""

from __future__ import annotations

from twinhull.compare.measures.base import Measure, Recorder, number_after
from twinhull.compare.model import Better, Metric

_WORDS = "events per second:"


class Cpu(Measure):
    """The same number of events for all, so that a turn is short where the CPU is fast."""

    name = "cpu"
    quick, full, guess, long = 5, 20, 0.8, 3.4
    metrics = (
        Metric("cpu.single", "CPU, one thread", "1/s", "sysbench cpu --threads=1: events per second", better=Better.HIGHER),
        Metric("cpu.all", "CPU, a thread for each core", "1/s", "sysbench cpu --threads=$(nproc): events per second", better=Better.HIGHER),
    )

    def take(self, turn: Recorder) -> None:
        events = 3000 if turn.full else 600
        base = f"exec sysbench cpu --time=0 --events={events} --threads="
        for metric, threads in (("cpu.single", "1"), ("cpu.all", "$(nproc)")):
            turn.tool(metric, ("sh", "-c", f"{base}{threads} run"), lambda text: number_after(text, _WORDS))
