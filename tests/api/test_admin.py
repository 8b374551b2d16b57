"""The admin API over real sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from starlette.routing import Route
from structlog.testing import capture_logs

from modelyard.api.admin import BODY_BYTES_MAX, event_frame
from modelyard.api.security import Secured
from modelyard.errors import LoadFailed
from modelyard.events import SUBSCRIBERS_MAX, Event

from .surface import ADMIN_KEY, KEYS, Listener, Yard, build_yard, listening, parse_reply, wait_until


@pytest.fixture
def yard() -> Yard:
    return build_yard()


@pytest.fixture
def node(yard: Yard) -> Iterator[Listener]:
    with listening(yard) as listener:
        yield listener


def test_status_is_the_nodes_snapshot(node: Listener, yard: Yard) -> None:
    yard.residency.loaded["tiny"] = True

    reply = node.ask("GET", "/admin/status")

    assert reply.status == 200
    assert reply.json["schema_version"] == 1
    assert reply.json["ready"] is True
    residents, requests = reply.json["residents"], reply.json["requests"]
    assert isinstance(residents, list)
    assert isinstance(requests, list)
    assert (residents[0]["model"], residents[0]["state"], residents[0]["pinned"]) == ("tiny", "resident", True)
    assert requests[0]["id"] == "req-1"


def test_load_unload_and_pin_ask_residency_and_return_receipts(node: Listener, yard: Yard) -> None:
    loaded = node.ask("POST", "/admin/models/Org/Other:q4/load", body=b'{"pinned":true}').json["receipt"]
    again = node.ask("POST", "/admin/models/org%2Fother:q4/load").json["receipt"]
    pinned = node.ask("POST", "/admin/models/org/other:q4/pin", body=b'{"pinned":false}').json
    unloaded = node.ask("POST", "/admin/models/org/other:q4/unload", body=b'{"force":true}').json["receipt"]

    assert isinstance(loaded, dict)
    assert isinstance(unloaded, dict)
    assert (loaded["action"], again, pinned, unloaded["action"]) == ("load", None, {"pinned": False}, "unload")
    assert yard.residency.asked == [
        ("load", "org/other:q4", True), ("load", "org/other:q4", None), ("pin", "org/other:q4", False),
        ("unload", "org/other:q4", True),
    ]  # fmt: skip


def test_a_rescan_replaces_the_catalog(node: Listener) -> None:
    reply = node.ask("POST", "/admin/models/rescan")

    assert reply.json == {"models": [{"id": "tiny", "problem": None}, {"id": "new", "problem": None}]}


def test_a_request_is_cancelled_by_its_id_once(node: Listener) -> None:
    assert node.ask("DELETE", "/admin/requests/req-1").status == 200
    assert node.ask("DELETE", "/admin/requests/req-1").status == 404


def test_errors_are_problem_json(node: Listener) -> None:
    reply = node.ask("POST", "/admin/models/none/load", {"x-request-id": "mine"})

    assert (reply.status, reply.headers["content-type"]) == (404, "application/problem+json")
    assert (reply.json["code"], reply.json["request_id"]) == ("model_not_found", "mine")


def test_failures_of_residency_reach_the_caller(
    node: Listener, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    async def fail(*_: object, **__: object) -> None:
        raise LoadFailed(model="tiny", problem="no room", retry_after_s=10)

    async def break_down(*_: object, **__: object) -> None:
        raise KeyError("secret detail")

    monkeypatch.setattr(yard.residency, "load", fail)
    failed = node.ask("POST", "/admin/models/tiny/load")
    monkeypatch.setattr(yard.residency, "load", break_down)
    broken = node.ask("POST", "/admin/models/tiny/load")

    assert (failed.status, failed.headers["retry-after"]) == (503, "10")
    assert (broken.status, broken.json["code"]) == (500, "internal")
    assert b"secret detail" not in broken.body


@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"pinned":"yes"}', 400), (b'{"pinned":1}', 400), (b'{"other":1}', 400), (b"[]", 400), (b"{", 400),
     (b"null", 200), (b"{}", 200), (b"x" * (BODY_BYTES_MAX + 1), 413), (b"[" * 60_000, 400), (b"\xff", 400)],
)  # fmt: skip
def test_bodies_are_checked_before_anything_is_asked(node: Listener, yard: Yard, body: bytes, status: int) -> None:
    reply = node.ask("POST", "/admin/models/tiny/load", {"content-type": "application/json"}, body)

    assert reply.status == status
    assert len(yard.residency.asked) == (1 if status == 200 else 0)


def test_findings_point_at_fields_and_do_not_repeat_values(node: Listener) -> None:
    reply = node.ask("POST", "/admin/models/tiny/pin", {"content-type": "application/json"}, b'{"pinned":"SECRET"}')

    errors = reply.json["errors"]
    assert isinstance(errors, list)
    assert errors[0]["pointer"] == "/pinned"
    assert b"SECRET" not in reply.body


def test_a_chunked_body_over_the_limit_is_413(node: Listener) -> None:
    chunk = b"%x\r\n%s\r\n" % (BODY_BYTES_MAX + 1, b"x" * (BODY_BYTES_MAX + 1))
    head = b"POST /admin/models/tiny/load HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"

    raw = node.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n")

    assert parse_reply(raw).status == 413


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_forms_of_web_pages_change_nothing(node: Listener, yard: Yard, kind: str) -> None:
    reply = node.ask("POST", "/admin/models/tiny/load", {"content-type": kind}, b"{}")

    assert reply.status == 415
    assert not yard.residency.asked


def test_nothing_changes_by_get(node: Listener, yard: Yard) -> None:
    for act in ("load", "unload", "pin"):
        assert node.ask("GET", f"/admin/models/tiny/{act}").status == 405
    assert node.ask("GET", "/admin/requests/req-1").status == 405

    assert not yard.residency.asked
    assert yard.requests.ids == {"req-1"}


def test_the_configuration_is_shown_to_admins(node: Listener) -> None:
    assert node.ask("GET", "/admin/config").json == {"server.port": {"value": 11435, "origin": "default"}}


def test_every_act_leaves_one_audit_line() -> None:
    yard = build_yard(keys=KEYS)
    key = {"x-api-key": ADMIN_KEY}

    with capture_logs() as logs, listening(yard) as node:
        node.ask("POST", "/admin/models/tiny/load", key)
        node.ask("POST", "/admin/models/none%20who=boss/unload", key)
        forged = node.ask("POST", "/admin/models/none%0Aadmin.act%20who=x/unload", key)
        node.ask("DELETE", "/admin/requests/req-1", key)

    acts = [line for line in logs if line["event"] == "admin.act"]
    assert [(line["who"], line["act"], line["result"]) for line in acts] == [
        ("boss", "load", "done"), ("boss", "unload", "model_not_found"), ("boss", "cancel", "done"),
    ]  # fmt: skip
    assert forged.status == 400


# ---- the description ----


def test_the_description_is_openapi_3_1_and_covers_exactly_the_admin_routes_and_our_own_paths(
    node: Listener, yard: Yard
) -> None:
    description = node.ask("GET", "/openapi.json").json

    paths = description["paths"]
    assert isinstance(paths, dict)
    described = {(path, method.upper()) for path in paths for method in paths[path]}
    listed = {
        (route.path.replace(":path}", "}"), method)
        for route in yard.app.routes
        if isinstance(route, Route) and isinstance(route.app, Secured)
        if route.path.startswith(("/admin/", "/api/v1/llm/", "/v1/embeddings", "/v1/rerank"))
        for method in route.app.methods
        if method != "HEAD"
    }
    assert str(description["openapi"]).startswith("3.1")
    assert described == listed


# ---- events ----


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    raw = b""
    while wanted not in raw:
        piece = connection.recv(65536)
        assert piece, f"ended without {wanted!r}: {raw!r}"
        raw += piece
    return raw


def follow(connection: socket.socket, fields: str = "") -> bytes:
    connection.sendall(f"GET /admin/events HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode())
    return read_until(connection, b": connected\n\n")


def test_events_are_streamed_as_they_happen(node: Listener, yard: Yard) -> None:
    with node.connect() as connection:
        head = follow(connection)
        yard.operations.begin_drain()
        frames = read_until(connection, b"0\r\n\r\n")

    assert b"content-type: text/event-stream" in head
    assert b"id: 2\nevent: node.draining\ndata: {" in frames


def test_followers_continue_where_they_stopped(node: Listener, yard: Yard) -> None:
    with node.connect() as connection:
        raw = follow(connection, "Last-Event-ID: 0\r\n")
        if b"node.started" not in raw:
            raw += read_until(connection, b"node.started")

    assert b"id: 1\nevent: node.started" in raw


def test_a_follower_that_leaves_is_forgotten(node: Listener, yard: Yard) -> None:
    with node.connect() as connection:
        follow(connection)
        assert len(yard.events._subscriptions) == 1

    wait_until(lambda: not yard.events._subscriptions)


def test_followers_are_bounded(node: Listener, yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(yard.events), "is_full", property(lambda _bus: True))

    reply = node.ask("GET", "/admin/events")

    assert SUBSCRIBERS_MAX == 64
    assert (reply.status, reply.headers["retry-after"]) == (503, "5")


def test_hostile_texts_stay_inside_their_event() -> None:
    hostile = "a\n\nevent: admin\ndata: [DONE]\u2028\r\n\x00"

    frame = event_frame(Event("model.loaded", 1.0, {"model": hostile}, 7))

    assert frame.count(b"\n") == 4
    assert frame.startswith(b"id: 7\nevent: model.loaded\ndata: {")
    assert b"\r" not in frame
