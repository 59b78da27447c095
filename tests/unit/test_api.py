"""Every address of docs/api.md against a FakeEngine, through the real server on a UNIX socket; and every kind of refusal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.server import Server, serving

from twinhull import home as homes
from twinhull.client import http, target, thin
from twinhull.errors import CannotRunError, ConflictError, PermanentError, TemporaryError, UnsupportedError

SLEEPER = {"image": "busybox", "name": "box", "command": ["sleep"]}


@pytest.fixture
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="th-") as folder, serving(homes.at(Path(folder))) as made:
        yield made


class Answer:
    """Status, headers and body of one answer, whatever the status."""

    def __init__(self, server: Server, method: str, path: str, query: dict[str, Any] | None = None, body: object = None) -> None:
        connection = http.Connection(target.Target(socket=str(server.home.socket)))
        with connection.exchange(method, thin.with_query(path, query), body) as response:
            self.status = response.status
            self.headers = response.headers
            self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self, status: int, code: str) -> dict[str, Any]:
        """The problem object, after checking what every one must have."""
        assert self.status == status, self.body
        assert self.headers["content-type"] == "application/problem+json"
        fields: dict[str, Any] = self.json
        assert {"type", "title", "status", "detail", "code", "hint"} <= set(fields)
        assert (fields["type"], fields["status"], fields["code"]) == ("about:blank", status, code)
        return fields


def running(server: Server, **more: Any) -> str:
    """The id of an instance that sleeps."""
    answer = Answer(server, "POST", "/v1/instances", {"start": True}, SLEEPER | more)
    assert answer.status == 201, answer.body
    return str(answer.json["id"])


# the whole


def test_ping(server: Server) -> None:
    answer = Answer(server, "GET", "/v1/ping")
    assert answer.status == 200
    assert answer.json == {"version": "0.1.0", "api": "1", "pid": os.getpid()}


def test_info_df_and_prune(server: Server) -> None:
    Answer(server, "POST", "/v1/instances", None, SLEEPER)
    assert Answer(server, "GET", "/v1/info").json["accelerator"] == "tcg"
    assert {row["kind"] for row in Answer(server, "GET", "/v1/system/df").json} == {"images", "instances"}
    assert Answer(server, "POST", "/v1/system/prune", {"volumes": True}).json == {"instances": ["box"], "volumes": []}


def test_stop_answers_before_the_daemon_ends(server: Server) -> None:
    assert Answer(server, "POST", "/v1/daemon/stop").status == 202
    assert Answer(server, "POST", "/v1/daemon/stop?all=").status == 202
    assert server.stops == [False, True]


def test_events_are_filtered_and_end_without_follow(server: Server) -> None:
    identity = running(server)
    path = "/v1/events"
    found = list(sse(server, path, follow=False, filter=["action=start"]))
    assert [(name, value["action"], value["id"]) for name, value in found] == [("message", "start", identity)]
    assert list(sse(server, path, until=1)) == []


# instances


def test_create_leaves_it_created_and_start_runs_it(server: Server) -> None:
    answer = Answer(server, "POST", "/v1/instances", None, SLEEPER)
    assert (answer.status, answer.json["state"]) == (201, "created")
    started = Answer(server, "POST", "/v1/instances/box/start")
    assert (started.status, started.body) == (204, b"")
    assert Answer(server, "GET", "/v1/instances/box").json["state"] == "running"


def test_a_spec_survives_the_way_through(server: Server) -> None:
    spec = SLEEPER | {
        "runtime": "vm",
        "env": ["A=1", "B=zwei\nZeilen", "C="],
        "labels": {"team": "shop"},
        "ports": [{"container_port": 80, "host_port": 8080}],
        "mounts": [{"type": "tmpfs", "target": "/t", "tmpfs_size": 4096}],
        "resources": {"cpus": 0.5, "memory": 134217728},
        "restart": {"when": "on-failure", "max_retries": 3},
        "health": {"test": ["CMD", "true"]},
    }
    made = Answer(server, "POST", "/v1/instances", None, spec).json["spec"]
    for key in ("runtime", "env", "labels"):
        assert made[key] == spec[key]
    assert made["ports"] == [{"container_port": 80, "host_port": 8080, "host_ip": "", "protocol": "tcp"}]
    assert (made["mounts"][0]["tmpfs_size"], made["mounts"][0]["type"]) == (4096, "tmpfs")
    assert (made["resources"]["cpus"], made["resources"]["memory"]) == (0.5, 134217728)
    assert made["restart"] == {"when": "on-failure", "max_retries": 3}
    assert (made["health"]["test"], made["health"]["interval"]) == (["CMD", "true"], 30.0)


def test_list_with_all_and_filters(server: Server) -> None:
    running(server, labels={"a": "1"})
    Answer(server, "POST", "/v1/instances", None, {"image": "busybox", "name": "idle"})
    names = lambda **query: [view["name"] for view in Answer(server, "GET", "/v1/instances", query).json]  # noqa: E731
    assert names() == ["box"]
    assert names(all=True) == ["box", "idle"]
    assert names(all="") == ["box", "idle"]
    assert names(all=True, filter=["name=idle", "name=box", "status=running"]) == ["box"]
    assert names(filter="label=a=1") == ["box"]


@pytest.mark.parametrize(
    "verb", ["pause", "unpause", "restart?timeout=1", "kill?signal=TERM", "stop?timeout=0.5&signal=INT", "rename?name=other"]
)
def test_verbs_without_an_answer(server: Server, verb: str) -> None:
    identity = running(server)
    if verb == "unpause":
        Answer(server, "POST", f"/v1/instances/{identity}/pause")
    answer = Answer(server, "POST", f"/v1/instances/{identity}/{verb}")
    assert (answer.status, answer.body) == (204, b"")
    assert verb.partition("?")[0] in server.engine.calls


def test_stop_hands_on_signal(server: Server) -> None:
    running(server)
    Answer(server, "POST", "/v1/instances/box/stop", {"signal": "SIGINT"})
    assert Answer(server, "GET", "/v1/instances/box").json["exit_code"] == 130


def test_update(server: Server) -> None:
    running(server)
    body = {"resources": {"memory": 1 << 30}, "restart": "on-failure:2"}
    assert Answer(server, "POST", "/v1/instances/box/update", None, body).status == 204
    spec = Answer(server, "GET", "/v1/instances/box").json["spec"]
    assert spec["resources"]["memory"] == 1 << 30
    assert spec["restart"] == {"when": "on-failure", "max_retries": 2}


def test_wait_answers_with_the_exit(server: Server) -> None:
    Answer(server, "POST", "/v1/instances", {"start": True}, SLEEPER | {"command": ["exit", "7"]})
    assert Answer(server, "POST", "/v1/instances/box/wait").json["code"] == 7


def test_remove(server: Server) -> None:
    running(server)
    Answer(server, "DELETE", "/v1/instances/box").problem(409, "conflict")
    assert Answer(server, "DELETE", "/v1/instances/box", {"force": True}).status == 204
    Answer(server, "GET", "/v1/instances/box").problem(404, "not-found")


def test_logs_as_text_and_base64(server: Server) -> None:
    Answer(server, "POST", "/v1/instances", {"start": True}, SLEEPER | {"command": ["lines", "4"]})
    Answer(server, "POST", "/v1/instances/box/wait")
    path = "/v1/instances/box/logs"
    texts = lambda **query: [value["text"] for _, value in sse(server, path, **query)]  # noqa: E731
    assert texts() == [f"line {number}\n" for number in range(4)]
    assert texts(tail=1) == ["line 3\n"]
    assert texts(stdout=False) == ["line 1\n", "line 3\n"]
    assert texts(stderr=False, tail=2) == ["line 2\n"]
    server.engine.record("box").log.append(type(server.engine.record("box").log[0])(1.0, 1, b"\xff\n"))
    (_, entry), *_ = list(sse(server, path, tail=1))
    assert (entry["base64"], "text" in entry) == ("/wo=", False)


def test_logs_of_nobody_are_an_ordinary_problem(server: Server) -> None:
    Answer(server, "GET", "/v1/instances/nobody/logs", {"follow": True}).problem(404, "not-found")


def test_stats_once_and_streamed(server: Server) -> None:
    running(server)
    assert Answer(server, "GET", "/v1/instances/box/stats").json["memory"] == 4096
    stream = sse(server, "/v1/instances/box/stats", stream=True)
    assert [next(stream)[1]["pids"], next(stream)[1]["pids"]] == [1, 1]


def test_top_diff_and_path(server: Server) -> None:
    running(server)
    assert Answer(server, "GET", "/v1/instances/box/top").json[0]["COMMAND"] == "sleep"
    assert Answer(server, "GET", "/v1/instances/box/regions").json[1] == {"space": "ports", "start": 0x3F8, "size": 8, "name": "serial"}
    assert Answer(server, "GET", "/v1/instances/box/diff").json == [{"kind": "A", "path": "/etc/hostname"}]
    found = Answer(server, "GET", "/v1/instances/box/path", {"path": "/etc/hostname"}).json
    assert (found["size"], found["mode"]) == (5, 0o100644)


def test_names_that_are_not_utf8_go_there_and_back(server: Server) -> None:
    running(server)
    name = b"/data/\xff\xfe".decode("utf-8", "surrogateescape")
    server.engine.record("box").files[name] = b"odd"
    assert Answer(server, "GET", "/v1/instances/box/path", {"path": name}).json["size"] == 3
    assert {"kind": "A", "path": name} in Answer(server, "GET", "/v1/instances/box/diff").json


def test_archive_in_and_out(server: Server) -> None:
    running(server)
    packed = tar({"a.txt": b"A" * 100_000, "sub/b": b"B"})
    assert Answer(server, "PUT", "/v1/instances/box/archive", {"path": "/data"}, packed).status == 204
    assert Answer(server, "PUT", "/v1/instances/box/archive", {"path": "/more"}, iter([packed[:10], packed[10:]])).status == 204
    assert server.engine.record("box").files["/more/sub/b"] == b"B"
    answer = Answer(server, "GET", "/v1/instances/box/archive", {"path": "/data"})
    assert answer.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as found:
        assert sorted(found.getnames()) == ["data/a.txt", "data/sub/b"]


def test_archive_refusals(server: Server) -> None:
    running(server)
    Answer(server, "GET", "/v1/instances/box/archive", {"path": "/nowhere"}).problem(404, "not-found")
    Answer(server, "GET", "/v1/instances/box/archive", {"path": "relative"}).problem(400, "invalid")
    Answer(server, "GET", "/v1/instances/box/archive", {"path": "/a\0b"}).problem(400, "invalid")
    Answer(server, "GET", "/v1/instances/box/archive").problem(422, "invalid")
    Answer(server, "PUT", "/v1/instances/box/archive", {"path": "/data"}, b"not a tar" * 100).problem(400, "invalid")


def test_export_and_commit(server: Server) -> None:
    running(server)
    assert len(Answer(server, "GET", "/v1/instances/box/export").body) == 10_240
    answer = Answer(server, "POST", "/v1/instances/box/commit", {"tag": "mine:1", "message": "m", "change": ["ENV A=1", "USER 1"]})
    assert (answer.status, answer.json["names"]) == (201, ["mine:1"])


def test_a_tar_stream_that_fails_is_broken_off(server: Server) -> None:
    running(server)
    server.engine.export_size = 1 << 20
    server.engine.faults["chunk"] = PermanentError("disk on fire")
    with pytest.raises(TemporaryError, match=r"broke off|hung up"):
        Answer(server, "GET", "/v1/instances/box/export")


def test_detached_exec_runs_to_its_end(server: Server) -> None:
    running(server)
    body = {"argv": ["zeros", "10000000"], "env": []}
    assert Answer(server, "POST", "/v1/instances/box/exec", None, body).status == 202
    server.wait_until(lambda: not server.app.state.context.detached)


# images, networks, volumes


def test_images(server: Server) -> None:
    assert [image["names"] for image in Answer(server, "GET", "/v1/images").json] == [["busybox:latest"], ["debian:bookworm"]]
    assert len(Answer(server, "GET", "/v1/images", {"filter": "reference=busybox:latest"}).json) == 1
    assert Answer(server, "GET", "/v1/images/inspect", {"ref": "busybox"}).json["config"] == {"Cmd": ["sleep"]}
    assert Answer(server, "GET", "/v1/images/history", {"ref": "busybox"}).json[0]["size"] == 4096
    assert Answer(server, "POST", "/v1/images/tag", {"ref": "busybox", "name": "b:2"}).status == 204
    assert Answer(server, "DELETE", "/v1/images", {"ref": "b:2"}).json == ["busybox:latest", "b:2"]
    assert Answer(server, "POST", "/v1/images/prune", {"all": True}).json == []
    Answer(server, "GET", "/v1/images/inspect", {"ref": "gone"}).problem(404, "not-found")


@pytest.mark.parametrize(
    ("path", "query", "body"),
    [
        ("build", {}, {"context": "/src", "tags": ["app:1"]}),
        ("bootstrap", {}, {"suite": "bookworm", "tag": "base:1"}),
        ("pull", {"ref": "docker.io/library/nginx", "tls_verify": False}, None),
        ("push", {"ref": "busybox", "destination": "localhost/b"}, None),
    ],
)
def test_long_calls_tell_lines_and_an_end(server: Server, path: str, query: dict[str, Any], body: object) -> None:
    found = list(sse(server, f"/v1/images/{path}", "POST", body, **query))
    assert all(name == "message" and value["line"] for name, value in found[:-1])
    assert found[-1] == ("done", {})


def test_a_long_call_that_fails_late_tells_it_in_the_stream(server: Server) -> None:
    server.engine.faults["progress"] = ConflictError("pull x: the store is locked", "wait")
    stream = sse(server, "/v1/images/pull", "POST", ref="x")
    assert next(stream) == ("message", {"line": "pull x"})
    with pytest.raises(ConflictError, match="store is locked") as caught:
        next(stream)
    assert caught.value.hint == "wait"


def test_a_long_call_that_fails_at_once_is_an_ordinary_problem(server: Server) -> None:
    Answer(server, "POST", "/v1/images/push", {"ref": "gone"}).problem(404, "not-found")


def test_load_import_and_save(server: Server) -> None:
    assert Answer(server, "POST", "/v1/images/load", None, bytes(1 << 20)).json == ["loaded:latest"]
    assert server.engine.received == 1 << 20
    assert Answer(server, "POST", "/v1/images/import", {"tag": "root:1"}, iter([b"a" * 1000] * 50)).json["names"] == ["root:1"]
    assert server.engine.received == 50_000
    assert len(Answer(server, "GET", "/v1/images/save", {"ref": ["busybox", "debian:bookworm"]}).body) == 10_240
    Answer(server, "GET", "/v1/images/save", {"ref": "busybox", "format": "zip"}).problem(422, "invalid")
    Answer(server, "GET", "/v1/images/save").problem(422, "invalid")


def test_networks(server: Server) -> None:
    made = Answer(server, "POST", "/v1/networks", None, {"name": "back", "internal": True})
    assert (made.status, made.json["internal"]) == (201, True)
    Answer(server, "POST", "/v1/networks", None, {"name": "back"}).problem(409, "conflict")
    assert [view["name"] for view in Answer(server, "GET", "/v1/networks").json] == ["default", "back"]
    assert Answer(server, "GET", "/v1/networks/back").json["name"] == "back"
    assert Answer(server, "DELETE", "/v1/networks/back").status == 204
    assert Answer(server, "POST", "/v1/networks/prune").json == []


def test_snapshots(server: Server) -> None:
    Answer(server, "POST", "/v1/snapshots", None, {"instance": "nope"}).problem(404, "not-found")
    made = Answer(server, "POST", "/v1/instances", None, {"image": "busybox"}).json
    snapshot = Answer(server, "POST", "/v1/snapshots", None, {"instance": made["id"]})
    assert snapshot.status == 201
    assert [view["key"] for view in Answer(server, "GET", "/v1/snapshots").json] == [snapshot.json["key"]]
    assert Answer(server, "DELETE", f"/v1/snapshots/{snapshot.json['key']}").status == 204
    Answer(server, "DELETE", f"/v1/snapshots/{snapshot.json['key']}").problem(404, "not-found")


def test_secrets(server: Server) -> None:
    made = Answer(server, "POST", "/v1/secrets", {"name": "word"}, b"hidden-42")
    assert (made.status, made.json["size"]) == (201, 9)
    Answer(server, "POST", "/v1/secrets", {"name": "word"}, b"other").problem(409, "conflict")
    assert Answer(server, "POST", "/v1/secrets", {"name": "word", "replace": True}, b"other").json["id"] != made.json["id"]
    Answer(server, "POST", "/v1/secrets", {"name": "large"}, bytes((1 << 20) + 1)).problem(413, "invalid")
    Answer(server, "POST", "/v1/secrets", None, b"nameless").problem(422, "invalid")
    assert [view["name"] for view in Answer(server, "GET", "/v1/secrets").json] == ["word"]
    assert set(Answer(server, "GET", "/v1/secrets/word").json) == {"id", "name", "size", "created_at", "used_by"}
    assert Answer(server, "DELETE", "/v1/secrets/word").status == 204
    Answer(server, "DELETE", "/v1/secrets/word").problem(404, "not-found")
    assert Answer(server, "DELETE", "/v1/secrets/word", {"force": True}).status == 204


def test_volumes(server: Server) -> None:
    assert Answer(server, "POST", "/v1/volumes", None, {"name": "data"}).status == 201
    assert [view["name"] for view in Answer(server, "GET", "/v1/volumes").json] == ["data"]
    assert Answer(server, "GET", "/v1/volumes/data").json["driver"] == "local"
    assert Answer(server, "DELETE", "/v1/volumes/data").status == 204
    Answer(server, "DELETE", "/v1/volumes/data").problem(404, "not-found")
    assert Answer(server, "DELETE", "/v1/volumes/data", {"force": True}).status == 204
    assert Answer(server, "POST", "/v1/volumes/prune", {"all": True}).json == []


# refusals


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"image": "b", "comand": ["x"]}, "body.comand: unknown field"),
        ({"image": "b", "resources": {"cpu": 1}}, "body.resources.cpu: unknown field"),
        ({"image": "b", "mounts": [{"type": "bind", "target": "/a", "src": "/b"}]}, "body.mounts.0.src: unknown field"),
        ({"image": "b", "health": {"test": ["NONE"], "x": 1}}, "body.health.x: unknown field"),
        ({"image": "b", "runtime": "jail"}, "body.runtime:"),
        ({"image": "b", "resources": {"memory": 1 << 70}}, "body.resources.memory:"),
        ({"image": "b", "resources": {"cpus": float("nan")}}, "body.resources.cpus:"),
        ({"image": "b", "resources": {"cpus": float("inf")}}, "body.resources.cpus:"),
        ({}, "body.image: is missing"),
        ([], "body:"),
        (5, "body:"),
    ],
)
def test_a_body_that_is_wrong_is_told_where(server: Server, body: object, where: str) -> None:
    assert where in Answer(server, "POST", "/v1/instances", None, body).problem(422, "invalid")["detail"]


def test_a_refusal_never_repeats_the_value(server: Server) -> None:
    answer = Answer(
        server, "POST", "/v1/instances", None, {"image": "b", "env": {"TOKEN": "hunter2"}, "files": [{"content": 5, "target": "hunter2"}]}
    )
    answer.problem(422, "invalid")
    assert b"hunter2" not in answer.body


@pytest.mark.parametrize("raw", [b"{", b'"\xff"', b"[" * 100_000, b"1" * 5000, b'{"image": "b"} x'])
def test_json_that_is_none(server: Server, raw: bytes) -> None:
    answer = exchange_raw(server, raw)
    assert answer.startswith((b"HTTP/1.1 422", b"HTTP/1.1 400")), answer[:200]
    assert b"application/problem+json" in answer


def test_json_of_the_wrong_type_of_content(server: Server) -> None:
    Answer(server, "POST", "/v1/instances", None, b'{"image": "b"}').problem(422, "invalid")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_limit(server: Server, chunked: bool) -> None:
    raw = b'{"image": "' + b"b" * (4 << 20) + b'"}'
    answer = exchange_raw(server, raw, chunked=chunked)
    assert answer.startswith(b"HTTP/1.1 413"), answer[:100]
    assert b"application/problem+json" in answer
    assert server.engine.calls == []


def test_a_head_beyond_the_limit(server: Server) -> None:
    answer = exchange_raw(server, b"", head=b"X-Long: " + b"a" * 1_000_000 + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400"), answer[:100]
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not-found"),
        ("GET", "/v1/nothing", 404, "not-found"),
        ("GET", "/v1/instances/", 404, "not-found"),
        ("PATCH", "/v1/instances", 405, "invalid"),
        ("GET", "/v1/instances/nobody", 404, "not-found"),
        ("GET", "/v1/instances?al=true", 400, "invalid"),
        ("GET", "/v1/instances?all=maybe", 422, "invalid"),
        ("GET", "/v1/instances?filter=name", 400, "invalid"),
        ("GET", "/v1/instances?filter=colour%3Dred", 400, "invalid"),
        ("POST", "/v1/instances/box/stop?timeout=-1", 422, "invalid"),
        ("POST", "/v1/instances/box/stop?timeout=nan", 422, "invalid"),
        ("POST", "/v1/instances/box/stop?timeout=inf", 422, "invalid"),
        ("POST", "/v1/instances/box/kill?signal=NOPE", 400, "invalid"),
        ("POST", "/v1/instances/box/wait?condition=never", 400, "invalid"),
        ("POST", "/v1/instances/box/rename", 422, "invalid"),
        ("GET", "/v1/instances/box/logs?tail=-1", 422, "invalid"),
    ],
)
def test_refused_requests(server: Server, method: str, path: str, status: int, code: str) -> None:
    running(server)
    Answer(server, method, path).problem(status, code)


def test_405_says_what_is_allowed(server: Server) -> None:
    assert "GET" in Answer(server, "PATCH", "/v1/instances").headers["allow"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ConflictError("taken", "choose another"), 409, "conflict"),
        (UnsupportedError("not here"), 422, "unsupported"),
        (PermanentError("mount layer: no space left"), 500, "internal"),
    ],
)
def test_errors_keep_message_and_hint(server: Server, error: Any, status: int, code: str) -> None:
    server.engine.faults["create"] = error
    found = Answer(server, "POST", "/v1/instances", None, SLEEPER).problem(status, code)
    assert (found["detail"], found["hint"]) == (error.message, error.hint)


def test_cannot_run_has_an_exit_code(server: Server) -> None:
    server.engine.faults["start"] = CannotRunError("run x: not found", exit_code=127)
    assert Answer(server, "POST", "/v1/instances", {"start": True}, SLEEPER).problem(400, "cannot-run")["exit_code"] == 127


def test_temporary_has_retry_after(server: Server) -> None:
    server.engine.faults["create"] = TemporaryError("busy", retry_after=2.5)
    answer = Answer(server, "POST", "/v1/instances", None, SLEEPER)
    answer.problem(503, "temporary")
    assert answer.headers["retry-after"] == "3"


def test_an_internal_error_shows_a_number_and_nothing_else(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.engine.faults["create"] = RuntimeError("password=hunter2 in /root/secret.py")
    answer = Answer(server, "POST", "/v1/instances", None, SLEEPER)
    detail = answer.problem(500, "internal")["detail"]
    assert b"hunter2" not in answer.body
    number = re.fullmatch(r"internal error ([0-9a-f]{8})", detail)
    assert number
    assert number[1] in caplog.text
    assert Answer(server, "GET", "/v1/ping").status == 200


def test_changes_are_audited_with_the_peer(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "twinhull.audit")
    running(server)
    Answer(server, "GET", "/v1/instances/box")
    assert [record.getMessage() for record in caplog.records if record.name == "twinhull.audit"] == [
        f"POST /v1/instances by uid={os.getuid()} pid={os.getpid()}: 201"
    ]


def test_an_internal_error_is_audited_too(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "twinhull.audit")
    server.engine.faults["create"] = RuntimeError("x")
    Answer(server, "POST", "/v1/instances", None, SLEEPER)
    assert [record.getMessage()[-5:] for record in caplog.records if record.name == "twinhull.audit"] == [": 500"]


def test_the_document_is_openapi_3_1_and_names_everything(server: Server) -> None:
    document = Answer(server, "GET", "/v1/openapi.json").json
    assert document["openapi"].startswith("3.1")
    assert document["components"]["schemas"]["InstanceSpec"]["additionalProperties"] is False
    assert document["components"]["schemas"]["Resources"]["additionalProperties"] is False
    create = document["paths"]["/v1/instances"]["post"]["responses"]
    assert create["201"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/InstanceView"} or "properties" in str(
        create
    )
    assert create["default"]["content"]["application/problem+json"]
    assert "application/x-tar" in document["paths"]["/v1/images/load"]["post"]["requestBody"]["content"]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])


def test_every_address_of_the_documentation_exists(server: Server) -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    paths = set(Answer(server, "GET", "/v1/openapi.json").json["paths"])
    told = {match[1] for match in re.finditer(r"`(?:GET|POST|PUT|DELETE) (/v1/[^`?…]*)", text)}
    assert len(told) > 20
    assert told <= paths, told - paths


def sse(server: Server, path: str, method: str = "GET", body: object = None, **query: Any) -> Iterator[tuple[str, Any]]:
    """Events of a stream."""
    return thin.sse(method, path, query, body, target=target.Target(socket=str(server.home.socket)))


def tar(files: dict[str, bytes]) -> bytes:
    """A tar of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def exchange_raw(server: Server, body: bytes, head: bytes = b"", chunked: bool = False) -> bytes:
    """POST /v1/instances with bytes as they are; the whole answer."""
    connection = http.Connection(target.Target(socket=str(server.home.socket)))
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    payload = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    lines = (
        b"POST /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n" + head + framing + b"\r\n\r\n"
    )
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.socket.sendall(lines + payload)
    answer = b""
    while chunk := connection.receive():
        answer += chunk
    connection.close()
    return answer
