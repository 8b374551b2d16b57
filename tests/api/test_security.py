"""Hosts, origins, keys, limits at the door, as real clients and attackers meet them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from modelyard.api.hosts import DECISIONS_MAX, HostPolicy, OriginPolicy, parse_host
from modelyard.api.security import check_bind
from modelyard.errors import BadRequest, ConfigError, HostRefused
from modelyard.gateway.keys import KeyEntry, KeyRing, Right

from .surface import ADMIN_KEY, KEYS, USER_KEY, Listener, build_yard, listening, parse_reply

# What a Host header may be, and what comes of it on a node that declares gpu.example.com and *.lab.example.com.
HOSTS: list[tuple[bytes, int]] = [
    (b"localhost", 200), (b"localhost:11435", 200), (b"LOCALHOST", 200), (b"LocalHost:1", 200), (b"127.0.0.1", 200),
    (b"127.0.0.1:65535", 200), (b"[::1]", 200), (b"[::1]:80", 200), (b"[0:0:0:0:0:0:0:1]", 200),
    (b"[0000::0001]:11435", 200), (b"gpu.example.com", 200), (b"GPU.example.com:443", 200), (b"a.lab.example.com", 200),
    (b"a.b.lab.example.com:8080", 200),
    (b"localhost \t", 400),
    (b"evil.tld", 403), (b"EVIL.TLD:11435", 403), (b"localhost.evil.tld", 403), (b"127.0.0.1.evil.tld", 403),
    (b"127.0.0.1.nip.io", 403), (b"evil-localhost", 403), (b"localhost-evil.tld", 403), (b"xlocalhost", 403),
    (b"local", 403), (b"lab.example.com", 403), (b"evillab.example.com", 403), (b"example.com", 403),
    (b"gpu.example.com.evil.tld", 403), (b"xgpu.example.com", 403), (b"app.localhost", 403), (b"testserver", 403),
    (b"0.0.0.0", 403), (b"0", 403), (b"127.1", 403), (b"127.0.0.2", 403), (b"2130706433", 403), (b"0x7f000001", 403),
    (b"0177.0.0.1", 403), (b"127.000.000.001", 403), (b"[::]", 403), (b"[::ffff:127.0.0.1]", 403),
    (b"[::ffff:7f00:1]", 403), (b"[fe80::1]", 403), (b"10.0.0.1", 403), (b"169.254.169.254", 403),
    (b"", 400), (b":80", 400), (b":", 400), (b"localhost.", 400), (b"evil.tld.", 400), (b".localhost", 400),
    (b"local..host", 400), (b"localhost:", 400), (b"localhost:x", 400), (b"localhost:0", 400),
    (b"localhost:65536", 400),
    (b"localhost:80:80", 400), (b"::1", 400), (b"[::1", 400), (b"::1]", 400), (b"[::1]x", 400), (b"[]", 400),
    (b"[localhost]", 400), (b"[::1%25eth0]", 400), (b"user@localhost", 400), (b"localhost/x", 400),
    (b"localhost?", 400), (b"localhost#", 400), (b"localhost\\x", 400), (b"http://localhost", 400),
    (b"localhost, evil.tld", 400), (b"localhost evil.tld", 400), (b"*", 400), (b"*.lab.example.com", 400),
    (b"-localhost", 400), (b"localhost%00", 400), ("löcalhost".encode(), 400), (b"a" * 300, 400),
]  # fmt: skip


@pytest.fixture(scope="module")
def node() -> Iterator[Listener]:
    yard = build_yard(
        allowed_hosts=("gpu.example.com", "*.lab.example.com"), allowed_origins=("https://chat.example.org",)
    )
    with listening(yard) as listener:
        yield listener


@pytest.fixture(scope="module")
def locked() -> Iterator[Listener]:
    with listening(build_yard(keys=KEYS)) as listener:
        yield listener


def test_the_host_matrix_is_large_enough() -> None:
    assert len({host for host, _status in HOSTS}) == len(HOSTS) >= 60


@pytest.mark.parametrize(("host", "status"), HOSTS)
def test_only_our_own_and_declared_hosts_are_answered(node: Listener, host: bytes, status: int) -> None:
    for path in (b"/livez", b"/v1/models", b"/nothing"):
        raw = node.send(b"GET %s HTTP/1.1\r\nConnection: close\r\nHost: %s\r\n\r\n" % (path, host))

        expected = 404 if status == 200 and path == b"/nothing" else status
        assert parse_reply(raw).status == expected


def test_two_hosts_no_host_and_a_host_in_the_target_are_refused(node: Listener) -> None:
    for head in (
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nhOST: evil.tld\r\n",
        b"GET /livez HTTP/1.1\r\n",
        b"GET /livez HTTP/1.0\r\n",
        b"GET http://evil.tld/livez HTTP/1.1\r\nHost: localhost\r\n",
        b"GET http://localhost/livez HTTP/1.1\r\nHost: localhost\r\n",
        b"GET //evil.tld/livez HTTP/1.1\r\nHost: evil.tld\r\n",
    ):
        assert parse_reply(node.send(head + b"Connection: close\r\n\r\n")).status in (400, 403), head


def test_websockets_of_foreign_hosts_are_refused(node: Listener) -> None:
    upgrade = b"GET /livez HTTP/1.1\r\nHost: evil.tld\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    assert parse_reply(node.send(upgrade)).status == 403


def test_hosts_are_checked_with_keys_and_on_wildcard_binds_too() -> None:
    with listening(build_yard(keys=KEYS, bind_host="0.0.0.0"), host="0.0.0.0") as node:
        key = {"authorization": f"Bearer {ADMIN_KEY}"}

        assert node.ask("GET", "/v1/models", {**key, "host": "evil.tld"}).status == 403
        assert node.ask("GET", "/v1/models", {**key, "host": "0.0.0.0"}).status == 403
        assert node.ask("GET", "/v1/models", {**key, "host": "127.0.0.1"}).status == 200


def test_the_address_a_connection_came_in_on_is_answered() -> None:
    policy = HostPolicy(bind_host="0.0.0.0")

    policy.check(b"192.168.1.5:11435", accepted_on="192.168.1.5", peer="192.168.1.9")
    policy.check(b"[fd00::5]", accepted_on="fd00:0::5", peer="fd00::9")
    with pytest.raises(HostRefused):
        policy.check(b"192.168.1.6", accepted_on="192.168.1.5", peer="192.168.1.9")
    with pytest.raises(HostRefused):  # the decision for one address is not kept for another
        policy.check(b"192.168.1.5:11435", accepted_on="10.0.0.1", peer="192.168.1.9")


def test_kept_decisions_are_bounded() -> None:
    policy = HostPolicy()

    for port in range(1, 2 * DECISIONS_MAX):
        policy.check(b"localhost:%d" % port, accepted_on="127.0.0.1", peer="127.0.0.1")

    assert len(policy._allowed) == DECISIONS_MAX


def test_declared_names_are_checked_at_start() -> None:
    for name in ("http://x", "a b", "", "*", "x:80"):
        with pytest.raises(ConfigError):
            HostPolicy(declared=(name,))
    for origin in ("example.org", "*", "null", "https://example.org/path"):
        with pytest.raises(ConfigError):
            OriginPolicy((origin,))


def test_a_host_is_parsed_or_refused_never_guessed() -> None:
    assert parse_host(b"A.b:1") == "a.b"
    assert parse_host(b"\xff") is None


# ---- origins ----


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.tld", "http://localhost", "https://127.0.0.1:1", "http://localhost:3000", "file://",
     "https://chat.example.org.evil.tld", "http://chat.example.org", "https://chat.example.org:8443", "",
     "chrome-extension://abc", "http://user@127.0.0.1"],
)  # fmt: skip
def test_pages_of_other_origins_may_not_call(node: Listener, origin: str) -> None:
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("POST", "/admin/models/tiny/load")):
        reply = node.ask(method, path, {"origin": origin})

        assert reply.status == 403
        assert "access-control-allow-origin" not in reply.headers


def test_our_own_origin_may_call(node: Listener) -> None:
    own = f"http://127.0.0.1:{node.port}"

    assert node.ask("POST", "/v1/chat/completions", {"origin": own}).status == 200


def test_two_origins_are_refused(node: Listener) -> None:
    head = (
        f"GET /livez HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nOrigin: http://127.0.0.1:{node.port}\r\nOrigin: x\r\n"
    )

    assert parse_reply(node.send(head.encode() + b"Connection: close\r\n\r\n")).status == 400


def test_requests_that_pages_hide_their_origin_in_are_refused(node: Listener) -> None:
    def status(site: str, mode: str) -> int:
        return node.ask("GET", "/admin/events", {"sec-fetch-site": site, "sec-fetch-mode": mode}).status

    assert status("cross-site", "no-cors") == 403
    assert status("same-site", "no-cors") == 403
    assert node.ask("GET", "/v1/models", {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}).status == 200
    assert node.ask("GET", "/v1/models", {"sec-fetch-site": "same-origin"}).status == 200


def test_a_declared_origin_gets_cors_and_nobody_else(node: Listener) -> None:
    origin = {"origin": "https://chat.example.org"}
    preflight = node.ask("OPTIONS", "/v1/chat/completions", {**origin, "access-control-request-method": "POST"})
    answer = node.ask("POST", "/v1/chat/completions", origin)
    plain = node.ask("GET", "/v1/models")

    assert preflight.status == 204
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://chat.example.org"
    assert answer.headers["vary"] == "origin"
    assert "access-control-allow-credentials" not in answer.headers
    assert not any(name.startswith("access-control") for name in plain.headers)


def test_a_preflight_of_a_declared_origin_does_not_open_the_route() -> None:
    with listening(build_yard(keys=KEYS, allowed_origins=("https://chat.example.org",))) as node:
        assert node.ask("POST", "/v1/chat/completions", {"origin": "https://chat.example.org"}).status == 401


def test_framing_and_sniffing_are_denied(node: Listener) -> None:
    for path in ("/", "/nothing", "/health"):
        headers = node.ask("GET", path).headers

        assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("deny", "nosniff")


# ---- keys ----


@pytest.mark.parametrize(
    "headers",
    [{"authorization": f"Bearer {USER_KEY}"}, {"Authorization": f"bearer  {USER_KEY} "}, {"x-api-key": USER_KEY},
     {"api-key": USER_KEY}, {"X-API-KEY": USER_KEY}, {"authorization": f"Bearer {USER_KEY}", "x-api-key": USER_KEY},
     {"authorization": "Basic abc", "api-key": USER_KEY}],
)  # fmt: skip
def test_a_key_is_the_same_key_in_every_header(locked: Listener, headers: dict[str, str]) -> None:
    reply = locked.ask("POST", "/v1/chat/completions", headers)

    assert (reply.status, reply.json) == (200, {"caller": "user"})


def test_two_different_keys_are_a_bad_request(locked: Listener) -> None:
    for headers in (
        {"authorization": f"Bearer {USER_KEY}", "x-api-key": ADMIN_KEY},
        {"x-api-key": ADMIN_KEY, "api-key": USER_KEY},
        {"authorization": "Bearer nonsense", "api-key": USER_KEY},
    ):
        assert locked.ask("POST", "/v1/chat/completions", headers).status == 400
    twice = f"Authorization: Bearer {USER_KEY}\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
    raw = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{twice}\r\n"
    assert parse_reply(locked.send(raw.encode())).status == 400


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", "Bearer x", f"Token {USER_KEY}", USER_KEY, f"Bearer {USER_KEY}x",
     f"Bearer {USER_KEY[:-1]}",
     f"Bearer {USER_KEY.upper()}", "Bearer " + "x" * 5000, "Bearer ' OR 1=1 --", "Bearer ${USER}", "Bearer \xe4\xff",
     f"Bearer {USER_KEY}, Bearer {USER_KEY}"],
)  # fmt: skip
def test_anything_else_is_401(locked: Listener, value: str) -> None:
    reply = locked.ask("POST", "/v1/chat/completions", {"authorization": value})

    assert reply.status == 401
    assert reply.error["code"] == "invalid_api_key"
    assert USER_KEY not in reply.body.decode()


def test_authorisation_comes_before_the_body_is_read(locked: Listener) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    with locked.connect() as connection:
        connection.sendall(head)
        reply = connection.recv(65536)

    assert reply.startswith(b"HTTP/1.1 401")


def test_an_expected_100_is_not_given_to_strangers(locked: Listener) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    with locked.connect() as connection:
        connection.sendall(head)
        reply = connection.recv(65536)

    assert reply.startswith(b"HTTP/1.1 401")


def test_wrong_keys_are_limited_by_where_they_come_from() -> None:
    with listening(build_yard(keys=KEYS, failed_logins_max=5)) as node:
        wrong = [node.ask("GET", "/v1/models", {"x-api-key": f"guess-{n}"}).status for n in range(8)]
        right = node.ask("GET", "/v1/models", {"x-api-key": USER_KEY}).status

    assert wrong == [401] * 5 + [429] * 3
    assert right == 200


# ---- without keys ----


def test_without_keys_the_local_caller_may_do_everything(node: Listener) -> None:
    assert node.ask("POST", "/admin/models/tiny/load").status == 200
    assert node.ask("GET", "/metrics").status == 200
    assert node.ask("POST", "/v1/chat/completions", {"authorization": "Bearer none"}).status == 200


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip", "x-forwarded-host"])
def test_without_keys_what_a_proxy_passes_on_is_not_local(node: Listener, header: str) -> None:
    assert node.ask("GET", "/v1/models").status == 200
    assert node.ask("GET", "/v1/models", {header: "127.0.0.1"}).status == 401


def _own_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address: str = probe.getsockname()[0]
        return None if address.startswith("127.") else address


def test_without_keys_other_machines_may_do_nothing_unless_that_was_asked_for() -> None:
    address = _own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")

    def ask(node: Listener, method: str, path: str) -> int:
        with socket.create_connection((address, node.port), timeout=20) as connection:
            head = f"{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode())
            return int(connection.recv(65536)[9:12])

    with listening(build_yard(bind_host="0.0.0.0"), host="0.0.0.0") as closed:
        assert ask(closed, "GET", "/v1/models") == 401
        assert ask(closed, "GET", "/livez") == 200
    with listening(build_yard(bind_host="0.0.0.0", allow_open=True), host="0.0.0.0") as opened:
        assert ask(opened, "POST", "/v1/chat/completions") == 200
        assert ask(opened, "POST", "/admin/models/tiny/load") == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "gpu.example.com", "2001:db8::1"])
def test_listening_off_loopback_needs_a_key(host: str) -> None:
    keys = KeyRing([KeyEntry("a", "a-long-secret")])

    with pytest.raises(ConfigError) as refusal:
        check_bind(host, KeyRing())

    assert any("keys" in hint for hint in refusal.value.suggestions)
    assert check_bind(host, keys) == ()
    assert len(check_bind(host, KeyRing(), allow_open=True)) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "localhost", "127.0.0.53"])
def test_listening_on_loopback_needs_none(host: str) -> None:
    assert check_bind(host, KeyRing()) == ()


# ---- limits, request ids, language ----


def test_a_caller_over_its_rate_gets_429_with_the_numbers() -> None:
    with listening(build_yard(keys=KEYS, requests_max=3)) as node:
        user, boss = {"x-api-key": USER_KEY}, {"x-api-key": ADMIN_KEY}
        replies = [node.ask("POST", "/v1/chat/completions", user) for _ in range(5)]
        evasions = [
            node.ask("POST", "/v1/completions", {"authorization": f"Bearer {USER_KEY}", "x-forwarded-for": "1.2.3.4"}),
            node.ask("POST", "/v1/chat/completions?x=1", {"api-key": USER_KEY}),
        ]
        others = [node.ask("POST", "/v1/chat/completions", boss), node.ask("GET", "/v1/models", user)]

    assert [reply.status for reply in replies] == [200, 200, 200, 429, 429]
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in replies] == ["2", "1", "0", "0", "0"]
    assert replies[0].headers["ratelimit-policy"] == '"requests";q=3;w=60'
    assert 0 < int(replies[3].headers["retry-after"]) <= 20
    assert replies[3].error["type"] == "rate_limit_error"
    assert [reply.status for reply in evasions] == [429, 429]
    assert [reply.status for reply in others] == [200, 200]


def test_forwarded_addresses_are_believed_from_listed_proxies_only() -> None:
    def statuses(trusted: tuple[str, ...], *forwarded: str) -> list[int]:
        yard = build_yard(allow_open=True, requests_max=1, trusted_proxies=trusted)
        with listening(yard) as node:
            return [node.ask("POST", "/v1/completions", {"x-forwarded-for": given}).status for given in forwarded]

    assert statuses((), "1.1.1.1", "2.2.2.2") == [200, 429]
    assert statuses(("127.0.0.0/8",), "1.1.1.1", "2.2.2.2", "9.9.9.9, 2.2.2.2") == [200, 200, 429]
    assert statuses(("127.0.0.0/8",), "garbage", "127.0.0.1, garbage") == [200, 429]


def test_a_request_keeps_its_own_id_if_it_is_short_and_printable(node: Listener) -> None:
    def id_of(value: str, name: str = "x-request-id") -> str:
        return node.ask("GET", "/nothing", {name: value}).headers["x-request-id"]

    assert id_of("mine-1") == "mine-1"
    assert id_of("mine-2", "X-Client-Request-Id") == "mine-2"
    assert id_of("x" * 513).startswith("req-")
    assert id_of("a\tb").startswith("req-")
    assert id_of("\xe4").startswith("req-")
    assert id_of("") != id_of("")


def test_messages_come_in_the_language_that_was_asked_for(node: Listener) -> None:
    reply = node.ask("GET", "/nothing", {"accept-language": "zh-TW,zh;q=0.9", "x-request-id": "r"})

    assert reply.error["request_id"] == "r"
    assert reply.error["code"] == "not_found"


def test_rights_come_from_configuration_only() -> None:
    ring = KeyRing([KeyEntry("a", "a-long-secret", frozenset((Right.ADMIN,)))])

    caller = ring.find("a-long-secret")

    assert caller is not None
    assert caller.rights == {Right.ADMIN, Right.READ, Right.METRICS}
    with pytest.raises(BadRequest):
        HostPolicy().check(None, accepted_on="", peer="")
