"""What the parser refuses, over raw sockets: heads too large or slow, smuggling, readers and writers that stall."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from modelyard.api.http_protocol import SEND_BUFFER_BYTES, HttpProtocol, listen
from modelyard.errors import ConfigError

from .surface import KEYS, Listener, Yard, build_yard, listening, parse_reply, read_all, statuses, wait_until

KIB = 1024
HOST = b"Host: localhost\r\n"
CLOSE = b"Connection: close\r\n"


class HastyProtocol(HttpProtocol):
    """As ours, in a hurry."""

    HEAD_S = 0.2
    BODY_IDLE_S = 0.3
    UNREAD_BODY_BYTES_MAX = 64 * KIB


@pytest.fixture(scope="module")
def yard() -> Yard:
    return build_yard()


@pytest.fixture(scope="module")
def node(yard: Yard) -> Iterator[Listener]:
    with listening(yard) as listener:
        yield listener


@pytest.fixture(scope="module")
def hasty() -> Iterator[Listener]:
    with listening(build_yard(keys=KEYS[:1]), HastyProtocol) as listener:
        yield listener


def get(fields: bytes = b"", path: bytes = b"/livez") -> bytes:
    return b"GET %s HTTP/1.1\r\n%s%s%s\r\n" % (path, HOST, CLOSE, fields)


def post(fields: bytes, body: bytes) -> bytes:
    return b"POST /v1/chat/completions HTTP/1.1\r\n%s%s%s\r\n%s" % (HOST, CLOSE, fields, body)


# ---- sizes ----


def test_heads_up_to_the_limits_are_read(node: Listener) -> None:
    assert statuses(node.send(get(b"X: %s\r\n" % (b"x" * 30 * KIB)))) == [200]
    assert statuses(node.send(get(b"".join(b"X-%d: y\r\n" % n for n in range(98))))) == [200]
    assert statuses(node.send(get(path=b"/livez?" + b"x" * (8 * KIB - 7)))) == [200]


@pytest.mark.parametrize(
    "fields",
    [b"X: %s\r\n" % (b"x" * 33 * KIB), b"X: %s\r\n" % (b"x" * 4096 * KIB), b"%s: x\r\n" % (b"x" * 33 * KIB),
     b"".join(b"X-%d: y\r\n" % n for n in range(99)), b"".join(b"X-%d: y\r\n" % n for n in range(5000)),
     b"".join(b"X-%d: %s\r\n" % (n, b"y" * KIB) for n in range(40))],
    ids=["value", "huge value", "name", "one field too many", "many fields", "sum"],
)  # fmt: skip
def test_heads_over_the_limits_are_431(node: Listener, fields: bytes) -> None:
    reply = parse_reply(node.send(get(fields)))

    assert reply.status == 431
    assert reply.error["code"] == "request_too_large"
    assert reply.headers["x-request-id"]


def test_a_head_without_end_is_cut_off_long_before_it_fills_memory(node: Listener) -> None:
    sent = 0
    with node.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"X: ")
        try:
            while sent < 64 * 1024 * KIB:
                sent += connection.send(b"x" * 64 * KIB)
        except ConnectionError:
            pass

    assert sent < 16 * 1024 * KIB


def test_a_long_url_is_414(node: Listener) -> None:
    assert statuses(node.send(get(path=b"/livez?" + b"x" * (8 * KIB + 1)))) == [414]
    assert statuses(node.send(get(path=b"/" + b"x" * 1024 * KIB))) == [414]


def test_large_heads_may_come_in_pieces(node: Listener) -> None:
    with node.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n" + HOST + CLOSE)
        for n in range(50):
            connection.sendall(b"X-%d: %s\r\n" % (n, b"y" * 500))
        connection.sendall(b"\r\n")

        assert statuses(read_all(connection)) == [200]


def test_a_large_body_before_a_pipelined_head_does_not_count_as_head(node: Listener, yard: Yard) -> None:
    body = b"x" * 300 * KIB
    first = b"POST /v1/completions HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n" % (HOST, len(body))

    assert statuses(node.send(first + body + get(b"X: %s\r\n" % (b"x" * 20 * KIB)))) == [200, 200]
    assert yard.bodies[-1] == body


# ---- slowness ----


def test_a_slow_head_is_408(hasty: Listener) -> None:
    raw = hasty.send(b"GET / HTTP/1.1\r\nHo")

    assert parse_reply(raw).status == 408
    assert parse_reply(raw).error["code"] == "request_timeout"


@pytest.mark.parametrize("nothing", [b"", b"\r\n", b"\r\n\r\n\r\n"])
def test_a_connection_that_asks_nothing_is_closed(hasty: Listener, nothing: bytes) -> None:
    assert hasty.send(nothing) == b""


def test_a_head_that_drips_is_cut_off_by_its_deadline(hasty: Listener) -> None:
    with hasty.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        connection.settimeout(0.02)
        raw = b""
        for _drop in range(2000):
            try:
                connection.sendall(b"X: y\r\n"[:1])
                raw += connection.recv(65536)
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("the head could drip on")

    assert raw == b"" or raw.startswith(b"HTTP/1.1 4")


def test_a_body_that_stops_coming_is_408(hasty: Listener) -> None:
    key = b"Authorization: Bearer user-key-0001\r\n"

    assert statuses(hasty.send(post(key + b"Content-Length: 100\r\n", b"half"))) == [408]
    assert statuses(hasty.send(post(key + b"Transfer-Encoding: chunked\r\n", b"4\r\nha"))) == [408]


def test_an_endless_body_after_a_refusal_ends_the_connection(hasty: Listener) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999\r\n\r\n"
    sent = 0
    with hasty.connect() as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")
        try:
            while sent < 64 * 1024 * KIB:
                sent += connection.send(b"x" * 16 * KIB)
        except ConnectionError:
            pass

    assert sent < 16 * 1024 * KIB


def test_a_connection_is_kept_alive_and_closed_quietly(hasty: Listener) -> None:
    with hasty.connect() as connection:
        for _turn in range(3):
            connection.sendall(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
            raw = b""
            while not raw.endswith(b"ok\n"):
                raw += connection.recv(65536)
            assert statuses(raw) == [200]
        connection.sendall(b"\r\n")

        assert read_all(connection) == b""


def test_slow_clients_leave_room_for_others(node: Listener) -> None:
    slow = [socket.create_connection(("127.0.0.1", node.port), timeout=20) for _ in range(200)]
    try:
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 20 * KIB)

        assert node.ask("GET", "/livez").status == 200
    finally:
        for connection in slow:
            connection.close()


# ---- smuggling ----

CHUNKED = b"Transfer-Encoding: chunked\r\n"
HIDDEN = b"GET /v1/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
REFUSED_FRAMING: list[bytes] = [
    # two lengths, or a length and an encoding
    post(b"Content-Length: 4\r\n" + CHUNKED, b"0\r\n\r\n"),
    post(CHUNKED + b"Content-Length: 4\r\n", b"0\r\n\r\n"),
    post(CHUNKED + b"Content-Length: 0\r\n", b"0\r\n\r\n" + HIDDEN),
    post(b"Content-Length: 0\r\nContent-Length: 44\r\n", HIDDEN),
    post(b"Content-Length: 44\r\nContent-Length: 0\r\n", HIDDEN),
    post(b"Content-Length: 4\r\nContent-Length: 4\r\n", b"abcd"),
    post(b"content-length: 4\r\nCONTENT-LENGTH: 4\r\n", b"abcd"),
    post(b"Content-Length: 4, 4\r\n", b"abcd"),
    # lengths that are not numbers
    *(post(b"Content-Length: %s\r\n" % value, b"abcd") for value in (
        b"+4", b"-1", b"0x4", b"4 4", b"4;", b"4.0", b"1e1", b"four", b"", b"\xb2", b"4\x00", b"9" * 30,
        b"18446744073709551620", b"4\x0b", b"\x0c4",
    )),
    # encodings we do not speak, or spelt so that somebody does not see them
    *(post(b"Transfer-Encoding: %s\r\n" % value, b"0\r\n\r\n" + HIDDEN) for value in (
        b"identity", b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"xchunked", b"chunkedx",
        b"\x0bchunked", b"chunked\x00", b"chunked;q=1", b'"chunked"', b"chu nked", b"", b"chunked, identity",
        b"identity, chunked", b",chunked", b"chunked,", b"x\r\n chunked",
    )),
    post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"),
    post(b"Transfer-Encoding\t: chunked\r\n", b"0\r\n\r\n"),
    post(b" Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"),
    post(b"Transfer-Encoding: identity\r\n" + CHUNKED, b"0\r\n\r\n"),
    post(CHUNKED + CHUNKED, b"0\r\n\r\n"),
    b"POST /v1/completions HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n0\r\n\r\n",
    # fields that are folded or badly named
    get(b"X: a\r\n b\r\n"), get(b"X: a\r\n\tb\r\n"), get(b"X : a\r\n"), get(b"X\r\n"), get(b": a\r\n"),
    get(b"X y: a\r\n"),
    get(b"X\x00: a\r\n"), get(b"X: a\x00b\r\n"), get(b"X: a\rb\r\n"), get(b"X(y): a\r\n"), get(b"X\xff: a\r\n"),
    get(b"X: a\nY: b\r\n"), get(b"\r: a\r\n"), get(b"Content-Length : 0\r\n"), get(b"X: \x08\r\n"), get(b"X: \x7f\r\n"),
    # lines that end otherwise
    b"GET /livez HTTP/1.1\n" + HOST + b"\r\n", b"GET /livez HTTP/1.1\r\nHost: localhost\n\r\n",
    b"GET /livez HTTP/1.1\rHost: localhost\r\n\r\n", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\n",
    b"GET /livez HTTP/1.1\r\nHost: localhost\r\r\n\r\n",
    # first lines
    b"GET\t/livez HTTP/1.1\r\n" + HOST + b"\r\n", b" GET /livez HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /livez HTTP/1.1 \r\n" + HOST + b"\r\n", b"GET /li vez HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /livez\x00 HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /livez\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET livez HTTP/1.1\r\n" + HOST + b"\r\n", b"GET * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", b"GET HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /livez\r\n\r\n",
    b"GET /livez HTTP/2.0\r\n" + HOST + b"\r\n", b"GET /livez HTTP/0.9\r\n" + HOST + b"\r\n",
    b"GET /livez HTTP/1.2\r\n" + HOST + b"\r\n", b"GET /livez HTTP/11\r\n" + HOST + b"\r\n",
    b"GET /livez http/1.1\r\n" + HOST + b"\r\n", b"get /livez HTTP/1.1\r\n" + HOST + b"\r\n",
    b"G\x00T /livez HTTP/1.1\r\n" + HOST + b"\r\n", b"GETT /livez HTTP/1.1\r\n" + HOST + b"\r\n",
    b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00" * 100, b"{}\r\n\r\n",
    b"GET /livez ICE/1.0\r\n" + HOST + b"\r\n",
    # another protocol over an encoded body
    post(CHUNKED + b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"0\r\n\r\n"),
]  # fmt: skip
BAD_CHUNKS: list[bytes] = [
    b"x\r\nabc\r\n0\r\n\r\n", b"-3\r\nabc\r\n0\r\n\r\n", b"+3\r\nabc\r\n0\r\n\r\n", b"0x3\r\nabc\r\n0\r\n\r\n",
    b"3 \r\nabc\r\n0\r\n\r\n", b" 3\r\nabc\r\n0\r\n\r\n", b"3\nabc\n0\n\n", b"3\r\nabcd\r\n0\r\n\r\n",
    b"3\r\nabc0\r\n\r\n", b"3\r\nabc\n0\r\n\r\n", b"3\r\nabc\r0\r\n\r\n", b"3\rabc\r\n0\r\n\r\n",
    b"ffffffffffffffff1\r\nabc\r\n0\r\n\r\n", b"\r\n3\r\nabc\r\n0\r\n\r\n", b"3\r\nabc\r\n\r\n0\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX y: z\r\n\r\n", b"3\r\nabc\r\n0\r\n folded\r\n\r\n", b"3\r\nabc\r\n0\n\n",
    b"3;\nabc\r\n0\r\n\r\n", b"3;a=b\x00\r\nabc\r\n0\r\n\r\n", b"_3\r\nabc\r\n0\r\n\r\n", b"3_0\r\nabc\r\n0\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("raw", REFUSED_FRAMING, ids=range(len(REFUSED_FRAMING)))
def test_ambiguous_requests_are_refused_and_nothing_is_hidden_in_them(node: Listener, yard: Yard, raw: bytes) -> None:
    served = len(yard.callers)

    assert statuses(node.send(raw)) == [400]
    assert len(yard.callers) == served


@pytest.mark.parametrize("body", BAD_CHUNKS, ids=range(len(BAD_CHUNKS)))
def test_a_bad_chunk_ends_the_connection_and_reaches_nobody(node: Listener, yard: Yard, body: bytes) -> None:
    served = len(yard.bodies)

    assert statuses(node.send(post(CHUNKED, body + HIDDEN))) in ([], [400])
    assert len(yard.bodies) == served


@pytest.mark.parametrize("first_line", [b"GET  /livez HTTP/1.1", b"GET /livez  HTTP/1.1", b"GET /livez RTSP/1.0"])
def test_odd_first_lines_that_everybody_reads_alike_are_read_alike(node: Listener, first_line: bytes) -> None:
    assert statuses(node.send(first_line + b"\r\n" + HOST + CLOSE + b"\r\n")) == [200]


def test_fields_after_a_body_are_not_headers() -> None:
    with listening(build_yard(keys=KEYS)) as locked:
        trailers = b"Authorization: Bearer admin-key-0001\r\nHost: evil.tld\r\n"

        assert statuses(locked.send(post(CHUNKED, b"3\r\nabc\r\n0\r\n%s\r\n" % trailers))) == [401]


def test_too_many_fields_after_a_body_end_the_connection(node: Listener) -> None:
    trailers = b"".join(b"X-%d: %s\r\n" % (n, b"y" * KIB) for n in range(50))

    assert statuses(node.send(post(CHUNKED, b"3\r\nabc\r\n0\r\n%s\r\n" % trailers))) in ([], [431])


def test_chunked_and_pipelined_requests_work(node: Listener, yard: Yard) -> None:
    chunked = b"POST /v1/completions HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"

    assert statuses(node.send(chunked + chunked + get())) == [200, 200, 200]
    assert yard.bodies[-2:] == [b"abcde", b"abcde"]


def test_nothing_after_a_closing_request_is_served(node: Listener, yard: Yard) -> None:
    served = len(yard.callers)

    assert statuses(node.send(post(b"Content-Length: 2\r\n", b"{}") + post(b"Content-Length: 2\r\n", b"{}"))) == [200]
    assert len(yard.callers) == served + 1


def test_a_broken_request_behind_a_good_one_gets_no_answer_of_its_own_in_its_place(node: Listener) -> None:
    raw = node.send(b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n" + b"GARBAGE\r\n\r\n")

    assert statuses(raw) in ([], [200])


def test_a_client_that_offers_http2_is_served_in_http1_with_its_body(node: Listener, yard: Yard) -> None:
    fields = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 5\r\n"
    head = b"POST /v1/completions HTTP/1.1\r\n" + HOST + fields + b"\r\n"

    assert statuses(node.send(head + b"hello" + HIDDEN)) == [200]
    assert yard.bodies[-1] == b"hello"
    with node.connect() as connection:
        for piece in (head, b"he", b"llo"):
            before = len(yard.bodies)
            connection.sendall(piece)
        assert statuses(read_all(connection)) == [200]
        wait_until(lambda: len(yard.bodies) > before)
    assert yard.bodies[-1] == b"hello"


def test_internal_looking_headers_change_nothing(node: Listener, yard: Yard) -> None:
    spoof = {"x-modelyard-node": "x", "x-original-url": "/admin/config", "x-rewrite-url": "/admin/config",
             "x-http-method-override": "DELETE", "proxy-authorization": "x"}  # fmt: skip

    reply = node.ask("GET", "/livez", spoof)

    assert (reply.status, reply.body) == (200, b"ok\n")


# ---- listening ----


def test_listeners_have_small_send_buffers() -> None:
    (listener,) = listen("127.0.0.1", 0)
    with listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER_BYTES


def test_a_taken_port_is_a_configuration_error() -> None:
    (listener,) = listen("127.0.0.1", 0)
    with listener, pytest.raises(ConfigError, match="in use"):
        listen("127.0.0.1", listener.getsockname()[1])


def test_ipv6_addresses_may_have_brackets() -> None:
    (listener,) = listen("[::1]", 0)
    with listener:
        assert listener.family == socket.AF_INET6
