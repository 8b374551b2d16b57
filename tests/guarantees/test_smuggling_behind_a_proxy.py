"""Requests that two servers could read in two ways: over raw sockets to us, and through nginx in front of us.

Behind the proxy no hidden request may reach us, and whoever uses the shared connection next gets the own answer.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from tests.api.surface import statuses
from tests.api.test_http_protocol import BAD_CHUNKS, REFUSED_FRAMING
from tests.support.counts import PROVE
from tests.support.node import DEADLINE_S, Server, echo, free_port, serving, short_folder

NGINX = "/usr/sbin/nginx"
NGINX_CONF = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  keepalive_timeout 150ms; client_header_timeout 150ms; client_body_timeout 150ms; lingering_close off;
  underscores_in_headers on; ignore_invalid_headers off;
  upstream node {{ server 127.0.0.1:{port}; keepalive 1; }}
  server {{
    listen 127.0.0.1:{listen};
    location / {{
      proxy_pass http://node; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host localhost;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_request_buffering {buffering};
    }}
  }}
}}
"""
KEY = "a-key-for-the-proxy-0001"
SECRET = "sha256:" + hashlib.sha256(KEY.encode()).hexdigest()
AUTH = f"Authorization: Bearer {KEY}\r\n".encode()
BODY = b'{"model": "quick", "prompt": "x"}'
HIDDEN = (
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: hidden\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n%s\r\n%s" % (len(BODY), AUTH, BODY)
)
LENGTHS = (
    b"0", b"5", b"+5", b"-5", b"0x5", b"5 5", b"5,5", b"5;", b"5.0", b"", b"05", b"0005", b"\x0b5", b"5\x00",
    b"99999999999999999999",
)  # fmt: skip
ENCODINGS = (
    b"Transfer-Encoding: chunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: xchunked", b"Transfer_Encoding: chunked", b"Transfer-Encoding: chunked, identity",
    b"transfer-encoding: CHUNKED", b"X: x\r\n Transfer-Encoding: chunked", b"Transfer-Encoding:chunked\x00",
    b"Transfer-Encoding: gzip, chunked", b"X: x\nTransfer-Encoding: chunked", b"Transfer-Encoding: \"chunked\"",
)  # fmt: skip


def post(fields: bytes, body: bytes) -> bytes:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + AUTH + fields + b"\r\n" + body


def both() -> list[bytes]:
    """A length beside an encoding, in both orders, and the hidden request where one of the two ends the body."""
    found = []
    for length, encoding in product(LENGTHS, ENCODINGS):
        field = b"Content-Length: " + length + b"\r\n"
        body = b"0\r\n\r\n" + HIDDEN
        found += [post(field + encoding + b"\r\n", body), post(encoding + b"\r\n" + field, body)]
    return found


def two_lengths() -> list[bytes]:
    size = str(len(HIDDEN)).encode()
    pairs = [(b"0", size), (size, b"0"), (b"0", b"0"), (size, size), (b"1", size), (size, b"+" + size)]
    return [post(b"Content-Length: " + a + b"\r\nContent-Length: " + b + b"\r\n", HIDDEN) for a, b in pairs]


def chunked() -> list[bytes]:
    return [post(b"Transfer-Encoding: chunked\r\n", body + HIDDEN) for body in BAD_CHUNKS]


CASES: list[bytes] = [*both(), *two_lengths(), *chunked(), *REFUSED_FRAMING]
# The encodings that hide behind an odd name are just unknown fields to a server that keeps to the letter.
PLAIN = re.compile(rb"\r\nTransfer_Encoding: chunked\r\n")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    config = {
        **echo(quick={"reply_tokens": 1}),
        "keys": [{"id": "proxy", "secret": SECRET, "rights": ["infer", "read"]}],
    }
    with serving(config) as server:
        yield server


def nginx_path() -> str:
    if not Path(NGINX).exists():
        commands = (
            ["apt-get", "update", "-q"],
            ["apt-get", "install", "-qy", "--no-install-recommends", "nginx-light"],
        )
        results = [subprocess.run(command, capture_output=True, check=False) for command in commands]
        if not Path(NGINX).exists():
            pytest.fail(f"nginx is needed (package nginx-light): {results[-1].stderr.decode(errors='replace')}")
    return NGINX


@pytest.fixture(scope="module", params=["on", "off"], ids=["buffered", "unbuffered"])
def proxy(request: pytest.FixtureRequest, server: Server) -> Iterator[int]:
    """The port of an nginx that shares one connection to our server among all its clients."""
    path, listen = nginx_path(), free_port()
    with short_folder() as folder:
        text = NGINX_CONF.format(folder=folder, port=server.port, listen=listen, buffering=request.param)
        (folder / "nginx.conf").write_text(text)
        command = [path, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            wait_for(listen, process)
            yield listen
        finally:
            process.terminate()
            process.wait(20)
            shutil.rmtree(folder / "b", ignore_errors=True)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _attempt in range(2000):
        assert process.poll() is None, "nginx ended"
        with socket.socket() as probe:
            probe.settimeout(0.05)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    pytest.fail("nginx does not listen")


def send(port: int, raw: bytes, *, half_close: bool = False) -> bytes:
    """Everything that comes back until the other side hangs up; a half-closed request asks for that."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(raw)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                received += data
        except ConnectionError:
            pass
    return received


def served_ids(server: Server) -> Counter[str]:
    """How often each request id was served, by the server's own account.

    Its log is written by a thread, in order: all is there once a last request of ours is.
    """
    name = f"mark-{time.monotonic_ns()}"
    fields = b"Connection: close\r\nX-Request-Id: %s\r\nContent-Length: %d\r\n" % (name.encode(), len(BODY))
    assert statuses(send(server.port, post(fields, BODY))) == [200]
    end = time.monotonic() + DEADLINE_S
    while True:
        events = server.log_events()
        served = Counter(str(event["request_id"]) for event in events if event["event"] == "request.finished")
        if served[name]:
            return served
        assert time.monotonic() < end, "the log does not say that a request was served"
        time.sleep(0.02)


def probe(port: int, number: int) -> None:
    """The next request over the shared connection is answered as itself."""
    request_id = f"probe-{number}".encode()
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Request-Id: " + request_id + b"\r\n"
    raw = send(port, head + AUTH + b"\r\n")
    assert raw.startswith(b"HTTP/1.1 200 "), raw[:200]
    assert b"x-request-id: " + request_id + b"\r\n" in raw


def test_directly_each_is_refused_and_hides_nothing(server: Server) -> None:
    wrong = []
    for number, raw in enumerate(CASES):
        received = send(server.port, raw, half_close=True)
        if not set(statuses(received)) <= {400, 408} and not PLAIN.search(raw):
            wrong.append((number, raw[:300], received[:200]))

    assert len(CASES) >= 200
    assert wrong == []
    two_in_a_row = [raw for raw in CASES if PLAIN.search(raw) and re.search(rb"Content-Length: 0*5\r\n", raw)]
    assert served_ids(server)["hidden"] == len(two_in_a_row) == 6  # nothing odd about them, to whoever reads the letter


def test_through_a_proxy_nothing_hidden_reaches_us_and_nobody_gets_the_answer_of_another(
    server: Server, proxy: int
) -> None:
    before = served_ids(server)
    chosen = list(enumerate(CASES if PROVE else CASES[::6]))
    told: Counter[str] = Counter()
    for number, case in chosen:
        name = f"hidden-{proxy}-{number}"
        raw = case.replace(b"Connection: close\r\n", b"").replace(
            b"X-Request-Id: hidden", f"X-Request-Id: {name}".encode()
        )
        received = send(proxy, raw)
        told[name] = received.count(f"x-request-id: {name}\r\n".encode())
        probe(proxy, number)

    served = served_ids(server) - before
    # What the proxy itself read as a second request is its client's own; nothing else may have reached us.
    assert {name: count for name, count in served.items() if name.startswith("hidden") and count != told[name]} == {}


def test_a_proxy_passes_on_what_is_well_formed(server: Server, proxy: int) -> None:
    body = b'{"model": "quick", "prompt": "x"}'
    whole = post(b"Content-Length: %d\r\n" % len(body), body)
    pieces = post(b"Transfer-Encoding: chunked\r\n", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    assert statuses(send(proxy, whole + pieces + whole)) == [200, 200, 200]


def test_what_a_proxy_says_about_its_client_is_believed_only_if_it_is_listed(server: Server, proxy: int) -> None:
    forged = b"X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n"
    request = b"GET /admin/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + forged + b"\r\n"

    assert statuses(send(proxy, request)) == [401]
    assert statuses(send(server.port, request)) == [401]


def test_headers_between_servers_are_not_passed_on_and_change_nothing(server: Server, proxy: int) -> None:
    fields = b"".join(name + b": /admin/status\r\n" for name in (
        b"X-Original-URL", b"X-Rewrite-URL", b"X-Forwarded-Prefix", b"X-HTTP-Method-Override", b"X-Modelyard-Node",
        b"X-Modelyard-Attempts", b"Proxy-Authorization", b"Proxy-Connection", b"TE", b"Trailer", b"Keep-Alive",
    ))  # fmt: skip
    raw = send(proxy, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + fields + b"\r\n")

    assert statuses(raw) == [200]
    assert b"x-modelyard" not in raw.lower()
