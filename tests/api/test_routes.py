"""The route matrix: made from the live route table, so that a new route cannot be forgotten."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from modelyard.api import app as app_module
from modelyard.api import door, security
from modelyard.api.security import Secured
from modelyard.api.table import check_starlette
from modelyard.errors import ConfigError

from .surface import ADMIN_KEY, KEYS, SCRAPE_KEY, USER_KEY, Listener, build_yard, listening

PUBLIC = {("/", "GET"), ("/livez", "GET"), ("/readyz", "GET"), ("/health", "GET")}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
TABLE = [route for route in build_yard().app.routes if isinstance(route, Route)]
ADMIN_ACTS = [
    ("POST", "/admin/models/tiny/load"), ("POST", "/admin/models/tiny/unload"), ("POST", "/admin/models/tiny/pin"),
    ("POST", "/admin/models/rescan"), ("DELETE", "/admin/requests/req-1"), ("GET", "/admin/config"),
    ("GET", "/admin/store"), ("GET", "/admin/store/models/tiny"), ("GET", "/admin/store/blobs/sha256:0"),
]  # fmt: skip
STORE_ACTS = [
    ("POST", "/api/pull"), ("DELETE", "/api/delete"), ("POST", "/api/copy"), ("POST", "/api/push"),
    ("POST", "/api/create"), ("POST", "/api/blobs/sha256:0"),
]  # fmt: skip


@pytest.fixture(scope="module")
def locked() -> Iterator[Listener]:
    with listening(build_yard(keys=KEYS)) as listener:
        yield listener


def concrete(path: str) -> str:
    for name in (
        "{path:path}",
        "{id:path}",
        "{name:path}",
        "{digest:path}",
        "{digest}",
        "{request_id}",
        "{check}",
        "{name}",
    ):
        path = path.replace(name, "something")
    assert "{" not in path
    return path


def test_every_route_is_secured() -> None:
    assert len(TABLE) == len(build_yard().app.routes)
    for route in TABLE:
        assert isinstance(route.app, Secured), route.path
        assert route.app.public or route.app.rights, route.path


@pytest.mark.parametrize("path", [route.path for route in TABLE])
def test_anonymous_callers_get_401_everywhere_but_on_the_public_list(locked: Listener, path: str) -> None:
    for method in METHODS:
        reply = locked.ask(method, concrete(path))

        if (path, "GET") in PUBLIC:
            assert reply.status == (200 if method in ("GET", "HEAD") else 405), method
        else:
            assert reply.status == 401, method
            assert reply.headers["www-authenticate"] == "bearer"
        assert reply.headers["x-request-id"]


@pytest.mark.parametrize("key", [USER_KEY, SCRAPE_KEY])
@pytest.mark.parametrize(("method", "path"), ADMIN_ACTS)
def test_admin_acts_need_the_right_admin(locked: Listener, key: str, method: str, path: str) -> None:
    reply = locked.ask(method, path, {"authorization": f"Bearer {key}"})

    assert reply.status == 403
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json["code"] == "permission_denied"


@pytest.mark.parametrize("key", [USER_KEY, SCRAPE_KEY])
@pytest.mark.parametrize(("method", "path"), STORE_ACTS)
def test_changing_which_models_there_are_needs_the_right_admin(
    locked: Listener, key: str, method: str, path: str
) -> None:
    reply = locked.ask(method, path, {"authorization": f"Bearer {key}"})

    assert reply.status == 403
    assert isinstance(reply.json["error"], str)
    assert reply.json["code"] == "permission_denied"


def test_what_is_not_built_says_so(locked: Listener) -> None:
    key = {"authorization": f"Bearer {ADMIN_KEY}"}
    replies = [locked.ask("POST", path, key) for path in ("/api/push", "/api/create", "/api/blobs/sha256:0")]

    assert [(reply.status, reply.json["code"]) for reply in replies] == [(501, "not_implemented")] * 3
    assert locked.ask("HEAD", "/api/blobs/sha256:0", key).status == 501


def test_refusals_on_ollamas_paths_are_in_its_shape(locked: Listener) -> None:
    nobody = locked.ask("POST", "/api/chat")
    key = {"authorization": f"Bearer {ADMIN_KEY}"}
    unknown = locked.ask("GET", "/api/nothing", key)
    method = locked.ask("GET", "/api/chat", key)
    stranger = locked.ask("GET", "/api/tags", {"host": "evil.tld"})
    ours = locked.ask("POST", "/api/v1/llm/chat")

    for reply, status in ((nobody, 401), (unknown, 404), (method, 405), (stranger, 403)):
        assert reply.status == status
        assert isinstance(reply.json["error"], str)
    assert ours.error["code"] == "invalid_api_key"


def test_the_root_is_ollamas_text_for_programs_and_a_page_for_browsers(locked: Listener) -> None:
    plain = locked.ask("GET", "/", {"accept": "*/*"})
    page = locked.ask("GET", "/", {"accept": "text/html,application/xhtml+xml"})

    assert (plain.body, plain.headers["content-type"]) == (b"Ollama is running", "text/plain; charset=utf-8")
    assert b"Modelyard is running" in page.body
    assert locked.ask("HEAD", "/").status == 200


def test_extra_fields_in_a_body_raise_no_role(locked: Listener) -> None:
    body = b'{"rights":["admin"],"role":"admin","is_local":true}'

    reply = locked.ask("POST", "/admin/models/tiny/load", {"authorization": f"Bearer {USER_KEY}"}, body)

    assert reply.status == 403


def test_each_right_opens_its_own_doors_only(locked: Listener) -> None:
    def status(key: str, method: str, path: str) -> int:
        return locked.ask(method, path, {"x-api-key": key}).status

    for path in ("/v1/chat/completions", "/v1/embeddings", "/api/chat", "/api/embed", "/api/v1/llm/generate"):
        assert status(USER_KEY, "POST", path) == 200
        assert status(SCRAPE_KEY, "POST", path) == 403
    for path in ("/api/tags", "/api/ps", "/api/version"):
        assert status(USER_KEY, "GET", path) == 200
        assert status(SCRAPE_KEY, "GET", path) == 403
    assert status(USER_KEY, "GET", "/metrics") == 403
    assert status(USER_KEY, "GET", "/health/detailed") == 403
    assert status(SCRAPE_KEY, "GET", "/metrics") == 200
    assert status(SCRAPE_KEY, "POST", "/v1/chat/completions") == 403
    assert status(SCRAPE_KEY, "GET", "/v1/models") == 403
    assert status(ADMIN_KEY, "GET", "/health/detailed") == 200
    assert status(ADMIN_KEY, "GET", "/metrics") == 200


def test_a_wrong_method_is_405_and_an_unknown_path_404_for_those_with_a_key(locked: Listener) -> None:
    key = {"authorization": f"Bearer {ADMIN_KEY}"}

    wrong_method = locked.ask("DELETE", "/v1/models", key)
    unknown = locked.ask("GET", "/v1/nothing", key)
    unknown_admin = locked.ask("GET", "/admin/nothing", key)
    slash = locked.ask("GET", "/v1/models?x=1", key)

    assert (wrong_method.status, wrong_method.headers["allow"]) == (405, "get, head")
    assert (unknown.status, unknown.error["code"]) == (404, "not_found")
    assert (unknown_admin.status, unknown_admin.json["code"]) == (404, "not_found")
    assert slash.status == 200


HOSTILE_HOSTS = (
    b"127.0.0.1/", b"127.0.0.1/health", b"127.0.0.1?", b"127.0.0.1#", b"127.0.0.1\\", b"a@127.0.0.1", b"127.0.0.1 x",
    b"127.0.0.1\tx", b"127.0.0.1\x00", b"127.0.0.1/health?", b"localhost/livez#", b"127.0.0.1:80/livez",
)  # fmt: skip
ENCODED_PATHS = (
    "/admin%2fstatus", "//admin/status", "/./admin/status", "/livez/../admin/status", "/livez%2f..%2fadmin%2fstatus",
    "/admin/status;x=/livez", "/livez;/../admin/status", "/%61dmin/status", "/admin/status/", "/ADMIN/STATUS",
    "/livez/..;/admin/status", "/admin\\status", "/health/%2e%2e/admin/status", "/admin/status%00", "/admin/status%20",
    "/health%2fdetailed", "/health/./detailed", "/livez//../metrics", "/%2e/metrics", "/metrics%3f", "/metrics%23",
    "/admin/status%0a", "/admin%0d%0astatus", "/v1/models/%e2%80%a8",
)  # fmt: skip


@pytest.mark.parametrize("path", [concrete(route.path) for route in TABLE if not route.app.public])  # type: ignore[attr-defined]
def test_no_host_header_opens_a_protected_route(locked: Listener, path: str) -> None:
    for host in HOSTILE_HOSTS:
        raw = locked.send(b"GET %s HTTP/1.1\r\nConnection: close\r\nHost: %s\r\n\r\n" % (path.encode(), host))

        assert raw[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 401", b"HTTP/1.1 403"), (path, host)


@pytest.mark.parametrize("path", ENCODED_PATHS)
def test_no_spelling_of_a_path_opens_a_protected_route(locked: Listener, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert locked.ask(method, path).status in (400, 401)


def test_no_decision_reads_the_reconstructed_url() -> None:
    for module in (app_module, door, security):
        source = inspect.getsource(module)
        assert ".url" not in source.replace("reconstructed URL", "")
        assert "base_url" not in source


def test_websockets_are_refused(locked: Listener) -> None:
    upgrade = (
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )

    assert locked.send(upgrade).startswith(b"HTTP/1.1 401")


def test_an_old_starlette_is_refused() -> None:
    check_starlette("1.0.1")
    for version in ("0.48.0", "1.0.0", "1.0"):
        with pytest.raises(ConfigError):
            check_starlette(version)


def test_the_app_works_in_the_test_client() -> None:
    with TestClient(build_yard().app) as client:
        assert client.get("/health").json() == {"status": "ok", "ready": True}
        assert "models" in client.get("/health/detailed").json()
        assert client.get("/", headers={"host": "evil.tld"}).status_code == 403
