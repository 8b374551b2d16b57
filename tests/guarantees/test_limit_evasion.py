"""A caller's rate is one, however the request is dressed up: by address, key, name, path, pipeline or a hasty end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.api.surface import statuses
from tests.support.node import Server, chat_body, client, echo, fetch, serving, until

ALLOWED = 5
KEYS = {name: f"the-key-of-{name}-0001" for name in ("one", "two", "three", "four", "five")}
PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    keys = [{"id": name, "secret": f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"} for name, key in KEYS.items()]
    long = {"reply_tokens": 100_000, "context_length": 200_000, "tokens_per_s": 500, "slots": 8}
    config = {**echo(quick={"reply_tokens": 2}, long=long), "keys": keys}
    config["models"]["aliases"] = {"short": "quick"}
    config["limits"] = {"requests_max": ALLOWED, "window_s": 3600}
    with serving(config) as server:
        yield server


async def served(
    session: aiohttp.ClientSession, server: Server, asked: list[dict[str, Any]], key: str = KEYS["one"]
) -> int:
    """How many of these requests, made at once, were let in."""

    async def one(options: dict[str, Any]) -> int:
        given = {"path": PATH, "model": "quick", "headers": {}, **options}
        headers = {"Authorization": f"Bearer {key}", **given["headers"]}
        body = chat_body(given["model"])
        async with session.post(server.url + given["path"], json=body, headers=headers) as response:
            await response.read()
            return response.status

    results = await asyncio.gather(*(one(options) for options in asked))
    assert set(results) <= {200, 429, 404, 401, 400}, results
    return results.count(200)


DRESSES: dict[str, list[dict[str, Any]]] = {
    "as it is": [{} for _ in range(30)],
    "forged addresses": [
        {"headers": {name: f"10.0.0.{n}"}}
        for n in range(10)
        for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "CF-Connecting-IP", "True-Client-IP", "X-Client-IP")
    ],
    "case of the scheme": [{"headers": {"Authorization": f"{word} {KEYS['one']}"}} for word in ("bearer", "BEARER")],
    "other headers for the key": [
        {"headers": {name: KEYS["one"]}} for name in ("x-api-key", "api-key", "X-API-KEY", "Api-Key") * 5
    ],
    "names of the model": [{"model": name} for name in ("quick", "short", "QUICK", "quick:latest", "Short") * 6],
    "names of the path": [
        {"path": PATH + end} for end in ("", "/", "?x=1", "#a", "//", "/.", ";a", "%2f") * 4
    ] + [{"path": "/v1//chat/completions"}, {"path": "/V1/chat/completions"}, {"path": "/v1/./chat/completions"}],
    "request ids": [{"headers": {"X-Request-Id": f"{n}", "User-Agent": f"{n}", "Cookie": f"c={n}"}} for n in range(9)],
}  # fmt: skip


async def test_no_dress_lets_more_requests_in(server: Server) -> None:
    async with client() as session:
        let_in = {name: await served(session, server, asked) for name, asked in DRESSES.items()}
        metered = await served(session, server, [{}] * 30, KEYS["two"])

    assert sum(let_in.values()) == ALLOWED, let_in
    assert metered == ALLOWED  # another caller has a rate of its own


async def test_keys_are_told_apart_by_case_and_a_changed_one_is_nobodys(server: Server) -> None:
    key = KEYS["four"]
    async with client() as session:
        let_in = [
            await served(session, server, [{}], each) for each in (key.upper(), key + "x", key[:-1], key.title(), "")
        ]

        assert let_in == [0] * 5
        assert await served(session, server, [{}], key) == 1


async def test_a_pipeline_counts_every_request_in_it(server: Server) -> None:
    body = json.dumps(chat_body("quick")).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEYS['three']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    ).encode()
    last = head + b"Connection: close\r\n\r\n" + body

    raw = await asyncio.to_thread(talk, server.port, (head + b"\r\n" + body) * 29 + last)

    assert statuses(raw) == [200] * ALLOWED + [429] * 25


def talk(port: int, raw: bytes) -> bytes:
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(raw)
        while data := connection.recv(65536):
            received += data
    return received


async def test_answers_given_up_count_and_what_was_made_of_them_is_on_record(server: Server) -> None:
    key = KEYS["five"]
    headers = {"Authorization": f"Bearer {key}"}
    statuses = []
    async with client() as session:
        for _turn in range(ALLOWED + 5):
            async with session.post(
                server.url + PATH, json=chat_body("long", stream=True), headers=headers
            ) as response:
                statuses.append(response.status)
                await response.content.readline()
                response.close()
        await until(lambda: len(given_up(server)) >= statuses.count(200), "every answer has ended")

    assert 0 < statuses.count(200) <= ALLOWED
    assert set(statuses) == {200, 429}
    assert all(event["code"] == "client_closed" and event["output_chunks"] >= 1 for event in given_up(server))


def given_up(server: Server) -> list[dict[str, Any]]:
    events = server.log_events()
    return [event for event in events if event["event"] == "request.finished" and event["model"] == "long"]


async def test_wrong_keys_are_limited_by_where_they_come_from(server: Server) -> None:
    statuses = []
    async with client() as session:
        for number in range(60):
            headers = {"Authorization": f"Bearer wrong-key-number-{number:04}", "X-Forwarded-For": f"10.1.2.{number}"}
            async with session.get(f"{server.url}/v1/models", headers=headers) as response:
                statuses.append(response.status)
        listed = await fetch(session, server, "/v1/models", headers={"Authorization": f"Bearer {KEYS['one']}"})

    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= 21
    assert listed["object"] == "list"  # who has a key is not locked out
