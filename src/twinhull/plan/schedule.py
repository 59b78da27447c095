"""`x-twinhull.scale.schedule`: how many instances there have to be at a time because a cron expression says so."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from twinhull.errors import UserError
from twinhull.spec.app import Schedule


def check(schedule: Schedule) -> None:
    """Raises UserError where the expression or the time zone can't be understood."""
    try:
        zone = ZoneInfo(schedule.timezone)
    except (ZoneInfoNotFoundError, ValueError):
        raise UserError(f"unknown time zone {schedule.timezone!r}", "use a name like Europe/Berlin or UTC") from None
    try:
        CronSim(schedule.cron, datetime(2000, 1, 1, tzinfo=zone))
    except CronSimError as error:
        raise UserError(f"cron expression {schedule.cron!r}: {error}", "five fields: minute hour day month weekday") from None


def floor(schedules: Iterable[Schedule], now: float) -> tuple[int, str, float]:
    """(least number of instances now, the schedule that says so, when that may change); (0, "", when) if none is in force."""
    least, reason, changes = 0, "", 0.0
    for schedule in schedules:
        ends, begins = _around(schedule, now)
        when = ends if ends > now else begins
        if when > now and (not changes or when < changes):
            changes = when
        if ends > now and schedule.min > least:
            least, reason = schedule.min, f"schedule {schedule.cron} {schedule.timezone}"
    return least, reason, changes


def _around(schedule: Schedule, now: float) -> tuple[float, float]:
    """(end of the last time that began, beginning of the next); 0: there is none."""
    moment = datetime.fromtimestamp(now, ZoneInfo(schedule.timezone))
    try:
        # `now` itself counts as begun: cron has whole minutes, and reverse iteration starts before the minute of its argument.
        last = next(CronSim(schedule.cron, moment + timedelta(minutes=1), reverse=True), None)
        if last is not None and last.timestamp() > now:
            last = next(CronSim(schedule.cron, moment, reverse=True), None)
        following = next(CronSim(schedule.cron, moment), None)
    except (CronSimError, StopIteration):
        return 0.0, 0.0
    return (last.timestamp() + schedule.duration if last else 0.0), (following.timestamp() if following else 0.0)
