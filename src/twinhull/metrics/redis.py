"""The length of a Redis list, in RESP (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""

from __future__ import annotations

from twinhull.metrics.stream import AnswerError, Stream, number, shown
from twinhull.spec.source import Source


async def length(stream: Stream, source: Source, password: str) -> float:
    """LLEN: 0 for a list that isn't there. Raises AnswerError, EOFError, OSError."""
    database, key = source.path
    questions: list[tuple[str, ...]] = [("SELECT", database), ("LLEN", key)]
    if password:
        questions.insert(0, ("AUTH", *filter(None, [source.user]), password))
    stream.write(b"".join(_command(question) for question in questions))
    for _ in questions[:-1]:
        answer = await stream.line()
        if answer != b"+OK":
            raise AnswerError(_refused(answer))
    answer = await stream.line()
    if not answer.startswith(b":"):
        raise AnswerError(_refused(answer))
    return number(answer[1:])


def _command(words: tuple[str, ...]) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _refused(answer: bytes) -> str:
    return f"the server said {shown(answer.removeprefix(b'-'))}"
