"""Memory as hardware: bandwidth and latency."""

from __future__ import annotations

from twinhull.compare.measures.base import Measure, Recorder, number_after
from twinhull.compare.model import Better, Metric

_ACCESS = 8
"""Bytes of one access in sysbench's random mode (a size_t)."""
_BLOCK = 4 << 20
"""More than a core's own caches hold."""


class Ram(Measure):
    """sysbench memory."""

    name = "ram"
    quick, full, guess, long = 5, 20, 0.4, 1.4
    metrics = (
        Metric("ram.bandwidth", "Memory bandwidth, writing", "B/s", "sysbench memory, blocks of 1 MiB, in order", better=Better.HIGHER),
        Metric(
            "ram.latency", "Memory latency, random reads", "s", "sysbench memory --memory-access-mode=rnd, blocks of 4 MiB: time ÷ accesses"
        ),
    )

    def take(self, turn: Recorder) -> None:
        size = 8 if turn.full else 2
        base = ("sysbench", "memory", "--time=0")
        write = (*base, "--memory-block-size=1M", f"--memory-total-size={size}G", "run")
        turn.tool("ram.bandwidth", write, lambda text: number_after(text, "transferred (") * (1 << 20))
        blocks = size * 2
        options = (
            f"--memory-block-size={_BLOCK}",
            f"--memory-total-size={blocks * _BLOCK}",
            "--memory-access-mode=rnd",
            "--memory-oper=read",
        )
        turn.tool("ram.latency", (*base, *options, "run"), lambda text: seconds(text) / (blocks * _BLOCK // _ACCESS))


def seconds(text: str) -> float:
    """What sysbench took in all."""
    return number_after(text.replace("s\n", "\n"), "total time:")
