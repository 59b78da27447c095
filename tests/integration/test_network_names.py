"""Names: who can ask for what, and that the answer is always the present one."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration import network_lab as lab

from twinhull import home
from twinhull.errors import UserError
from twinhull.home import Home
from twinhull.network.dns import strays
from twinhull.network.host import NetworkHost
from twinhull.sys import proc, trees
from twinhull.sys.libnftables import Nft

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

FRONT, BACK, CLOSED = lab.record(0), lab.record(1), lab.record(2, internal=True)


@pytest.fixture
def where(space: None, tmp_path: Path) -> Home:
    found = home.at(tmp_path)
    found.run.mkdir()
    return found


@pytest.fixture
async def host(where: Home) -> AsyncIterator[NetworkHost]:
    made = NetworkHost(where)
    await made.open()
    await made.sync((FRONT, BACK, CLOSED), ())
    try:
        yield made
    finally:
        await made.close(remove=True)
    assert lab.leftovers(where) == []


async def test_names_aliases_and_reverse(host: NetworkHost) -> None:
    held = await host.attach_netns((lab.port(FRONT, 2, 0),))
    await host.set_names("a1", [(FRONT.id, name, "10.186.0.2") for name in ("web", "web.front", "www")])
    await host.set_names("b2", [(FRONT.id, name, "10.186.0.3") for name in ("db", "www")])
    for name, answer in (("web", ["10.186.0.2"]), ("WEB.front", ["10.186.0.2"]), ("www", ["10.186.0.2", "10.186.0.3"])):
        assert lab.inside(held, lab.resolve, "10.186.0.1", name) == (0, answer)
        assert lab.inside(held, lab.resolve, "10.186.0.1", name, tcp=True) == (0, answer)
    assert lab.inside(held, lab.resolve, "10.186.0.1", "2.0.186.10.in-addr.arpa", lab.PTR) == (0, ["web"])
    assert lab.inside(held, lab.resolve, "10.186.0.1", "9.0.186.10.in-addr.arpa", lab.PTR) == (3, [])
    assert lab.inside(held, lab.resolve, "10.186.0.1", "web", lab.AAAA) == (0, []), "no address of that kind, but the name exists"
    assert lab.inside(held, lab.resolve, "10.186.0.1", "nobody") == (3, [])
    held.close()


async def test_answers_are_always_the_present_ones(host: NetworkHost) -> None:
    held = await host.attach_netns((lab.port(FRONT, 2, 0),))
    for number in range(100):
        address = f"10.186.0.{3 + number}"
        await host.set_names("a1", [(FRONT.id, "web", address)])
        assert lab.inside(held, lab.resolve, "10.186.0.1", "web") == (0, [address])
        await host.remove_names("a1")
        assert lab.inside(held, lab.resolve, "10.186.0.1", "web") == (3, [])
    held.close()


async def test_names_of_one_network_are_unknown_in_another(host: NetworkHost) -> None:
    front, back = await host.attach_netns((lab.port(FRONT, 2, 0),)), await host.attach_netns((lab.port(BACK, 2, 1),))
    await host.set_names("a1", [(FRONT.id, "web", "10.186.0.2")])
    assert lab.inside(back, lab.resolve, "10.186.1.1", "web") == (3, [])
    assert lab.inside(back, lab.resolve, "10.186.0.1", "web", timeout=lab.REFUSED) == (-1, [])
    assert lab.inside(front, lab.resolve, "10.186.0.1", "web") == (0, ["10.186.0.2"])
    for held in (front, back):
        held.close()


async def test_an_instance_on_two_networks_knows_both(host: NetworkHost) -> None:
    ports = (lab.port(FRONT, 9, 0), lab.port(BACK, 9, 1, ifname="eth1", default=False))
    both, front = await host.attach_netns(ports), await host.attach_netns((lab.port(FRONT, 2, 2),))
    await host.set_names("a1", [(FRONT.id, "web", "10.186.0.2")])
    await host.set_names("b2", [(BACK.id, "db", "10.186.1.3")])
    for gateway in ("10.186.0.1", "10.186.1.1"):
        assert lab.inside(both, lab.resolve, gateway, "web") == (0, ["10.186.0.2"])
        assert lab.inside(both, lab.resolve, gateway, "db") == (0, ["10.186.1.3"])
    assert lab.inside(both, lab.resolve, "10.186.0.1", "db", tcp=True) == (0, ["10.186.1.3"])
    assert lab.inside(front, lab.resolve, "10.186.0.1", "db") == (3, [])
    for port in range(10053, 10056):
        assert lab.inside(front, lab.ask_tcp, "10.186.0.1", port, lab.REFUSED) == "refused", "the resolvers' own ports"
    for held in (both, front):
        held.close()


async def test_other_names_go_to_the_servers_asked_for(host: NetworkHost) -> None:
    """A second network's resolver plays the server outside."""
    await host.set_names("a1", [(BACK.id, "example.test", "198.51.100.7")])
    listening = host._resolvers.port(host._resolvers._views["1"])
    held = await host.attach_netns((lab.port(FRONT, 2, 0),), dns=(f"10.186.1.1#{listening}",))
    plain = await host.attach_netns((lab.port(FRONT, 3, 1),))
    closed = await host.attach_netns((lab.port(CLOSED, 2, 2),), dns=(f"10.186.1.1#{listening}",))
    await host.set_names("b2", [(FRONT.id, "web", "10.186.0.2")])
    assert lab.inside(held, lab.resolve, "10.186.0.1", "example.test") == (0, ["198.51.100.7"])
    assert lab.inside(held, lab.resolve, "10.186.0.1", "web") == (0, ["10.186.0.2"])
    assert lab.inside(plain, lab.resolve, "10.186.0.1", "example.test", timeout=lab.REFUSED)[1] == []
    assert lab.inside(closed, lab.resolve, "10.186.2.1", "example.test", timeout=lab.REFUSED)[1] == []
    for each in (held, plain, closed):
        each.close()


async def test_a_resolver_that_dies_is_started_again(host: NetworkHost, where: Home) -> None:
    held = await host.attach_netns((lab.port(FRONT, 2, 0),))
    await host.set_names("a1", [(FRONT.id, "web", "10.186.0.2")])
    task = asyncio.create_task(host.supervise())
    try:
        for pid in strays(where.run / "dns", ()):
            os.kill(pid, signal.SIGKILL)
            await proc.wait_pid(pid)
        async with asyncio.timeout(10):
            while (await asyncio.to_thread(lab.inside, held, lab.resolve, "10.186.0.1", "web", timeout=0.2))[0] != 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    held.close()


async def test_resolvers_have_no_privileges(host: NetworkHost, where: Home) -> None:
    for pid in strays(where.run / "dns", ()):
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert "0" not in status["Uid"].split()
        assert int(status["CapEff"], 16) == 0
        assert int(status["CapPrm"], 16) == 0


@pytest.mark.parametrize("name", ["", "a b", "x\n10.0.0.1 y", "../a", "-a", "a" * 64, "#x", "a..b"])
async def test_bad_names_are_refused(host: NetworkHost, name: str) -> None:
    with pytest.raises(UserError):
        await host.set_names("a1", [(FRONT.id, name, "10.186.0.2")])


@pytest.mark.parametrize("instance_id", ["", "../x", "a/b", ".a", "A", "a~"])
async def test_bad_ids_are_refused(host: NetworkHost, instance_id: str) -> None:
    with pytest.raises(UserError):
        await host.set_names(instance_id, [(FRONT.id, "web", "10.186.0.2")])


@pytest.mark.parametrize("mode", [0o755, 0o700])
async def test_names_are_served_from_an_open_and_a_closed_home(space: None, mode: int) -> None:
    """An unprivileged resolver must get to its files whether others may enter the home or not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(mode)
        where = home.at(Path(folder))
        where.run.mkdir()
        made = NetworkHost(where)
        await made.open()
        await made.sync((FRONT,), ())
        assert (where.run / "names").exists() == (mode == 0o755)
        held = await made.attach_netns((lab.port(FRONT, 2, 0),))
        await made.set_names("a1", [(FRONT.id, "web", "10.186.0.2")])
        assert lab.inside(held, lab.resolve, "10.186.0.1", "web") == (0, ["10.186.0.2"])
        held.close()
        await made.close(remove=True)
        assert lab.leftovers(where) == []


async def test_names_of_a_deleted_home_are_removed_by_the_next_daemon(space: None, tmp_path: Path) -> None:
    where, other = home.at(tmp_path / "gone"), home.at(tmp_path / "next")
    for each in (where, other):
        each.run.mkdir(parents=True)
        each.run.parent.chmod(0o700)
    folder = Path(f"/run/twinhull-names-{where.tag}")
    await _open_and_close(where, remove=False)
    assert folder.is_dir()
    await _open_and_close(other, remove=False)
    assert folder.is_dir(), "its home is still there"
    trees.remove(where.run.parent)
    await _open_and_close(other, remove=True)
    assert not folder.exists()
    nft = Nft()
    nft.run(f"delete table inet {where.nft_table}")
    nft.close()


async def _open_and_close(where: Home, *, remove: bool) -> None:
    made = NetworkHost(where)
    await made.open()
    await made.close(remove=remove)
