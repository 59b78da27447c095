"""Reads a number that somebody else keeps: the depth of a queue, the result of a query.

The clients are our own, a few lines of each protocol: whoever answers is a workload, thus hostile, and the clients that people use hold
whatever a server announces. Here a line is at most 64 KiB, a body 256 KiB, and everything together takes TIMEOUT seconds. One
connection an answer: there is one question a second, and nothing to keep alive, to reconnect or to close.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from twinhull.errors import PermanentError, TemporaryError, TwinhullError
from twinhull.metrics import nats, prometheus, redis
from twinhull.metrics.stream import AnswerError, connection
from twinhull.spec.app import ScaleTarget
from twinhull.spec.source import Source, parse

TIMEOUT = 2.0
"""Seconds for connecting, asking and the whole answer."""
Locate = Callable[[str], str]
"""A host's name, as the source has it, to an address (or a name that the machine knows)."""
Secret = Callable[[str], str]
"""A secret's name to its content. Raises TwinhullError."""
_ASK = {"nats": nats.pending, "redis": redis.length, "http": prometheus.value, "https": prometheus.value}


def no_secret(name: str) -> str:
    """For applications without."""
    raise PermanentError(f"the application has no secret {name}")


async def read(target: ScaleTarget, locate: Locate, secret: Secret = no_secret) -> float:
    """The number now, zero or more. Raises UserError for a source that can't be, TemporaryError when it can't be had."""
    source = parse(target.kind, target.source)
    try:
        password = secret(source.secret).rstrip("\r\n") if source.secret else source.password
        async with asyncio.timeout(TIMEOUT):
            value = await _ask(source, locate(source.host), password)
    except TimeoutError:
        raise TemporaryError(f"read {source}: no answer within {TIMEOUT:g} s") from None
    except (OSError, EOFError, AnswerError, TwinhullError) as error:
        raise TemporaryError(f"read {source}: {error}") from error
    if not math.isfinite(value) or value < 0:
        raise TemporaryError(f"read {source}: {value:g} is no number of things")
    return value


async def _ask(source: Source, address: str, password: str) -> float:
    async with connection(source, address) as stream:
        return await _ASK[source.scheme](stream, source, password)
