"""What has to be said to a worker so that its servers become the wanted ones. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from twinhull.gateway.base import Server
from twinhull.gateway.configuration import endpoint, server_options
from twinhull.gateway.haproxy import Seen
from twinhull.gateway.routes import Pool


def changes(pools: Mapping[str, Pool], seen: Iterable[Seen]) -> list[str]:
    """Commands of the runtime API, additions before removals so that a pool is never emptier than it has to be.

    The worker must have these pools; others that it has are left alone. A server that is left out goes into maintenance: it gets nothing
    new and keeps what it has; `leaving` finds it there. One that comes back meanwhile is taken out of it.
    """
    present = {(server.pool, server.name): server for server in seen}
    added: list[str] = []
    changed: list[str] = []
    removed: list[str] = []
    for name, pool in sorted(pools.items()):
        wanted = {server.name: server for server in pool.servers}
        for server in wanted.values():
            found = present.get((name, server.name))
            target = added if found is None or found.leaving else changed
            target += _addition(pool, server) if found is None else _change(pool, server, found)
        removed += [
            f"set server {name}/{server.name} state maint"
            for server in present.values()
            if server.pool == name and server.name not in wanted and not server.leaving
        ]
    return added + changed + removed


def leaving(pools: Mapping[str, Pool], seen: Iterable[Seen]) -> list[Seen]:
    """Servers that are to be deleted once they have no session."""
    wanted = {(pool.name, server.name) for pool in pools.values() for server in pool.servers}
    return [server for server in seen if server.leaving and (server.pool, server.name) not in wanted]


def _addition(pool: Pool, server: Server) -> list[str]:
    where = f"{pool.name}/{server.name}"
    add = f"add server {where} {endpoint(pool, server)} weight {server.weight} {server_options(pool)}"
    return [add, f"enable health {where}", f"enable server {where}"]


def _change(pool: Pool, server: Server, found: Seen) -> list[str]:
    where = f"{pool.name}/{server.name}"
    commands = []
    if (ip_address(found.address), found.port) != (ip_address(server.address), pool.route.port):
        commands.append(f"set server {where} addr {server.address} port {pool.route.port}")
    if found.weight != server.weight:
        commands.append(f"set server {where} weight {server.weight}")
    if found.leaving:
        commands.append(f"set server {where} state ready")
    return commands
