"""`cp` and `export`. Docker's rules of what goes where are `choose`, a pure function."""

from __future__ import annotations

import os
import posixpath
import stat
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from twinhull.cli import remote
from twinhull.cli.parse import usage
from twinhull.cli.progress import working
from twinhull.cli.transfer import ChunkReader, Target, archive_output, chunks_of, write_stream
from twinhull.client import thin
from twinhull.errors import NotFoundError, UserError

if TYPE_CHECKING:
    from twinhull.cli.parse import Arguments

_MOST_LINKS = 16


class Place(NamedTuple):
    """One end of a copy: `ref` "" is the host; `path` "-" there is stdin or stdout."""

    ref: str
    path: str


class Facts(NamedTuple):
    """What is known of a path. kind: folder, file, or missing."""

    path: str
    kind: str


def copy(args: Arguments) -> int:
    """One way or the other."""
    source, target = place(args.place("source")), place(args.place("target"))
    if bool(source.ref) == bool(target.ref):
        hint = "twinhull cp a:/path - | twinhull cp - b:/path" if source.ref else "one of them must be INSTANCE:PATH"
        raise usage(args.command, "copy either from an instance or to one", hint)
    title = f"copying {args.place('source')}"
    if args.switch("quiet"):
        return _out(args, source, target) if source.ref else _in(args, source, target)
    with working(title):
        return _out(args, source, target) if source.ref else _in(args, source, target)


def place(text: str) -> Place:
    """INSTANCE:PATH, or a path of the host: one that begins with / or ., or has no colon in its first component."""
    ref, colon, path = text.partition(":")
    if not colon or not ref or "/" in ref or text.startswith((".", "/")):
        return Place("", text)
    return Place(ref, path or "/")


def choose(source: Facts, target: Facts, *, parent_exists: bool) -> Target:
    """Where a source goes, as in Docker. Raises UserError if it can't."""
    folder_wanted = target.path.endswith(("/", "/."))
    name = posixpath.basename(posixpath.normpath(source.path))
    content = source.kind == "folder" and (source.path.endswith("/.") or name in ("", ".", ".."))
    strip = 0 if name in ("", ".", "..") else 1
    if target.kind == "folder":
        return Target(target.path, "" if content else name, strip)
    if target.kind == "file":
        if source.kind == "folder":
            raise UserError(f"{target.path} is a file: a folder can't replace it")
        if folder_wanted:
            raise UserError(f"{target.path} is no folder")
    elif not parent_exists or (folder_wanted and source.kind != "folder"):
        raise UserError(
            f"{target.path if parent_exists else posixpath.dirname(target.path.rstrip('/'))}: there is no such folder", "make it first"
        )
    clean = target.path.removesuffix("/.").rstrip("/")
    return Target(posixpath.dirname(clean) or ".", posixpath.basename(clean), strip)


def _out(args: Arguments, source: Place, target: Place) -> int:
    path = _absolute(source.path)
    if target.path == "-":
        with archive_output("-") as file, _archive(source.ref, _clean(path)) as response:
            write_stream(response.chunks(), file)
        return 0
    facts = _inner_facts(source.ref, path, follow=args.switch("follow_link") or path.endswith(("/", "/.")))
    if facts.kind == "missing":
        raise NotFoundError(f"{source.ref}:{source.path}: there is no such file or folder")
    where = choose(facts, _host_facts(target.path), parent_exists=os.path.isdir(os.path.dirname(target.path.rstrip("/")) or "."))
    if facts.kind == "folder" and where.name and not os.path.isdir(os.path.join(where.folder, where.name)):
        os.mkdir(os.path.join(where.folder, where.name))
    from twinhull.cli.unpack import unpack  # loads tarfile

    with _archive(source.ref, _clean(facts.path)) as response:
        unpack(ChunkReader(response.chunks()), where, keep_owner=args.switch("archive"), warn=_warn)
    return 0


def _in(args: Arguments, source: Place, target: Place) -> int:
    path = _absolute(target.path)
    if source.path == "-":
        if sys.stdin.isatty():
            raise UserError("stdin is a terminal", "send a tar in: < FILE")
        _put(target.ref, _clean(path), chunks_of(sys.stdin.buffer))
        return 0
    facts = _host_facts(source.path, follow=args.switch("follow_link") or source.path.endswith(("/", "/.")))
    if facts.kind == "missing":
        raise NotFoundError(f"{source.path}: there is no such file or folder")
    if source.path.endswith("/") and facts.kind != "folder":
        raise UserError(f"{source.path} is no folder")
    inner = _inner_facts(target.ref, path, follow=True)
    parent = _inner_facts(target.ref, posixpath.dirname(inner.path.rstrip("/")) or "/", follow=True) if inner.kind == "missing" else None
    where = choose(facts, inner, parent_exists=parent is None or parent.kind == "folder")

    from twinhull.cli.pack import pack

    data = pack(
        source.path.removesuffix("/.").rstrip("/") or "/",
        where.name,
        content_only=not where.name,
        keep_owner=args.switch("archive"),
        follow=args.switch("follow_link") or source.path.endswith("/"),
        warn=_warn,
    )
    _put(target.ref, _clean(where.folder), data)
    return 0


def _put(ref: str, folder: str, data: Any) -> None:
    thin.call("PUT", remote.instance_path(ref, "archive"), {"path": folder}, data)


def _archive(ref: str, path: str) -> thin.Response:
    return thin.request("GET", remote.instance_path(ref, "archive"), {"path": path})


def _absolute(path: str) -> str:
    """Relative paths inside count from the root, as in Docker."""
    return path if path.startswith("/") else f"/{path}"


def _clean(path: str) -> str:
    return posixpath.normpath(path).replace("//", "/")


def _host_facts(path: str, *, follow: bool = True) -> Facts:
    try:
        mode = os.stat(path, follow_symlinks=follow).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return Facts(path, "missing")
    except OSError as error:
        raise UserError(f"read {path}: {error.strerror}") from error
    return Facts(path, "folder" if stat.S_ISDIR(mode) else "file")


def _inner_facts(ref: str, path: str, *, follow: bool) -> Facts:
    """Links at the end are followed here; those on the way by the instance itself, inside its root."""
    ending = "/." if path.endswith("/.") else "/" if path.endswith("/") and path != "/" else ""
    current = _clean(path)
    for _ in range(_MOST_LINKS):
        try:
            found = thin.call("GET", remote.instance_path(ref, "path"), {"path": current})
        except NotFoundError:
            remote.inspect(ref)  # raises if it is the instance that isn't there
            return Facts(current + ending, "missing")
        if not (follow and stat.S_ISLNK(found["mode"])):
            return Facts(current + ending, "folder" if stat.S_ISDIR(found["mode"]) else "file")
        current = _clean(posixpath.join(posixpath.dirname(current), found["link_target"]))
    raise UserError(f"{path}: too many links")


def _warn(text: str) -> None:
    from twinhull.cli.verbs.system import warn

    warn(text)


def export(args: Arguments) -> int:
    """The whole root as a tar."""
    ref = args.place("instance")
    path = remote.instance_path(ref, "export")
    with archive_output(args.text("output")) as file, working(f"exporting {ref}"), thin.request("GET", path) as response:
        write_stream(response.chunks(), file)
    return 0
