"""A name for an instance that was given none: an adjective and a ship's part, as easy to type as to remember."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence

from twinhull.errors import UserError

_VALID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_ADJECTIVES = (
    "able agile amber azure bold brave bright brisk calm clear crisp deft eager early fair fleet fond free fresh gentle glad "
    "golden grand hardy jolly keen kind lively lucky mellow merry mild neat nimble noble polite prime proud quick quiet ready "
    "royal sharp silent sleek smart snug solid spry stable steady still stout sunny sure swift tidy trim true vivid warm wise"
).split()
_PARTS = (
    "anchor ballast beacon bell binnacle boom bow bowline brig bulkhead buoy cabin capstan cleat compass davit deck dinghy "
    "ferry fender fathom frigate galley gangway halyard harbor hatch hawser helm hull jetty jib keel ketch lantern leeway "
    "mainsail mast mooring oar pier pilot port prow rudder sail schooner sextant shackle skiff sloop spar spinnaker starboard "
    "stern tender tide tiller transom trawler tug wake wharf winch yawl"
).split()


def generate(taken: Container[str], choice: Callable[[Sequence[str]], str]) -> str:
    """One that is free; after twenty collisions a number is appended. `choice` brings the randomness."""
    for attempt in range(10_000):
        name = f"{choice(_ADJECTIVES)}_{choice(_PARTS)}" + (f"_{attempt}" if attempt >= 20 else "")
        if name not in taken:
            return name
    raise UserError("no free name is left", "give one: --name NAME")


def check(name: str) -> str:
    """The name itself if Docker would take it. Raises UserError."""
    if not _VALID.fullmatch(name):
        raise UserError(f"invalid name {name!r}: only [a-zA-Z0-9][a-zA-Z0-9_.-] is allowed, at most 128 characters")
    return name
