"""Disks: fio on the root and on a volume."""

from __future__ import annotations

import json

from twinhull.compare.bench import VOLUME
from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.model import Better, Bound, Metric

_PLACES = {"root": "/var/tmp", "volume": VOLUME}
_JOBS = {
    "read": ("sequential read", "B/s", "--rw=read --bs=1M --iodepth=4"),
    "write": ("sequential write", "B/s", "--rw=write --bs=1M --iodepth=4"),
    "random1": ("random 4 KiB reads, depth 1", "1/s", "--rw=randread --bs=4k --iodepth=1"),
    "random32": ("random 4 KiB reads, depth 32", "1/s", "--rw=randread --bs=4k --iodepth=32"),
    "fsync": ("4 KiB writes with fsync", "1/s", "--rw=randwrite --bs=4k --iodepth=1 --fsync=1"),
}
_QUICK = ("read", "random32", "fsync")
_FILE = "twinhull-compare.fio"
_COMMON = "--size=16m --ioengine=libaio --direct=1 --time_based --stonewall --output-format=json"


class Disk(Measure):
    """libaio and O_DIRECT, so that the instance's own page cache is left out; the host's may serve a VM, as it does in use."""

    name = "disk"
    quick, full, guess, long = 5, 15, 1.9, 12.5
    metrics = tuple(
        Metric(
            f"disk.{place}_{word}",
            f"Disk, {place}: {title}",
            unit,
            f"fio libaio direct, file of 16 MiB in {folder}: {options}",
            better=Better.HIGHER,
            bound=Bound.OTHER,
        )
        for place, folder in _PLACES.items()
        for word, (title, unit, options) in _JOBS.items()
    )

    def take(self, turn: Recorder) -> None:
        jobs = tuple(_JOBS) if turn.full else _QUICK
        for place in _PLACES if turn.full else ("root",):
            names = [f"disk.{place}_{word}" for word in jobs]
            with turn.attempt(*names):
                script = _script(f"{_PLACES[place]}/{_FILE}", jobs, "1000ms" if turn.full else "250ms")
                found = results(turn.bench.tool(turn.subject, "sh", "-c", script))
                for word, name in zip(jobs, names, strict=True):
                    turn.sample(name, found[word][0 if _JOBS[word][1] == "B/s" else 1])


def _script(path: str, jobs: tuple[str, ...], runtime: str) -> str:
    """One fio for all jobs, one after the other on the same file."""
    words = " ".join(f"--name={word} {_JOBS[word][2]}" for word in jobs)
    return f"fio --filename={path} --runtime={runtime} {_COMMON} {words}; code=$?; rm -f {path}; exit $code"


def results(text: str) -> dict[str, tuple[float, float]]:
    """Job → bytes and operations per second, from fio's JSON; what comes before it are its remarks."""
    found = {}
    for job in json.loads(text[text.index("{") :])["jobs"]:
        side = max((job["read"], job["write"]), key=lambda one: float(one["total_ios"]))
        found[job["jobname"]] = (float(side["bw_bytes"]), float(side["iops"]))
    return found
