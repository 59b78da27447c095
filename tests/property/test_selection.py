"""spec/selection.py: an application of which only some services were taken from a file."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from twinhull.spec.app import AppNetwork, AppSpec, AppVolume, Dependency, ServiceSpec
from twinhull.spec.instance import InstanceSpec, MountSpec, MountType, NetworkAttachment
from twinhull.spec.selection import meant, merge, with_dependencies

NAMES = ("cache", "db", "api", "web", "edge")


@st.composite
def apps(draw: st.DrawFn) -> AppSpec:
    """Some services, in any order that their dependencies allow; an image tells files apart."""
    order = draw(st.permutations(NAMES))[: draw(st.integers(0, len(NAMES)))]
    services: dict[str, ServiceSpec] = {}
    for name in order:
        needs = tuple(Dependency(other) for other in services if draw(st.booleans()))
        part = draw(st.sampled_from(("front", "back")))
        template = InstanceSpec(
            draw(st.sampled_from(("one", "two"))),
            networks=(NetworkAttachment(part),),
            mounts=(MountSpec(MountType.VOLUME, "/data", f"{part}-data"), MountSpec(MountType.BIND, "/host", f"/srv/{name}")),
        )
        services[name] = ServiceSpec(name, template, replicas=draw(st.integers(0, 3)), depends_on=needs)
    used = {each.network for service in services.values() for each in service.template.networks}
    internal = draw(st.booleans())
    networks = {name: AppNetwork(name, internal=internal) for name in sorted(used)}
    volumes = {f"{name}-data": AppVolume(f"{name}-data") for name in sorted(used)}
    return AppSpec("app", services, networks, volumes, host_paths=tuple(f"/srv/{name}" for name in services))


@st.composite
def choices(draw: st.DrawFn) -> tuple[AppSpec, AppSpec, frozenset[str]]:
    """What is there, a file, and those of its services that are meant."""
    present, file = draw(apps()), draw(apps())
    named = draw(st.sets(st.sampled_from(sorted(file.services)), min_size=1)) if file.services else set()
    return present, file, meant(file, named, alone=draw(st.booleans())) if named else frozenset()


def whole(app: AppSpec) -> bool:
    """Each service comes after those it depends on, and what it uses is described."""
    seen: set[str] = set()
    for name, service in app.services.items():
        if any(need.service in app.services and need.service not in seen for need in service.depends_on):
            return False
        seen.add(name)
    used = {each.network for service in app.services.values() for each in service.template.networks}
    mounted = {each.source for service in app.services.values() for each in service.template.mounts if each.type is MountType.VOLUME}
    return used <= set(app.networks) and mounted <= set(app.volumes)


@given(choices(), st.booleans())
def test_who_is_meant_is_as_the_file_says_and_all_others_as_they_were(choice: tuple[AppSpec, AppSpec, frozenset[str]], prune: bool) -> None:
    present, file, names = choice
    found = merge(present, file, names, prune=prune)
    assert whole(found)
    for name, service in found.services.items():
        if name in names:
            assert replace(service, depends_on=()) == replace(file.services[name], depends_on=())
            assert [need for need in file.services[name].depends_on if need.service in names] == [*service.depends_on]
        else:
            assert service == present.services[name]
    gone = (present.services.keys() | names) - found.services.keys()
    assert gone == (gone - file.services.keys() if prune else set())
    assert not any(need.service in gone for service in found.services.values() for need in service.depends_on)
    assert merge(found, file, names, prune=prune) == found


@given(apps(), st.data())
def test_a_file_that_is_as_before_changes_nothing(file: AppSpec, data: st.DataObject) -> None:
    named = data.draw(st.sets(st.sampled_from(sorted(file.services)), min_size=1)) if file.services else set()
    names = with_dependencies(file, named)
    assert merge(file, file, names, prune=True) == file
    assert merge(AppSpec("app"), file, names).services.keys() == names


@given(apps(), apps())
def test_one_service_after_the_other_comes_to_the_file(present: AppSpec, file: AppSpec) -> None:
    found = present
    for name in file.services:
        found = merge(found, file, with_dependencies(file, [name]))
    assert {name: found.services[name] for name in file.services} == file.services
    assert found.services.keys() == present.services.keys() | file.services.keys()
    assert merge(found, file, file.services.keys(), prune=True).services == file.services


def test_nobody_named_means_all() -> None:
    web = ServiceSpec("web", InstanceSpec("one"), depends_on=(Dependency("db"), Dependency("elsewhere", required=False)))
    app = AppSpec("app", {"db": ServiceSpec("db", InstanceSpec("one")), "web": web, "edge": replace(web, name="edge")})
    assert meant(app, ()) == {"db", "web", "edge"} == meant(app, (), alone=True)
    assert meant(app, ["web"]) == {"db", "web"}
    assert meant(app, ["web"], alone=True) == {"web"}
