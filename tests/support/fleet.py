"""A running server of ours before fake nodes that live in the test's own loop."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from modelyard.testing.fake_ollama import FakeOllama
from modelyard.testing.server import FakeServer

from .node import Server, ready, short_folder, start_server, stopped

MESSAGES = [{"role": "user", "content": "Tell me something, please."}]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller saw."""

    status: int
    text: str = ""
    code: str = ""  # of an error, before the answer or in it
    node: str = ""
    has_end: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    note: object = None  # the body's member of ours

    @property
    def is_whole(self) -> bool:
        return self.has_end and not self.code


@dataclass(frozen=True, slots=True)
class Fleet:
    """The server, its nodes, and a client."""

    server: Server
    nodes: Mapping[str, FakeServer]
    http: aiohttp.ClientSession

    async def ask(
        self, model: str = "m", *, stream: bool = True, headers: Mapping[str, str] | None = None, **body: Any
    ) -> Answer:
        """One chat, read to its end."""
        given = {"model": model, "stream": stream, "messages": MESSAGES, **body}
        async with self.http.post(f"{self.server.url}/v1/chat/completions", json=given, headers=headers) as answer:
            return await read(answer)

    async def get(self, path: str) -> Any:
        async with self.http.get(f"{self.server.url}{path}") as answer:
            return await answer.json()

    async def node(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.get(f"/admin/nodes/{name}")
        return found

    async def edit(self, name: str, **body: object) -> None:
        async with self.http.post(f"{self.server.url}/admin/nodes/{name}/edit", json=body) as answer:
            assert answer.status == 200, await answer.text()

    async def until(self, name: str, **wanted: object) -> dict[str, Any]:
        """Wait until a node's status says this."""
        async with asyncio.timeout(20):
            while True:
                status = await self.node(name)
                if all(status[key] == value for key, value in wanted.items()):
                    return status
                await asyncio.sleep(0.02)


async def read(answer: aiohttp.ClientResponse) -> Answer:
    """A chat's answer, streamed or plain."""
    node, headers = answer.headers.get("x-modelyard-node", ""), dict(answer.headers)
    if answer.content_type != "text/event-stream":
        told = await answer.json()
        if "error" in told:
            return Answer(answer.status, code=told["error"]["code"], node=node, headers=headers)
        text = told["choices"][0]["message"]["content"]
        return Answer(answer.status, text or "", node=node, has_end=True, headers=headers)
    text, code, has_end, note = "", "", False, None
    async for line in answer.content:
        if line.startswith(b"data: [DONE]"):
            has_end = True
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            code = code or (event.get("error") or {}).get("code", "")
            note = event.get("modelyard", note)
            text += "".join(one["delta"].get("content") or "" for one in event.get("choices") or ())
    return Answer(answer.status, text, code, node, has_end, headers, note)


@asynccontextmanager
async def fleet(
    nodes: Mapping[str, FakeServer],
    config: Mapping[str, Any] | None = None,
    *,
    urls: Mapping[str, str] | None = None,
    program: Sequence[str] = ("-m", "modelyard.cli"),
    **per_node: Any,
) -> AsyncIterator[Fleet]:
    """Our server with these nodes; `per_node` settings are for each. Nodes are started and stopped here."""
    started = []
    for node in nodes.values():
        await node.start()
        started.append(node)
    listed = [
        {
            "name": name, "kind": "ollama" if isinstance(node, FakeOllama) else "openai",
            "url": (urls or {}).get(name, node.url), "look_s": 1, **per_node,
        }
        for name, node in nodes.items()
    ]  # fmt: skip
    given = {"models": {"builtin": False}, "memory": {"gpus": False}, **(config or {})}
    given["nodes"] = [*listed, *given.get("nodes", ())]
    try:
        with short_folder() as folder:
            server = start_server(folder, given, program=program)
            try:
                await ready(server)
                timeout = aiohttp.ClientTimeout(total=60)
                connector = aiohttp.TCPConnector(limit=0)
                async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
                    yield Fleet(server, nodes, http)
            finally:
                await stopped(server)
    finally:
        for node in started:
            await node.stop()


async def until(condition: Any, what: str, within_s: float = 20.0) -> None:
    """Wait for something that another task does."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"it did not happen: {what}"
        await asyncio.sleep(0.01)
