"""`run`, `create`, `exec` and `attach`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from twinhull.cli import body, remote
from twinhull.cli.parse import usage
from twinhull.cli.progress import working
from twinhull.cli.session import Detached, Options, Session, detach_keys, terminal_size
from twinhull.client import thin
from twinhull.errors import NotFoundError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twinhull.cli.parse import Arguments
    from twinhull.cli.progress import Progress

_T = TypeVar("_T")


def run(args: Arguments) -> int:
    """In the foreground with the workload's exit code, or detached with its id."""
    keys = _keys(args)
    spec = _spec(args)
    _check_cidfile(args)
    if args.switch("detach"):
        return _make(args, spec, start=True)
    return _with_image(args, spec["image"], lambda: _foreground(args, spec, keys))


def run_spec(args: Arguments, spec: dict[str, Any], *, detach: bool) -> int:
    """Run an InstanceSpec (as JSON), in the foreground with the workload's exit code, or detached with its id."""
    if detach:
        print(thin.call("POST", "/v1/instances", {"start": True}, spec)["id"])
        return 0
    return _foreground(args, spec, _keys(args))


def create(args: Arguments) -> int:
    """Make it and print its id."""
    spec = _spec(args)
    _check_cidfile(args)
    return _make(args, spec, start=False)


def execute(args: Arguments) -> int:
    """A further program inside."""
    return exec_in(args, args.place("instance"), body.process(args, body.here(), terminal_size()))


def exec_in(args: Arguments, ref: str, process: dict[str, Any]) -> int:
    """Run a process (as JSON) in an instance."""
    if args.switch("detach"):
        thin.call("POST", remote.instance_path(ref, "exec"), body=process)
        return 0
    options = _options(args, tty=process["tty"], stdin=process["stdin"])
    with working("starting the program") as progress:
        return _session(thin.websocket(remote.instance_path(ref, "exec"), first=process), options, progress)


def attach(args: Arguments) -> int:
    """The workload's own streams."""
    return attach_to(args, args.place("instance"), stdin=not args.switch("no_stdin"), logs=args.switch("logs"))


def attach_to(args: Arguments, ref: str, *, stdin: bool, logs: bool = False) -> int:
    """Connect to a running instance, as it was made (-t, -i). The exit code is the workload's; 0 after the detach keys."""
    view = remote.inspect(ref)
    spec = view["spec"]
    options = _options(args, tty=bool(spec.get("tty")), stdin=stdin and bool(spec.get("stdin")), ref=view["id"])
    with working(f"connecting to {ref}") as progress:
        duplex = thin.websocket(remote.instance_path(view["id"], "attach"), {"logs": logs} if logs else None)
        return _session(duplex, options, progress)


def _spec(args: Arguments) -> dict[str, Any]:
    """InstanceSpec as JSON, with what only the image knows filled in."""
    spec = body.instance(args, body.here())
    image = spec["image"]
    if args.text("pull") == "always":
        _pull(args, image)
    partial_health = "health" in spec and "test" not in spec["health"]
    if partial_health or args.switch("publish_all"):
        config = _with_image(args, image, lambda: thin.call("GET", "/v1/images/inspect", {"ref": image}))["config"]
        if partial_health:
            _image_health(args, spec, config)
        if args.switch("publish_all"):
            _image_ports(spec, config)
    return spec


def _image_health(args: Arguments, spec: dict[str, Any], config: dict[str, Any]) -> None:
    check = config.get("Healthcheck") or {}
    test = check.get("Test") or []
    if not test or test == ["NONE"]:
        raise usage(args.command, "the image has no health check to adjust", "give --health-cmd too")
    names = (("Interval", "interval"), ("Timeout", "timeout"), ("StartPeriod", "start_period"), ("StartInterval", "start_interval"))
    # OCI images count in nanoseconds; 0 is "the default"
    own = {field: check[key] / 1e9 for key, field in names if check.get(key)}
    own |= {"retries": check["Retries"]} if check.get("Retries") else {}
    spec["health"] = {"test": test} | own | spec["health"]


def _image_ports(spec: dict[str, Any], config: dict[str, Any]) -> None:
    """A free port for each EXPOSEd one that isn't published already."""
    mappings = spec.setdefault("ports", [])
    taken = {(mapping["container_port"], mapping.get("protocol", "tcp")) for mapping in mappings}
    for exposed in config.get("ExposedPorts") or {}:
        port, _, protocol = exposed.partition("/")
        if port.isdigit() and (int(port), protocol or "tcp") not in taken:
            mappings.append({"container_port": int(port), "protocol": protocol or "tcp"})


def _with_image(args: Arguments, image: str, action: Callable[[], _T]) -> _T:
    """Do it; if the image isn't here, fetch it (unless --pull never) and do it again."""
    try:
        return action()
    except NotFoundError:
        if args.text("pull") == "never" or remote.image_exists(image):
            raise
    _pull(args, image)
    return action()


def _pull(args: Arguments, image: str) -> None:
    remote.pull(image, tls_verify=args.switch("tls_verify", True), quiet=args.switch("quiet"))


def _make(args: Arguments, spec: dict[str, Any], *, start: bool) -> int:
    """Create (and start) and print the id."""

    def post() -> dict[str, Any]:
        with working(f"{'starting' if start else 'creating'} {spec['image']}"):
            made: dict[str, Any] = thin.call("POST", "/v1/instances", {"start": True} if start else None, spec)
            return made

    view = _with_image(args, spec["image"], post)
    _write_cidfile(args, view["id"])
    print(view["id"])
    return 0


def _foreground(args: Arguments, spec: dict[str, Any], keys: bytes) -> int:
    made: dict[str, str] = {}

    def note(message: dict[str, Any]) -> None:
        if "created" in message:
            made["id"] = message["created"]["id"]
            _write_cidfile(args, made["id"])

    def kill(name: str) -> None:
        if "id" in made:
            thin.call("POST", remote.instance_path(made["id"], "kill"), {"signal": name})

    tty, stdin = bool(spec.get("tty")), bool(spec.get("stdin"))
    options = Options(tty, stdin, keys, args.switch("sig_proxy", True), note, kill)
    with working(f"starting {spec['image']}") as progress:
        return _session(thin.websocket("/v1/run", first=spec), options, progress)


def _session(duplex: thin.Duplex, options: Options, progress: Progress) -> int:
    """Run a session; the spinner ends when the workload runs."""

    def note(message: dict[str, Any]) -> None:
        if "started" in message or "exit" in message:
            progress.stop()
        options.on_control(message)

    try:
        return Session(duplex, options._replace(on_control=note)).run()
    except Detached:
        return 0
    finally:
        duplex.close()


def _options(args: Arguments, *, tty: bool, stdin: bool, ref: str = "") -> Options:
    """`ref`: where signals can also be sent to beside the stream."""

    def kill(name: str) -> None:
        thin.call("POST", remote.instance_path(ref, "kill"), {"signal": name})

    return Options(tty, stdin, _keys(args), args.switch("sig_proxy", True), kill=kill if ref else None)


def _keys(args: Arguments) -> bytes:
    text = args.text("detach_keys", "ctrl-p,ctrl-q")
    try:
        return detach_keys(text)
    except ValueError as error:
        raise usage(args.command, f"--detach-keys {text}: {error}") from error


def _check_cidfile(args: Arguments) -> None:
    path = args.text("cidfile")
    if path and os.path.exists(path):
        raise UserError(f"--cidfile {path}: the file exists", "remove it, or name another one")


def _write_cidfile(args: Arguments, identifier: str) -> None:
    path = args.text("cidfile")
    if not path:
        return
    try:
        with open(path, "x", encoding="ascii") as file:
            file.write(identifier)
    except OSError as error:
        raise UserError(f"write --cidfile {path}: {error.strerror}") from error
