"""The laws of the planner, on simulated machines with random applications, states, durations and misfortunes.

The machine itself (tests/fakes/machine.py) asserts at every plan: capacity as promised, never two writers, a reason for each action, no
action on a busy key, no slot given twice, the same plan from the same input. The tests here say where it has to come to rest.
"""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.machine import Machine, Nature

from twinhull.plan.lifecycle import State
from twinhull.plan.memory import Memory, Rollout, RolloutStatus
from twinhull.plan.observed import Desired, HookState, Seen, Wish
from twinhull.plan.rollout import abort, pause, resume
from twinhull.spec.app import (
    AppNetwork,
    AppSpec,
    AppVolume,
    Condition,
    Dependency,
    FailureAction,
    Hook,
    RolloutSpec,
    RouteSpec,
    ServiceSpec,
    Strategy,
    UpdateOrder,
    UpdatePolicy,
)
from twinhull.spec.instance import (
    HealthCheck,
    InstanceSpec,
    MountSpec,
    MountType,
    NetworkAttachment,
    RestartPolicy,
    RestartWhen,
)

seeds = st.integers(0, 2**32)
HOUR = 3600.0
HEALTHY = HealthCheck(("CMD", "true"), interval=1.0)


def some_policy(chance: random.Random) -> UpdatePolicy:
    return UpdatePolicy(
        parallelism=chance.choice([0, 1, 1, 2]),
        delay=chance.choice([0.0, 0.0, 2.0]),
        monitor=chance.choice([0.0, 2.0, 5.0]),
        order=chance.choice(list(UpdateOrder)),
    )


def some_service(name: str, before: list[str], chance: random.Random) -> ServiceSpec:
    mounts = (MountSpec(MountType.VOLUME, "/data", f"app_{name}"),) if chance.random() < 0.3 else ()
    job = chance.random() < 0.1
    template = InstanceSpec(
        "image",
        networks=(NetworkAttachment("app_default"),),
        mounts=mounts,
        health=HEALTHY if chance.random() < 0.6 and not job else None,
        restart=RestartPolicy(
            chance.choice([RestartWhen.ALWAYS, RestartWhen.UNLESS_STOPPED, RestartWhen.NO]) if not job else RestartWhen.NO
        ),
        stop_timeout=3.0,
    )
    needs = tuple(Dependency(other, chance.choice([Condition.STARTED, Condition.HEALTHY])) for other in before if chance.random() < 0.4)
    hook = (Hook(("true",)),)
    return ServiceSpec(
        name,
        template,
        replicas=chance.choice([1, 1, 2, 3, 5]) if not job else 1,
        job=job,
        depends_on=needs,
        update=some_policy(chance),
        rollback=some_policy(chance),
        rollout=RolloutSpec(chance.choice(list(Strategy)), chance.choice([(), (5, 50), (20, 100)]), 5.0),
        routes=(RouteSpec(timeout=5.0),) if chance.random() < 0.3 and not job else (),
        post_start=hook if chance.random() < 0.2 and not job else (),
        pre_stop=hook if chance.random() < 0.2 else (),
    )


def some_app(chance: random.Random) -> AppSpec:
    services: dict[str, ServiceSpec] = {}
    for name in ["db", "cache", "web", "edge"][: chance.randint(1, 4)]:
        services[name] = some_service(name, list(services), chance)
    volumes = {mount.source: AppVolume(mount.source) for each in services.values() for mount in each.template.mounts}
    return AppSpec("app", services, {"app_default": AppNetwork("app_default")}, volumes)


def wanted(app: AppSpec, revision: str, asked_at: float) -> Desired:
    return Desired(app, {name: Wish(spec, revision, spec.replicas, asked_at=asked_at) for name, spec in app.services.items()})


def some_machine(chance: random.Random) -> Machine:
    app = some_app(chance)
    return Machine(wanted(app, "r1", 1_000_000.0), chance)


def some_instance(number: int, service: str, slot: int, now: float, chance: random.Random) -> Seen:
    state = chance.choice(list(State))
    up = state in (State.RUNNING, State.PAUSED)
    hooked = chance.random() < 0.2
    serving = up and not hooked and chance.random() < 0.5
    return Seen(
        f"old{number}",
        service,
        slot,
        chance.choice(["r0", "r1", "r9"]),
        state if state is not State.PAUSED else State.RUNNING,
        created_at=now - 200,
        started_at=now - chance.uniform(0, 100),
        finished_at=0.0 if up else now - 1,
        exit_code=chance.choice([0, 1, 137]),
        oom_killed=chance.random() < 0.1,
        lost=chance.random() < 0.1,
        stopped=chance.random() < 0.2,
        health=chance.choice(["none", "healthy", "unhealthy"]) if up else "none",
        health_since=now - chance.uniform(0, 20),
        serving=serving,
        weight=100,
        serving_since=now - 5,
        draining_since=now - 2 if not serving and chance.random() < 0.2 else 0.0,
        sessions=chance.choice([-1, 0, 2]),
        post_start=chance.choice([HookState.NONE, HookState.DONE, HookState.FAILED]),
        pre_stop=HookState.DONE if hooked else HookState.NONE,
    )


def some_memory(chance: random.Random, now: float) -> Memory:
    status = chance.choice([each for each in RolloutStatus if each is not RolloutStatus.PAUSED])
    return Memory(
        stable=chance.choice(["", "r0", "r1"]),
        rollout=Rollout("r1", chance.choice(["", "r0"]), status, "an earlier failure", now - 50, now - 20)
        if chance.random() < 0.5
        else None,
    )


def up_again(machine: Machine) -> None:
    """`up` with the same file."""
    wishes = {name: replace(wish, asked_at=machine.now) for name, wish in machine.desired.wishes.items()}
    machine.desired = replace(machine.desired, wishes=wishes)


@settings(deadline=None, max_examples=50)
@given(seeds)
def test_from_any_state_it_comes_to_what_is_wanted_and_rests(seed: int) -> None:
    chance = random.Random(seed)
    machine = some_machine(chance)
    for name, spec in machine.desired.app.services.items():
        writer = spec.stateful
        for slot in range(1, chance.randint(1, spec.replicas if writer else 6) + 1):
            if chance.random() < 0.6:
                seen = some_instance(len(machine.there), name, slot, machine.now, chance)
                machine.there[seen.id] = seen
        machine.memory[name] = some_memory(chance, machine.now)
    machine.revive()
    assert machine.run(HOUR)
    machine.assert_as_wanted()


@settings(deadline=None, max_examples=50)
@given(seeds)
def test_planned_changes_of_every_kind_keep_what_was_promised(seed: int) -> None:
    chance = random.Random(seed)
    machine = some_machine(chance)
    assert machine.run(HOUR)
    machine.assert_as_wanted()
    for number in range(chance.randint(1, 6)):
        change(machine, number, chance)
        machine.run(chance.choice([0.5, 3.0, 20.0, HOUR]))
    machine.memory = {name: resume(memory, machine.now) for name, memory in machine.memory.items()}
    assert machine.run(HOUR)
    machine.assert_as_wanted()


def change(machine: Machine, number: int, chance: random.Random) -> None:
    """Something that people do to a running service."""
    name = chance.choice(list(machine.desired.wishes))
    wish, memory = machine.desired.wishes[name], machine.memory.get(name, Memory())
    match chance.randrange(9):
        case 0 | 1 | 2:
            known = {**wish.known, wish.fingerprint: wish.spec}
            wish = replace(wish, fingerprint=f"r{number + 2}", asked_at=machine.now, known=known)
        case 3:
            wish = replace(wish, replicas=chance.randint(0, 6)) if not wish.spec.job else wish
        case 4:
            wish = replace(wish, restart_at=machine.now)
        case 5:
            memory = pause(memory, "by hand")
        case 6:
            memory = abort(memory, "by hand")
        case 7:
            memory = resume(memory, machine.now)
        case 8:
            mounts = () if wish.spec.stateful else (MountSpec(MountType.BIND, "/data", f"/srv/{name}"),)
            spec = replace(wish.spec, template=replace(wish.spec.template, mounts=mounts))
            known = {**wish.known, wish.fingerprint: wish.spec}
            wish = replace(wish, spec=spec, fingerprint=f"r{number + 2}", asked_at=machine.now, known=known)
    machine.memory[name] = memory
    machine.desired = replace(machine.desired, wishes={**machine.desired.wishes, name: wish})


@settings(deadline=None, max_examples=50)
@given(seeds)
def test_after_any_misfortune_it_heals(seed: int) -> None:
    chance = random.Random(seed)
    machine = some_machine(chance)
    machine.natures = {f"r{n}": Nature(refuses=0.1, crashes=0.1, sickens=0.1) for n in range(1, 10)}
    for number in range(chance.randint(1, 8)):
        machine.run(chance.choice([0.3, 2.0, 10.0, 100.0]))
        match chance.randrange(3):
            case 0:
                machine.disturb()
            case 1:
                machine.forget()
            case 2:
                change(machine, number, chance)
    machine.natures = {}
    machine.memory = {name: resume(memory, machine.now) for name, memory in machine.memory.items()}
    machine.there = {key: replace(seen, fault="") for key, seen in machine.there.items()}
    machine.run(HOUR)
    up_again(machine)
    assert machine.run(HOUR)
    machine.assert_as_wanted()


@settings(deadline=None, max_examples=40)
@given(seeds, st.sampled_from([Nature(crashes=1.0, code=3), Nature(sickens=1.0), Nature(refuses=1.0)]))
def test_a_broken_revision_returns_by_itself_without_loss_of_capacity(seed: int, nature: Nature) -> None:
    chance = random.Random(seed)
    machine = some_machine(chance)
    specs = {
        name: replace(spec, template=replace(spec.template, health=HEALTHY), update=replace(spec.update, monitor=10.0))
        for name, spec in machine.desired.app.services.items()
        if not spec.job
    }
    specs = {name: replace(spec, depends_on=()) for name, spec in specs.items()}
    app = replace(machine.desired.app, services=specs)
    machine.desired = wanted(app, "r1", machine.now)
    assert machine.run(HOUR)
    machine.assert_as_wanted()
    machine.natures = {"r2": nature}
    machine.desired = wanted(app, "r2", machine.now)
    assert machine.run(HOUR)
    machine.assert_as_wanted()
    for name in specs:
        rollout = machine.memory[name].rollout
        assert rollout is not None
        assert rollout.status is RolloutStatus.ROLLED_BACK
        assert any(word in rollout.reason for word in ("exited with code 3", "unhealthy", "no space left", "restarted")), rollout.reason
        assert all(seen.fingerprint == "r1" for seen in machine.there.values())


@settings(deadline=None, max_examples=8)
@given(seeds)
def test_a_revision_that_always_fails_is_never_tried_in_a_hot_loop(seed: int) -> None:
    chance = random.Random(seed)
    machine = some_machine(chance)
    machine.natures = {"r1": chance.choice([Nature(crashes=1.0), Nature(sickens=1.0), Nature(refuses=1.0)])}
    machine.run(HOUR)
    made = machine.plans
    machine.run(HOUR)
    instances = sum(wish.replicas for wish in machine.desired.wishes.values())
    assert machine.plans - made < 1500 * instances, "about one try a minute and instance, each of a dozen plans"


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_down_leaves_nothing_and_stop_keeps_everything(seed: int) -> None:
    chance = random.Random(seed)
    machine = some_machine(chance)
    machine.run(chance.choice([1.0, 5.0, HOUR]))
    wishes = {name: replace(wish, stopped=True) for name, wish in machine.desired.wishes.items()}
    machine.desired = replace(machine.desired, wishes=wishes)
    assert machine.run(HOUR)
    machine.assert_as_wanted()
    machine.desired = replace(machine.desired, removed=True, remove_volumes=True)
    assert machine.run(HOUR)
    assert not machine.there and not machine.networks and not machine.volumes and not machine.memory


def test_failure_actions_pause_and_continue_do_as_they_say() -> None:
    for action, status in ((FailureAction.PAUSE, RolloutStatus.PAUSED), (FailureAction.CONTINUE, RolloutStatus.RUNNING)):
        template = InstanceSpec("image", health=HEALTHY)
        spec = ServiceSpec("web", template, replicas=3, update=UpdatePolicy(failure_action=action))
        app = AppSpec("app", {"web": spec})
        machine = Machine(wanted(app, "r1", 0.0), random.Random(1), natures={"r2": Nature(sickens=1.0)})
        assert machine.run(HOUR)
        machine.desired = wanted(app, "r2", machine.now)
        machine.run(300.0)
        rollout = machine.memory["web"].rollout
        assert rollout is not None and rollout.status is status
        assert machine.capacity("web") == 3
