"""The values of `run` and `create` → the JSON of an InstanceSpec, and of `exec` → a Process.

Plain dicts, because `spec.instance` and pydantic would cost the start of a hot verb 100 ms; a test holds every key against
InstanceSpec. Only what was given is in it. What comes from around (environment, files, working directory) comes in through `Here`.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from twinhull.cli import mounts, ports, values
from twinhull.cli.parse import usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twinhull.cli.parse import Arguments

_RUNTIMES = {
    "container": "container",
    "runc": "container",
    "crun": "container",
    "sandbox": "sandbox",
    "runsc": "sandbox",
    "vm": "vm",
    "krun": "vm",
}
"""As Runtime.parse; a test compares them."""
_PLAIN = ("name", "hostname", "user", "workdir", "stop_signal", "snapshot")
_SWITCHES = (
    ("tty", "tty"),
    ("interactive", "stdin"),
    ("init", "init"),
    ("rm", "auto_remove"),
    ("snapshot_reconnect", "snapshot_reconnect"),
)
_RESOURCES = (
    ("cpus", "cpus"),
    ("cpu_shares", "cpu_shares"),
    ("cpuset_cpus", "cpuset"),
    ("memory", "memory"),
    ("memory_swap", "memory_swap"),
    ("pids_limit", "pids"),
)
_RATES = (
    ("device_read_bps", "read_bps", values.size),
    ("device_write_bps", "write_bps", values.size),
    ("device_read_iops", "read_iops", values.integer),
    ("device_write_iops", "write_iops", values.integer),
)
_HEALTH = ("interval", "timeout", "retries", "start_period", "start_interval")
_NOTHING_TO_SWITCH_OFF = ("apparmor=unconfined", "label=disable", "label:disable", "apparmor:unconfined")


class Here(NamedTuple):
    """What a command line means depends on where it is typed."""

    environ: Mapping[str, str]
    cwd: str
    read: Callable[[str], str]
    """A text file's content; raises OSError."""


def here() -> Here:
    """This process's surroundings."""
    return Here(os.environ, os.getcwd(), _read)


def instance(args: Arguments, around: Here) -> dict[str, Any]:
    """InstanceSpec as JSON. Raises UsageError.

    `health` without `test` means: the image's test with these numbers; the caller, who can ask for the image, fills it in.
    """
    body: dict[str, Any] = {"image": args.place("image")}
    body |= {name: args.text(name) for name in _PLAIN if args.text(name)}
    body |= {field: True for name, field in _SWITCHES if args.switch(name)}
    if args.all("command"):
        body["command"] = args.all("command")
    sections = (
        _runtime,
        _entrypoint,
        _environment,
        _labels,
        _mounts,
        _networks,
        _ports,
        _names,
        _resources,
        _limits,
        _security,
        _life,
        _health,
    )
    for section in sections:
        section(args, around, body)
    return body


def process(args: Arguments, around: Here, size: tuple[int, int]) -> dict[str, Any]:
    """Process as JSON, for `exec`. size: rows and columns of the terminal."""
    body: dict[str, Any] = {"argv": args.all("command"), "env": environment(args, around)}
    # cwd and user "" are the instance's own
    body |= {"cwd": args.text("workdir"), "user": args.text("user")}
    body |= {"tty": args.switch("tty"), "stdin": args.switch("interactive"), "privileged": args.switch("privileged")}
    return body | {"rows": size[0], "cols": size[1]} if args.switch("tty") else body


def additions(args: Arguments, around: Here) -> dict[str, Any]:
    """Labels, mounts and ports as in an InstanceSpec's JSON: what `compose run` adds to its service. Raises UsageError."""
    found: dict[str, Any] = {}
    for section in (_labels, _mounts, _ports):
        section(args, around, found)
    return found


def pairs(args: Arguments, name: str) -> dict[str, str]:
    """KEY=VALUE of a repeated option, KEY alone is "". Raises UsageError."""
    found: dict[str, str] = _value(args, name, args.many(name), values.pairs)
    return found


def resources(args: Arguments) -> dict[str, Any]:
    """Resources as JSON: what was given."""
    found: dict[str, Any] = {field: args.options[name] for name, field in _RESOURCES if args.has(name)}
    for name, field, convert in _RATES:
        for text in args.many(name):
            found[field] = _value(args, name, _without_device(text), convert)
    return found


def restart(args: Arguments) -> dict[str, Any] | None:
    """RestartPolicy as JSON, None if it wasn't given."""
    text = args.text("restart")
    return _value(args, "restart", text, _restart) if text else None


def environment(args: Arguments, around: Here) -> list[str]:
    """Files first, then -e, so that -e wins; the last of a name wins. A name alone takes the value from here, or is left out."""
    lines = [line for path in args.many("env_file") for line in _lines(args, "env_file", path, around)]
    found: dict[str, str] = {}
    for line in lines + args.many("env"):
        key, equals, value = line.partition("=")
        if not key:
            raise usage(args.command, f"--env {line!r}: use KEY=VALUE")
        found.pop(key, None)
        if equals or key in around.environ:
            found[key] = value if equals else around.environ[key]
    return [f"{key}={value}" for key, value in found.items()]


def _runtime(args: Arguments, _around: Here, body: dict[str, Any]) -> None:
    word = args.text("runtime")
    if not word:
        return
    name = "vm" if word.startswith("kata") else _RUNTIMES.get(word)
    if name is None:
        raise usage(args.command, f"--runtime {word!r}: use container, sandbox or vm")
    if name != "container":
        body["runtime"] = name


def _entrypoint(args: Arguments, _around: Here, body: dict[str, Any]) -> None:
    if args.has("entrypoint"):
        body["entrypoint"] = _value(args, "entrypoint", args.text("entrypoint"), values.words)


def _environment(args: Arguments, around: Here, body: dict[str, Any]) -> None:
    if found := environment(args, around):
        body["env"] = found


def _labels(args: Arguments, around: Here, body: dict[str, Any]) -> None:
    lines = [line for path in args.many("label_file") for line in _lines(args, "label_file", path, around)]
    if found := _value(args, "label", lines + args.many("label"), values.pairs):
        body["labels"] = found
    if found := _value(args, "sysctl", args.many("sysctl"), lambda texts: values.pairs(texts, bare=None)):
        body["sysctls"] = found


def _mounts(args: Arguments, around: Here, body: dict[str, Any]) -> None:
    found = [_value(args, "volume", text, lambda value: mounts.volume(value, around.cwd)) for text in args.many("volume")]
    found += [_value(args, "mount", text, lambda value: mounts.mount(value, around.cwd)) for text in args.many("mount")]
    found += [_value(args, "tmpfs", text, mounts.tmpfs) for text in args.many("tmpfs")]
    if found:
        body["mounts"] = found
    files = [_value(args, "secret", text, lambda value: mounts.file(value, around.cwd, secret=True)) for text in args.many("secret")]
    files += [_value(args, "config", text, lambda value: mounts.file(value, around.cwd, secret=False)) for text in args.many("config")]
    if files:
        body["files"] = files


def _networks(args: Arguments, _around: Here, body: dict[str, Any]) -> None:
    extra: dict[str, Any] = {"aliases": args.many("network_alias")} if args.many("network_alias") else {}
    extra |= {field: args.text(name) for name, field in (("ip", "address"), ("mac_address", "mac")) if args.text(name)}
    body |= _value(args, "network", args.many("network"), lambda texts: ports.networks(texts, extra))


def _ports(args: Arguments, _around: Here, body: dict[str, Any]) -> None:
    if found := [port for text in args.many("publish") for port in _value(args, "publish", text, ports.publish)]:
        body["ports"] = found


def _names(args: Arguments, _around: Here, body: dict[str, Any]) -> None:
    for name, field in (("dns", "dns"), ("dns_search", "dns_search")):
        if args.many(name):
            body[field] = args.many(name)
    if found := [_value(args, "add_host", text, _host) for text in args.many("add_host")]:
        body["extra_hosts"] = found


def _resources(args: Arguments, _around: Here, body: dict[str, Any]) -> None:
    if found := resources(args):
        body["resources"] = found
    if args.has("shm_size"):
        body["shm_size"] = args.options["shm_size"]


def _limits(args: Arguments, _around: Here, body: dict[str, Any]) -> None:
    if found := [_value(args, "ulimit", text, _ulimit) for text in args.many("ulimit")]:
        body["ulimits"] = found
    for text in args.many("log_opt"):
        body.setdefault("logging", {}).update(_value(args, "log_opt", text, _log_option))


def _security(args: Arguments, around: Here, body: dict[str, Any]) -> None:
    found: dict[str, Any] = {name: [_capability(cap) for cap in args.many(name)] for name in ("cap_add", "cap_drop") if args.many(name)}
    found |= {name: True for name in ("read_only", "privileged") if args.switch(name)}
    for text in args.many("security_opt"):
        found |= _value(args, "security_opt", text, lambda value: _security_option(value, around))
    if found:
        body["security"] = found


def _life(args: Arguments, _around: Here, body: dict[str, Any]) -> None:
    if policy := restart(args):
        if args.switch("rm") and policy["when"] != "no":
            raise usage(args.command, "--rm and --restart exclude each other")
        body["restart"] = policy
    if args.has("stop_timeout"):
        body["stop_timeout"] = args.options["stop_timeout"]


def _health(args: Arguments, _around: Here, body: dict[str, Any]) -> None:
    found: dict[str, Any] = {name: args.options[f"health_{name}"] for name in _HEALTH if args.has(f"health_{name}")}
    if args.switch("no_healthcheck"):
        if found or args.has("health_cmd"):
            raise usage(args.command, "--no-healthcheck and --health-… exclude each other")
        found["test"] = ["NONE"]
    elif args.text("health_cmd"):
        found["test"] = _value(args, "health_cmd", args.text("health_cmd"), _health_test)
    if found:
        body["health"] = found


def _health_test(text: str) -> list[str]:
    words = values.words(text) if text.startswith("[") else []
    if not words or words == [text]:
        return ["CMD-SHELL", text]
    return words if words[0] in ("CMD", "CMD-SHELL", "NONE") else ["CMD", *words]


def _restart(text: str) -> dict[str, Any]:
    when, colon, tries = text.partition(":")
    if when not in ("no", "always", "unless-stopped", "on-failure") or (colon and when != "on-failure"):
        raise ValueError("use no, always, unless-stopped, or on-failure[:TRIES]")
    return {"when": when, "max_retries": values.integer(tries)} if colon else {"when": when}


def _host(text: str) -> str:
    separator = "=" if "=" in text else ":"
    name, found, address = text.partition(separator)
    if not name or not found or not address:
        raise ValueError("use NAME:ADDRESS")
    return f"{name}:{address.removeprefix('[').removesuffix(']')}"


def _ulimit(text: str) -> dict[str, Any]:
    name, value = values.pair(text)
    soft, colon, hard = value.partition(":")
    limits = [-1 if part in ("-1", "unlimited") else values.integer(part) for part in (soft, hard if colon else soft)]
    if limits[1] != -1 and (limits[0] == -1 or limits[0] > limits[1]):
        raise ValueError("the soft limit is above the hard one")
    return {"name": name.lower(), "soft": limits[0], "hard": limits[1]}


def _log_option(text: str) -> dict[str, Any]:
    key, value = values.pair(text)
    if key == "max-size":
        return {"max_size": values.size(value)}
    if key == "max-file":
        return {"max_files": values.integer(value)}
    raise ValueError("use max-size=16m or max-file=3")


def _security_option(text: str, around: Here) -> dict[str, Any]:
    key, value = re.match(r"([^=:]*)[=:]?(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    if key == "no-new-privileges":
        return {"no_new_privileges": values.boolean(value or "true")}
    if key == "seccomp" and value:
        return {"seccomp": value if value in ("unconfined", "default") else _profile(value, around)}
    if text in _NOTHING_TO_SWITCH_OFF:
        return {}
    raise ValueError("use seccomp=FILE, seccomp=unconfined, or no-new-privileges[=false]")


def _profile(path: str, around: Here) -> str:
    from json import loads

    try:
        text = around.read(path)
        loads(text)
    except OSError as error:
        raise ValueError(f"read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    return text


def _capability(text: str) -> str:
    """Upper case with the CAP_ in front ("ALL" stays)."""
    name = text.upper().removeprefix("CAP_")
    return name if name == "ALL" else f"CAP_{name}"


def _without_device(text: str) -> str:
    """RATE of DEVICE:RATE: the limit holds for all of an instance's devices."""
    return text.rpartition(":")[2]


def _lines(args: Arguments, name: str, path: str, around: Here) -> list[str]:
    """The lines of a file of KEY=VALUE, without comments and blanks."""
    try:
        text = around.read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise usage(args.command, f"--{name.replace('_', '-')} {path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from error
    lines = (line.removesuffix("\r").lstrip() for line in text.removeprefix("\ufeff").split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def _value(args: Arguments, name: str, given: Any, convert: Callable[[Any], Any]) -> Any:
    """`convert(given)`, its ValueError as a UsageError that names the flag."""
    try:
        return convert(given)
    except ValueError as error:
        shown = given if isinstance(given, str) else " ".join(given)
        raise usage(args.command, f"--{name.replace('_', '-')} {shown}: {error}") from error


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
