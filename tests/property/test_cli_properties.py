"""Properties: a spec survives the way to flags and back; no input makes the parsers fail otherwise than by their own error."""

from __future__ import annotations

import contextlib
import string
from itertools import pairwise

import hypothesis
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from twinhull.cli import body, mounts, ports, table, template, values
from twinhull.cli.body import Here
from twinhull.cli.main import resolve
from twinhull.cli.parse import UsageError, parse
from twinhull.cli.session import DetachKeys
from twinhull.cli.template import TemplateError
from twinhull.errors import TwinhullError
from twinhull.spec.instance import (
    FileSpec,
    HealthCheck,
    InstanceSpec,
    LogOptions,
    MountSpec,
    MountType,
    NetworkAttachment,
    NetworkMode,
    PortMapping,
    Resources,
    RestartPolicy,
    RestartWhen,
    Runtime,
    Security,
    Ulimit,
)

HERE = Here({}, "/work", lambda path: path)
SPECS = TypeAdapter(InstanceSpec)
patient = settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
"""A busy machine is no failure."""

names = st.text(string.ascii_lowercase + string.digits + "_-.", min_size=1, max_size=8).filter(lambda s: s[0].isalnum())
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
paths = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
odd_names = st.text(string.ascii_letters + ' ,"=', min_size=1, max_size=6)
csv_paths = st.lists(odd_names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
whole = st.integers(0, 2**40)
seconds = st.integers(0, 10**7).map(lambda count: count / 1000)
keys = st.text(string.ascii_letters + "_.", min_size=1, max_size=8)
port_numbers = st.integers(1, 65535)
runtimes = st.sampled_from(Runtime)

port_mappings = st.builds(
    PortMapping, port_numbers, st.integers(0, 65535), st.sampled_from(["", "127.0.0.1", "::1", "0.0.0.0"]), st.sampled_from(["tcp", "udp"])
)
mount_specs = st.one_of(
    st.builds(MountSpec, st.just(MountType.BIND), csv_paths, csv_paths, st.booleans()),
    st.builds(MountSpec, st.just(MountType.VOLUME), csv_paths, st.one_of(st.just(""), names), st.booleans(), st.just(""), st.booleans()),
    st.builds(MountSpec, st.just(MountType.TMPFS), paths, tmpfs_size=whole, tmpfs_mode=st.integers(0, 0o7777)),
)
file_specs = st.builds(
    FileSpec, paths, paths, st.just(""), st.integers(0, 2**31), st.integers(0, 2**31), st.integers(0, 0o777), st.booleans()
)
attachments = st.builds(
    NetworkAttachment,
    names.filter(lambda name: name not in ("none", "host", "bridge", "container")),
    st.lists(names, max_size=2).map(tuple),
    st.sampled_from(["", "10.0.0.9"]),
    st.sampled_from(["", "02:00:00:00:00:01"]),
)
resources = st.builds(
    Resources, st.integers(0, 10**4).map(lambda c: c / 100), whole, st.sampled_from(["", "0-2,5"]), whole,
    st.one_of(st.just(-1), whole), whole, whole, whole, whole, whole,
)  # fmt: skip
securities = st.builds(
    Security,
    st.lists(st.sampled_from(["CAP_NET_ADMIN", "ALL"]), max_size=2).map(tuple),
    st.lists(st.sampled_from(["CAP_CHOWN", "ALL"]), max_size=2).map(tuple),
    st.booleans(), st.booleans(), st.sampled_from(["default", "unconfined", '{"a":"b"}']), st.booleans(),
)  # fmt: skip
restarts = st.one_of(
    st.builds(RestartPolicy, st.sampled_from([RestartWhen.ALWAYS, RestartWhen.NO, RestartWhen.UNLESS_STOPPED])),
    st.builds(RestartPolicy, st.just(RestartWhen.ON_FAILURE), st.integers(0, 100)),
)
ulimits = st.builds(lambda name, soft, more: Ulimit(name, soft, soft + more), st.sampled_from(["nofile", "core"]), whole, whole)
shell_lines = words.filter(lambda line: line != "" and line[0] != "[")
healths = st.builds(
    HealthCheck,
    st.one_of(st.just(("NONE",)), st.tuples(st.just("CMD"), words), st.tuples(st.just("CMD-SHELL"), shell_lines)),
    seconds, seconds, st.integers(0, 99), seconds, seconds,
)  # fmt: skip
dictionaries = st.dictionaries(keys, words, max_size=3)

specs = st.builds(
    InstanceSpec,
    image=names,
    name=names,
    runtime=runtimes,
    entrypoint=st.one_of(st.none(), st.lists(words, max_size=3).map(tuple)),
    command=st.one_of(st.none(), st.lists(words, min_size=1, max_size=3).map(tuple)),
    env=dictionaries.map(lambda pairs: tuple(f"{key}={value}" for key, value in pairs.items())),
    user=names,
    workdir=paths,
    hostname=names,
    tty=st.booleans(),
    stdin=st.booleans(),
    init=st.booleans(),
    labels=dictionaries,
    network_mode=st.just(NetworkMode.BRIDGE),
    networks=st.lists(attachments, max_size=2).map(tuple),
    ports=st.lists(port_mappings, max_size=3).map(tuple),
    mounts=st.lists(mount_specs, max_size=3).map(tuple),
    files=st.lists(file_specs, max_size=2).map(lambda found: tuple(sorted(found, key=lambda file: not file.secret))),
    resources=resources,
    security=securities,
    ulimits=st.lists(ulimits, max_size=2).map(tuple),
    sysctls=st.dictionaries(keys, words, max_size=2),
    dns=st.lists(st.just("1.1.1.1"), max_size=2).map(tuple),
    dns_search=st.lists(names, max_size=2).map(tuple),
    extra_hosts=st.lists(st.builds("{}:{}".format, names, st.sampled_from(["10.0.0.1", "::1", "host-gateway"])), max_size=2).map(tuple),
    shm_size=whole,
    stop_signal=st.sampled_from(["", "QUIT"]),
    stop_timeout=seconds,
    restart=restarts,
    health=st.one_of(st.none(), healths),
    logging=st.builds(LogOptions, whole, st.integers(1, 99)),
    auto_remove=st.booleans(),
    snapshot=st.sampled_from(["", "app"]),
    snapshot_reconnect=st.booleans(),
).filter(lambda spec: not (spec.auto_remove and spec.restart.when != "no"))


def flags(spec: InstanceSpec) -> list[str]:
    """The command line that means a spec: the opposite of `body.instance`."""
    import json

    line = ["--name", spec.name, "--runtime", spec.runtime, "-u", spec.user, "-w", spec.workdir, f"--hostname={spec.hostname}"]
    line += [f"--tty={spec.tty}", f"--interactive={spec.stdin}", f"--init={spec.init}", f"--rm={spec.auto_remove}"]
    line += ["--shm-size", str(spec.shm_size), "--stop-timeout", f"{spec.stop_timeout:f}s"]
    line += [f"--entrypoint={json.dumps(spec.entrypoint)}"] if spec.entrypoint is not None else []
    for flag, many in (
        ("-e", spec.env),
        ("--label", [f"{key}={value}" for key, value in spec.labels.items()]),
        ("--sysctl", [f"{key}={value}" for key, value in spec.sysctls.items()]),
        ("--network", map(network_flag, spec.networks)),
        ("-p", map(port_flag, spec.ports)),
        ("--mount", map(mount_flag, spec.mounts)),
        ("--ulimit", [f"{limit.name}={limit.soft}:{limit.hard}" for limit in spec.ulimits]),
        ("--dns", spec.dns),
        ("--dns-search", spec.dns_search),
        ("--add-host", spec.extra_hosts),
        ("--cap-add", spec.security.cap_add),
        ("--cap-drop", spec.security.cap_drop),
    ):
        for one in many:
            line += [flag, one]
    for file in spec.files:
        line += ["--secret" if file.secret else "--config", file_flag(file)]
    limits = spec.resources
    line += ["--cpus", str(limits.cpus), "-c", str(limits.cpu_shares), "-m", str(limits.memory), f"--memory-swap={limits.memory_swap}"]
    line += ["--pids-limit", str(limits.pids), f"--cpuset-cpus={limits.cpuset}"]
    line += ["--device-read-bps", str(limits.read_bps), "--device-write-bps", f"/dev/sda:{limits.write_bps}"]
    line += ["--device-read-iops", str(limits.read_iops), "--device-write-iops", str(limits.write_iops)]
    line += ["--security-opt", f"no-new-privileges={spec.security.no_new_privileges}", "--security-opt", f"seccomp={spec.security.seccomp}"]
    line += [f"--read-only={spec.security.read_only}", f"--privileged={spec.security.privileged}"]
    retries = f":{spec.restart.max_retries}" if spec.restart.max_retries else ""
    line += ["--restart", spec.restart.when + retries, f"--stop-signal={spec.stop_signal}"]
    line += ["--log-opt", f"max-size={spec.logging.max_size}", "--log-opt", f"max-file={spec.logging.max_files}"]
    line += health_flags(spec.health) + (["--snapshot", spec.snapshot] if spec.snapshot else [])
    line += [f"--snapshot-reconnect={spec.snapshot_reconnect}"]
    return [*line, spec.image, *(spec.command or ())]


def network_flag(found: NetworkAttachment) -> str:
    options = [f"alias={alias}" for alias in found.aliases]
    options += [f"ip={found.address}"] if found.address else []
    options += [f"mac={found.mac}"] if found.mac else []
    return f"{found.network}:{','.join(options)}" if options else found.network


def port_flag(port: PortMapping) -> str:
    address = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
    host = str(port.host_port or "") + ":" if address or port.host_port else ""
    return (f"{address}:" if address else "") + f"{host}{port.container_port}/{port.protocol}"


def mount_flag(found: MountSpec) -> str:
    parts = [f"type={found.type}", f"target={found.target}", f"readonly={found.read_only}", f"volume-nocopy={found.no_copy}"]
    parts += [f"source={found.source}"] if found.source else []
    parts += [f"tmpfs-size={found.tmpfs_size}", f"tmpfs-mode={found.tmpfs_mode:04o}"]
    return ",".join(f'"{part.replace(chr(34), chr(34) * 2)}"' for part in parts)


def file_flag(file: FileSpec) -> str:
    return f"source={file.source},target={file.target},uid={file.uid},gid={file.gid},mode={file.mode:04o}"


def health_flags(check: HealthCheck | None) -> list[str]:
    import json

    if check is None:
        return []
    test = check.test[1] if check.test[0] == "CMD-SHELL" else json.dumps(check.test)
    return [
        f"--health-cmd={test}", "--health-interval", f"{check.interval:f}s", "--health-timeout", f"{check.timeout:f}s",
        "--health-retries", str(check.retries), "--health-start-period", f"{check.start_period:f}s",
        "--health-start-interval", f"{check.start_interval:f}s",
    ]  # fmt: skip


@patient
@given(specs)
def test_a_spec_survives_the_way_to_flags_and_back(spec: InstanceSpec) -> None:
    command = table.find("run")
    assert command
    made = body.instance(parse(command, flags(spec)), HERE)
    assert SPECS.validate_python(made) == spec


@patient
@given(
    st.lists(
        st.one_of(words, st.sampled_from([*table.names(), "-it", "--", "--rm", "-p", "80", "--format", "{{", "-e", "=", "--mount"])),
        max_size=6,
    )
)
def test_any_words_parse_or_are_refused(line: list[str]) -> None:
    with contextlib.suppress(TwinhullError):
        command, rest = resolve(line)
        parse(command, rest)


@patient
@given(st.lists(st.tuples(st.sampled_from([option.flag for option in table.rows("run")[1].options]), words), max_size=4))
def test_any_values_make_a_body_or_are_refused_in_one_line(pairs: list[tuple[str, str]]) -> None:
    command = table.find("create")
    assert command
    try:
        args = parse(command, [f"{flag}={value}" for flag, value in pairs] + ["img"])
        body.instance(args, Here({}, "/work", lambda _path: "A=1\n"))
    except UsageError as error:
        assert error.message


@patient
@given(words)
def test_value_parsers_raise_only_value_errors(text: str) -> None:
    for reader in (values.size, values.duration, values.number, values.integer, values.boolean, values.octal, values.fields, values.words):
        with contextlib.suppress(ValueError):
            reader(text)
    for maker in (ports.publish, ports.attachment, mounts.tmpfs):
        with contextlib.suppress(ValueError):
            maker(text)
    for placed in (mounts.volume, mounts.mount):
        with contextlib.suppress(ValueError):
            placed(text, "/work")


@patient
@given(st.integers(0, 2**60))
def test_sizes_are_exact(count: int) -> None:
    assert values.size(str(count)) == count
    assert values.size(f"{count}k") == count * 1024


@patient
@given(st.lists(words, min_size=1, max_size=4))
def test_fields_survive_quoting(parts: list[str]) -> None:
    assert values.fields(",".join(f'"{part.replace(chr(34), chr(34) * 2)}"' for part in parts)) == parts


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)


@patient
@given(st.text('{}.| "`abjsonrgeilt-$\\n', max_size=40), json_values)
def test_any_template_renders_or_is_refused(source: str, value: object) -> None:
    with contextlib.suppress(TemplateError):
        template.compile(source).render(value)


@patient
@given(st.dictionaries(keys, json_values, min_size=1, max_size=4))
def test_json_shows_the_object_itself(value: dict[str, object]) -> None:
    import json

    assert json.loads(template.compile("{{json .}}").render(value)) == value


@patient
@given(st.binary(max_size=30), st.lists(st.integers(0, 30), max_size=4), st.sampled_from([b"\x10\x11", b"aab", b"a", b"aa"]))
def test_detach_keys_hold_back_nothing_for_good(data: bytes, cuts: list[int], sequence: bytes) -> None:
    """Whatever the pieces, what is passed on is what was typed up to the sequence (or up to what may become one)."""
    data = bytes(97 + byte % 3 for byte in data) if sequence != b"\x10\x11" else data
    keys_found, passed, detached = DetachKeys(sequence), b"", False
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        if not detached:
            more, detached = keys_found.feed(data[start:end])
            passed += more
    position = data.find(sequence)
    assert detached == (position >= 0)
    if detached:
        assert passed == data[:position]
    else:
        assert data.startswith(passed)
        assert sequence.startswith(data[len(passed) :])
