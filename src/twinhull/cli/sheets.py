"""Columns of every kind of object, by the names that Docker's templates use. Pure: the present and --no-trunc are passed in.

Objects are the API's JSON (engine/base.py). Sizes and times are for people here; `json` shows the exact ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twinhull.cli import human
from twinhull.cli.columns import Column, cut
from twinhull.cli.output import Sheet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Item = dict[str, Any]

_COMMAND_WIDTH = 24


def instances(now: float, *, full: bool = False) -> Sheet:
    """`ps`."""
    return Sheet(
        (
            Column("ID", "INSTANCE ID", lambda item: human.short_id(item["id"], full=full)),
            Column("Image", "IMAGE", lambda item: item["image"], flexible=not full),
            Column("Runtime", "RUNTIME", lambda item: item["runtime"]),
            Column("Command", "COMMAND", lambda item: command(item.get("argv") or (), full=full), flexible=not full),
            Column("RunningFor", "CREATED", lambda item: human.ago(item["created_at"], now)),
            Column("Status", "STATUS", lambda item: status(item, now), colour=_status_colour),
            Column("Ports", "PORTS", lambda item: ports(item.get("ports") or ()), flexible=not full),
            Column("Names", "NAMES", lambda item: item["name"]),
            Column("Name", "NAME", lambda item: item["name"], shown=False),
            Column("State", "STATE", lambda item: item["state"], shown=False),
            Column("Health", "HEALTH", _health, shown=False),
            Column("CreatedAt", "CREATED AT", lambda item: human.stamp(item["created_at"]), shown=False),
            Column("ExitCode", "EXIT CODE", lambda item: item.get("exit_code", 0), shown=False),
            Column("Networks", "NETWORKS", lambda item: ",".join(a["network"] for a in item.get("addresses") or ()), shown=False),
            Column("Addresses", "ADDRESSES", lambda item: ",".join(a["address"] for a in item.get("addresses") or ()), shown=False),
            Column("Mounts", "MOUNTS", lambda item: ",".join(_mounts(item)), shown=False),
            Column("Labels", "LABELS", lambda item: labels(_labels(item)), shown=False),
            Column("Label", "LABEL", lambda item: _getter(_labels(item)), shown=False),
        ),
        lambda item: human.short_id(item["id"], full=full),
    )


def status(item: Item, now: float) -> str:
    """Up 3 minutes (healthy), Exited (137) 2 hours ago, Created …"""
    state = item["state"]
    code = item.get("exit_code", 0)
    if state in ("running", "paused"):
        note = "Paused" if state == "paused" else _health_note(_health(item))
        return f"Up {human.span(now - item.get('started_at', now))}" + (f" ({note})" if note else "")
    if state == "restarting":
        return f"Restarting ({code}) {human.ago(item.get('finished_at', 0), now)}".rstrip()
    if state == "exited":
        reason = " (out of memory)" if item.get("oom_killed") else ""
        return f"Exited ({code}) {human.ago(item.get('finished_at', 0), now)}".rstrip() + reason
    return str(state).capitalize()


def _health(item: Item) -> str:
    found = (item.get("health") or {}).get("status", "none")
    return "" if found == "none" else str(found)


def _health_note(health: str) -> str:
    return "health: starting" if health == "starting" else health


def _status_colour(item: Item) -> str:
    if item["state"] == "running":
        return {"unhealthy": "red", "starting": "yellow"}.get(_health(item), "green")
    if item["state"] in ("paused", "restarting"):
        return "yellow"
    return "red" if item["state"] == "dead" or item.get("exit_code") else "dim"


def command(argv: Iterable[str], *, full: bool = False) -> str:
    """The program and its arguments in quotes, short."""
    text = " ".join(argv)
    return f'"{text if full else cut(text, _COMMAND_WIDTH)}"'


def ports(mappings: Iterable[Item]) -> str:
    """0.0.0.0:8000-8002->80-82/tcp, 443/tcp: neighbours in one."""
    rows = sorted((m.get("host_ip") or "0.0.0.0", m.get("protocol", "tcp"), m["container_port"], m.get("host_port", 0)) for m in mappings)
    groups: list[tuple[str, str, int, int, int]] = []
    for address, protocol, inside, outside in rows:
        if groups and _continues(groups[-1], address, protocol, inside, outside):
            groups[-1] = (*groups[-1][:4], groups[-1][4] + 1)
        else:
            groups.append((address, protocol, inside, outside, 1))
    return ", ".join(_port_group(*group) for group in groups)


def _continues(group: tuple[str, str, int, int, int], address: str, protocol: str, inside: int, outside: int) -> bool:
    length = group[4]
    same_outside = outside == group[3] + length if group[3] else outside == 0
    return group[:2] == (address, protocol) and inside == group[2] + length and same_outside


def _port_group(address: str, protocol: str, inside: int, outside: int, length: int) -> str:
    def span(first: int) -> str:
        return str(first) if length == 1 else f"{first}-{first + length - 1}"

    shown = f"[{address}]" if ":" in address else address
    return f"{shown}:{span(outside)}->{span(inside)}/{protocol}" if outside else f"{span(inside)}/{protocol}"


def _mounts(item: Item) -> list[str]:
    return [mount.get("source") or mount["target"] for mount in (item.get("spec") or {}).get("mounts") or ()]


def _labels(item: Item) -> dict[str, str]:
    found = item.get("labels") or (item.get("spec") or {}).get("labels") or {}
    return {str(key): str(value) for key, value in found.items()}


def labels(found: dict[str, str]) -> str:
    """k=v,k=v."""
    return ",".join(f"{key}={value}" for key, value in found.items())


def _getter(found: dict[str, str]) -> Callable[[str], str]:
    return lambda key: found.get(key, "")


def image_rows(images: Iterable[Item], *, nameless: bool = False) -> list[Item]:
    """One row for each name of each image, with `repository` and `tag`."""
    rows = []
    for image in images:
        for name in image.get("names") or (["<none>:<none>"] if nameless or not image.get("names") else []):
            repository, tag = split_name(name)
            rows.append(image | {"repository": repository, "tag": tag})
    return rows


def split_name(name: str) -> tuple[str, str]:
    """registry:5000/a/b:tag → (registry:5000/a/b, tag)."""
    plain = name.partition("@")[0]
    head, slash, tail = plain.rpartition("/")
    last, _, tag = tail.partition(":")
    return f"{head}{slash}{last}", tag or "latest"


def images(now: float, *, full: bool = False, digests: bool = False) -> Sheet:
    """`image ls`; objects are `image_rows`."""
    return Sheet(
        (
            Column("Repository", "REPOSITORY", lambda item: item["repository"], flexible=not full),
            Column("Tag", "TAG", lambda item: item["tag"]),
            Column("Digest", "DIGEST", _digest, shown=digests),
            Column("ID", "IMAGE ID", lambda item: human.short_id(item["id"], full=full)),
            Column("CreatedSince", "CREATED", lambda item: human.ago(item["created_at"], now)),
            Column("Size", "SIZE", lambda item: human.size(item["size"])),
            Column("CreatedAt", "CREATED AT", lambda item: human.stamp(item["created_at"]), shown=False),
            Column("Architecture", "ARCHITECTURE", lambda item: item.get("architecture", ""), shown=False),
        ),
        lambda item: human.short_id(item["id"], full=full),
    )


def _digest(item: Item) -> str:
    found = [digest.partition("@")[2] for digest in item.get("digests") or () if digest.startswith(f"{item['repository']}@")]
    return found[0] if found else "<none>"


def history(now: float, *, full: bool = False) -> Sheet:
    """`image history`; the fields are those of an OCI image's history."""

    def created(item: Item) -> str:
        moment = item.get("created_at", item.get("created"))
        return human.ago(moment, now) if isinstance(moment, int | float) else str(moment or "")

    return Sheet(
        (
            Column("ID", "IMAGE", lambda item: human.short_id(str(item.get("id") or "<missing>"), full=full)),
            Column("CreatedSince", "CREATED", created),
            Column("CreatedBy", "CREATED BY", lambda item: item.get("created_by", ""), flexible=not full),
            Column("Size", "SIZE", lambda item: human.size(item.get("size") or 0)),
            Column("Comment", "COMMENT", lambda item: item.get("comment", ""), flexible=not full),
        ),
        lambda item: str(item.get("id") or "<missing>"),
    )


def networks(now: float, *, full: bool = False) -> Sheet:
    """`network ls`."""
    return Sheet(
        (
            Column("ID", "NETWORK ID", lambda item: human.short_id(item["id"], full=full)),
            Column("Name", "NAME", lambda item: item["name"]),
            Column("Driver", "DRIVER", lambda _item: "bridge"),
            Column("Subnet", "SUBNET", lambda item: item["subnet"]),
            Column("Internal", "INTERNAL", lambda item: "yes" if item.get("internal") else "no"),
            Column("Instances", "INSTANCES", lambda item: len(item.get("instances") or ())),
            Column("CreatedSince", "CREATED", lambda item: human.ago(item["created_at"], now)),
            Column("CreatedAt", "CREATED AT", lambda item: human.stamp(item["created_at"]), shown=False),
            Column("Labels", "LABELS", lambda item: labels(_labels(item)), shown=False),
            Column("Label", "LABEL", lambda item: _getter(_labels(item)), shown=False),
        ),
        lambda item: human.short_id(item["id"], full=full),
    )


def volumes(now: float) -> Sheet:
    """`volume ls`."""
    return Sheet(
        (
            Column("Driver", "DRIVER", lambda item: item.get("driver", "local")),
            Column("Name", "VOLUME NAME", lambda item: item["name"]),
            Column("UsedBy", "USED BY", lambda item: ",".join(item.get("used_by") or ()), flexible=True),
            Column("CreatedSince", "CREATED", lambda item: human.ago(item["created_at"], now)),
            Column("CreatedAt", "CREATED AT", lambda item: human.stamp(item["created_at"]), shown=False),
            Column("Mountpoint", "MOUNTPOINT", lambda item: item.get("mountpoint", ""), shown=False),
            Column("Labels", "LABELS", lambda item: labels(_labels(item)), shown=False),
            Column("Label", "LABEL", lambda item: _getter(_labels(item)), shown=False),
        ),
        lambda item: str(item["name"]),
    )


def secrets(now: float, *, full: bool = False) -> Sheet:
    """`secret ls`."""
    return Sheet(
        (
            Column("ID", "ID", lambda item: human.short_id(item["id"], full=full)),
            Column("Name", "NAME", lambda item: item["name"]),
            Column("Size", "SIZE", lambda item: human.size(item["size"])),
            Column("CreatedSince", "CREATED", lambda item: human.ago(item["created_at"], now)),
            Column("CreatedAt", "CREATED AT", lambda item: human.stamp(item["created_at"]), shown=False),
            Column("UsedBy", "USED BY", lambda item: ",".join(item.get("used_by") or ()), flexible=not full),
        ),
        lambda item: str(item["name"]),
    )


def snapshots(now: float, *, full: bool) -> Sheet:
    """`snapshot ls`."""
    return Sheet(
        (
            Column("Key", "KEY", lambda item: item["key"] if full else item["key"][:12]),
            Column("App", "APP", lambda item: item.get("app") or "-"),
            Column("Image", "IMAGE", lambda item: item["image"]),
            Column("Command", "COMMAND", lambda item: " ".join(item["argv"]), flexible=True),
            Column("CreatedSince", "CREATED", lambda item: human.ago(item["created_at"], now)),
            Column("CreatedAt", "CREATED AT", lambda item: human.stamp(item["created_at"]), shown=False),
            Column("Size", "SIZE", lambda item: human.size(item["size"])),
        ),
        lambda item: str(item["key"]),
    )


def usage() -> Sheet:
    """`system df`."""

    def reclaimable(item: Item) -> str:
        share = f" ({100 * item['reclaimable'] // item['size']}%)" if item["size"] else ""
        return human.size(item["reclaimable"]) + share

    return Sheet(
        (
            Column("Type", "TYPE", lambda item: str(item["kind"]).capitalize()),
            Column("TotalCount", "TOTAL", lambda item: item["total"]),
            Column("Active", "ACTIVE", lambda item: item["active"]),
            Column("Size", "SIZE", lambda item: human.size(item["size"])),
            Column("Reclaimable", "RECLAIMABLE", reclaimable),
        ),
        lambda item: str(item["kind"]),
    )


def stats(*, full: bool = False) -> Sheet:
    """`stats`; objects: the API's Stats, `id`, `name`, `runtime`, and the rates `cpu_percent` and `host_cpu_percent` (None: not yet)."""

    def percent(value: float | None) -> str:
        return "--" if value is None else f"{value:.2f}%"

    return Sheet(
        (
            Column("ID", "INSTANCE ID", lambda item: human.short_id(item["id"], full=full)),
            Column("Name", "NAME", lambda item: item["name"], flexible=not full),
            Column("Runtime", "RUNTIME", lambda item: item["runtime"]),
            Column("CPUPerc", "CPU %", lambda item: percent(item["cpu_percent"])),
            Column("MemUsage", "MEM USAGE / LIMIT", _memory),
            Column("MemPerc", "MEM %", lambda item: percent(100 * item["memory"] / item["memory_limit"] if item["memory_limit"] else None)),
            Column("NetIO", "NET I/O", lambda item: f"{human.size(item['net_rx'])} / {human.size(item['net_tx'])}"),
            Column("BlockIO", "BLOCK I/O", lambda item: f"{human.size(item['block_read'])} / {human.size(item['block_write'])}"),
            Column("PIDs", "PIDS", lambda item: item["pids"]),
            Column("HostMem", "HOST MEM", lambda item: human.binary_size(item["host_memory"]) if item.get("host_memory") else "--"),
            Column("HostCPUPerc", "HOST CPU %", lambda item: percent(item.get("host_cpu_percent")), shown=False),
            Column("Container", "INSTANCE", lambda item: item["name"], shown=False),
        ),
        lambda item: human.short_id(item["id"], full=full),
    )


def _memory(item: Item) -> str:
    limit = human.binary_size(item["memory_limit"]) if item["memory_limit"] else "--"
    return f"{human.binary_size(item['memory'])} / {limit}"


def changes() -> Sheet:
    """`diff`."""
    columns = (Column("Kind", "KIND", lambda item: item["kind"]), Column("Path", "PATH", lambda item: item["path"]))
    return Sheet(columns, lambda item: str(item["path"]))


def published() -> Sheet:
    """`port`."""
    return Sheet(
        (
            Column("Port", "PORT", lambda item: f"{item['container_port']}/{item['protocol']}"),
            Column("Address", "PUBLISHED AT", host_address),
        ),
        host_address,
    )


def host_address(item: Item) -> str:
    """0.0.0.0:8080 or [::1]:8080."""
    address = item.get("host_ip") or "0.0.0.0"
    return f"[{address}]:{item['host_port']}" if ":" in address else f"{address}:{item['host_port']}"


def processes(found: Iterable[Item]) -> Sheet:
    """`top`: whatever keys the rows have."""
    names = list(dict.fromkeys(key for row in found for key in row)) or ["PID", "USER", "TIME", "COMMAND"]
    columns = tuple(Column(name, name, _reader(name), flexible=name == names[-1]) for name in names)
    return Sheet(columns, _reader("PID"))


def _reader(name: str) -> Callable[[Item], str]:
    return lambda item: str(item.get(name, ""))


def events() -> Sheet:
    """`events`, for templates; people get `event_line`."""
    return Sheet(
        (
            Column("Time", "TIME", lambda item: human.stamp(item["at"], fraction=True)),
            Column("Type", "TYPE", lambda item: item["kind"]),
            Column("Action", "ACTION", lambda item: item["action"]),
            Column("Actor", "ACTOR", lambda item: item.get("id", "")),
            Column("Attributes", "ATTRIBUTES", lambda item: item.get("attributes") or {}),
        ),
        lambda item: str(item.get("id", "")),
    )


def event_line(item: Item) -> str:
    """One event for people: time, kind, action, who, (name=…, attributes)."""
    notes = ({"name": item["name"]} if item.get("name") else {}) | (item.get("attributes") or {})
    told = f" ({', '.join(f'{key}={value}' for key, value in notes.items())})" if notes else ""
    who = human.short_id(item.get("id") or "") or item.get("name") or ""
    return f"{human.stamp(item['at'], fraction=True)} {item['kind']} {item['action']} {who}".rstrip() + told
