"""What the daemon does first: adopt survivors, finish or undo what was half-done, remove what no longer belongs.

desired    found            then
creating   –                undo: forget it
removed    –                finish: forget it
running    alive            adopt
running    its exit         handle the exit as if the daemon had been there
running    nothing, was up  lost (a reboot): exited, or started again by its policy
running    nothing, half-started  undo the start; started again only by its policy
stopped    alive            finish the stop: the signal, then KILL
stopped    nothing          exited
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass

from twinhull.engine.instances import Instances
from twinhull.engine.live import Live
from twinhull.errors import TwinhullError
from twinhull.instance.base import Exit
from twinhull.plan.lifecycle import State, is_up, starts_with_daemon
from twinhull.spec.instance import NetworkMode

_log = logging.getLogger(__name__)
LOST = Exit(code=255, at=0.0, reason="lost: it ended while no daemon was there, and left no exit code")


@dataclass(frozen=True)
class Recovery:
    """One pass at start."""

    instances: Instances

    async def all(self) -> None:
        """Each instance by itself: one that can't be recovered is reported and left for `rm --force`."""
        for live in list(self.instances.lives.values()):
            try:
                async with live.lock:
                    await self._one(live)
            except Exception as error:
                _log.exception("recover instance %s", live.record.name)
                self.instances.database.save_instance(live.change(state=State.DEAD, error=str(error)))

    async def _one(self, live: Live) -> None:
        if live.record.desired in ("creating", "removed"):
            await self.instances.forget(live, volumes=live.record.desired == "creating" or live.record.spec.auto_remove)
            return
        launcher = self.instances.launcher
        live.instance = launcher.hull(live, await launcher.known(live))
        if is_up(live.record.state) and await live.instance.adopt():
            await self._adopted(live)
        else:
            await self._gone(live)

    async def _adopted(self, live: Live) -> None:
        assert live.instance is not None  # set by the only caller
        if live.record.spec.network_mode is NetworkMode.BRIDGE:
            await self.instances.join_network(live, live.record.published)
        live.asked_to_end = live.record.desired == "stopped"
        self.instances.resume_watch(live, live.instance)
        if live.record.state is State.RUNNING:
            with contextlib.suppress(TwinhullError):
                await live.instance.resume()  # after a pause that was cut off before it was written down
        if live.asked_to_end:
            self.instances.tasks.spawn(f"finish stop of {live.record.name}", self.instances.stop(live))

    async def _gone(self, live: Live) -> None:
        if is_up(live.record.state):
            live.asked_to_end = live.record.desired == "stopped"
            await self.instances.ended(live, Exit(LOST.code, time.time(), reason=LOST.reason))
            self._start_by_policy(live)
            return
        half_started = live.record.desired == "running" and live.record.state is not State.RESTARTING
        await self.instances.tear_down(live)
        if live.record.state is State.RESTARTING:
            self.instances.schedule_restart(live, 0.0)
        elif half_started and live.record.spec.auto_remove:
            await self.instances.forget(live, volumes=True)
        elif half_started:
            self.instances.database.save_instance(live.change(desired="stopped", error="the daemon ended while it was being started"))
        else:
            self._start_by_policy(live)

    def _start_by_policy(self, live: Live) -> None:
        purposely = live.record.desired == "stopped"
        if live.record.state is State.EXITED and starts_with_daemon(live.record.spec.restart, stopped_on_purpose=purposely):
            self.instances.tasks.spawn(f"start {live.record.name}", self.instances.start(live))
