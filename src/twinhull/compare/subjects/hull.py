"""A runtime of Twinhull, through the daemon's API."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from twinhull.client import Client
from twinhull.client.thin import STDOUT
from twinhull.compare.subjects.base import Output, Place, Subject, Wanted, undivided
from twinhull.errors import CannotRunError, NotFoundError
from twinhull.instance.base import Process
from twinhull.spec.instance import InstanceSpec, MountSpec, MountType, Runtime
from twinhull.sys import proc

LABEL = "twinhull.compare"


class Hull(Subject):
    """container, sandbox or vm. All that it makes has the run's id as a label, by which `clear` finds it even after a crash."""

    def __init__(self, client: Client, runtime: Runtime, run: str) -> None:
        self.name = runtime.value
        self._client = client
        self._runtime = runtime
        self._run = run
        self.accelerator = ""
        """Of the last VM that was started."""

    def trouble(self) -> str:
        if self._runtime is Runtime.SANDBOX:
            from twinhull.instance.runtimes import sandbox_trouble

            return sandbox_trouble()
        return ""

    def describe(self) -> dict[str, str]:
        return {"accelerator": self.accelerator} if self.accelerator else {}

    def provide(self, image: str) -> None:
        self._client.image(image)

    def start(self, wanted: Wanted) -> Place:
        begin = time.perf_counter()
        with undivided():
            view = self._client.create(self._spec(wanted), start=True)
        seconds = time.perf_counter() - begin
        self.accelerator = view.accelerator or self.accelerator
        address = view.addresses[0].address.partition("/")[0] if view.addresses else ""
        return Place(view.id, address, seconds)

    def first_output(self, wanted: Wanted) -> tuple[float, int, str]:
        begin = time.perf_counter()
        with undivided():
            view, session = self._client.run(self._spec(wanted))
        seconds, text = 0.0, b""
        try:
            with session:
                for stream, data in session.output():
                    seconds = seconds or time.perf_counter() - begin
                    text += data if stream == STDOUT else b""
                code = session.wait()
        finally:
            self._drop(view.id)
        return seconds or time.perf_counter() - begin, code, text.decode("utf-8", "replace")

    def command_line(self, wanted: Wanted) -> float:
        program = Path(sys.executable).with_name("twinhull")
        argv = [str(program)] if program.exists() else [sys.executable, "-m", "twinhull.cli"]
        argv += ["run", "--rm", "--runtime", self.name, "--label", f"{LABEL}={self._run}", wanted.image, *(wanted.command or ())]
        begin = time.perf_counter()
        with undivided():
            proc.run_blocking(argv, env=_environment(), timeout=120)
        return time.perf_counter() - begin

    def exec(self, place: Place, *argv: str, user: str = "", stdin: bytes = b"") -> Output:
        process = Process(argv, env=(), cwd="", user=user, stdin=bool(stdin))
        try:
            code, out, err = self._client.exec(place.ident, process).communicate(stdin)
        except CannotRunError as error:
            return Output(error.exit_code, "", error.message)
        return Output(code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    def ended(self, place: Place) -> str:
        view = self._client.inspect(place.ident)
        if view.state == "running":
            return ""
        return "it was ended for lack of memory" if view.oom_killed else f"it ended with exit code {view.exit_code}"

    def remove(self, place: Place) -> None:
        self._drop(place.ident)

    def clear(self) -> None:
        filters = {"label": (f"{LABEL}={self._run}",), "runtime": (self.name,)}
        for view in self._client.list(all=True, filters=filters):
            self._drop(view.id)

    def _drop(self, ident: str) -> None:
        with suppress(NotFoundError):
            self._client.remove(ident, force=True, volumes=True)

    def _spec(self, wanted: Wanted) -> InstanceSpec:
        base = wanted.base or InstanceSpec(wanted.image)
        own = base.resources
        resources = replace(own, cpus=wanted.cpus or own.cpus, memory=wanted.memory or own.memory, pids=wanted.pids or own.pids)
        return replace(
            base,
            image=wanted.image,
            runtime=self._runtime,
            entrypoint=base.entrypoint if wanted.command is None else (),
            command=base.command if wanted.command is None else wanted.command,
            labels={**base.labels, LABEL: self._run},
            resources=replace(resources, pids=0) if self._runtime is Runtime.SANDBOX else resources,
            snapshot=wanted.snapshot,
            mounts=(*base.mounts, *((MountSpec(MountType.VOLUME, wanted.volume),) if wanted.volume else ())),
        )


def _environment() -> dict[str, str]:
    """Which daemon."""
    return {key: value for key, value in os.environ.items() if key.startswith("TWINHULL_")}
