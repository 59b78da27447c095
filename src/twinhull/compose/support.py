"""What a compose file can say that isn't honoured here as written: the one table behind `config --check`, `up` and docs/compose.md.

fatal: the application would mean something else, so `up` refuses; otherwise it is said and `up` goes on. Keys that aren't in the table are
honoured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from twinhull.compose import fields
from twinhull.compose.schema import EXTENSION
from twinhull.compose.shortforms import scalar
from twinhull.compose.tree import ComposeError, Map, Mark, Seq, nearest
from twinhull.spec.app import Note

Test = Callable[[Any, Map], bool]


class Limit(NamedTuple):
    """One row. `key`: dotted, `*` for any name or element; `only`: when it counts ("" always), for people; `test` decides it."""

    key: str
    text: str
    fatal: bool = False
    only: str = ""
    test: Test = lambda value, _holder: value not in (None, False, "", [], {})


def _on(value: Any, _holder: Map) -> bool:
    return fields.truth(scalar(value))


def _off(value: Any, _holder: Map) -> bool:
    return not fields.truth(scalar(value))


def _other_than(*words: str) -> Test:
    return lambda value, _holder: scalar(value).lower() not in ("", *words)


def _starts(*words: str) -> Test:
    return lambda value, _holder: scalar(value).startswith(words)


def _is(*words: str) -> Test:
    return lambda value, _holder: scalar(value) in words


def _foreign(value: Any, _holder: Map) -> bool:
    """A platform that isn't this machine's."""
    system, _, rest = scalar(value).lower().partition("/")
    names = {"x86_64": ("amd64", "x86_64"), "aarch64": ("arm64", "aarch64")}
    machine = rest.partition("/")[0]
    return system not in ("", "linux") or machine not in ("", *names.get(os.uname().machine, (os.uname().machine,)))


def _any_starts(*words: str) -> Test:
    return lambda value, _holder: any(scalar(item).startswith(words) for item in value or ())


_NAMESPACE = "shares the host's or another service's namespace"
_CERTAIN = "unless it is what one gets anyway"
LIMITS = (
    Limit("version", "obsolete: every file is read by the current specification"),
    Limit("models", "there is no model runner", fatal=True),
    Limit("jobs.*", "jobs aren't started: run the image with `twinhull run`"),
    Limit("jobs.*.triggers.schedule", "jobs aren't run on a schedule", fatal=True),
    Limit("services.*.annotations", "given to no runtime"),
    Limit("services.*.blkio_config.weight", "block I/O is limited, not weighted"),
    Limit("services.*.blkio_config.weight_device", "block I/O is limited, not weighted"),
    Limit("services.*.build.additional_contexts", "a build has one context", fatal=True),
    Limit("services.*.build.cache_from", "the local storage is the cache"),
    Limit("services.*.build.cache_to", "the local storage is the cache"),
    Limit("services.*.build.entitlements", "builds aren't given more rights", fatal=True),
    Limit("services.*.build.extra_hosts", "not known during the build"),
    Limit("services.*.build.isolation", "for Windows"),
    Limit("services.*.build.network", "builds use the host's network", only="other than host", test=_other_than("host", "default")),
    Limit("services.*.build.no_cache_filter", "use no_cache"),
    Limit("services.*.build.platforms", "images are built for this machine only"),
    Limit("services.*.build.privileged", "builds aren't privileged", fatal=True, test=_on),
    Limit("services.*.build.provenance", "no attestation is made"),
    Limit("services.*.build.sbom", "no attestation is made"),
    Limit("services.*.build.shm_size", "the build's /dev/shm keeps its size"),
    Limit("services.*.build.ssh", "no SSH agent is passed to a build", fatal=True),
    Limit("services.*.build.ulimits", "the build has the daemon's"),
    Limit("services.*.cgroup", _NAMESPACE, fatal=True, only="host", test=_is("host")),
    Limit("services.*.cgroup_parent", "instances are in Twinhull's cgroup", fatal=True),
    Limit("services.*.cpu_count", "for Windows: use cpus"),
    Limit("services.*.cpu_percent", "for Windows: use cpus"),
    Limit("services.*.cpu_rt_period", "no realtime scheduling", fatal=True),
    Limit("services.*.cpu_rt_runtime", "no realtime scheduling", fatal=True),
    Limit("services.*.credential_spec", "for Windows", fatal=True),
    Limit("services.*.deploy.labels", "services carry no labels; `labels` go to the instances"),
    Limit("services.*.deploy.mode", "one instance: there is one machine", only="global, global-job", test=_starts("global")),
    Limit("services.*.deploy.placement", "there is one machine to place on"),
    Limit("services.*.deploy.resources.reservations.cpus", "nothing is reserved: limits count"),
    Limit("services.*.deploy.resources.reservations.devices", "no devices are passed in", fatal=True),
    Limit("services.*.deploy.resources.reservations.generic_resources", "no such resources", fatal=True),
    Limit("services.*.deploy.resources.reservations.memory", "nothing is reserved: limits count"),
    Limit("services.*.deploy.restart_policy.delay", "the pause grows from 100 ms to a minute"),
    Limit("services.*.deploy.restart_policy.window", "an instance that ran for ten seconds counts as started"),
    Limit("services.*.develop.watch.*.initial_sync", "files are synchronised when they change", test=_on),
    Limit("services.*.device_cgroup_rules", "no devices are passed in", fatal=True),
    Limit("services.*.devices", "no devices are passed in", fatal=True),
    Limit("services.*.dns_opt", "the resolver's options stay as they are"),
    Limit("services.*.domainname", "the host name stands alone"),
    Limit("services.*.external_links", "names from outside the application don't resolve", fatal=True),
    Limit("services.*.gpus", "no devices are passed in", fatal=True),
    Limit("services.*.group_add", "the image's /etc/group decides", fatal=True),
    Limit("services.*.ipc", _NAMESPACE, fatal=True, only=_CERTAIN, test=_other_than("private", "shareable", "none")),
    Limit("services.*.isolation", "for Windows: use runtime", test=_other_than("default")),
    Limit("services.*.links", "not needed: names of services resolve anyway, an alias on all networks that the two share"),
    Limit("services.*.logging.driver", "logs are kept here", only="other than json-file or local", test=_other_than("json-file", "local")),
    Limit("services.*.mem_reservation", "nothing is reserved: limits count"),
    Limit("services.*.mem_swappiness", "the kernel's setting counts"),
    Limit("services.*.models", "there is no model runner", fatal=True),
    Limit(
        "services.*.network_mode",
        "the network of another instance can't be shared",
        fatal=True,
        only="service:…, container:…",
        test=_starts("service:", "container:"),
    ),
    Limit(
        "services.*.network_mode",
        "only a container can be in the host's network",
        fatal=True,
        only="host, for another runtime",
        test=lambda value, service: value == "host" and scalar(service.get("runtime")) not in ("", "container", "runc", "crun"),
    ),
    Limit("services.*.networks.*.driver_opts", "no options for an interface"),
    Limit("services.*.networks.*.interface_name", "interfaces are eth0, eth1, …"),
    Limit("services.*.networks.*.ipv6_address", "networks are IPv4: IPv6 is blocked on them"),
    Limit("services.*.networks.*.link_local_ips", "no such addresses", fatal=True),
    Limit("services.*.networks.*.use_service_name_alias", "a service's name always resolves", only="false", test=_off),
    Limit("services.*.oom_kill_disable", "an instance beyond its memory limit is killed", test=_on),
    Limit("services.*.oom_score_adj", "all instances have the same"),
    Limit("services.*.pid", _NAMESPACE, fatal=True, only=_CERTAIN, test=_other_than("private")),
    Limit("services.*.platform", "another machine's images don't run here", fatal=True, only="another machine's", test=_foreign),
    Limit(
        "services.*.ports.*.mode",
        "ports are balanced on this machine",
        only="other than host or ingress",
        test=_other_than("host", "ingress"),
    ),
    Limit("services.*.ports.*.protocol", "only TCP and UDP are published", fatal=True, only="sctp", test=_is("sctp")),
    Limit(
        "services.*.ports.*.published",
        "the first port of the range is taken",
        only="a range for one target",
        test=lambda value, _holder: "-" in scalar(value),
    ),
    Limit("services.*.post_start.*.privileged", "hooks have the instance's rights", fatal=True, test=_on),
    Limit("services.*.pre_start", "nothing runs before an instance: use a service and depends_on", fatal=True),
    Limit("services.*.pre_stop.*.privileged", "hooks have the instance's rights", fatal=True, test=_on),
    Limit("services.*.privileged", "an instance with all rights isn't isolated: use cap_add", fatal=True, test=_on),
    Limit("services.*.provider", "services of other programs aren't managed", fatal=True),
    Limit(
        "services.*.pull_policy",
        "checked at every `up`",
        only="daily, weekly, every_…",
        test=_starts("daily", "weekly", "every_", "refresh"),
    ),
    Limit("services.*.security_opt", "given to no runtime", only="apparmor, label", test=_any_starts("apparmor", "label")),
    Limit("services.*.storage_opt", "the writable layer isn't limited"),
    Limit("services.*.umask", "the image's umask counts", fatal=True),
    Limit("services.*.use_api_socket", "there is no Docker socket to pass on", fatal=True, test=_on),
    Limit("services.*.userns_mode", _NAMESPACE, fatal=True),
    Limit("services.*.uts", _NAMESPACE, fatal=True, only="host", test=_is("host")),
    Limit(
        "services.*.volumes.*.bind.propagation",
        "mounts made later aren't passed on",
        fatal=True,
        only="shared, slave",
        test=_starts("shared", "rshared", "slave", "rslave"),
    ),
    Limit("services.*.volumes.*.bind.recursive", "mounts below are always seen", only="disabled", test=_is("disabled")),
    Limit("services.*.volumes.*.bind.selinux", "nothing is relabelled"),
    Limit("services.*.volumes.*.type", "no such mounts", fatal=True, only="image, cluster, npipe", test=_is("image", "cluster", "npipe")),
    Limit("services.*.volumes_from", "mounts of an instance from outside", fatal=True, only="container:…", test=_any_starts("container:")),
    Limit("networks.*.driver", "networks are bridges on this machine", only="overlay", test=_is("overlay")),
    Limit(
        "networks.*.driver",
        "networks are bridges",
        fatal=True,
        only="host, none, macvlan, …",
        test=_other_than("bridge", "default", "overlay"),
    ),
    Limit("networks.*.driver_opts", "no options for a bridge"),
    Limit("networks.*.enable_ipv4", "networks are IPv4", fatal=True, only="false", test=_off),
    Limit("networks.*.enable_ipv6", "IPv6 is blocked on networks", only="true", test=_on),
    Limit("networks.*.ipam.driver", "addresses are given by Twinhull", only="other than default", test=_other_than("default")),
    Limit("networks.*.ipam.config.*.aux_addresses", "nothing is kept free"),
    Limit("networks.*.ipam.config.*.gateway", "the gateway is the subnet's first address"),
    Limit("networks.*.ipam.config.*.ip_range", "addresses are taken from the whole subnet"),
    Limit("networks.*.ipam.config.*.subnet", "IPv6 is blocked on networks", only="IPv6", test=lambda value, _holder: ":" in scalar(value)),
    Limit("networks.*.ipam.options", "addresses are given by Twinhull"),
    Limit(
        "volumes.*.driver",
        "volumes are on this machine",
        fatal=True,
        only="other than local or tmpfs",
        test=_other_than("local", "tmpfs", "default"),
    ),
    Limit(
        "volumes.*.driver_opts.type",
        "volumes are folders on this machine",
        fatal=True,
        only="other than none or tmpfs",
        test=_other_than("none", "tmpfs"),
    ),
    Limit("configs.*.external", "there is no store of configs: use file, content or environment", fatal=True, test=_on),
    Limit("configs.*.template_driver", "contents are taken as they are", fatal=True),
    Limit("secrets.*.driver", "secrets come from a file, the environment or the daemon", fatal=True),
    Limit("secrets.*.template_driver", "contents are taken as they are", fatal=True),
)


@dataclass
class _Node:
    """A step of the table's keys: the rows that end here, and the steps below."""

    limits: list[Limit] = field(default_factory=list)
    below: dict[str, _Node] = field(default_factory=dict)


def _tree() -> _Node:
    """The table by the steps of its keys, so that a file is walked once, and only where there is something to look at."""
    root = _Node()
    for limit in LIMITS:
        node = root
        for step in limit.key.split("."):
            node = node.below.setdefault(step, _Node())
        node.limits.append(limit)
    return root


_TREE = _tree()


def notes(model: Map) -> tuple[Note, ...]:
    """What a resolved file asks for in vain, in the order of its keys."""
    return (*_walk(model, model, _TREE, model.mark, ""), *_misspelt(model.sub("services")))


def _misspelt(services: Map) -> Iterator[Note]:
    """Keys that look like ours: the specification allows any that begins with x-, so the schema says nothing."""
    for name, service in services.items():
        for key in service:
            if key.startswith("x-") and key != EXTENSION and nearest(key, (EXTENSION,)):
                yield Note(str(service.at(key)), f"services.{name}.{key}", f"means nothing here: did you mean {EXTENSION!r}?")


def _walk(value: Any, holder: Map, node: _Node, mark: Mark, path: str) -> Iterator[Note]:
    for limit in node.limits:
        try:
            wanted = limit.test(value, holder)
        except ValueError as error:
            raise ComposeError(mark, f"{path}: {error}") from None
        if wanted:
            yield Note(str(mark), path, limit.text, limit.fatal)
    every = node.below.get("*")
    if isinstance(value, Map):
        for key, item in value.items():
            below = every or node.below.get(key)
            if below is not None:
                yield from _walk(item, value, below, value.at(key), f"{path}.{key}" if path else key)
    elif isinstance(value, Seq) and every:
        for index, (item, place) in enumerate(value.items()):
            yield from _walk(item, holder, every, place, f"{path}[{index}]")


def table() -> str:
    """The table for docs/compose.md."""
    lines = ["| key | when | `up` | because |", "| --- | --- | --- | --- |"]
    for limit in sorted(LIMITS, key=lambda limit: limit.key):
        lines.append(f"| `{limit.key}` | {limit.only} | {'refuses' if limit.fatal else 'says so'} | {limit.text} |")
    return "\n".join(lines) + "\n"
