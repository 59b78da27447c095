"""The bench: what measures stand on. Subjects, their long-lived boxes with tools, and what is known of the user's image.

A box is an instance of the tools image that lives as long as the run, one for each subject: measures of the steady state take turns
in them. The driver is one more, always a container: it makes the load that others are under, the same for every subject.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from twinhull.client import Client
from twinhull.compare import probes_archive, tools
from twinhull.compare.model import Run
from twinhull.compare.subjects.base import MIB, NotMeasuredError, Output, Place, Subject, Wanted, first_page
from twinhull.compare.subjects.hull import Hull
from twinhull.compare.workload import Definition, Page, tcp_port
from twinhull.errors import TwinhullError
from twinhull.spec.instance import InstanceSpec, NetworkAttachment, Runtime

BOX_MEMORY = 512 * MIB
VOLUME = "/volume"
SHELL = "/bin/sh"
SETTLE = 0.5
"""Seconds that an instance is left alone before it is looked at."""
TRIAL = 20.0
"""Seconds in which a server must show its page, to be taken for one."""
_MISSING = (126, 127)


@dataclass(frozen=True, slots=True)
class Nature:
    """What the user's image can do. `shell`: it has /bin/sh; `page`: what it serves over HTTP; `ends`: why it doesn't run on."""

    shell: bool
    page: Page | None
    ends: str


class Bench:
    """For one run. Nothing is made before it is asked for; `close` removes all."""

    def __init__(self, client: Client, run: Run, subjects: Mapping[str, Subject], template: InstanceSpec | None = None) -> None:
        self.client = client
        self.run = run
        self.subjects = subjects
        self.full = run.profile == "full"
        self.given = Definition.parse(run.workload)
        self.own = Wanted(run.image, self.given.command or None, self.given.memory, base=template)
        """An instance of what the user compares; `template` where that is a service."""
        self.no_page: dict[str, str] = {}
        """Subject → why the default load isn't possible, once that is known."""
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
        """The driver's box. A service's copies are reached in its networks, boxes in the default one."""
        networks = self.own.base.networks if self.own.base else ()
        if not networks:
            return self._box("driver", self._driver, "")
        both = (NetworkAttachment("default"), *(each for each in networks if each.network != "default"))
        return self._box("driver", self._driver, "", InstanceSpec(self.run.tools, networks=both))

    def _box(self, key: str, subject: Subject, volume: str, base: InstanceSpec | None = None) -> Place:
        place = self._boxes.get(key)
        if place is None or subject.ended(place):
            self._equipped.discard(key)
            place = subject.start(Wanted(self.run.tools, tools.BOX, BOX_MEMORY, volume=volume, base=base))
            self._boxes[key] = place
            if not subject.exec(place, "sh", "-c", "command -v nginx").code:
                first_page(place.address, Page(tools.PORT, tools.PAGE), time.perf_counter())
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
        ends, page = self._lasts(subject)
        return Nature(self._has_shell(subject), page, ends)

    def _has_shell(self, subject: Subject) -> bool:
        try:
            return subject.first_output(Wanted(self.run.image, (SHELL, "-c", "echo twinhull")))[1] == 0
        except TwinhullError:
            return False

    def _lasts(self, subject: Subject) -> tuple[str, Page | None]:
        """Why an instance doesn't go on by itself, "" if it does; and the page that it serves, if it serves one."""
        try:
            with subject.running(self.own) as place:
                time.sleep(SETTLE)
                return subject.ended(place), self._served(place)
        except TwinhullError as error:
            return error.message, None

    def _served(self, place: Place) -> Page | None:
        """By the ready check, the load, or what the image exposes. A port may be of another protocol."""
        port = tcp_port(self.client.image(self.run.image).config)
        page = self.given.page or self.given.target or (Page(port) if port else None)
        if page is None:
            return None
        try:
            first_page(place.address, page, time.perf_counter(), TRIAL)
        except NotMeasuredError:
            return None
        return page

    def lasting(self) -> Wanted:
        """The user's image as an instance that runs on: as it is, or a shell that sleeps. Raises NotMeasuredError."""
        if not self.nature.ends:
            return self.own
        if self.nature.shell:
            return Wanted(self.run.image, (SHELL, "-c", "while :; do sleep 1000000; done"))
        raise NotMeasuredError(f"an instance of the image doesn't run on, and it has no {SHELL} to wait in: {self.nature.ends}")

    def server(self) -> tuple[Wanted, Page]:
        """What serves HTTP: the user's image if it does, else nginx in the tools image."""
        if self.nature.page and not self.nature.ends:
            return self.own, self.nature.page
        return Wanted(self.run.tools, tools.SERVER), Page(tools.PORT, tools.PAGE)


def _checked(output: Output, argv: tuple[str, ...]) -> str:
    """What it printed. Raises NotMeasuredError with the reason."""
    if output.code in _MISSING:
        raise NotMeasuredError(f"{argv[0]} can't be run in the tools image: {output.err.strip() or 'it is missing'}")
    if output.code:
        said = (output.err.strip() or output.out.strip()).splitlines()
        raise NotMeasuredError(f"{argv[0]} failed with exit status {output.code}: {said[-1] if said else 'without a word'}")
    return output.out
