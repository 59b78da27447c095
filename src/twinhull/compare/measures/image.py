"""Images: what they take on disk, how long a new one takes to its first use, and what instances share."""

from __future__ import annotations

import os
import time
from pathlib import Path

from twinhull import home
from twinhull.compare.bench import SETTLE, SHELL
from twinhull.compare.measures.base import Measure, Recorder
from twinhull.compare.model import Better, Bound, Metric
from twinhull.compare.subjects.base import NotMeasuredError, Place, Wanted, resident
from twinhull.compare.subjects.hull import LABEL
from twinhull.spec.instance import InstanceSpec, Runtime

COLUMNS = SIZE, SHARED = "Image on disk", "Shared between instances"
_TAG = "localhost/twinhull-compare-first"


class Image(Measure):
    """A copy of the user's image under a new id stands for one that was just pulled."""

    name = "image"
    quick, full, guess, long, warm_up, hulls_only = 1, 5, 1.1, 1.1, False, True
    metrics = (
        Metric("image.first_use", "A new image: request → first output", "s", "commit of the image under a new id; API run → first byte"),
        Metric(
            "image.instance_disk",
            "Disk of a new instance of it",
            "bytes",
            "blocks in use in the instance's folder, right after its start",
            bound=Bound.OTHER,
        ),
        Metric(
            "image.shared",
            "Part of two instances' resident memory that is shared",
            "1",
            "1 − Pss ÷ Rss of smaps_rollup, over all processes on the host that run for two idle instances",
            better=Better.HIGHER,
            bound=Bound.OTHER,
        ),
    )

    def take(self, turn: Recorder) -> None:
        image = turn.bench.client.image(turn.bench.run.image)
        _sizes(turn, image.id, image.size)
        with turn.attempt("image.first_use"):
            if not turn.bench.nature.shell:
                raise NotMeasuredError(f"the image has no {SHELL}")
            turn.sample("image.first_use", self._first(turn))
        with turn.attempt("image.instance_disk", "image.shared"), turn.subject.running(turn.bench.lasting()) as place:
            with turn.attempt("image.instance_disk"):
                turn.sample("image.instance_disk", blocks(home.current().instance_state(place.ident)))
            with turn.attempt("image.shared"):
                turn.sample("image.shared", self._shared(turn, place))

    def _shared(self, turn: Recorder, one: Place) -> float:
        """Between them, and with what else runs on the machine."""
        with turn.subject.running(turn.bench.lasting()) as other:
            time.sleep(SETTLE)
            whole, own = resident([pid for place in (one, other) for pid in turn.subject.processes(place)])
        return 1 - own / whole

    def _first(self, turn: Recorder) -> float:
        client = turn.bench.client
        tag = f"{_TAG}:{turn.bench.run.id}"
        command = (SHELL, "-c", "exit 0")
        spec = InstanceSpec(turn.bench.run.image, entrypoint=(), command=command, labels={LABEL: turn.bench.run.id})
        made = client.create(spec, start=True)
        try:
            client.wait(made.id)
            client.commit(made.id, tag, message=f"{turn.subject.name} {turn.round}")
            return turn.subject.first_output(Wanted(tag, (SHELL, "-c", "echo twinhull")))[0]
        finally:
            client.remove(made.id, force=True)
            client.image_remove(tag, force=True)


def _sizes(turn: Recorder, ident: str, size: int) -> None:
    if turn.subject.name == Runtime.VM:
        path = home.current().cache / "erofs" / f"{ident}.erofs"
        own = (
            f"{path.stat().st_size / 1e6:.1f} MB more as one erofs file"
            if path.exists()
            else "one erofs file more, which can't be seen from here"
        )
        shared = "one read-only file for all instances of the machine; each guest caches what it reads for itself"
    else:
        own, shared = "the layers as they are", "layers and the host's page cache are shared by all instances"
    turn.fact(SIZE, f"{size / 1e6:.1f} MB; {own}", "image inspect; the file's size")
    turn.fact(SHARED, shared, "how each hull mounts its root")


def blocks(folder: Path) -> int:
    """Bytes in use on disk below a folder. Raises NotMeasuredError where it can't be read."""
    if not folder.is_dir():
        raise NotMeasuredError(f"{folder} isn't on this machine, or is another user's")
    return sum(os.lstat(os.path.join(at, name)).st_blocks * 512 for at, _, names in os.walk(folder) for name in names)
