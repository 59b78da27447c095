"""One canonical service as a ServiceSpec. Pure: every path is absolute by now, every variable filled in."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from twinhull.compose import extension, fields, lowerdeploy, lowermounts, lowernetwork
from twinhull.compose.schema import EXTENSION
from twinhull.compose.tree import ComposeError, Map, Mark, did_you_mean
from twinhull.errors import UserError
from twinhull.image import reference
from twinhull.instance import capabilities
from twinhull.spec.app import Build, Condition, Dependency, Hook, ServiceSpec, WatchRule
from twinhull.spec.instance import HealthCheck, InstanceSpec, LogOptions, MountType, Runtime, Security
from twinhull.spec.validate import normalize

_RUNTIMES = ("container", "sandbox", "vm", "runc", "crun", "runsc", "kata", "krun")
_SHM_SIZE = InstanceSpec("").shm_size
_LOCAL_DRIVERS = ("", "json-file", "local")


class Around(NamedTuple):
    """What a service is lowered with. `aliases`: service → network → names that other services' links give it. secret_values is filled."""

    app: str
    services: Map
    networks: dict[str, str]
    sources: lowermounts.Sources
    aliases: dict[str, dict[str, list[str]]]
    awaited: frozenset[str]
    """Services that another waits to complete for."""
    secret_values: dict[str, str]


def lower(name: str, service: Map, around: Around) -> ServiceSpec:
    """Raises ComposeError."""
    count = lowerdeploy.replicas(service)
    template = _template(name, service, around, count)
    own = service.sub(EXTENSION)
    expose = lowernetwork.tcp_ports(service)
    found = ServiceSpec(
        name,
        template,
        replicas=count,
        job=lowerdeploy.is_job(service) or (name in around.awaited and template.restart.when == "no"),
        ports=lowernetwork.ports(service),
        expose=expose,
        depends_on=dependencies(service),
        build=_build(service, around.sources),
        pull_policy=_pull_policy(service),
        rollout=extension.rollout(own),
        routes=extension.routes(own, expose),
        scale=extension.scale(own),
        dnsrr=_endpoint_mode(service) == "dnsrr",
        post_start=_hooks(service, "post_start"),
        pre_stop=_hooks(service, "pre_stop"),
        watch=tuple(_watch(rule) for rule in service.sub("develop").seq("watch")),
        container_name=_container_name(service),
        attach=fields.flag(service, "attach", default=True),
    )
    writes = any(mount.type is MountType.VOLUME and not mount.read_only for mount in template.mounts)
    update = lowerdeploy.update(service, stateful=found.stateful, writes_volume=writes)
    return replace(found, update=update, rollback=lowerdeploy.rollback(service, update.order))


def _template(name: str, service: Map, around: Around, count: int) -> InstanceSpec:
    mode = lowernetwork.mode(service)
    bridged = mode == "bridge"
    snapshot, reconnect = extension.snapshot(service.sub(EXTENSION))
    spec = InstanceSpec(
        image=_image(name, service, around),
        runtime=_runtime(service),
        entrypoint=_words(service, "entrypoint"),
        command=_words(service, "command"),
        env=tuple(f"{key}={value}" for key, value in fields.given(service, "environment").items()),
        user=fields.text(service, "user"),
        workdir=fields.text(service, "working_dir"),
        hostname=fields.text(service, "hostname"),
        tty=fields.flag(service, "tty"),
        stdin=fields.flag(service, "stdin_open"),
        init=fields.flag(service, "init"),
        labels={key: "" if value is None else value for key, value in service.sub("labels").items()},
        network_mode=mode,
        networks=lowernetwork.attachments(service, around.networks, count, around.aliases.get(name, {})) if bridged else (),
        mounts=lowermounts.mounts(service, around.services, around.sources),
        files=lowermounts.files(service, around.sources, around.secret_values),
        resources=lowerdeploy.resources(service),
        security=_security(service),
        ulimits=lowerdeploy.ulimits(service),
        sysctls=fields.given(service, "sysctls"),
        dns=fields.words(service, "dns"),
        dns_search=fields.words(service, "dns_search"),
        extra_hosts=tuple(entry.replace("=", ":", 1) for entry in fields.words(service, "extra_hosts")),
        shm_size=fields.size(service, "shm_size") or _SHM_SIZE,
        stop_signal=fields.text(service, "stop_signal"),
        stop_timeout=fields.seconds(service, "stop_grace_period", 10.0),
        restart=lowerdeploy.restart(service),
        health=_health(service.sub("healthcheck")),
        logging=_logging(service.sub("logging")),
        snapshot=snapshot,
        snapshot_reconnect=reconnect,
    )
    return _checked(name, service, spec, around)


def _checked(name: str, service: Map, spec: InstanceSpec, around: Around) -> InstanceSpec:
    """What the daemon would refuse is refused here, where the line is known."""
    try:
        for word, mark in (*service.seq("cap_add").items(), *service.seq("cap_drop").items()):
            _capability(str(word), mark)
        normal = normalize(spec)
    except ComposeError:
        raise
    except UserError as error:
        raise ComposeError(around.services.at(name), f"service {name!r}: {error.message}", error.hint) from None
    return normal


def _capability(word: str, mark: Mark) -> None:
    known = (*(name.removeprefix("CAP_") for name in capabilities.ALL), "ALL")
    if word.upper().removeprefix("CAP_") not in known:
        raise ComposeError(mark, f"unknown capability {word!r}{did_you_mean(word, known)}")


def _image(name: str, service: Map, around: Around) -> str:
    image = fields.text(service, "image")
    if image:
        return image if reference.is_id(image) else _named(image, service.at("image"))
    if "build" not in service and "provider" not in service:
        raise ComposeError(around.services.at(name), f"service {name!r} needs an image or a build")
    return f"{around.app}-{name}".lower()


def _named(image: str, mark: Mark) -> str:
    try:
        reference.parse(image)
    except UserError as error:
        raise ComposeError(mark, error.message, error.hint) from None
    return image


def _runtime(service: Map) -> Runtime:
    word = fields.text(service, "runtime", "container")
    try:
        return Runtime.parse(word)
    except ValueError as error:
        raise ComposeError(service.at("runtime"), f"{error}{did_you_mean(word, _RUNTIMES)}") from None


def _container_name(service: Map) -> str:
    own = fields.text(service, "container_name")
    return fields.name(own, "container_name", service.at("container_name")) if own else ""


def _words(service: Map, key: str) -> tuple[str, ...] | None:
    return None if service.get(key) is None else fields.words(service, key)


def _security(service: Map) -> Security:
    no_new, seccomp = True, "default"
    for option, mark in service.seq("security_opt").items():
        key, _, value = str(option).replace(":", "=", 1).partition("=")
        if key == "no-new-privileges":
            no_new = value.lower() != "false"
        elif key == "seccomp":
            if value not in ("unconfined", "default") and not value.startswith("{"):
                raise ComposeError(mark, f"seccomp={value}: use unconfined, or a profile's JSON text")
            seccomp = value
        elif key not in ("apparmor", "label"):
            raise ComposeError(mark, f"security_opt {option!r}: use no-new-privileges or seccomp=…")
    caps = (fields.words(service, "cap_add"), fields.words(service, "cap_drop"))
    return Security(*caps, read_only=fields.flag(service, "read_only"), no_new_privileges=no_new, seccomp=seccomp)


def _health(check: Map) -> HealthCheck | None:
    """None where the file says nothing; without a test the image's own runs at these times."""
    if not check:
        return None
    test = fields.words(check, "test")
    if fields.flag(check, "disable") or test[:1] == ("NONE",):
        return HealthCheck(("NONE",))
    if test and len(test) < 2:
        raise ComposeError(check.at("test"), f"healthcheck.test: behind {test[0]} comes a command")
    plain = HealthCheck(())
    return HealthCheck(
        test,
        fields.seconds(check, "interval") or plain.interval,
        fields.seconds(check, "timeout") or plain.timeout,
        fields.whole(check, "retries") or plain.retries,
        fields.seconds(check, "start_period"),
        fields.seconds(check, "start_interval") or plain.start_interval,
    )


def _logging(logging: Map) -> LogOptions:
    if fields.text(logging, "driver") not in _LOCAL_DRIVERS:
        return LogOptions()
    options = logging.sub("options")
    return LogOptions(fields.size(options, "max-size"), fields.whole(options, "max-file"))


def _endpoint_mode(service: Map) -> str:
    deploy = service.sub("deploy")
    word = fields.text(deploy, "endpoint_mode", "vip")
    if word not in ("vip", "dnsrr"):
        raise ComposeError(deploy.at("endpoint_mode"), f"endpoint_mode can't be {word!r}: use vip or dnsrr")
    return word


def _pull_policy(service: Map) -> str:
    """missing, always, never or build. Those that ask again after some time ask at every `up`."""
    word = fields.text(service, "pull_policy", "missing")
    return word if word in ("missing", "always", "never", "build") else "always"


def dependencies(service: Map) -> tuple[Dependency, ...]:
    """`depends_on`, and what links and volumes_from imply."""
    found: dict[str, Dependency] = {}
    for name, entry in service.sub("depends_on").items():
        restart, required = fields.flag(entry, "restart"), fields.flag(entry, "required", default=True)
        found[name] = Dependency(name, Condition(entry["condition"]), restart, required)
    for text in service.seq("links"):
        name = str(text).partition(":")[0]
        found.setdefault(name, Dependency(name, restart=True))
    for text in service.seq("volumes_from"):
        name = str(text).partition(":")[0]
        if name != "container":
            found.setdefault(name, Dependency(name))
    return tuple(found.values())


def _hooks(service: Map, key: str) -> tuple[Hook, ...]:
    return tuple(_hook(hook) for hook in service.seq(key))


def _hook(hook: Map) -> Hook:
    command = fields.words(hook, "command")
    if not command:
        raise ComposeError(hook.at("command"), "the hook needs a command")
    env = tuple(f"{key}={value}" for key, value in fields.given(hook, "environment").items())
    return Hook(command, fields.text(hook, "user"), fields.text(hook, "working_dir"), env)


def _watch(rule: Map) -> WatchRule:
    action = str(rule["action"])
    if "target" not in rule and action not in ("rebuild", "restart"):
        raise ComposeError(rule.mark, f"develop.watch: {action} needs a target")
    hook = _hook(rule.sub("exec")) if "exec" in rule else None
    if action == "sync+exec" and hook is None:
        raise ComposeError(rule.mark, "develop.watch: sync+exec needs exec")
    target, ignore, include = fields.text(rule, "target"), fields.words(rule, "ignore"), fields.words(rule, "include")
    return WatchRule(str(rule["path"]), action, target, ignore, include, hook)


def _build(service: Map, sources: lowermounts.Sources) -> Build | None:
    if "build" not in service:
        return None
    build = service.sub("build")
    if build.get("dockerfile") and build.get("dockerfile_inline"):
        raise ComposeError(build.at("dockerfile_inline"), "dockerfile and dockerfile_inline exclude each other")
    variables = sources.variables
    args = {key: variables.get(key) if value is None else value for key, value in build.sub("args").items()}
    return Build(
        context=str(build["context"]),
        dockerfile=fields.text(build, "dockerfile"),
        inline=fields.text(build, "dockerfile_inline"),
        target=fields.text(build, "target"),
        args={key: value for key, value in args.items() if value is not None},
        labels=fields.given(build, "labels"),
        secrets=dict(_build_secret(entry, sources) for entry in build.seq("secrets")),
        tags=fields.words(build, "tags"),
        no_cache=fields.flag(build, "no_cache"),
        pull=fields.flag(build, "pull"),
    )


def _build_secret(entry: Map, sources: lowermounts.Sources) -> tuple[str, str]:
    name = fields.text(entry, "source")
    fields.known(entry, "source", name, sources.secrets, "secret")
    secret: Map = sources.secrets[name]
    if "file" not in secret:
        raise ComposeError(entry.at("source"), f"build secret {name!r} must come from a file")
    return fields.text(entry, "target", name), str(secret["file"])
