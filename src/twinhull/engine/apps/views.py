"""What an application looks like from outside."""

from __future__ import annotations

from collections.abc import Mapping

from twinhull.engine.apps.balance import Balance
from twinhull.engine.apps.base import AppView, MemberView, RevisionView, RolloutView, ServiceView
from twinhull.engine.apps.state import App, replicas
from twinhull.engine.live import Live
from twinhull.plan.actions import Phase, Standing
from twinhull.plan.lifecycle import State, is_up
from twinhull.plan.memory import Memory
from twinhull.spec.app import RouteSpec, ServiceSpec

_WORST = (
    Phase.FAILING,
    Phase.WAITING,
    Phase.STARTING,
    Phase.UPDATING,
    Phase.SCALING_DOWN,
    Phase.UP,
    Phase.COMPLETED,
    Phase.STOPPED,
    Phase.REMOVED,
)
_UNKNOWN = Standing("", Phase.STARTING, 0, 0, settled=False)


def view(app: App, lives: Mapping[str, Live], balance: Balance, gateway_port: str) -> AppView:
    """The whole application now."""
    services = tuple(_service(app, spec, lives, balance, gateway_port) for spec in app.spec.services.values())
    phases = [app.standings[name].phase for name in app.wanted.active if name in app.standings]
    state = str(min(phases, key=_WORST.index, default=Phase.STARTING)) if app.wanted.active else "inactive"
    state = "removing" if app.wanted.removed else str(Phase.FAILING) if app.trouble else state
    return AppView(
        app.name,
        state,
        app.row.revision,
        app.row.created_at,
        app.revision.at,
        app.spec.folder,
        app.settled,
        _started(app, lives),
        services,
        tuple(app.happened),
    )


def revisions(app: App) -> tuple[RevisionView, ...]:
    """For `history`."""
    return tuple(
        RevisionView(
            each.number, each.at, each.cause, each.number == app.row.revision, {name: pin.fingerprint for name, pin in each.pins.items()}
        )
        for each in app.revisions
    )


def _service(app: App, spec: ServiceSpec, lives: Mapping[str, Live], balance: Balance, gateway_port: str) -> ServiceView:
    name = spec.name
    standing = app.standings.get(name, _UNKNOWN)
    pin = app.revision.pins.get(name)
    networks = {
        network_id: address for (held, service, network_id), address in balance.addresses.items() if (held, service) == (app.name, name)
    }
    members = sorted((m for m in app.members.values() if m.service == name and m.instance_id in lives), key=lambda member: member.slot)
    return ServiceView(
        name,
        _state(app, name, standing),
        str(spec.template.runtime),
        spec.template.image,
        pin.image_id if pin else "",
        pin.fingerprint if pin else "",
        replicas(app.wanted, spec),
        standing.ready,
        (_leads(spec) and app.trouble) or standing.reason,
        balance.ports.get((app.name, name), ()),
        tuple(url(route, gateway_port) for route in spec.routes),
        {balance.networks[key].name: address for key, address in networks.items() if key in balance.networks},
        tuple(_member(app, member.instance_id, lives[member.instance_id]) for member in members),
        _rollout(app, name),
    )


def _state(app: App, name: str, standing: Standing) -> str:
    if name not in app.wanted.active:
        return "inactive"
    return str(Phase.FAILING) if app.trouble and _leads(app.spec.services[name]) else str(standing.phase)


def _leads(spec: ServiceSpec) -> bool:
    """Whether something outside is to lead to the service."""
    return bool(spec.ports or spec.routes)


def _member(app: App, instance_id: str, live: Live) -> MemberView:
    member, record = app.members[instance_id], live.record
    return MemberView(
        record.name,
        live.id,
        member.slot,
        member.fingerprint,
        str(record.spec.runtime),
        str(record.state),
        live.health.status,
        member.state.serving,
        member.state.weight,
        record.restart_count,
        record.exit_code,
        record.error or record.exit_reason,
        live.endpoints[0].address if live.endpoints else "",
        record.started_at,
    )


def _rollout(app: App, service: str) -> RolloutView | None:
    rollout = app.memory.get(service, Memory()).rollout
    if rollout is None:
        return None
    members = [member for member in app.members.values() if member.service == service]
    updated = [member for member in members if member.state.serving and member.fingerprint == rollout.to]
    everybody, theirs = (sum(each.state.weight for each in group if each.state.serving) for group in (members, updated))
    share = round(100 * theirs / everybody) if everybody else 0
    return RolloutView(
        str(rollout.status), rollout.previous, rollout.to, len(updated), len(members), rollout.started_at, rollout.reason, share
    )


def _started(app: App, lives: Mapping[str, Live]) -> bool:
    """Whether every wanted service has its instances running (of a job: has begun)."""
    for name in app.wanted.active:
        spec = app.spec.services.get(name)
        if spec is None or name in app.wanted.stopped:
            continue
        states = [lives[m.instance_id].record.state for m in app.members.values() if m.service == name and m.instance_id in lives]
        begun = sum(is_up(state) or state is State.EXITED for state in states)
        if begun < replicas(app.wanted, spec):
            return False
    return True


def url(route: RouteSpec, gateway_port: str) -> str:
    """Where people find it. gateway_port: ":8080", "" for the usual one."""
    scheme = "https" if route.tls else "tcp" if route.protocol == "tcp" else "http"
    return f"{scheme}://{route.host or 'localhost'}{gateway_port}{route.path}"
