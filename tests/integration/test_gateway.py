"""The gateway with a real HAProxy: routes, changes under load, deaths, limits."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests import leaks
from tests.integration.gateway_lab import (
    PORT,
    SETTINGS,
    Client,
    Request,
    ask,
    backend,
    eventually,
    gateway,
    load,
    origins,
)

from twinhull.errors import ConflictError, PermanentError
from twinhull.gateway import configuration
from twinhull.gateway.base import Backend, Server
from twinhull.gateway.local import HaproxyGateway
from twinhull.gateway.process import Master
from twinhull.home import Home
from twinhull.spec.app import RouteSpec
from twinhull.sys import proc

pytestmark = pytest.mark.usefixtures("space")


@pytest.fixture
def home(proxy_home: Home) -> Home:
    return proxy_home


def master(home: Home) -> int:
    return int(json.loads((home.run / "gateway/master.json").read_text())["pid"])


async def workers(gate: HaproxyGateway) -> list[int]:
    return [worker.pid for worker in await gate._master.runtime.workers()]


async def test_requests_go_by_host_and_path(home: Home) -> None:
    async with origins("exact", "wild", "any", "api") as (exact, wild, anyone, api), gateway(home) as gate:
        await gate.apply(
            (
                Backend("a/exact", (RouteSpec("web.test", port=PORT),), (exact.server,)),
                Backend("a/wild", (RouteSpec("*.web.test", "/x", port=PORT),), (wild.server,)),
                Backend("b/any", (RouteSpec("", "/any", port=PORT),), (anyone.server,)),
                Backend("b/api", (RouteSpec("web.test", "/api/v1", port=PORT, strip=True),), (api.server,)),
            )
        )
        cases = {
            ("web.test", "/"): "exact",
            ("WEB.test:80", "/apix"): "exact",
            ("web.test", "/api"): "exact",
            ("web.test", "/api/v1"): "api",
            ("web.test", "/api/v1/a?b=/c"): "api",
            ("web.test", "/%61pi/v1/a"): "api",
            ("web.test", "//api///v1/a"): "api",
            ("a.b.web.test", "/x/1"): "wild",
            ("other.test", "/any"): "any",
            ("web.test", "/any/"): "exact",
        }
        assert {case: (await ask(case[1], case[0])).text for case in cases} == cases
        assert [request.path for request in api.requests] == ["/", "/a?b=/c", "/%61pi/v1/a", "/a"]
        refused = {("other.test", "/"): 404, ("a.web.test", "/"): 404, ("web.test", "/a/../b"): 400, ("web.test", "/a/%2e%2e/b"): 400}
        assert {case: (await ask(case[1], case[0])).status for case in refused} == refused


async def test_a_service_learns_who_asked_and_a_client_which_request_it_was(home: Home) -> None:
    async with origins("one") as (one,), gateway(home) as gate:
        headers = {"X-Added": 'a "b" %[src] $HOME', "Cookie": ""}
        await gate.apply((backend(one, request_headers=headers, response_headers={"X-Frame-Options": "DENY"}),))
        answer = await ask("/a?b", X_Forwarded_For="6.6.6.6", X_Request_ID="mine", Cookie="c")
        seen = one.requests[0].headers
        assert seen["x-forwarded-for"] == "127.0.0.1"
        assert (seen["x-forwarded-proto"], seen["x-forwarded-host"]) == ("http", "web.test")
        assert seen["x-added"] == 'a "b" %[src] $HOME'
        assert "cookie" not in seen
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-request-id"] == seen["x-request-id"] != "mine"

        async def logged() -> bool:
            return b"\n" in (home.state / "gateway/access.log").read_bytes()

        await eventually(logged)
        entry = json.loads((home.state / "gateway/access.log").read_text())
        assert entry["id"] == seen["x-request-id"]
        assert (entry["status"], entry["url"], entry["host"], entry["instance"]) == (200, "/a?b", "web.test", "one")
        (stats,) = await gate.stats()
        assert (stats.name, stats.requests, stats.servers[0].name, stats.servers[0].requests) == ("shop/web", 1, "one", 1)
        assert b"haproxy_backend_http_responses_total" in (await gate.metrics())


async def test_changes_at_full_load_lose_no_request(home: Home) -> None:
    """Servers added and removed, weights, paths: no reload. A new service and new settings: a reload. WebSockets live through all."""
    async with origins("a", "b", "c", "d") as (a, b, c, d), gateway(home) as gate:
        await gate.apply((backend(a, b),))
        first = await workers(gate)
        socket = Client()
        await socket.websocket()
        async with load() as running:
            await running.more(300)
            await gate.apply((backend(a, b, c),))
            await running.more(300)
            assert running.answers["c"]
            await gate.apply((backend(Server("a", a.address, 0), Server("b", b.address, 0), c),))

            async def idle() -> bool:
                return await gate.sessions("shop/web", "b") == 0

            await eventually(idle)
            await gate.apply((backend(Server("a", a.address, 0), c),))
            await b.stop()
            await running.more(300)
            extra = RouteSpec("more.test", port=PORT)
            usual = RouteSpec("web.test", port=PORT)
            servers = (Server("a", a.address, 0), c.server)
            await gate.apply((Backend("shop/web", (usual, extra), servers),))
            assert (await ask(host="more.test")).text == "c"
            assert await workers(gate) == first  # no reload so far
            for timeout in (50, 40):
                changed = RouteSpec("web.test", port=PORT, timeout=timeout)
                await gate.apply((Backend("shop/web", (changed,), servers), backend(d, name="shop/new", host="new.test")))
                await running.more(300)
            assert (await ask(host="new.test")).text == "d"
            # Those that a reload left behind must choose from today's servers, too.
            await gate.apply((backend(Server("a", a.address, 0), d, timeout=40),))
            await c.stop()
            await running.more(300)
            socket_is_served_by = set(await workers(gate))
        reader, writer = await socket.open()
        writer.write(b"still here")
        assert (await reader.read(100)).endswith(b":still here")
        assert first[0] in socket_is_served_by
        assert await gate.sessions("shop/web", "a") == 1
        print(f"requests: {running.count}, failed: {len(running.failures)}")
        assert running.failures == []
        await socket.close()


async def test_a_killed_instance_costs_no_request_that_may_be_repeated(home: Home) -> None:
    async with origins("a", "b") as (a, b), gateway(home) as gate:
        await gate.apply((backend(a, b),))
        async with load() as running:
            await running.more(300)
            await b.stop()
            await running.more(300)
            await b.start()
            seen = running.answers["b"]

            async def back() -> bool:
                return running.answers["b"] > seen

            await eventually(back)
        assert running.failures == []


async def test_a_server_left_out_loses_its_sessions_after_the_timeout(home: Home) -> None:
    async with origins("a", "b") as (a, b), gateway(home) as gate:
        await gate.apply((backend(a, timeout=1),))
        socket = Client()
        await socket.websocket()
        await gate.apply((backend(b, timeout=1),))
        assert (await ask()).text == "b"
        assert await gate.sessions("shop/web", "a") == 1
        reader, _ = await socket.open()
        assert await reader.read() == b""

        async def forgotten() -> bool:
            (found,) = await gate.stats()
            return [server.name for server in found.servers] == ["b"]

        await eventually(forgotten)
        await socket.close()


@pytest.mark.parametrize("victim", ["master", "worker"])
async def test_kill_9_is_healed_and_nobody_is_refused(home: Home, victim: str) -> None:
    async with origins("a") as (a,), gateway(home) as gate:
        await gate.apply((backend(a),))
        assert (await ask()).text == "a"
        pid = master(home) if victim == "master" else (await workers(gate))[0]
        os.kill(pid, signal.SIGKILL)
        await proc.wait_pid(pid)
        async with asyncio.timeout(20):
            answers = [(await ask()).text for _ in range(5)]
        assert answers == ["a"] * 5


async def test_the_proxy_outlives_the_daemon_and_is_adopted(home: Home) -> None:
    async with origins("a", "b") as (a, b):
        first = HaproxyGateway(home, SETTINGS)
        await first.open()
        await first.apply((backend(a),))
        before = (master(home), await workers(first))
        await first.close()
        assert (await ask()).text == "a"
        async with gateway(home) as second:
            await second.apply((backend(b),))
            assert (await ask()).text == "b"
            assert (master(home), await workers(second)) == before
            os.kill(master(home), signal.SIGKILL)
            await proc.wait_pid(before[0])
            assert (await ask()).text == "b"
    assert not (home.run / "gateway").exists()
    leaks.assert_clean(home)


async def test_workers_have_no_rights(home: Home) -> None:
    os.chown(home.run.parent, 65534, 65534)  # not even the master may need more than to get there
    async with origins("a") as (a,), gateway(home) as gate:
        await gate.apply((backend(a),))
        (worker,) = await workers(gate)
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{worker}/status").read_text().splitlines() if ":\t" in line)
        assert "0" not in status["Uid"].split()
        assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == "1"
        assert os.listdir(f"/proc/{worker}/root") == []


async def test_only_what_may_be_repeated_is_repeated(home: Home) -> None:
    async def silent(request: Request) -> None:
        return None

    async with origins("good", "bad") as (good, bad), gateway(home) as gate:
        bad.handler = silent
        await gate.apply((backend(good, bad),))
        assert {(await ask()).text for _ in range(4)} == {"good"}
        assert len(bad.requests) >= 2
        posted = [(await ask(method="POST", body=b"x")).status for _ in range(4)]
        assert sorted(posted) == [200, 200, 502, 502]


async def test_a_500_of_one_instance_is_asked_of_another_and_counted(home: Home) -> None:
    async def broken(request: Request) -> tuple[int, bytes]:
        return 500, b"broken"

    async with origins("good", "bad") as (good, bad), gateway(home) as gate:
        bad.handler = broken
        await gate.apply((backend(good, bad),))
        assert {(await ask()).text for _ in range(6)} == {"good"}
        errors = {server.name: server.errors for server in (await gate.stats())[0].servers}
        assert errors == {"good": 0, "bad": len(bad.requests)}
        assert sorted([(await ask(method="POST")).status for _ in range(4)]) == [200, 200, 500, 500]
        await gate.apply((backend(bad),))
        before = len(bad.requests)
        assert (await ask()).status == 500
        assert len(bad.requests) == before + 1


async def test_what_cannot_be_reached_is_tried_elsewhere_whatever_the_method(home: Home) -> None:
    async with origins("good", "gone") as (good, gone), gateway(home) as gate:
        await gone.stop()
        await gate.apply((backend(good, gone),))
        assert [(await ask(method="POST", body=b"x")).text for _ in range(4)] == ["good"] * 4


async def test_an_instance_that_cannot_be_reached_is_taken_out_and_comes_back(home: Home) -> None:
    async with origins("a", "b") as (a, b), gateway(home) as gate:
        await gate.apply((backend(a, b),))
        await b.stop()

        async def ejected() -> bool:
            assert (await ask(method="POST")).text == "a"
            return next(server.status for server in (await gate.stats())[0].servers if server.name == "b").startswith("DOWN")

        await eventually(ejected)
        await b.start()

        async def back() -> bool:
            return (await ask()).text == "b"

        await eventually(back)


@pytest.mark.parametrize("status", [500, 503])
async def test_errors_that_are_meant_for_one_client_take_no_instance_from_the_others(home: Home, status: int) -> None:
    """However often that client asks: also in a row, also of a service's only instance."""

    async def picky(request: Request) -> tuple[int, bytes]:
        return (status, b"not for you") if request.path == "/greedy" else (200, b"served")

    async with origins("a", "b", handler=picky) as (a, b), gateway(home) as gate:
        for servers in ((a, b), (a,)):
            await gate.apply((backend(*servers),))
            for _ in range(3):
                refused = [await ask("/greedy", method=method) for method in ("POST", "GET") for _ in range(15)]
                assert {(answer.status, answer.text) for answer in refused} == {(status, "not for you")}
                assert [(await ask()).text for _ in range(4)] == ["served"] * 4
            assert not any(server.status.startswith("DOWN") for server in (await gate.stats())[0].servers)


async def test_more_than_an_instance_takes_at_once_waits(home: Home) -> None:
    release = asyncio.Event()
    present = most = 0

    async def slow(request: Request) -> tuple[int, bytes]:
        nonlocal present, most
        present += 1
        most = max(most, present)
        await release.wait()
        present -= 1
        return 200, b"done"

    async with origins("a", handler=slow) as (a,), gateway(home) as gate:
        await gate.apply((backend(a, max_concurrency=2),))
        asked = [asyncio.create_task(ask()) for _ in range(6)]

        async def queued() -> bool:
            return (await gate.stats())[0].queue == 4

        await eventually(queued)
        release.set()
        assert {answer.text for answer in await asyncio.gather(*asked)} == {"done"}
        assert most == 2


async def test_a_client_that_asks_too_often_is_told_when_to_come_back(home: Home) -> None:
    async with origins("a") as (a,), gateway(home) as gate:
        await gate.apply((backend(a, rate_limit=0.1),))
        assert (await ask()).status == 200
        answer = await ask()
        assert (answer.status, answer.headers["retry-after"]) == (429, "10")
        assert json.loads(answer.body)["status"] == 429
        assert len(a.requests) == 1


async def test_a_service_without_instances_says_so_in_the_askers_language(home: Home) -> None:
    async with gateway(home) as gate:
        await gate.apply((backend(),))
        machine, person = await ask(), await ask(Accept="text/html,*/*")
        assert (machine.status, machine.headers["content-type"], machine.headers["retry-after"]) == (503, "application/problem+json", "1")
        problem = json.loads(machine.body)
        assert problem["detail"].startswith("shop/web has no instance")
        assert problem["instance"].endswith(machine.headers["x-request-id"])
        assert (person.status, person.headers["content-type"]) == (503, "text/html")
        assert "shop/web has no instance" in person.text
        assert "x-gateway-page" not in machine.headers


async def test_the_activator_gets_what_no_instance_can_take(home: Home) -> None:
    async with origins("a", "activator") as (a, activator), gateway(home) as gate:
        empty = Backend("shop/web", (RouteSpec("web.test", port=PORT),), (), f"{activator.address}:{PORT}")
        await gate.apply((empty,))
        assert (await ask()).text == "activator"
        before = await workers(gate)
        await gate.apply((Backend("shop/web", empty.routes, (a.server,), empty.activator),))
        assert {(await ask()).text for _ in range(3)} == {"a"}
        assert await workers(gate) == before


async def test_nothing_is_left_of_a_service_that_might_sleep(home: Home) -> None:
    """HAProxy leaves the sockets of what it doesn't lead to any more; so does a daemon that is killed right after it told HAProxy."""

    def left() -> int:
        return len(list(home.proxy_root.glob("*.asleep")))

    async with origins("a", "activator") as (a, activator), gateway(home) as gate:
        one, two = (Backend(f"shop/{name}", (RouteSpec(f"{name}.test", port=PORT),), (), f"{activator.address}:{PORT}") for name in "ab")
        await gate.apply((one, two))
        assert left() == 2
        await gate.apply((two, backend(a)))
        assert left() == 1
        await gate.close()
        (home.proxy_root / "0123456789abcdef.asleep").touch()
        async with gateway(home) as successor:
            await successor.apply((two, backend(a)))
            assert left() == 1
            assert (await ask("/", host="b.test")).text == "activator"
            await successor.apply((one, two, backend(a)))
            assert left() == 2
            assert (await ask("/", host="a.test")).text == "activator"
            await successor.apply(())
            assert left() == 0


async def test_a_route_that_asks_for_sign_on_stays_shut(home: Home) -> None:
    async with origins("a") as (a,), gateway(home) as gate:
        await gate.apply((backend(a, auth="sso"),))
        assert (await ask()).status == 403
        assert a.requests == []


@pytest.mark.parametrize("found", ["by the check", "by the reload"])
async def test_a_configuration_that_haproxy_refuses_changes_nothing(home: Home, monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    async with origins("a", "b") as (a, b), gateway(home) as gate:
        await gate.apply((backend(a),))
        before, render = await workers(gate), configuration.render
        with monkeypatch.context() as broken:
            broken.setattr(configuration, "render", lambda *args, **options: render(*args, **options) + "  nonsense here\n")
            if found == "by the reload":
                broken.setattr(Master, "check", unchecked)
            with pytest.raises(PermanentError, match="nonsense"):
                await gate.apply((backend(a, timeout=7),))
        assert (await ask()).text == "a"
        assert await workers(gate) == before
        await gate.apply((backend(b, timeout=7),))
        assert (await ask()).text == "b"


async def unchecked(self: Master, files: Mapping[str, bytes]) -> None:
    """As if all were well."""


async def test_a_taken_port_is_told(home: Home) -> None:
    taken = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 80)
    async with gateway(home) as gate:
        with pytest.raises(ConflictError, match="port 80 of this machine is taken"):
            await gate.apply((backend(),))
        taken.close()
        await taken.wait_closed()
        await gate.apply((backend(),))
        assert (await ask()).status == 503
