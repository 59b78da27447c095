"""What a JetStream consumer hasn't done yet (https://docs.nats.io/reference/reference-protocols/nats-protocol, …/nats_api_reference)."""

from __future__ import annotations

import json
import secrets
from typing import Any

from twinhull.metrics.stream import AnswerError, Stream, number, shown
from twinhull.spec.source import Source

_CONNECT: dict[str, Any] = {
    "verbose": False, "pedantic": False, "name": "twinhull", "lang": "python", "version": "1", "protocol": 1,
    "headers": True, "no_responders": True,
}  # fmt: skip
"""With `no_responders` a server without JetStream says so at once."""


async def pending(stream: Stream, source: Source, password: str) -> float:
    """Messages that wait, and those that are being worked on: a worker in the middle of the last one is in use.

    Raises AnswerError, EOFError, OSError.
    """
    if not (await stream.line()).startswith(b"INFO "):
        raise AnswerError("that is no NATS server")
    who = {"user": source.user, "pass": password} if source.user else {"auth_token": password} if password else {}
    inbox = f"_INBOX.{secrets.token_hex(8)}"
    subject = "$JS.API.CONSUMER.INFO.{}.{}".format(*source.path)
    stream.write(f"CONNECT {json.dumps(_CONNECT | who)}\r\nSUB {inbox} 1\r\nPUB {subject} {inbox} 0\r\n\r\n".encode())
    return _count(await _answer(stream))


async def _answer(stream: Stream) -> bytes:
    """The body of the first message; the server's own talk before it is answered or passed over."""
    while True:
        words = (await stream.line()).split()
        match words[:1]:
            case [b"MSG"]:
                return await stream.exactly(number(words[-1]))
            case [b"HMSG"]:
                await stream.exactly(number(words[-1]))
                raise AnswerError("the server has no JetStream")
            case [b"PING"]:
                stream.write(b"PONG\r\n")
            case [b"-ERR"]:
                raise AnswerError(f"the server said {shown(b' '.join(words[1:]))}")
            case [b"INFO" | b"+OK" | b"PONG"]:
                pass
            case _:
                raise AnswerError(f"{shown(b' '.join(words))} isn't NATS")


def _count(body: bytes) -> float:
    try:
        found = json.loads(body)
        if "error" in found:
            raise AnswerError(f"JetStream said {shown(str(found['error']['description']).encode())}")
        return float(found["num_pending"]) + float(found["num_ack_pending"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise AnswerError(f"JetStream's answer isn't about a consumer: {shown(body)}") from error
