"""Programs that the engine itself runs inside an instance: health probes, hooks."""

from __future__ import annotations

from twinhull.instance.base import Session


async def to_end(session: Session, output: bytearray, limit: int) -> int:
    """Let a program that was just begun run to its end without stdin; its exit code. The session is closed in any case.

    `output` gets what it writes, `limit` bytes at most, also if this is cancelled.
    """
    try:
        await session.close_stdin()
        async for _, data in session.output():
            output += data[: max(0, limit - len(output))]
        return await session.wait()
    finally:
        await session.close()
