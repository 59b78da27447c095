"""Volumes that are taken away from a workload that stands still, and brought back (VOLUMES)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.agent.lab import Lab, config, sh, tool, until

from twinhull.errors import ConflictError
from twinhull.instance.base import HostMount
from twinhull.instance.vm.agent import AgentClient
from twinhull.instance.vm.guest import ALL_CAPABILITIES


async def _with_volumes(lab: Lab, script: str, **changes: object) -> AgentClient:
    for number, name in enumerate(("data", "inner", "locked")):
        (lab.volumes / str(number)).mkdir(parents=True)
        (lab.volumes / str(number) / "name").write_text(name)
    mounts = (HostMount("/data", Path("x")), HostMount("/data/inner", Path("x")), HostMount("/locked", Path("x"), read_only=True))
    (lab.volumes / "0" / "inner").mkdir()
    client = await lab.connect()
    volumes = {mount.target: number for number, mount in enumerate(mounts)}
    await client.configure(config("sh", "-c", script, mounts=mounts, volumes=volumes, **changes))
    await client.start()
    return client


_NAMES = "cat /data/name /data/inner/name /locked/name; touch /locked/x || echo ' ro'"


async def test_volumes_go_and_come_back(lab: Lab) -> None:
    client = await _with_volumes(lab, "sleep 1000")
    await client.volumes(mounted=True)
    assert (await sh(client, _NAMES))[1] == b"datainnerlocked ro\n"
    await client.volumes(mounted=False)
    assert (await sh(client, "ls -A /data /locked"))[1] == b"/data:\n\n/locked:\n"
    with pytest.raises(ConflictError, match="already"):
        await client.volumes(mounted=False)
    with pytest.raises(ConflictError, match="a snapshot is being made"):
        await tool(client, "stat", "/data/name")
    await client.volumes(mounted=True)
    assert (await sh(client, _NAMES))[1] == b"datainnerlocked ro\n"


@pytest.mark.parametrize("folder", ["/data", "/locked"])
async def test_volumes_that_are_in_use_stay_all(lab: Lab, folder: str) -> None:
    client = await _with_volumes(lab, f"exec 3< {folder}/name; echo open; sleep 1000")
    await until(lambda: lab.text() == b"open\n")
    with pytest.raises(ConflictError, match=f"{folder} is in use"):
        await client.volumes(mounted=False)
    assert (await sh(client, _NAMES))[1] == b"datainnerlocked ro\n"


async def test_volumes_of_who_may_mount_stay(lab: Lab) -> None:
    client = await _with_volumes(lab, "sleep 1000", caps=ALL_CAPABILITIES)
    with pytest.raises(ConflictError, match="CAP_SYS_ADMIN"):
        await client.volumes(mounted=False)


async def test_volumes_stay_all_if_one_has_moved(lab: Lab) -> None:
    """They are looked for by their names."""
    mounts = (HostMount("/outer/moving", Path("x")), HostMount("/data", Path("x")))
    for number, mount in enumerate(mounts):
        (lab.volumes / str(number)).mkdir()
        (lab.volumes / str(number) / "name").write_text(mount.target)
    client = await lab.connect()
    volumes = {mount.target: number for number, mount in enumerate(mounts)}
    await client.configure(config("sh", "-c", "mv /outer /other; echo moved; sleep 1000", mounts=mounts, volumes=volumes))
    await client.start()
    await until(lambda: lab.text() == b"moved\n")
    with pytest.raises(ConflictError, match="find volume /outer/moving"):
        await client.volumes(mounted=False)
    assert (await sh(client, "cat /other/moving/name /data/name"))[1] == b"/outer/moving/data"
