"""One request over one connection to a worker: what arrives, how it ends, and what is not believed."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from modelyard.providers.worker_http import (
    HEAD_BYTES_MAX,
    UNREAD_BYTES_MAX,
    BrokenConnection,
    NoConnection,
    WorkerAnswer,
    post,
)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\nConnection: close\r\n\r\n"
Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def socket() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="my"))
    yield folder / "w.sock"
    shutil.rmtree(folder)


@asynccontextmanager
async def worker(socket: Path, behave: Behaviour) -> AsyncIterator[None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            await behave(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_unix_server(serve, str(socket)):
        yield


def saying(*pieces: bytes) -> Behaviour:
    async def behave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return behave


async def asked(socket: Path, body: bytes = b"{}") -> WorkerAnswer:
    return await post(socket, "/v1/chat/completions", body, request_id="req-1", connect_s=5)


async def whole(answer: WorkerAnswer) -> bytes:
    data = b""
    while piece := await answer.read():
        data += piece
    return data


async def test_a_request_arrives_whole_and_says_that_nothing_follows(socket: Path) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        heads.append(await reader.readexactly(7))
        writer.write(HEAD)
        writer.close()

    async with await asyncio.start_unix_server(serve, str(socket)):
        answer = await asked(socket, b'{"a":1}')
        answer.close()

    assert heads[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"\r\nX-Request-Id: req-1\r\n" in heads[0]
    assert b"\r\nConnection: close\r\n" in heads[0]
    assert b"\r\nContent-Length: 7\r\n" in heads[0]
    assert heads[1] == b'{"a":1}'


@pytest.mark.parametrize(
    "pieces",
    [
        (HEAD, b"data: 1\n\n", b"data: 2\n\n"),
        (HEAD + b"data: 1\n\ndata: 2\n\n",),
        (HEAD[:20], HEAD[20:] + b"da", b"ta: 1\n\ndata: 2\n\n"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            b"9\r\ndata: 1\n\n\r\n",
            b"9\r\ndata: 2\n\n\r\n0\r\ncontent-type: text/plain\r\n\r\n",
        ),
        (HEAD[:-2] + b"Content-Length: 18\r\n\r\ndata: 1\n\ndata: 2\n\nand more",),
    ],
    ids=["piecewise", "at-once", "cut-anywhere", "chunked", "with-length"],
)
async def test_an_answer_is_the_same_however_it_comes(socket: Path, pieces: tuple[bytes, ...]) -> None:
    async with worker(socket, saying(*pieces)):
        answer = await asked(socket)
        body = await whole(answer)
        answer.close()

    assert (answer.status, answer.content_type) == (200, b"text/event-stream")
    assert body == b"data: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize(
    "pieces",
    [(), (b"HTTP/1.1 200 OK\r\n",), (b"Hello.\r\n\r\n",), (b"HTTP/1.1 200 OK\r\nx: " + b"x" * HEAD_BYTES_MAX,)],
    ids=["nothing", "half-a-head", "another-language", "an-endless-head"],
)
async def test_what_is_no_answer_is_an_error(socket: Path, pieces: tuple[bytes, ...]) -> None:
    async with worker(socket, saying(*pieces)):
        with pytest.raises(BrokenConnection):
            await asked(socket)


async def test_an_answer_that_stops_being_http_is_an_error_after_what_came(socket: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    async with worker(socket, saying(head + b"3\r\nabc\r\n", b"no length\r\n")):
        answer = await asked(socket)
        first = await answer.read()
        with pytest.raises(BrokenConnection):
            await whole(answer)
        answer.close()

    assert first == b"abc"


async def test_nobody_listening_is_told_apart_from_a_broken_answer(socket: Path) -> None:
    with pytest.raises(NoConnection):
        await asked(socket)


async def test_a_worker_that_is_not_read_stops_sending(socket: Path) -> None:
    sent = 0

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD)
        while sent < 64 * UNREAD_BYTES_MAX:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with worker(socket, flood):
        answer = await asked(socket)
        before = -1
        while sent != before:  # until it has come to rest
            before = sent
            for _turn in range(100):
                await asyncio.sleep(0)
        at_rest = sent
        body = await whole(answer)
        answer.close()

    assert at_rest < 16 * UNREAD_BYTES_MAX
    assert len(body) == 64 * UNREAD_BYTES_MAX


async def test_closing_is_heard_by_the_worker(socket: Path) -> None:
    heard = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        await reader.read()
        heard.set()

    async with worker(socket, listen):
        answer = await asked(socket)
        answer.close()
        async with asyncio.timeout(30):
            await heard.wait()


async def test_cancelling_closes_the_connection(socket: Path) -> None:
    reached, heard = asyncio.Event(), asyncio.Event()

    async def listen(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()
        heard.set()

    async with worker(socket, listen):
        asking = asyncio.create_task(asked(socket))
        async with asyncio.timeout(30):
            await reached.wait()
            asking.cancel()
            await heard.wait()

    assert asking.cancelled()
