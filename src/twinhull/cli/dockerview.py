"""Names of `docker inspect` that scripts ask for, beside our own, for the templates of `inspect --format`. Pure. JSON output isn't touched.

`{{.State.Running}}`, `{{.NetworkSettings.IPAddress}}` and their kin mean what they mean in Docker; what isn't here is an error that names
the nearest field.
"""

from __future__ import annotations

from typing import Any


class State(dict[str, Any]):
    """`.State` alone is the word, as it is in ours."""

    @property
    def word(self) -> str:
        """running, exited …"""
        return str(self["Status"])


class Named(dict[str, Any]):
    """An instance's view that knows Docker's names too. As a JSON value it is the view itself."""

    def __init__(self, view: dict[str, Any]) -> None:
        super().__init__(view)
        self._more = _names(view)

    def __contains__(self, name: object) -> bool:
        return name in self._more or super().__contains__(name)

    def __missing__(self, name: str) -> Any:
        return self._more[name]


def _names(view: dict[str, Any]) -> dict[str, Any]:
    spec = view.get("spec") or {}
    resources = spec.get("resources") or {}
    addresses = view.get("addresses") or ()
    networks = {each["network"]: {"IPAddress": each["address"], "MacAddress": each.get("mac", "")} for each in addresses}
    restart = spec.get("restart") or {}
    return {
        "State": State(_state(view)),
        "Config": {
            "Image": view.get("image", ""),
            "Cmd": view.get("argv", []),
            "Env": spec.get("env", []),
            "Labels": spec.get("labels", {}),
            "User": spec.get("user", ""),
            "Hostname": spec.get("hostname") or str(view.get("id", ""))[:12],
            "Tty": spec.get("tty", False),
        },
        "HostConfig": {
            "Memory": resources.get("memory", 0),
            "NanoCpus": int((resources.get("cpus") or 0) * 1e9),
            "PidsLimit": resources.get("pids", 0),
            "AutoRemove": spec.get("auto_remove", False),
            "RestartPolicy": {"Name": restart.get("when", "no"), "MaximumRetryCount": restart.get("max_retries", 0)},
            "NetworkMode": spec.get("network_mode", ""),
            "Runtime": view.get("runtime", ""),
        },
        "NetworkSettings": {
            "IPAddress": addresses[0]["address"] if addresses else "",
            "Networks": networks,
            "Ports": _ports(view),
        },
        "Mounts": [
            {"Type": each.get("type"), "Source": each.get("source"), "Destination": each.get("target"), "RW": not each.get("read_only")}
            for each in spec.get("mounts") or ()
        ],
    }


def _state(view: dict[str, Any]) -> dict[str, Any]:
    word = view.get("state", "")
    found = {
        "Status": word,
        "Running": word in ("running", "paused"),
        "Paused": word == "paused",
        "Restarting": word == "restarting",
        "OOMKilled": view.get("oom_killed", False),
        "ExitCode": view.get("exit_code", 0),
        "Error": view.get("error", ""),
        "StartedAt": view.get("started_at", 0),
        "FinishedAt": view.get("finished_at", 0),
    }
    health = view.get("health") or {}
    return found | ({"Health": {"Status": health.get("status", "none")}} if health else {})


def _ports(view: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, list[dict[str, str]]] = {}
    for each in view.get("ports") or ():
        place = {"HostIp": each.get("host_ip") or "0.0.0.0", "HostPort": str(each.get("host_port", 0))}
        found.setdefault(f"{each['container_port']}/{each['protocol']}", []).append(place)
    return found
