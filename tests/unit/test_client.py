"""Both typed clients against the real server: they return what the engine returned, and raise what it raised."""

from __future__ import annotations

import asyncio
import inspect
import io
import tarfile
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.server import Server, serving

from twinhull import home as homes
from twinhull.client import AsyncClient, Client
from twinhull.client.problems import UnreachableError
from twinhull.client.session import ClientSession
from twinhull.client.thin import CONTROL, Duplex
from twinhull.engine.base import BootstrapSpec, BuildSpec, Engine, NetworkSpec, VolumeSpec
from twinhull.errors import CannotRunError, ConflictError, NotFoundError, TemporaryError, UserError
from twinhull.instance.base import STDERR, STDOUT, Process, Session
from twinhull.spec.instance import (
    HealthCheck,
    InstanceSpec,
    MountSpec,
    MountType,
    PortMapping,
    Resources,
    RestartPolicy,
    RestartWhen,
    Runtime,
)

SPEC = InstanceSpec(
    image="busybox",
    name="box",
    runtime=Runtime.VM,
    command=("cat",),
    env=("A=ä\n", "B="),
    labels={"k": "v"},
    ports=(PortMapping(80),),
    mounts=(MountSpec(MountType.TMPFS, "/t", tmpfs_mode=0o700),),
    resources=Resources(cpus=0.5, memory=1 << 40),
    restart=RestartPolicy(RestartWhen.ON_FAILURE, 2),
    health=HealthCheck(("CMD", "true"), interval=1.5),
)
ODD = b"/data/\xff".decode("utf-8", "surrogateescape")


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="th-") as folder, serving(homes.at(Path(folder))) as made:
        yield made


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(str(server.home.socket)) as made:
        yield made


@pytest.fixture
async def remote(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(f"unix://{server.home.socket}") as made:
        yield made


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_every_method_of_the_engine_is_there_with_its_parameters(kind: type) -> None:
    for name, method in inspect.getmembers(Engine, inspect.isfunction):
        wanted = [parameter for parameter in inspect.signature(method).parameters if parameter not in ("self", "process")]
        found = inspect.signature(getattr(kind, name)).parameters
        assert set(wanted) <= set(found), name


# synchronous


def test_instances(server: Server, client: Client) -> None:
    view = client.create(SPEC, start=True)
    assert view == client.inspect("box") == server.engine.record("box").view
    assert view.spec == SPEC
    assert client.list() == (view,)
    assert client.list(all=True, filters={"name": ("nobody",)}) == ()
    client.pause("box")
    assert client.inspect("box").state == "paused"
    client.unpause("box")
    client.update("box", Resources(pids=5), "always")
    assert client.inspect("box").spec.resources == Resources(pids=5)
    assert client.stats("box").memory == 4096
    assert client.top("box")[0]["PID"] == "1"
    assert client.regions("box")[1].name == "serial"
    client.rename("box", "other")
    client.restart("other", 1.0)
    client.kill("other", "TERM")
    assert client.wait("other").code == 143
    client.start("other")
    client.stop("other", 2.0, "INT")
    assert client.wait("other").code == 130
    client.remove("other", volumes=True)
    with pytest.raises(NotFoundError, match="no instance other"):
        client.inspect("other")


def test_files(server: Server, client: Client) -> None:
    client.create(SPEC)
    client.archive_in("box", "/data", archive())
    client.archive_in("box", "/more", [archive()[:100], archive()[100:]])
    assert client.path_stat("box", "/more/file").size == 3
    with tarfile.open(fileobj=io.BytesIO(b"".join(client.archive_out("box", "/data")))) as tar:
        assert tar.getnames() == ["data/file"]
    server.engine.record("box").files[ODD] = b"odd"
    assert client.path_stat("box", ODD).size == 3
    assert ODD in {change.path for change in client.diff("box")}
    assert sum(map(len, client.export("box"))) == 10_240
    assert client.commit("box", "mine:1", changes=("USER 1",)).names == ("mine:1",)


def test_logs_and_events(server: Server, client: Client) -> None:
    client.create(InstanceSpec(image="busybox", name="box", command=("lines", "3")), start=True)
    client.wait("box")
    lines = list(client.logs("box", tail=2))
    assert [(line.stream, line.data) for line in lines] == [(STDERR, b"line 1\n"), (STDOUT, b"line 2\n")]
    assert [event.action for event in client.events(follow=False)] == ["create", "start", "die"]
    follow = client.events(filters={"action": ("remove",)})
    client.remove("box")
    assert next(follow).name == "box"
    follow.close()  # type: ignore[attr-defined]
    server.wait_until(lambda: server.engine.open_streams == 0)


def test_images(client: Client) -> None:
    assert [image.names for image in client.images()] == [("busybox:latest",), ("debian:bookworm",)]
    assert client.image("busybox").config == {"Cmd": ["sleep"]}
    assert client.image_history("busybox")[0]["size"] == 4096
    assert list(client.image_build(BuildSpec("/src", tags=("a:1",))))[-1] == f"id: {client.image('a:1').id}"
    assert next(client.image_bootstrap(BootstrapSpec())) == "bootstrap debian:bookworm"
    assert next(client.image_pull("x", tls_verify=False)) == "pull x"
    assert list(client.image_push("busybox", "y")) == ["push busybox to y"]
    assert client.image_load(archive()) == ("loaded:latest",)
    assert client.image_import(iter([archive()]), "root:1").names == ("root:1",)
    client.image_tag("root:1", "root:2")
    assert sum(map(len, client.image_save(("root:2", "busybox"), "oci-archive"))) == 10_240
    assert client.image_remove("root:2") == ("root:1", "root:2")
    assert client.image_prune() == ()


def test_networks_volumes_and_the_whole(server: Server, client: Client) -> None:
    assert client.network_create(NetworkSpec("back")) == client.network("back")
    assert [view.name for view in client.networks()] == ["default", "back"]
    client.network_remove("back")
    assert client.network_prune() == ()
    assert client.volume_create(VolumeSpec("data", labels={"a": "b"})) == client.volume("data")
    assert [view.name for view in client.volumes()] == ["data"]
    client.volume_remove("data")
    client.volume_remove("data", force=True)
    assert client.volume_prune(all=True) == ()
    assert client.secret_create("word", b"hidden").size == 6
    changed = client.secret_create("word", b"other", replace=True)
    assert client.secrets() == (changed,)
    client.secret_remove("word")
    assert client.ping()["api"] == "1"
    assert client.info()["accelerator"] == "tcg"
    assert client.disk_usage()[0].kind == "images"
    assert client.prune(volumes=True) == {"instances": (), "volumes": ()}
    client.stop_daemon(all=True)
    assert server.stops == [True]


def test_sessions(client: Client) -> None:
    view, session = client.run(InstanceSpec(image="busybox", command=("cat",), stdin=True))
    assert view.state == "running"
    assert session.communicate(b"x" * 3_000_000) == (0, b"x" * 3_000_000, b"")
    other = client.create(InstanceSpec(image="busybox"), start=True)
    with client.exec(other.id, Process(("err", "oh"), ())) as process:
        assert list(process.output()) == [(STDERR, b"oh\n")]
        assert process.wait() == 0
    sleeper = client.exec(other.id, Process(("sleep",), ()))
    sleeper.resize(10, 20)
    sleeper.signal(15)
    assert sleeper.wait() == 143
    attached = client.attach(other.id, logs=True)
    client.kill(other.id, "INT")
    assert attached.wait() == 130
    third = client.create(InstanceSpec(image="busybox"), start=True)
    client.exec_detached(third.id, Process(("true",), ()))


def test_sessions_send_with_back_pressure(client: Client) -> None:
    box = client.create(InstanceSpec(image="busybox"), start=True)
    session = client.exec(box.id, Process(("cat",), ()))
    session.send(b"abc")
    session.close_stdin()
    assert (list(session.output()), session.wait()) == ([(STDOUT, b"abc")], 0)


def test_errors_of_sessions_come_at_the_call(client: Client) -> None:
    with pytest.raises(CannotRunError) as caught:
        client.run(InstanceSpec(image="busybox", command=("missing",)))
    assert caught.value.exit_code == 127
    with pytest.raises(NotFoundError):
        client.exec("nobody", Process(("true",), ()))


def test_errors_keep_their_class_message_and_hint(server: Server, client: Client) -> None:
    server.engine.faults["create"] = ConflictError("taken", "choose")
    with pytest.raises(ConflictError, match="taken") as caught:
        client.create(SPEC)
    assert caught.value.hint == "choose"
    server.engine.faults["info"] = TemporaryError("busy", retry_after=7)
    with pytest.raises(TemporaryError) as late:
        client.info()
    assert late.value.retry_after == 7
    server.engine.faults["progress"] = UserError("no such tag")
    with pytest.raises(UserError, match="no such tag"):
        list(client.image_pull("x"))


def test_a_client_in_many_threads(client: Client) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            view, session = client.run(InstanceSpec(image="busybox", command=("echo", str(number))))
            assert session.communicate()[1] == f"{number}\n".encode()
            assert client.inspect(view.id).id == view.id
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures


class _AtOnce(Duplex):
    """A peer whose every word, and its end, came before the first was asked for."""

    def __init__(self) -> None:
        self.closed, self._failure, self._out = False, None, bytearray()

    def wait(self, *, also_room: bool = False) -> None:
        assert not self.closed

    def receive(self) -> list[tuple[int, Any]]:
        self.closed = True
        return [(CONTROL, {"started": True}), (STDOUT, b"all"), (CONTROL, {"exit": 3})]

    def close(self) -> None:
        self.closed = True


def test_a_session_that_was_over_before_it_was_read() -> None:
    assert ClientSession(_AtOnce()).started().communicate() == (3, b"all", b"")
    assert ClientSession(_AtOnce()).started().wait() == 3


def test_nobody_there() -> None:
    with pytest.raises(UnreachableError, match="no daemon answers"):
        Client("/nowhere/at.all").ping()
    with pytest.raises(UserError, match="names no daemon"):
        Client("ftp://x")


def test_an_answer_of_a_later_daemon_is_read(server: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from twinhull.client import calls

    known = client.create(SPEC)
    raw = calls.json.loads(calls.json.dumps(calls.plain(known))) | {"invented_later": 1}
    assert calls.read(type(known), raw) == known


# asynchronous


async def test_async_instances(remote: AsyncClient) -> None:
    view = await remote.create(SPEC, start=True)
    assert await remote.list(filters={"status": ("running",)}) == (view,)
    assert view.spec == SPEC
    with pytest.raises(ConflictError):
        await remote.remove("box")
    await remote.kill("box")
    assert (await remote.wait("box")).code == 137
    await remote.archive_in("box", "/data", archive())

    async def pieces() -> AsyncIterator[bytes]:
        yield archive()[:500]
        yield archive()[500:]

    await remote.archive_in("box", "/more", pieces())
    assert (await remote.path_stat("box", "/more/file")).size == 3
    out = b"".join([chunk async for chunk in remote.archive_out("box", "/data")])
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        assert tar.getnames() == ["data/file"]
    await remote.remove("box")
    with pytest.raises(NotFoundError):
        await remote.inspect("box")


async def test_async_streams(server: Server, remote: AsyncClient) -> None:
    await remote.create(InstanceSpec(image="busybox", name="box", command=("lines", "3")), start=True)
    await remote.wait("box")
    assert [line.data async for line in remote.logs("box")] == [b"line 0\n", b"line 1\n", b"line 2\n"]
    async with aclosing(remote.events()) as events:  # type: ignore[type-var]
        assert (await anext(events)).action == "create"
    await _until(lambda: server.engine.open_streams == 0)
    assert len([line async for line in remote.image_pull("x")]) == 2
    server.engine.faults["progress"] = UserError("no such tag")
    with pytest.raises(UserError, match="no such tag"):
        [line async for line in remote.image_pull("x")]
    with pytest.raises(NotFoundError):
        [line async for line in remote.logs("nobody")]


async def test_async_sessions(server: Server, remote: AsyncClient) -> None:
    view, session = await remote.run(InstanceSpec(image="busybox", command=("cat",), stdin=True))
    assert isinstance(session, Session)

    async def feed() -> None:
        for _ in range(40):
            await session.send(bytes(200_000))
        await session.close_stdin()

    feeding = asyncio.create_task(feed())
    size = 0
    async for stream, data in session.output():
        assert stream == STDOUT
        size += len(data)
    await feeding
    assert (size, await session.wait()) == (8_000_000, 0)
    await remote.start(view.id)
    async with await remote.exec(view.id, Process(("size",), (), tty=True)) as process:
        await process.resize(5, 6)
        output = process.output()
        seen = b""
        while b"5 6" not in seen:
            seen += (await anext(output))[1]
        await process.signal(2)
        assert await process.wait() == 130
    attached = await remote.attach(view.id)
    await attached.close()
    await _until(lambda: not server.app.state.context.streams)
    assert (await remote.inspect(view.id)).state == "running"


async def test_async_errors_of_sessions(remote: AsyncClient) -> None:
    with pytest.raises(CannotRunError) as caught:
        await remote.run(InstanceSpec(image="busybox", command=("missing",)))
    assert caught.value.exit_code == 127
    with pytest.raises(NotFoundError):
        await remote.attach("nobody")


async def test_async_the_whole(remote: AsyncClient) -> None:
    assert (await remote.ping())["api"] == "1"
    assert await remote.network_create(NetworkSpec("back")) == await remote.network("back")
    assert (await remote.volume_create(VolumeSpec("data"))).name == "data"
    assert await remote.secret_create("word", b"hidden") == await remote.secret("word")
    assert (await remote.image("busybox")).names == ("busybox:latest",)
    assert await remote.image_load(archive()) == ("loaded:latest",)


async def test_async_nobody_there() -> None:
    async with AsyncClient("/nowhere/at.all") as client:
        with pytest.raises(UnreachableError):
            await client.ping()
        with pytest.raises(UnreachableError):
            await client.run(SPEC)


async def _until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(0.005)
