"""`image …`."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from time import time
from typing import TYPE_CHECKING, Any

from twinhull.cli import body, output, remote, sheets, values
from twinhull.cli.parse import usage
from twinhull.cli.progress import working
from twinhull.cli.transfer import archive_output, chunks_of, write_stream
from twinhull.client import thin
from twinhull.errors import NotFoundError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from twinhull.cli.parse import Arguments


def build(args: Arguments) -> int:
    """From a Containerfile; lines on stderr, the id on stdout."""
    spec: dict[str, Any] = {"tags": args.many("tag"), "target": args.text("target"), "secrets": _build_secrets(args)}
    spec |= {"args": _build_args(args), "labels": body.pairs(args, "label")}
    spec |= {"no_cache": args.switch("no_cache"), "pull": args.switch("pull")}
    if "-" in (args.place("context"), args.text("file")):
        return _build_from_stdin(args, spec)
    spec["context"] = _context(args)
    if args.text("file"):
        spec["containerfile"] = _containerfile(args, spec["context"])
    return _long_task(args, "building", "/v1/images/build", spec)


def _context(args: Arguments) -> str:
    context = os.path.abspath(args.place("context", "."))
    if not os.path.isdir(context):
        raise UserError(f"{context} is no folder", "name the folder with the files to build from")
    return context


def _build_from_stdin(args: Arguments, spec: dict[str, Any]) -> int:
    """`build -`: no files beside it; `build -f - FOLDER`."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="twinhull-build-") as folder, _input("-") as stdin:
        empty = os.path.join(folder, "context")
        os.mkdir(empty)
        spec["context"] = empty if args.place("context") == "-" else _context(args)
        spec["containerfile"] = os.path.join(folder, "Containerfile")
        with open(spec["containerfile"], "wb") as file:
            file.write(stdin.read())
        return _long_task(args, "building", "/v1/images/build", spec)


def _build_secrets(args: Arguments) -> dict[str, str]:
    """id=NAME,src=FILE → NAME: absolute path."""
    found = {}
    for text in args.many("secret"):
        given = dict(part.partition("=")[::2] for part in text.split(","))
        path = os.path.abspath(given.get("src") or given.get("source") or "")
        if not given.get("id") or not given.keys() <= {"id", "src", "source", "type"} or not os.path.isfile(path):
            raise usage(args.command, f"--secret {text}: use id=NAME,src=FILE")
        found[given["id"]] = path
    return found


def _build_args(args: Arguments) -> dict[str, str]:
    return values.pairs(body.environment(args._replace(options={"env": args.many("build_arg")}), body.here()))


def _containerfile(args: Arguments, context: str) -> str:
    """Relative to here if it is there, else to the context (as Podman does)."""
    given = args.text("file")
    for base in (os.getcwd(), context):
        path = os.path.join(base, given)
        if os.path.exists(path):
            return os.path.abspath(path)
    raise UserError(f"--file {given}: there is no such file")


def bootstrap(args: Arguments) -> int:
    """From a distribution's archive."""
    distribution, colon, suite = args.place("distribution").partition(":")
    if not colon or not suite:
        raise usage(args.command, f"{distribution!r}: use DISTRIBUTION:SUITE, such as debian:bookworm")
    packages = [name for text in args.many("package") for name in text.split(",") if name]
    spec: dict[str, Any] = {"distribution": distribution, "suite": suite, "packages": packages}
    spec |= {name: args.options[name] for name in ("variant", "mirror", "date", "tag") if args.has(name)}
    return _long_task(args, f"bootstrapping {distribution}:{suite}", "/v1/images/bootstrap", spec)


def _long_task(args: Arguments, title: str, path: str, spec: dict[str, Any]) -> int:
    print(remote.follow(title, thin.sse("POST", path, body=spec), quiet=args.switch("quiet")))
    return 0


def pull(args: Arguments) -> int:
    """From a registry."""
    ref = args.place("image")
    remote.pull(ref, tls_verify=args.switch("tls_verify", True), quiet=args.switch("quiet"))
    print(ref)
    return 0


def push(args: Arguments) -> int:
    """To a registry."""
    query = {"ref": args.place("image"), "tls_verify": args.switch("tls_verify", True)}
    if args.place("destination"):
        query["destination"] = args.place("destination")
    remote.follow(f"sending {args.place('image')}", thin.sse("POST", "/v1/images/push", query), quiet=args.switch("quiet"))
    return 0


def tag(args: Arguments) -> int:
    """Another name."""
    thin.call("POST", "/v1/images/tag", {"ref": args.place("image"), "name": args.place("name")})
    return 0


def save(args: Arguments) -> int:
    """To an archive."""
    query = {"ref": args.all("image"), "format": args.text("format", "docker-archive")}
    with archive_output(args.text("output")) as file, working("saving"), thin.request("GET", "/v1/images/save", query) as response:
        write_stream(response.chunks(), file)
    return 0


def load_or_drive(args: Arguments) -> int:
    """`load`: as Docker's where no service is named, else requests to that service."""
    if not args.place("service"):
        return load(args)
    from twinhull.cli.verbs.load import load as drive

    return drive(args)


def load(args: Arguments) -> int:
    """From an archive."""
    with _input(args.text("input", "-")) as file, working("loading"):
        names = thin.call("POST", "/v1/images/load", body=chunks_of(file))
    for name in names:
        print(name if args.switch("quiet") else f"Loaded image: {name}")
    return 0


def import_tar(args: Arguments) -> int:
    """From a root file system's tar."""
    query = {"tag": args.place("image"), "change": args.many("change")}
    with _input(args.place("file")) as file, working("importing"):
        view = thin.call("POST", "/v1/images/import", query, chunks_of(file))
    print(view["id"])
    return 0


@contextmanager
def _input(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        if sys.stdin.isatty():
            raise UserError("stdin is a terminal", "name a file, or send one in: < FILE")
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below; errors of the body must not be taken for this one's)
    except OSError as error:
        raise UserError(f"read {path}: {error.strerror}") from error
    with file:
        yield file


def listing(args: Arguments) -> int:
    """The table of images, a row for each name."""
    views = thin.call("GET", "/v1/images", remote.filters(args))
    views.sort(key=lambda view: -view["created_at"])
    rows = [row for row in sheets.image_rows(views) if args.switch("all") or row["repository"] != "<none>" or args.has("filter")]
    if args.place("name"):
        rows = [row for row in rows if _matches(row, args.place("name"))]
    sheet = sheets.images(time(), full=args.switch("no_trunc"), digests=args.switch("digests"))
    if output.chosen(args) == "json":
        identifiers = {row["id"] for row in rows}
        rows = [view for view in views if view["id"] in identifiers]
    elif args.switch("quiet"):
        rows = list({row["id"]: row for row in rows}.values())
    return output.rows(args, sheet, rows)


def _matches(row: dict[str, Any], name: str) -> bool:
    """By repository with or without registry and tag: "web" finds localhost/shop/web:1."""
    repository = f"/{row['repository']}"
    wanted, tag = sheets.split_name(name)
    has_tag = ":" in name.rpartition("/")[2]
    return repository.endswith(f"/{wanted}") and (not has_tag or row["tag"] == tag)


def inspect(args: Arguments) -> int:
    """JSON."""
    from twinhull.cli.verbs.listing import inspect_all

    return inspect_all(args, args.all("image"), lambda ref: thin.call("GET", "/v1/images/inspect", {"ref": ref}))


def history(args: Arguments) -> int:
    """How it was made, the newest step first."""
    found = thin.call("GET", "/v1/images/history", {"ref": args.place("image")})
    return output.rows(args, sheets.history(time(), full=args.switch("no_trunc")), found)


def remove(args: Arguments) -> int:
    """Remove names, and with the last name the image."""
    force = args.switch("force")

    def one(ref: str) -> str:
        try:
            return "\n".join(thin.call("DELETE", "/v1/images", {"ref": ref, "force": force}))
        except NotFoundError:
            if not force:
                raise
            return ""

    return remote.each(args.all("image"), one)


def prune(args: Arguments) -> int:
    """Remove what nothing uses."""
    what = "images that no instance uses" if args.switch("all") else "images without a name"
    if not remote.confirm(args, f"This removes all {what}."):
        return 1
    return remote.told(args, thin.call("POST", "/v1/images/prune", {"all": args.switch("all")}))
