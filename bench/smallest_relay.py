"""The least a relay in Python can do, to tell what Python costs from what we cost: no keys, limits, figures or log.

A program: `python -m bench.smallest_relay PORT SOCKET`. Sends each body on to the worker and its answer back.
"""

from __future__ import annotations

import sys
from typing import Any

import aiohttp
import uvicorn
from starlette.types import Receive, Scope, Send


class Relay:
    """An ASGI app."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b"ok"
        if scope["method"] == "POST":
            body = await self._relayed(await receive())
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _relayed(self, message: Any) -> bytes:
        if self._session is None:
            connector = aiohttp.UnixConnector(self._socket, force_close=True, limit=0)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        async with self._session.post("http://worker/v1/chat/completions", data=message["body"]) as response:
            return await response.read()


def main(port: str, socket: str) -> None:
    uvicorn.run(Relay(socket), port=int(port), ws="none", lifespan="off", log_level="error", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
