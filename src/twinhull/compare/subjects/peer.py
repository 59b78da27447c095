"""Docker or Podman beside Twinhull, through their command lines, which agree in all that is needed here."""

from __future__ import annotations

import json
import resource
import shlex
import tempfile
import time
from contextlib import suppress

from twinhull.client import Client
from twinhull.compare.subjects.base import NotMeasuredError, Output, Place, Subject, Wanted, undivided
from twinhull.errors import UserError
from twinhull.sys import proc

KNOWN = ("docker", "podman")
_LABEL = "twinhull.compare"
_ENOUGH = 1024
"""Files and processes for an instance that is measured."""


class Peer(Subject):
    """`words`: NAME or NAME=COMMAND LINE, such as "podman=podman --runtime runc"."""

    def __init__(self, client: Client, words: str, run: str) -> None:
        self.name, _, command = words.partition("=")
        if self.name not in KNOWN:
            raise UserError(f"--against {words}: use {' or '.join(KNOWN)}")
        self._argv = shlex.split(command) or [self.name]
        self._client = client
        self._run = run
        self._loaded: list[str] = []

    def trouble(self) -> str:
        try:
            result = proc.run_blocking([*self._argv, "version"], timeout=30, check=False)
        except (proc.ProcessError, TimeoutError) as error:
            return f"{self.name} isn't here: {error}"
        if result.status == 0:
            return ""
        said = result.stderr.decode("utf-8", "replace").strip().splitlines()
        return f"{self.name} doesn't answer: {said[-1] if said else f'exit status {result.status}'}"

    def describe(self) -> dict[str, str]:
        return {"version": self._call("version", "--format", "{{.Client.Version}}").strip()}

    def provide(self, image: str) -> None:
        if proc.run_blocking([*self._argv, "image", "inspect", image], check=False).status == 0:
            return
        with tempfile.NamedTemporaryFile(suffix=".tar") as file:
            for chunk in self._client.image_save((image,)):
                file.write(chunk)
            file.flush()
            self._call("load", "-i", file.name)
        self._loaded.append(image)

    def start(self, wanted: Wanted) -> Place:
        begin = time.perf_counter()
        with undivided():
            ident = self._call("run", "-d", *self._flags(wanted)).strip().splitlines()[-1]
        seconds = time.perf_counter() - begin
        view = json.loads(self._call("inspect", ident))[0]
        networks = view["NetworkSettings"].get("Networks") or {}
        addresses = [network.get("IPAddress", "") for network in networks.values()]
        return Place(ident, next(filter(None, addresses), ""), seconds)

    def first_output(self, wanted: Wanted) -> tuple[float, int, str]:
        raise NotMeasuredError(f"{self.name} is measured by its command line only: see start.cli")

    def command_line(self, wanted: Wanted) -> float:
        begin = time.perf_counter()
        with undivided():
            self._call("run", "--rm", *self._flags(wanted))
        return time.perf_counter() - begin

    def exec(self, place: Place, *argv: str, user: str = "", stdin: bytes = b"") -> Output:
        flags = [*(("-u", user) if user else ()), *(("-i",) if stdin else ())]
        result = proc.run_blocking([*self._argv, "exec", *flags, place.ident, *argv], stdin=stdin, timeout=300, check=False)
        return Output(result.status, result.text, result.stderr.decode("utf-8", "replace"))

    def ended(self, place: Place) -> str:
        state = json.loads(self._call("inspect", place.ident))[0]["State"]
        if state.get("Running"):
            return ""
        return "it was ended for lack of memory" if state.get("OOMKilled") else f"it ended with exit code {state.get('ExitCode')}"

    def remove(self, place: Place) -> None:
        self._call("rm", "-f", "-v", place.ident)

    def clear(self) -> None:
        with suppress(proc.ProcessError):
            names = self._call("ps", "-aq", "--filter", f"label={_LABEL}={self._run}").split()
            if names:
                self._call("rm", "-f", "-v", *names)
            for image in self._loaded:
                self._call("rmi", image)
            self._loaded.clear()

    def _flags(self, wanted: Wanted) -> list[str]:
        limits = {"--memory": wanted.memory, "--cpus": wanted.cpus, "--pids-limit": wanted.pids}
        flags = [f"{flag}={value}" for flag, value in limits.items() if value] + ["--label", f"{_LABEL}={self._run}"]
        flags += ["-v", wanted.volume] if wanted.volume else []
        flags += [f"--ulimit={name}={limit}:{limit}" for name, limit in _limits()]
        entry = [] if wanted.command is None else ["--entrypoint", wanted.command[0]]
        return [*flags, *entry, wanted.image, *(wanted.command or ())[1:]]

    def _call(self, *words: str) -> str:
        return proc.run_blocking([*self._argv, *words], timeout=300).text


def _limits() -> list[tuple[str, int]]:
    """Limits below our own, said aloud: engines try to raise them else, which a root without CAP_SYS_RESOURCE may not."""
    hard = {"nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[1], "nproc": resource.getrlimit(resource.RLIMIT_NPROC)[1]}
    return [(name, min(limit, _ENOUGH)) for name, limit in hard.items() if limit != resource.RLIM_INFINITY]
