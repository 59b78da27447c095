"""`deploy` and the older keys beside it: replicas, limits, restart, updates. Pure."""

from __future__ import annotations

from typing import Any

from twinhull.compose import fields
from twinhull.compose.tree import ComposeError, Map
from twinhull.spec.app import FailureAction, UpdateOrder, UpdatePolicy
from twinhull.spec.instance import Resources, RestartPolicy, RestartWhen, Ulimit

_CONDITIONS = {"none": RestartWhen.NO, "on-failure": RestartWhen.ON_FAILURE, "any": RestartWhen.ALWAYS}
_MODES = ("replicated", "global", "replicated-job", "global-job")
MAX_REPLICAS = 10_000
"""What plans are simulated with."""


def replicas(service: Map) -> int:
    """`scale` or `deploy.replicas`, which must agree."""
    deploy = service.sub("deploy")
    mode = fields.text(deploy, "mode", "replicated")
    if mode not in _MODES:
        raise ComposeError(deploy.at("mode"), f"deploy.mode can't be {mode!r}: use {', '.join(_MODES)}")
    declared, scale = fields.whole(deploy, "replicas", 1), fields.whole(service, "scale", -1)
    if "replicas" in deploy and scale not in (-1, declared):
        raise ComposeError(service.at("scale"), f"scale: {scale} and deploy.replicas: {declared} contradict each other")
    count = declared if scale == -1 else scale
    if count > MAX_REPLICAS:
        raise ComposeError(service.at("scale") if scale != -1 else deploy.at("replicas"), f"{count} instances: at most {MAX_REPLICAS}")
    for key in ("container_name", "mac_address"):
        if count > 1 and service.get(key):
            raise ComposeError(service.at(key), f"{key} can't be given to {count} instances", "leave it out, or set replicas to 1")
    return 1 if mode.startswith("global") else count


def is_job(service: Map) -> bool:
    """Whether `deploy.mode` says that it runs to completion."""
    return fields.text(service.sub("deploy"), "mode").endswith("-job")


def resources(service: Map) -> Resources:
    """Limits from `deploy.resources.limits` and the older keys, which must agree where both are given."""
    limits = service.sub("deploy").sub("resources").sub("limits")
    block = service.sub("blkio_config")
    memory = _agreed(service, "mem_limit", limits, "memory", fields.size)
    swap = fields.size(service, "memswap_limit")
    return Resources(
        cpus=_agreed(service, "cpus", limits, "cpus", fields.number) or _quota(service),
        cpu_shares=fields.whole(service, "cpu_shares"),
        cpuset=fields.text(service, "cpuset"),
        memory=memory,
        memory_swap=swap,
        pids=_pids(service, limits),
        read_bps=_rate(block, "device_read_bps"),
        write_bps=_rate(block, "device_write_bps"),
        read_iops=_rate(block, "device_read_iops"),
        write_iops=_rate(block, "device_write_iops"),
    )


def _agreed(service: Map, old: str, limits: Map, new: str, read: Any) -> Any:
    if old in service and new in limits and read(service, old) != read(limits, new):
        raise ComposeError(service.at(old), f"{old} and deploy.resources.limits.{new} contradict each other")
    return read(limits, new) if new in limits else read(service, old)


def _pids(service: Map, limits: Map) -> int:
    """-1 is no limit, which is 0 here."""
    old, new = fields.whole(service, "pids_limit", 0, -1), fields.whole(limits, "pids", 0, -1)
    if "pids_limit" in service and "pids" in limits and old != new:
        raise ComposeError(service.at("pids_limit"), "pids_limit and deploy.resources.limits.pids contradict each other")
    return max(new if "pids" in limits else old, 0)


def _quota(service: Map) -> float:
    """`cpu_quota` microseconds in each `cpu_period` of them (100 ms), as processors."""
    quota = fields.whole(service, "cpu_quota", 0, -1)
    return max(quota, 0) / (fields.whole(service, "cpu_period") or 100_000)


def _rate(block: Map, key: str) -> int:
    """The least of the rates: a limit counts for all devices here."""
    return min((fields.size(entry, "rate") for entry in block.seq(key)), default=0)


def ulimits(service: Map) -> tuple[Ulimit, ...]:
    """-1 is without limit."""
    found = []
    limits = service.sub("ulimits")
    for name, value in limits.items():
        holder, soft, hard = (value, "soft", "hard") if isinstance(value, Map) else (limits, name, name)
        low, high = fields.whole(holder, soft, 0, -1), fields.whole(holder, hard, 0, -1)
        if high != -1 and (low == -1 or low > high):
            raise ComposeError(limits.at(name), f"ulimit {name}: the soft limit is above the hard one")
        found.append(Ulimit(name, low, high))
    return tuple(found)


def restart(service: Map) -> RestartPolicy:
    """`deploy.restart_policy`, else `restart`; neither: no."""
    policy = service.sub("deploy").sub("restart_policy")
    if "restart_policy" in service.sub("deploy"):
        condition = fields.text(policy, "condition", "any")
        if condition not in _CONDITIONS:
            raise ComposeError(policy.at("condition"), f"condition can't be {condition!r}: use {', '.join(_CONDITIONS)}")
        when = _CONDITIONS[condition]
        return RestartPolicy(when, fields.whole(policy, "max_attempts") if when is RestartWhen.ON_FAILURE else 0)
    word, colon, retries = fields.text(service, "restart", "no").partition(":")
    if colon and (word != "on-failure" or not (retries.isascii() and retries.isdigit())):
        raise ComposeError(service.at("restart"), f"restart: {service['restart']!r}: use on-failure:5")
    if word not in [str(known) for known in RestartWhen]:
        raise ComposeError(service.at("restart"), f"restart can't be {word!r}: use {', '.join(RestartWhen)}")
    return RestartPolicy(RestartWhen(word), int(retries[:9] or 0))


def update(service: Map, *, stateful: bool, writes_volume: bool) -> UpdatePolicy:
    """`deploy.update_config` over the defaults. A service that writes to a named volume never has two writers."""
    default = UpdateOrder.STOP_FIRST if stateful else UpdateOrder.START_FIRST
    found = _policy(service.sub("deploy").sub("update_config"), default, FailureAction.ROLLBACK)
    if writes_volume and found.order is UpdateOrder.START_FIRST:
        return UpdatePolicy(
            found.parallelism, found.delay, found.monitor, found.failure_action, found.max_failure_ratio, UpdateOrder.STOP_FIRST
        )
    return found


def rollback(service: Map, order: UpdateOrder) -> UpdatePolicy:
    """`deploy.rollback_config`; a failing rollback pauses."""
    config = service.sub("deploy").sub("rollback_config")
    found = _policy(config, order, FailureAction.PAUSE)
    if found.failure_action is FailureAction.ROLLBACK:
        raise ComposeError(config.at("failure_action"), "a rollback can't be rolled back: use pause or continue")
    return found


def _policy(config: Map, order: UpdateOrder, action: FailureAction) -> UpdatePolicy:
    ratio = fields.number(config, "max_failure_ratio")
    if ratio > 1:
        raise ComposeError(config.at("max_failure_ratio"), f"max_failure_ratio: {ratio:g} is more than 1")
    return UpdatePolicy(
        parallelism=fields.whole(config, "parallelism", 1),
        delay=fields.seconds(config, "delay"),
        monitor=fields.seconds(config, "monitor", 5.0),
        failure_action=fields.choice(config, "failure_action", FailureAction, action),
        max_failure_ratio=ratio,
        order=fields.choice(config, "order", UpdateOrder, order),
    )
