"""Renewals: who is asked for, that one failure neither stops the others nor is repeated at once, and that proofs reach the gateway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.unit.test_gateway_parts import pem

from twinhull.errors import TemporaryError
from twinhull.gateway import renewal
from twinhull.gateway.certificates import Certificate, Store
from twinhull.gateway.settings import Settings


class Authority:
    """Stands for `Issuer`: refuses hosts that begin with "bad"."""

    asked: list[str]

    def __init__(self, settings: Settings, account: Path, provide: object) -> None:
        self._provide = provide

    def issue(self, host: str) -> bytes:
        Authority.asked.append(host)
        assert callable(self._provide)
        self._provide(f"/.well-known/acme-challenge/{host}", f"proof of {host}")
        if host.startswith("bad"):
            raise TemporaryError("refused")
        return pem(host, days=90_000)


async def test_a_refused_host_waits_while_others_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "Issuer", Authority)
    Authority.asked = []
    hosts = ["bad.test", "good.test"]
    answers: list[Mapping[str, str]] = []
    installed: asyncio.Queue[Certificate] = asyncio.Queue()

    async def answer(challenges: Mapping[str, str]) -> None:
        answers.append(challenges)

    renewals = renewal.Renewals(Settings(), Store(tmp_path, tmp_path), renewal.Doer(lambda: hosts, answer, installed.put))
    task = asyncio.create_task(renewals.run())
    try:
        async with asyncio.timeout(20):
            assert (await installed.get()).hosts == ("good.test",)
            hosts.append("later.test")
            renewals.look()
            assert (await installed.get()).hosts == ("later.test",)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert Authority.asked == ["bad.test", "good.test", "later.test"]
    assert answers[-1] == {"/.well-known/acme-challenge/later.test": "proof of later.test"}
    assert await renewals.due(0) == ["bad.test"]
