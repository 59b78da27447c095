"""The bench: what measures stand on. Subjects, their long-lived boxes with tools, and what is known of the user's image.

A box is an instance of the tools image that lives as long as the run, one for each subject: measures of the steady state take turns
in them. The driver is one more, always a container: it makes the load that others are under, the same for every subject.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from twinhull.client import Client
from twinhull.compare import probes_archive, tools
from twinhull.compare.model import Run
from twinhull.compare.subjects.base import MIB, NotMeasuredError, Output, Place, Subject, Wanted, first_page
from twinhull.compare.subjects.hull import Hull
from twinhull.errors import TwinhullError
from twinhull.spec.instance import Runtime

BOX_MEMORY = 512 * MIB
VOLUME = "/volume"
SHELL = "/bin/sh"
SETTLE = 0.5
"""Seconds that an instance is left alone before it is looked at."""
_MISSING = (126, 127)


@dataclass(frozen=True, slots=True)
class Nature:
    """What the user's image can do. `shell`: it has /bin/sh; `port`: one that it exposes over TCP, or 0; `ends`: why it doesn't run on."""

    shell: bool
    port: int
    ends: str


class Bench:
    """For one run. Nothing is made before it is asked for; `close` removes all."""

    def __init__(self, client: Client, run: Run, subjects: Mapping[str, Subject]) -> None:
        self.client = client
        self.run = run
        self.subjects = subjects
        self.full = run.profile == "full"
        self._driver = Hull(client, Runtime.CONTAINER, run.id)
        self._boxes: dict[str, Place] = {}
        self._equipped: set[str] = set()

    def close(self) -> None:
        """Remove all that the run has made."""
        self._boxes.clear()
        for subject in (*self.subjects.values(), self._driver):
            subject.clear()

    # boxes

    def box(self, subject: Subject) -> Place:
        """The subject's box, running."""
        return self._box(subject.name, subject, VOLUME)

    def driver(self) -> Place:
        """The driver's box."""
        return self._box("driver", self._driver, "")

    def _box(self, key: str, subject: Subject, volume: str) -> Place:
        place = self._boxes.get(key)
        if place is None or subject.ended(place):
            self._equipped.discard(key)
            place = subject.start(Wanted(self.run.tools, tools.BOX, BOX_MEMORY, volume=volume))
            self._boxes[key] = place
            if not subject.exec(place, "sh", "-c", "command -v nginx").code:
                first_page(place.address, tools.PORT, tools.PAGE, time.perf_counter())
        return place

    def tool(self, subject: Subject, *argv: str, user: str = "") -> str:
        """The output of a program in the subject's box. Raises NotMeasuredError, also where it isn't there."""
        return _checked(subject.exec(self.box(subject), *argv, user=user), argv)

    def drive(self, *argv: str) -> str:
        """The same in the driver's box."""
        return _checked(self._driver.exec(self.driver(), *argv), argv)

    def probe(self, subject: Subject, *argv: str, user: str = "") -> str:
        """A probe of ours in the subject's box, with Python."""
        if subject.name not in self._equipped:
            script = f"cat >{probes_archive.PATH}; chmod 644 {probes_archive.PATH}"
            argv_of_cat = ("sh", "-c", script)
            _checked(subject.exec(self.box(subject), *argv_of_cat, stdin=probes_archive.archive()), argv_of_cat)
            self._equipped.add(subject.name)
        return self.tool(subject, "python3", probes_archive.PATH, *argv, user=user)

    # the user's image

    @cached_property
    def nature(self) -> Nature:
        """What the image can do, tried once in the first subject that is a hull."""
        subject = next((one for one in self.subjects.values() if isinstance(one, Hull)), self._driver)
        return Nature(self._has_shell(subject), _port(self.client.image(self.run.image).config), self._end(subject))

    def _has_shell(self, subject: Subject) -> bool:
        try:
            return subject.first_output(Wanted(self.run.image, (SHELL, "-c", "echo twinhull")))[1] == 0
        except TwinhullError:
            return False

    def _end(self, subject: Subject) -> str:
        """Why an instance of it doesn't go on by itself; "" if it does."""
        try:
            with subject.running(Wanted(self.run.image)) as place:
                time.sleep(SETTLE)
                return subject.ended(place)
        except TwinhullError as error:
            return error.message

    def lasting(self) -> Wanted:
        """The user's image as an instance that runs on: its own command, or a shell that sleeps. Raises NotMeasuredError."""
        if not self.nature.ends:
            return Wanted(self.run.image)
        if self.nature.shell:
            return Wanted(self.run.image, (SHELL, "-c", "while :; do sleep 1000000; done"))
        raise NotMeasuredError(f"an instance of the image doesn't run on, and it has no {SHELL} to wait in: {self.nature.ends}")

    def server(self) -> tuple[Wanted, int, str]:
        """What serves HTTP: the user's image if it exposes a port and runs on, else nginx in the tools image; its port and page."""
        if self.nature.port and not self.nature.ends:
            return Wanted(self.run.image), self.nature.port, "/"
        return Wanted(self.run.tools, tools.SERVER), tools.PORT, tools.PAGE


def _checked(output: Output, argv: tuple[str, ...]) -> str:
    """What it printed. Raises NotMeasuredError with the reason."""
    if output.code in _MISSING:
        raise NotMeasuredError(f"{argv[0]} can't be run in the tools image: {output.err.strip() or 'it is missing'}")
    if output.code:
        said = (output.err.strip() or output.out.strip()).splitlines()
        raise NotMeasuredError(f"{argv[0]} failed with exit status {output.code}: {said[-1] if said else 'without a word'}")
    return output.out


def _port(config: Mapping[str, Any]) -> int:
    """The lowest TCP port that an image configuration exposes, 0 if none."""
    exposed = config.get("ExposedPorts") or {}
    numbers = [int(word.partition("/")[0]) for word in exposed if word.endswith("/tcp") or word.isdigit()]
    return min(numbers, default=0)
