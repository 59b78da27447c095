"""Instructions of a Containerfile applied to an image configuration, for `--change`. Pure.

Allowed is what changes the configuration and not the files: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, STOPSIGNAL, USER, VOLUME,
WORKDIR.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from typing import Any

from twinhull.errors import UserError

_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?")
_PROBE_OPTIONS = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod", "start-interval": "StartInterval"}


def apply(config: dict[str, Any], changes: tuple[str, ...]) -> dict[str, Any]:
    """A new `config` object with the instructions applied in order. Raises UserError with the instruction."""
    result = json.loads(json.dumps(config))
    for change in changes:
        word, _, rest = change.strip().partition(" ")
        action = _ACTIONS.get(word.upper())
        if action is None:
            raise UserError(f"bad change {change!r}: {word!r} isn't allowed here", f"use one of {', '.join(_ACTIONS)}")
        try:
            action(result, rest.strip())
        except ValueError as error:
            raise UserError(f"bad change {change!r}: {error}") from error
    return dict(result)


def _argv(text: str) -> list[str]:
    """JSON form as it is, else a shell's command."""
    if not text:
        raise ValueError("a command is missing")
    if not text.startswith("["):
        return ["/bin/sh", "-c", text]
    argv = json.loads(text)
    if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
        raise ValueError("the JSON form is a list of strings")
    return argv


def _command(config: dict[str, Any], text: str) -> None:
    config["Cmd"] = _argv(text)


def _entrypoint(config: dict[str, Any], text: str) -> None:
    """A new entry point drops the base's command, as in a build."""
    config["Entrypoint"] = _argv(text)
    config.pop("Cmd", None)


def _pairs(text: str) -> dict[str, str]:
    words = shlex.split(text)
    if words and "=" not in words[0]:
        return {words[0]: text.partition(" ")[2].strip()}  # ENV NAME the rest of the line
    pairs = [word.partition("=") for word in words]
    if not pairs or any(not name or not equals for name, equals, _ in pairs):
        raise ValueError("KEY=value is wanted")
    return {name: value for name, _, value in pairs}


def _env(config: dict[str, Any], text: str) -> None:
    table = dict(item.split("=", 1) for item in config.get("Env") or [] if "=" in item)
    config["Env"] = [f"{name}={value}" for name, value in (table | _pairs(text)).items()]


def _labels(config: dict[str, Any], text: str) -> None:
    config["Labels"] = (config.get("Labels") or {}) | _pairs(text)


def _expose(config: dict[str, Any], text: str) -> None:
    ports = config.get("ExposedPorts") or {}
    for word in text.split():
        match = _PORT.fullmatch(word)
        if not match or not 0 < int(match[1]) <= int(match[2] or match[1]) < 65536:
            raise ValueError(f"{word!r} isn't a port")
        ports |= {f"{port}/{match[3] or 'tcp'}": {} for port in range(int(match[1]), int(match[2] or match[1]) + 1)}
    config["ExposedPorts"] = ports


def _volume(config: dict[str, Any], text: str) -> None:
    paths = json.loads(text) if text.startswith("[") else shlex.split(text)
    config["Volumes"] = (config.get("Volumes") or {}) | {str(path): {} for path in paths}


def _workdir(config: dict[str, Any], text: str) -> None:
    """A relative one is below the present one."""
    base = config.get("WorkingDir") or "/"
    config["WorkingDir"] = text if text.startswith("/") else f"{base.rstrip('/')}/{text}"


def _word(key: str) -> Callable[[dict[str, Any], str], None]:
    def put(config: dict[str, Any], text: str) -> None:
        if len(text.split()) != 1:
            raise ValueError("one word is wanted")
        config[key] = text

    return put


def _healthcheck(config: dict[str, Any], text: str) -> None:
    words = text.split()
    if words == ["NONE"]:
        config["Healthcheck"] = {"Test": ["NONE"]}
        return
    probe: dict[str, Any] = {}
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        text = text.strip()
        name, _, value = option[2:].partition("=")
        probe |= {"Retries": int(value)} if name == "retries" else {_probe_option(name): nanoseconds(value)}
    word, _, command = text.partition(" ")
    if word.upper() != "CMD":
        raise ValueError("HEALTHCHECK [--interval=…] CMD command, or NONE")
    argv = _argv(command.strip())
    probe["Test"] = ["CMD", *argv] if command.strip().startswith("[") else ["CMD-SHELL", argv[2]]
    config["Healthcheck"] = probe


def _probe_option(name: str) -> str:
    if name not in _PROBE_OPTIONS:
        raise ValueError(f"unknown option --{name}")
    return _PROBE_OPTIONS[name]


def nanoseconds(text: str) -> int:
    """Go's durations: "1m30s", "500ms". Raises ValueError."""
    pieces = re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        raise ValueError(f"{text!r} isn't a duration like 30s or 1m30s")
    return int(sum(float(number) * _UNITS[unit] for number, unit in pieces))


_ACTIONS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "CMD": _command,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _labels,
    "STOPSIGNAL": _word("StopSignal"),
    "USER": _word("User"),
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
