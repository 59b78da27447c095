"""From HAProxy's statistics and the end of the access log to what the engine scales by. Pure but for reading the file's end."""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from twinhull.gateway.base import BackendStats, ServerStats

Rows = list[dict[str, str]]
"""Of one worker."""
_END = 512 * 1024
"""Bytes of the access log that are looked at: about 1,500 requests."""
_WINDOW = 10.0
"""Seconds of requests that the 95th percentile is of."""


def sessions(workers: Iterable[Rows], backend: str, server: str) -> int:
    """Open sessions of a server of a service in all workers."""
    return sum(_number(row, "scur") for rows in workers for row in rows if service(row["pxname"]) == backend and row["svname"] == server)


def service(pool: str) -> str:
    """ "APP/SERVICE" of a pool's name; "" for what is no pool."""
    parts = pool.split(":")
    return f"{parts[0]}/{parts[1]}" if len(parts) == 3 else ""


def summarise(workers: Iterable[Rows], p95: Mapping[str, float]) -> tuple[BackendStats, ...]:
    """One entry a service, sorted by name: all its pools in all workers together."""
    totals: dict[str, list[dict[str, str]]] = defaultdict(list)
    servers: dict[str, dict[str, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for rows in workers:
        for row in rows:
            name = service(row["pxname"])
            if name and row["svname"] == "BACKEND":
                totals[name].append(row)
            elif name:
                servers[name][row["svname"]].append(row)
    return tuple(_backend(name, totals[name], servers[name], p95.get(name, 0.0)) for name in sorted(totals))


def percentiles(path: Path, now: float) -> dict[str, float]:
    """Service → 95th percentile in seconds of its requests of the last ten seconds, as far as the log's end tells."""
    times: dict[str, list[float]] = defaultdict(list)
    for line in _last_lines(path):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if float(entry["time"]) + entry["ms"]["total"] / 1000 > now - _WINDOW and entry["ms"].get("response", -1) >= 0:
                times[service(entry["service"])].append(entry["ms"]["total"] / 1000)
    return {name: sorted(values)[int(0.95 * (len(values) - 1))] for name, values in times.items() if name}


def _last_lines(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END))
            return file.read(_END).splitlines()[1 if size > _END else 0 :]
    except OSError:
        return []


def _backend(name: str, rows: Rows, servers: Mapping[str, Rows], p95: float) -> BackendStats:
    return BackendStats(
        name=name,
        rate=float(_sum(rows, "rate")),
        sessions=_sum(rows, "scur"),
        queue=_sum(rows, "qcur"),
        requests=_sum(rows, "stot"),
        responses_5xx=_sum(rows, "hrsp_5xx"),
        p95=p95,
        servers=tuple(_server(server, servers[server]) for server in sorted(servers)),
    )


def _server(name: str, rows: Rows) -> ServerStats:
    """The first row is the current worker's. Errors: a 5xx, what never became an answer, and what then was asked elsewhere."""
    errors = sum(_sum(rows, column) for column in ("econ", "eresp", "hrsp_5xx", "wretr"))
    return ServerStats(name, _sum(rows, "scur"), _sum(rows, "stot"), errors, rows[0].get("status", ""))


def _sum(rows: Rows, column: str) -> int:
    return sum(_number(row, column) for row in rows)


def _number(row: Mapping[str, str], column: str) -> int:
    text = row.get(column, "")
    return int(text) if text.isdigit() else 0
