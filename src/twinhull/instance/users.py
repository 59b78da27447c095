"""Who a process runs as: "user[:group]" looked up in an image's passwd and group texts, as Docker does it. Pure.

Law: a name must be in the files; a number needn't be. Lines that aren't entries are skipped, for the files come from images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from twinhull.errors import UserError

_MAX_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Identity:
    """Numbers as seen inside. `groups`: supplementary. `name` "" if the uid has no entry."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"
    name: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    number: int
    gid: int = 0
    home: str = "/"
    members: tuple[str, ...] = ()


def resolve(user: str, passwd: str, group: str) -> Identity:
    """From "", "name", "uid", "uid:gid", "name:group" …; "" is uid 0. Raises UserError with Docker's words."""
    wanted, _, wanted_group = user.partition(":")
    entry = _find(_users(passwd), wanted or "0")
    identity = _without_group(wanted, entry)
    groups = tuple(_groups(group))
    if wanted_group:
        return Identity(identity.uid, _group_id(groups, wanted_group), (), identity.home, identity.name)
    extra = tuple(dict.fromkeys(g.number for g in groups if identity.name and identity.name in g.members))
    return Identity(identity.uid, identity.gid, extra, identity.home, identity.name)


def with_home(env: tuple[str, ...], identity: Identity) -> tuple[str, ...]:
    """The environment with HOME from the identity, unless it has one that isn't empty."""
    if any(entry.startswith("HOME=") and entry != "HOME=" for entry in env):
        return env
    return (*(entry for entry in env if entry != "HOME="), f"HOME={identity.home}")


def names(passwd: str) -> dict[int, str]:
    """uid → the first name that has it."""
    found: dict[int, str] = {}
    for entry in _users(passwd):
        found.setdefault(entry.number, entry.name)
    return found


def _without_group(wanted: str, entry: _Entry | None) -> Identity:
    if entry is not None:
        return Identity(entry.number, entry.gid, (), entry.home or "/", entry.name)
    if (wanted and not wanted.isascii()) or not (wanted or "0").isdigit():
        raise UserError(f"unable to find user {wanted}: no matching entries in passwd file")
    return Identity(_checked(int(wanted or "0")))


def _group_id(groups: tuple[_Entry, ...], wanted: str) -> int:
    entry = _find(iter(groups), wanted)
    if entry is not None:
        return entry.number
    if not (wanted.isascii() and wanted.isdigit()):
        raise UserError(f"unable to find group {wanted}: no matching entries in group file")
    return _checked(int(wanted))


def _checked(number: int) -> int:
    if number > _MAX_ID:
        raise UserError(f"uids and gids must be in range 0-{_MAX_ID}")
    return number


def _find(entries: Iterator[_Entry], wanted: str) -> _Entry | None:
    """The first entry whose name or number is `wanted`."""
    return next((e for e in entries if wanted in (e.name, str(e.number))), None)


def _users(text: str) -> Iterator[_Entry]:
    """passwd(5): name:password:uid:gid:comment:home:shell."""
    for fields in _lines(text):
        if len(fields) >= 4 and _is_id(fields[2]) and _is_id(fields[3]):
            yield _Entry(fields[0], int(fields[2]), int(fields[3]), fields[5] if len(fields) > 5 else "/")


def _groups(text: str) -> Iterator[_Entry]:
    """group(5): name:password:gid:members."""
    for fields in _lines(text):
        if len(fields) >= 3 and _is_id(fields[2]):
            members = fields[3].split(",") if len(fields) > 3 else []
            yield _Entry(fields[0], int(fields[2]), members=tuple(members))


def _lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield [field.strip() for field in line.split(":")]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _MAX_ID
