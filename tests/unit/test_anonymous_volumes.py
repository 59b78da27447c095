"""Names of volumes that nobody named."""

from __future__ import annotations

from twinhull.engine.apps import anonymous
from twinhull.spec.app import ServiceSpec
from twinhull.spec.instance import InstanceSpec, MountSpec, MountType

OWN = MountSpec(MountType.VOLUME, "/own")
NAMED = MountSpec(MountType.VOLUME, "/named", "shop_data")
MEMORY = MountSpec(MountType.TMPFS, "/memory")


def sources(slot: int, generation: int = 0, service: str = "db") -> list[str]:
    template = InstanceSpec(image="i", mounts=(OWN, NAMED, MEMORY))
    found = anonymous.named("shop", ServiceSpec(service, template, generation=generation), ("/a/b", "/a-b", "/named", "/memory", "/"))
    return [mount.source for mount in anonymous.of_slot(found.mounts, slot) if mount.type is MountType.VOLUME]


def test_each_slot_has_its_own_and_what_is_named_stays() -> None:
    own, named, dashed, nested = sources(1)
    assert named == "shop_data"
    assert own.startswith("shop_db.1.own-")
    assert dashed != nested
    assert sources(1) == [own, named, dashed, nested]
    others = [*sources(2), *sources(1, generation=7), *sources(1, service="web")]
    assert {own, dashed, nested}.isdisjoint(others)
    assert len(set(others)) == 3 * 3 + 1


def test_a_one_off_inherits_nothing() -> None:
    assert sources(0) == ["", "shop_data", "", ""]
