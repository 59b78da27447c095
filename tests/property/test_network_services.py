"""Laws of balancing, of virtual addresses and of names, for every input."""

from __future__ import annotations

import ipaddress
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from twinhull import home
from twinhull.errors import ConflictError
from twinhull.network import addresses, service
from twinhull.network.names import Entries, Names, Owner, Place
from twinhull.spec.network import NetworkRecord

endpoints = st.dictionaries(st.ip_addresses(v=4).map(str), st.integers(1, 1000), max_size=40).map(lambda found: list(found.items()))
small = st.dictionaries(st.ip_addresses(v=4).map(str), st.integers(1, 6), min_size=1, max_size=20).map(lambda found: list(found.items()))


@settings(deadline=None)
@given(endpoints)
def test_a_round_is_bounded_and_nobody_is_left_out(found: list[tuple[str, int]]) -> None:
    turns = Counter(service.turns(found))
    assert set(turns) == {address for address, _ in found}
    assert turns.total() <= service.TURNS + len(found)


@settings(deadline=None)
@given(small)
def test_turns_are_exactly_as_the_weights_say(found: list[tuple[str, int]]) -> None:
    turns = Counter(service.turns(found))
    assert all(turns[first] * weight == turns[second] * other for first, other in found for second, weight in found)


@settings(deadline=None)
@given(small)
def test_turns_are_spread_evenly(found: list[tuple[str, int]]) -> None:
    """In any stretch of a round an endpoint is at most one turn from its share on either side of it."""
    turns = service.turns(found)
    for address, count in Counter(turns).items():
        places = [place for place, each in enumerate(turns) if each == address]
        for number, place in enumerate(places):
            others = len(found) - 1
            ideal = (2 * number + 1) / (2 * count) * len(turns)
            assert abs(place + 0.5 - ideal) <= others / 2 + 0.5


@settings(deadline=None)
@given(st.integers(22, 29), st.data())
def test_a_virtual_address_is_free_and_the_highest(prefix: int, data: st.DataObject) -> None:
    subnet = ipaddress.IPv4Network(("10.9.0.0", prefix))
    record = NetworkRecord("n", "n", 0, str(subnet), addresses.gateway_of(str(subnet)))
    used = {str(subnet[offset]) for offset in data.draw(st.sets(st.integers(2, min(subnet.num_addresses - 2, 40))))}
    used |= {str(subnet[-1 - offset]) for offset in data.draw(st.sets(st.integers(1, min(subnet.num_addresses - 3, 40))))}
    try:
        chosen = addresses.free_virtual_address(record, used)
    except ConflictError:
        assert {str(host) for host in subnet.hosts()} <= used | {record.gateway}
        return
    assert addresses.check_address(chosen, record.subnet, record.gateway, used) == chosen
    assert {str(host) for host in subnet.hosts() if host > ipaddress.IPv4Address(chosen)} <= used | {record.gateway}
    assert addresses.free_address(record, used) not in used | {record.gateway}


owners = st.tuples(st.sampled_from(["instance", "service"]), st.sampled_from("abc"))
places = st.tuples(st.integers(0, 1), st.sampled_from(["10.0.0.2", "10.0.0.3"]))
contributions = st.dictionaries(places, st.lists(st.sampled_from(["web", "db", "www"]), min_size=1, max_size=3), max_size=4)
networks = [NetworkRecord(f"n{number}", "", number, "10.0.0.0/24", "10.0.0.1") for number in (0, 1)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(owners, contributions), max_size=8), st.dictionaries(owners, contributions, max_size=4))
def test_files_are_the_union_of_what_owners_say_instances_first(
    changes: Sequence[tuple[Owner, Entries]], at_last: Mapping[Owner, Entries]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        made = Names(home.at(Path(folder)))
        made.open()
        for record in networks:
            made.add_network(record)
        owned: dict[Owner, Entries] = {}
        for owner, entries in changes:
            made.replace(owner, entries)
            owned[owner] = entries
            assert _served(made) == _expected(owned)
        made.reset(at_last, [0, 1])
        assert _served(made) == _expected(at_last)
        made.reset(at_last, [0])
        assert {place for place in _served(made) if place[0]} == set()


def _served(made: Names) -> dict[Place, str]:
    files = [path for number in (0, 1) if made.folder(number).is_dir() for path in made.folder(number).iterdir()]
    return {(int(path.parent.name, 16), path.name): path.read_text() for path in files}


def _expected(owned: Mapping[Owner, Entries]) -> dict[Place, str]:
    found: dict[Place, list[str]] = {}
    for owner in sorted(owned):
        for place, names in owned[owner].items():
            found.setdefault(place, []).extend(name for name in names if name not in found.get(place, ()))
    return {place: f"{place[1]} {' '.join(dict.fromkeys(names))}\n" for place, names in found.items()}
