"""Runs an instance's health check at its times and folds the results (plan/health.py)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from twinhull.engine import programs
from twinhull.engine.live import Live
from twinhull.errors import TwinhullError
from twinhull.instance.base import Instance, Process
from twinhull.plan import health as fold
from twinhull.plan.lifecycle import State
from twinhull.spec.instance import HealthCheck

TIMED_OUT = 124
"""Exit code that stands for a probe over its time, as timeout(1) has it."""


async def watch(live: Live, instance: Instance, changed: Callable[[Live], None]) -> None:
    """Probe until cancelled; `changed` is called when the status is another one."""
    check = live.check
    if check is None or not fold.enabled(check):
        return
    while True:
        age = time.time() - live.record.started_at
        await asyncio.sleep(fold.delay(live.health, check, age))
        if live.record.state is not State.RUNNING:
            continue
        before = live.health.status
        probe = await _probe(instance, check)
        live.health = fold.after(live.health, probe, check, probe.ended - live.record.started_at)
        if live.health.status != before:
            changed(live)


async def _probe(instance: Instance, check: HealthCheck) -> fold.Probe:
    started = time.time()
    output = bytearray()
    try:
        async with asyncio.timeout(check.timeout):
            code = await programs.to_end(await instance.exec(_process(instance, check)), output, fold.OUTPUT_LIMIT)
    except TimeoutError:
        code = TIMED_OUT
        output += f"no end within {check.timeout:g} s".encode()
    except TwinhullError as error:
        code = 127
        output += str(error).encode()
    return fold.Probe(started, time.time(), code, output.decode("utf-8", "replace"))


def _process(instance: Instance, check: HealthCheck) -> Process:
    own = instance.launch.process
    return Process(argv=fold.command(check), env=own.env, cwd=own.cwd, user=own.user)
