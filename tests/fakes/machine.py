"""A machine on paper: executes plans with random durations and failures, and watches the planner's laws while it does.

Time is simulated, chance is a seeded `random.Random`: the same seed gives the same history. Used by tests/property/test_plan.py and
bench/simulate.py.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from twinhull.plan import actions as act
from twinhull.plan.condition import Condition, condition, revision
from twinhull.plan.health import enabled
from twinhull.plan.lifecycle import Ended, State, is_up, restart_after
from twinhull.plan.memory import Memory, dump, load
from twinhull.plan.observed import Desired, Failure, HookState, Observed, Seen
from twinhull.plan.reconcile import reconcile
from twinhull.plan.rollout import Member, target
from twinhull.plan.scene import available as takes_traffic
from twinhull.plan.scene import scene


@dataclass(frozen=True)
class Nature:
    """How instances of a revision behave. Times: seconds, uniformly between the two."""

    start: tuple[float, float] = (0.05, 2.0)
    ready: tuple[float, float] = (0.0, 3.0)
    stop: tuple[float, float] = (0.0, 1.0)
    drain: tuple[float, float] = (0.0, 4.0)
    refuses: float = 0.0
    """Probability that making or starting it fails."""
    crashes: float = 0.0
    """Probability that it ends by itself within a few seconds of its start."""
    sickens: float = 0.0
    """Probability that it never becomes healthy."""
    code: int = 1
    """With which it ends when it crashes; of a job, always 0 unless it crashes."""


@dataclass
class Machine:
    """State, and a queue of what will happen: (when, number, what)."""

    desired: Desired
    chance: random.Random
    natures: dict[str, Nature] = field(default_factory=dict)
    """By revision; what isn't listed is well-behaved."""
    now: float = 1_000_000.0
    there: dict[str, Seen] = field(default_factory=dict)
    networks: set[str] = field(default_factory=set)
    volumes: set[str] = field(default_factory=set)
    memory: dict[str, Memory] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    failed: dict[str, Failure] = field(default_factory=dict)
    queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    log: list[act.Action] = field(default_factory=list)
    strict: bool = True
    """Whether to watch the laws of capacity, which takes a look at every instance for every action."""
    serial: int = 0
    plans: int = 0
    last: act.Plan | None = None
    watch: Callable[[Machine], None] = lambda machine: None

    # -- the loop ------------------------------------------------------------------------------------------------

    def observed(self) -> Observed:
        """What the planner is shown."""
        return Observed(
            self.now, tuple(self.there.values()), frozenset(self.networks), frozenset(self.volumes), frozenset(self.busy), dict(self.failed)
        )

    def run(self, seconds: float) -> bool:
        """Plan, act, wait for the next event, until nothing is left to happen or the time is over. Whether it came to rest."""
        end = self.now + seconds
        while self.now <= end:
            plan = self.step()
            self.watch(self)
            following = [plan.wake_at] if plan.wake_at else []
            following += [self.queue[0][0]] if self.queue else []
            if not following:
                if plan.actions:
                    continue
                return True
            self.pass_time(max(0.0, min(following) - self.now))
        return False

    def pass_time(self, seconds: float) -> None:
        """Let happen what happens within so many seconds."""
        self.now += seconds
        while self.queue and self.queue[0][0] <= self.now:
            heapq.heappop(self.queue)[2]()

    def step(self) -> act.Plan:
        """One plan, begun."""
        seen = self.observed()
        plan = reconcile(self.desired, seen, self.memory)
        self.plans += 1
        if self.plans % 7 == 0:
            assert plan == reconcile(self.desired, seen, self.memory), "the same input gave another plan"
        assert not plan.wake_at or plan.wake_at > self.now, "a wake-up in the past would be a busy loop"
        keys = [action.key for action in plan.actions]
        assert len(keys) == len(set(keys)), "two actions on one key"
        assert not self.busy & set(keys), "an action on a busy key"
        assert all(action.reason for action in plan.actions), "an action without a reason"
        self.memory = load(dump(plan.memory))
        self.last = plan
        self.log += plan.actions
        balance = [action for action in plan.actions if isinstance(action, act.Serve | act.Drain)]
        with_law = self._law()
        for change in balance:
            self._balance(change)
        with_law(balance)
        for action in plan.actions:
            if not isinstance(action, act.Serve | act.Drain):
                with_law = self._law()
                self._begin(action)
                with_law([action])
        return plan

    # -- laws ----------------------------------------------------------------------------------------------------

    def capacity(self, service: str) -> int:
        """Instances that are ready and take connections."""
        wish = self.desired.wishes[service]
        return sum(
            each.serving and condition(each, wish, self.now)[0] is Condition.READY
            for each in self.there.values()
            if each.service == service
        )

    def _law(self) -> Callable[[Sequence[act.Action]], None]:
        names = (
            []
            if self.desired.removed or not self.strict
            else [name for name, wish in self.desired.wishes.items() if not wish.stopped and not wish.spec.job]
        )
        before = {name: self.capacity(name) for name in names}

        def check(done: Sequence[act.Action]) -> None:
            for name in names:
                after = self.capacity(name)
                if after < before[name]:
                    floor = self._floor(name)
                    assert after >= min(before[name], floor), f"{name}: {before[name]} → {after}, promised {floor}: {done}"

        return check

    def _floor(self, name: str) -> int:
        wish = self.desired.wishes[name]
        memory = self.memory.get(name, Memory())
        view = scene(wish, [Member(s, condition(s, wish, self.now)[0]) for s in self.there.values() if s.service == name], memory)
        restarting = any(s.started_at < wish.restart_at for s in self.there.values() if s.service == name)
        missing = view.parallelism if view.one_by_one or restarting else 0
        return max(0, wish.replicas - missing)

    def _writers(self, seen: Seen) -> None:
        wish = self.desired.wishes[seen.service]
        if not self.strict or not revision(wish, seen.fingerprint).stateful:
            return
        others = [s for s in self.there.values() if s.service == seen.service and s.id != seen.id]
        up = [s for s in others if is_up(s.state) and revision(wish, s.fingerprint).stateful]
        assert len(up) < wish.replicas, f"{seen.id} would be one writer too many: {[s.id for s in up]}"

    # -- actions -------------------------------------------------------------------------------------------------

    def _balance(self, action: act.Serve | act.Drain) -> None:
        seen = self.there[action.id]
        if isinstance(action, act.Serve):
            assert 1 <= action.weight <= 256
            since = seen.serving_since if seen.serving else self.now
            self.there[seen.id] = replace(seen, serving=True, weight=action.weight, serving_since=since, draining_since=0.0, sessions=3)
            return
        self.there[seen.id] = replace(seen, serving=False, weight=0, draining_since=self.now)
        self._later(self._between(self._nature(seen).drain), lambda: self._change(seen.id, sessions=0))

    def _begin(self, action: act.Action) -> None:
        match action:
            case act.Tell():
                return
            case act.CreateNetwork():
                self._during(action, 0.1, lambda: self.networks.add(action.network))
            case act.RemoveNetwork():
                self._during(action, 0.1, lambda: self.networks.discard(action.network))
            case act.CreateVolume():
                self._during(action, 0.1, lambda: self.volumes.add(action.volume))
            case act.RemoveVolume():
                self._during(action, 0.1, lambda: self.volumes.discard(action.volume))
            case act.Create():
                self._during(action, self._between((0.01, 0.2)), lambda: self._create(action))
            case act.Start():
                self._writers(self.there[action.id])
                self._during(action, self._between(self._nature(self.there[action.id]).start), lambda: self._start(action.id))
            case act.Stop():
                self._leave_balancers(action.id)
                self._during(action, self._between(self._nature(self.there[action.id]).stop), lambda: self._stop(action.id))
            case act.Restart():
                self._leave_balancers(action.id)
                self._during(action, self._between(self._nature(self.there[action.id]).start), lambda: self._start(action.id))
            case act.Remove():
                assert not is_up(self.there[action.id].state), "only what doesn't run is removed"
                self._leave_balancers(action.id)
                self._during(action, 0.05, lambda: self.there.pop(action.id, None))
            case act.RunHook():
                kind = str(action.hooks)
                self._change(action.id, **{kind: HookState.RUNNING})
                self._during(action, 0.2, lambda: self._change(action.id, **{kind: HookState.DONE}))
            case _:
                raise AssertionError(action)

    def _during(self, action: act.Action, seconds: float, effect: Callable[[], object]) -> None:
        self.busy.add(action.key)

        def end() -> None:
            self.busy.discard(action.key)
            if self._refused(action):
                before = self.failed.get(action.key)
                kind = type(action).__name__
                count = before.count + 1 if before and before.action == kind else 1
                self.failed[action.key] = Failure("no space left", self.now, count, kind)
                return
            self.failed.pop(action.key, None)
            effect()

        self._later(seconds, end)

    def _refused(self, action: act.Action) -> bool:
        match action:
            case act.Create():
                return self.chance.random() < self.natures.get(action.fingerprint, Nature()).refuses
            case act.Start() if action.id in self.there:
                return self.chance.random() < self._nature(self.there[action.id]).refuses
        return False

    def _create(self, action: act.Create) -> None:
        if self.strict:
            assert not any(s.service == action.service and s.slot == action.slot for s in self.there.values()), f"{action.key} is taken"
        self.serial += 1
        seen = Seen(f"i{self.serial}", action.service, action.slot, action.fingerprint, State.CREATED, created_at=self.now)
        self.there[seen.id] = seen

    def _start(self, identity: str) -> None:
        seen = self.there[identity]
        checked = enabled(self.desired.wishes[seen.service].spec.template.health) if seen.service in self.desired.wishes else False
        self.there[identity] = replace(
            seen,
            state=State.RUNNING,
            started_at=self.now,
            health="starting" if checked else "none",
            health_since=self.now,
            stopped=False,
            held=False,
            lost=False,
            oom_killed=False,
            post_start=HookState.NONE,
            pre_stop=HookState.NONE,
            draining_since=0.0,
        )
        self._live(identity)

    def _live(self, identity: str) -> None:
        seen, nature = self.there[identity], self._nature(self.there[identity])
        began = seen.started_at
        wish = self.desired.wishes.get(seen.service)
        ready_after = self._between(nature.ready)

        def same() -> bool:
            return identity in self.there and self.there[identity].started_at == began and self.there[identity].state is State.RUNNING

        if wish is not None and wish.spec.job:
            code = nature.code if self.chance.random() < nature.crashes else 0
            self._later(ready_after, lambda: self.end(identity, code) if same() else None)
            return
        if seen.health == "starting":
            health = "unhealthy" if self.chance.random() < nature.sickens else "healthy"
            self._later(ready_after, lambda: self._change(identity, health=health, health_since=self.now) if same() else None)
        if self.chance.random() < nature.crashes:
            self._later(self._between((0.0, 4.0)), lambda: self.end(identity, nature.code) if same() else None)

    def _stop(self, identity: str) -> None:
        seen = self.there[identity]
        if is_up(seen.state) or seen.state is State.RESTARTING:
            self.there[identity] = replace(seen, state=State.EXITED, stopped=True, finished_at=self.now, exit_code=143, sessions=0)

    def _leave_balancers(self, identity: str) -> None:
        self._change(identity, serving=False, weight=0)

    # -- what happens --------------------------------------------------------------------------------------------

    def end(self, identity: str, code: int, *, lost: bool = False) -> None:
        """Its workload ends; the restart policy does what it says."""
        seen = self.there[identity]
        wish = self.desired.wishes.get(seen.service)
        self.there[identity] = replace(
            seen, state=State.EXITED, finished_at=self.now, exit_code=code, lost=lost, health="none", sessions=0, answering=None
        )
        if wish is None:
            return
        again = restart_after(wish.spec.template.restart, Ended(code, self.now - seen.started_at, seen.restarts, False))
        if again is not None and not lost:
            self._change(identity, state=State.RESTARTING, restarts=again.restarts)
            self._later(again.delay, lambda: self._start(identity) if self._waits(identity) else None)

    def _waits(self, identity: str) -> bool:
        return identity in self.there and self.there[identity].state is State.RESTARTING

    def disturb(self) -> None:
        """Something bad happens to one instance."""
        running = sorted(s.id for s in self.there.values() if s.state is State.RUNNING)
        if not running:
            return
        victim = self.chance.choice(running)
        match self.chance.randrange(4):
            case 0:
                self.end(victim, self.chance.choice([0, 1, 137]))
            case 1:
                self.end(victim, 0, lost=True)
            case 2 if self.there[victim].health == "healthy":
                self._change(victim, health="unhealthy", health_since=self.now)
            case _:
                self._change(victim, fault="3 of 4 answers were 5xx")

    def forget(self) -> None:
        """kill -9 of the daemon: what was under way is cut off, its effect came or didn't."""
        self.queue.sort()
        cut, self.queue = self.queue, []
        self.busy.clear()
        for _, _, effect in cut:
            if self.chance.random() < 0.5:
                effect()
        for seen in list(self.there.values()):
            changes: dict[str, object] = {}
            for hook in ("post_start", "pre_stop"):
                if getattr(seen, hook) is HookState.RUNNING:
                    changes[hook] = HookState.DONE
            if seen.health == "starting":
                changes["health"] = "healthy"
            if seen.draining_since:
                changes["sessions"] = 0
            self._change(seen.id, **changes)
        self.busy.clear()
        self.revive()

    def revive(self) -> None:
        """The engine starts what its restart policy had in hand; jobs go on, and end."""

        def start(identity: str) -> Callable[[], None]:
            return lambda: self._start(identity) if self._waits(identity) else None

        for seen in list(self.there.values()):
            if seen.state is State.RESTARTING:
                self._later(0.5, start(seen.id))
            elif seen.state is State.RUNNING and self.desired.wishes[seen.service].spec.job:
                self._live(seen.id)

    def _change(self, identity: str, **changes: object) -> None:
        if identity in self.there:
            self.there[identity] = replace(self.there[identity], **changes)  # type: ignore[arg-type]

    def _nature(self, seen: Seen) -> Nature:
        return self.natures.get(seen.fingerprint, Nature())

    def _between(self, bounds: tuple[float, float]) -> float:
        return self.chance.uniform(*bounds)

    def _later(self, seconds: float, effect: Callable[[], None]) -> None:
        self.serial += 1
        heapq.heappush(self.queue, (self.now + seconds, self.serial, effect))

    # -- the end -------------------------------------------------------------------------------------------------

    def assert_as_wanted(self) -> None:
        """At rest, and everything as it should be."""
        plan = reconcile(self.desired, self.observed(), self.memory)
        assert not plan.actions and not plan.wake_at, f"not at rest: {plan.actions}"
        assert dict(plan.memory) == self.memory
        for name, wish in self.desired.wishes.items():
            here = [s for s in self.there.values() if s.service == name]
            if wish.stopped:
                assert not any(is_up(s.state) for s in here)
                continue
            goal = target(wish, self.memory.get(name, Memory()))
            if wish.spec.job:
                assert self.memory[name].completed == goal
                continue
            assert {s.fingerprint for s in here} <= {goal}, f"{name}: {here}"
            assert len(here) == wish.replicas, f"{name}: {len(here)} of {wish.replicas}: {here}"
            assert all(takes_traffic(Member(s, condition(s, wish, self.now)[0])) for s in here), f"{name}: {here}"
