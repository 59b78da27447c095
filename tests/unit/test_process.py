"""spec/process.py and spec/validate.py: Docker's rules for what runs, and what is refused before anything is made."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinhull.errors import UserError
from twinhull.spec.instance import (
    HealthCheck,
    InstanceSpec,
    MountSpec,
    MountType,
    NetworkAttachment,
    NetworkMode,
    PortMapping,
    Resources,
    RestartPolicy,
    RestartWhen,
    Runtime,
)
from twinhull.spec.process import ImageConfig, argv, environment, health, merge_environment, signal_number, stop_signal
from twinhull.spec.validate import normalize

IMAGE = ImageConfig(entrypoint=("/entry",), command=("a", "b"), env=("PATH=/image", "X=1"))
SPEC = InstanceSpec("img")


@pytest.mark.parametrize(
    ("entrypoint", "command", "expected"),
    [
        (None, None, ("/entry", "a", "b")),
        (None, ("c",), ("/entry", "c")),
        (("/other",), None, ("/other",)),
        (("/other", "-x"), ("c",), ("/other", "-x", "c")),
        (("",), ("c",), ("c",)),
        (None, (), ("/entry",)),
    ],
)
def test_entrypoint_and_command(entrypoint: tuple[str, ...] | None, command: tuple[str, ...] | None, expected: tuple[str, ...]) -> None:
    assert argv(replace(SPEC, entrypoint=entrypoint, command=command), IMAGE) == expected


def test_nothing_to_run_is_the_users_error() -> None:
    with pytest.raises(UserError, match="neither entrypoint nor command"):
        argv(SPEC, ImageConfig())
    with pytest.raises(UserError):
        argv(replace(SPEC, entrypoint=("",)), IMAGE)


def test_environment_order_and_defaults() -> None:
    made = environment(replace(SPEC, env=("X=2", "NEW=n\nl"), tty=True), IMAGE, "host")
    assert made == ("PATH=/image", "HOSTNAME=host", "TERM=xterm", "X=2", "NEW=n\nl")
    assert environment(SPEC, ImageConfig(), "h")[0].startswith("PATH=/usr/local/sbin")


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.text(alphabet="=x\n é", max_size=5))))
def test_the_last_value_wins(pairs: list[tuple[str, str]]) -> None:
    merged = merge_environment([f"{key}={value}" for key, value in pairs])
    assert dict(entry.split("=", 1) for entry in merged) == dict(pairs)


def test_an_entry_without_equals_removes() -> None:
    assert merge_environment(["A=1", "B=2"], ["A"]) == ("B=2",)


@pytest.mark.parametrize(("word", "number"), [("TERM", 15), ("sigint", 2), ("9", 9), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("64", 64)])
def test_signal_words(word: str, number: int) -> None:
    assert signal_number(word) == number


@pytest.mark.parametrize("word", ["", "0", "65", "NOPE", "RTMIN+99", "RTMIN+x", "-1"])
def test_unknown_signals(word: str) -> None:
    with pytest.raises(UserError):
        signal_number(word)


def test_stop_signal_comes_from_user_then_image() -> None:
    image = replace(IMAGE, stop_signal="SIGQUIT")
    assert stop_signal(SPEC, IMAGE) == signal.SIGTERM
    assert stop_signal(SPEC, image) == signal.SIGQUIT
    assert stop_signal(replace(SPEC, stop_signal="INT"), image) == signal.SIGINT


def test_image_health_in_nanoseconds() -> None:
    image = ImageConfig.parse({"Healthcheck": {"Test": ["CMD", "x"], "Interval": 5_000_000_000, "Retries": 7}})
    assert image.health == HealthCheck(("CMD", "x"), interval=5.0, timeout=30.0, retries=7)
    assert health(SPEC, image) == image.health
    assert health(replace(SPEC, health=HealthCheck((), interval=1)), image) == HealthCheck(("CMD", "x"), interval=1)
    assert health(replace(SPEC, health=HealthCheck(("NONE",))), image) == HealthCheck(("NONE",))


def test_null_lists_in_a_config_are_empty() -> None:
    assert ImageConfig.parse({"Entrypoint": None, "Cmd": None, "Env": None, "Volumes": None, "Healthcheck": None}) == ImageConfig()


@pytest.mark.parametrize(
    ("word", "expected"),
    [("runc", Runtime.CONTAINER), ("runsc", Runtime.SANDBOX), ("kata-qemu", Runtime.VM), ("krun", Runtime.VM), ("vm", Runtime.VM)],
)
def test_runtime_words(word: str, expected: Runtime) -> None:
    assert Runtime.parse(word) is expected


def test_unknown_runtime_word() -> None:
    with pytest.raises(ValueError, match="use container, sandbox or vm"):
        Runtime.parse("docker")


@pytest.mark.parametrize(
    "changes",
    [
        {"image": ""},
        {"hostname": "-bad"},
        {"workdir": "relative"},
        {"env": ("=x",)},
        {"command": ("a\0b",)},
        {"stop_signal": "WHAT"},
        {"auto_remove": True, "restart": RestartPolicy(RestartWhen.ALWAYS)},
        {"resources": Resources(memory=1024)},
        {"resources": Resources(memory=64 << 20, memory_swap=32 << 20)},
        {"resources": Resources(cpus=-1)},
        {"mounts": (MountSpec(MountType.BIND, "/a", "relative"),)},
        {"mounts": (MountSpec(MountType.VOLUME, "/a", "../x"),)},
        {"mounts": (MountSpec(MountType.VOLUME, "/", "v"),)},
        {"mounts": (MountSpec(MountType.VOLUME, "a", "v"),)},
        {"mounts": (MountSpec(MountType.VOLUME, "/a", "v", subpath="../b"),)},
        {"mounts": (MountSpec(MountType.TMPFS, "/a"), MountSpec(MountType.TMPFS, "/b/../a/"))},
        {"ports": (PortMapping(0),)},
        {"ports": (PortMapping(80, 70000),)},
        {"ports": (PortMapping(80, protocol="sctp"),)},
        {"ports": (PortMapping(80, 8080), PortMapping(81, 8080))},
        {"network_mode": NetworkMode.NONE, "ports": (PortMapping(80),)},
        {"network_mode": NetworkMode.HOST, "networks": (NetworkAttachment("a"),)},
        {"networks": (NetworkAttachment("a"), NetworkAttachment("a"))},
    ],
)
def test_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UserError):
        normalize(replace(SPEC, **changes))  # type: ignore[arg-type]


def test_defaults_are_filled_in() -> None:
    spec = normalize(replace(SPEC, mounts=(MountSpec(MountType.TMPFS, "//run/./x/"),)))
    assert spec.networks == (NetworkAttachment("default"),)
    assert spec.mounts[0].target == "/run/x"


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_targets_become_canonical_or_are_refused(text: str) -> None:
    try:
        spec = normalize(replace(SPEC, mounts=(MountSpec(MountType.TMPFS, "/" + text),)))
    except UserError:
        return
    target = spec.mounts[0].target
    assert target.startswith("/") and not target.startswith("//")
    assert not {"", ".", ".."} & set(target[1:].split("/"))
    assert normalize(spec) == spec
