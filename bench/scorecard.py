"""Sixteen ways in which a server behind a gateway fails, and what a caller of ours sees: `make scorecard`.

Each is asked for in both dialects of nodes, streamed and plain, of one running server with two nodes per case: the
first fails, the second is well. Before the first content the answer must come from the second; after it, a typed error
must end the stream, without an end mark; all inside the stated time. The cases are those of public failover benchmarks.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
from tests.support.node import Server, ready, short_folder, start_server, stopped

from modelyard.testing import FAULTS, FakeOllama, FakeOpenAI, FaultProxy, Script
from modelyard.testing.fault_proxy import Network
from modelyard.testing.server import FakeServer

DEADLINES = {"connect_s": 0.5, "first_token_s": 1.0, "between_tokens_s": 1.0}
TOTAL_S = 1.5
GOOD = Script(tokens=("all", " is", " well"))
KINDS = ("openai", "ollama")
WAYS = tuple((kind, streamed) for kind in KINDS for streamed in (True, False))
PACE_S = 0.05  # so that content is on its way before the fault is


@dataclass(frozen=True, slots=True)
class Case:
    """One way to fail, and what a caller should see."""

    name: str
    script: Script = GOOD
    network: Network | None = None  # of a proxy before the server
    where: str = ""  # in place of the server's address
    is_stopped: bool = False
    codes: tuple[str, ...] = ()  # of the errors that are right; none: another node must answer
    within_s: float = 1.0
    total_s: float | None = None


BROKEN = ("upstream_invalid_response",)
LATE = ("upstream_timeout",)
FIRST, BETWEEN = DEADLINES["first_token_s"] + 0.5, DEADLINES["between_tokens_s"] + 0.5
CASES = (
    Case("connection refused", is_stopped=True),
    Case("name not known", where="http://no-such-host.invalid:9", within_s=DEADLINES["connect_s"] + 0.5),
    Case("500", FAULTS["500"]),
    Case("503", FAULTS["503"]),
    Case("429 with Retry-After", FAULTS["429"]),
    Case("slow header", FAULTS["slow-header"], codes=LATE, within_s=FIRST),
    Case("slow first token", FAULTS["slow-first-token"], codes=LATE, within_s=FIRST),
    Case("cut in mid-stream", FAULTS["cut"], codes=BROKEN),
    Case("stall in mid-stream", FAULTS["stall"], codes=("upstream_stalled",), within_s=BETWEEN),
    Case("malformed chunk", replace(FAULTS["malformed"], between_s=PACE_S), codes=BROKEN),
    Case("error event in mid-stream", replace(FAULTS["error-event"], between_s=PACE_S), codes=("upstream_error",)),
    Case("truncated without an end", FAULTS["truncated"], codes=BROKEN),
    Case("hung connection", network=Network(is_black_hole=True), codes=LATE, within_s=FIRST),
    Case("empty answer", FAULTS["empty"]),
    Case("wrong content type", FAULTS["html"]),
    Case("total budget", Script(between_s=0.4, tokens=("tick ",) * 20), codes=("deadline_exceeded",),
         within_s=TOTAL_S + 0.5, total_s=TOTAL_S),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """What a caller saw."""

    text: str = ""
    code: str = ""  # of the error
    node: str = ""
    took_s: float = 0.0
    has_end: bool = False  # `[DONE]`, or a whole body


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the card."""

    case: str
    kind: str
    streamed: bool
    seen: Seen
    within_s: float
    problem: str  # empty: as it should be

    @property
    def is_right(self) -> bool:
        return not self.problem


@asynccontextmanager
async def playground(cases: Sequence[Case] = CASES) -> AsyncIterator[Server]:
    """One server of ours before all the failing and all the well nodes."""
    async with AsyncExitStack() as stack:
        nodes: list[dict[str, Any]] = []
        failing: list[Callable[[], Awaitable[None]]] = []  # what begins to fail once it was seen to be well
        for kind, streamed in WAYS:
            for at, case in enumerate(cases):
                model, prefix = name_of(case, kind, streamed=streamed), f"{kind}-{streamed:d}-{at}"
                bad, good = await _server(stack, kind, model, case.script), await _server(stack, kind, model, GOOD)
                address = await _address(stack, case, bad, failing)
                nodes.append({"name": f"{prefix}-bad", "kind": kind, "url": address, "weight": 1000, **DEADLINES})
                nodes.append({"name": f"{prefix}-good", "kind": kind, "url": good.url, **DEADLINES})
        config = {
            "nodes": [{**node, "look_s": 3600} for node in nodes],
            "models": {"builtin": False}, "memory": {"gpus": False},
            "deadlines": {"load_s": 0.1, "load_per_gib_s": 0}, "routing": {"retry_floor": 100},
        }  # fmt: skip
        folder = stack.enter_context(short_folder())
        server = start_server(folder, config)
        stack.push_async_callback(stopped, server)
        await ready(server)
        for begin in failing:
            await begin()
        yield server


async def card(server: Server, cases: Sequence[Case] = CASES, *, slack_s: float = 0.0) -> list[Row]:
    """Every case in both dialects, streamed and plain. `slack_s` on top of each bound is for whoever runs much else."""
    async with aiohttp.ClientSession() as session:

        async def row(case: Case, kind: str, *, streamed: bool) -> Row:
            model = name_of(case, kind, streamed=streamed)
            seen = await ask(session, server, model, case.total_s, streamed=streamed)
            within_s = case.within_s + slack_s
            return Row(case.name, kind, streamed, seen, within_s, problem(case, seen, within_s, streamed=streamed))

        return await asyncio.gather(*(row(case, kind, streamed=streamed) for kind, streamed in WAYS for case in cases))


def problem(case: Case, seen: Seen, within_s: float, *, streamed: bool) -> str:
    """What is wrong with what a caller saw. The bound is the one that is printed."""
    if seen.took_s > within_s:
        return f"took {seen.took_s:.2f} s"
    if not case.codes:
        is_whole = seen.text == "all is well" and seen.has_end and not seen.code
        return "" if is_whole and seen.node.endswith("-good") else f"no whole answer of the other node: {seen}"
    if seen.code not in case.codes:
        return f"{seen.code or 'no error'} in place of {' or '.join(case.codes)}"
    if seen.has_end:
        return "an end mark after an error"
    return "partial text as an answer" if seen.text and not streamed else ""


async def ask(
    session: aiohttp.ClientSession, server: Server, model: str, total_s: float | None, *, streamed: bool
) -> Seen:
    """Ask once, as an OpenAI client does."""
    headers = {} if total_s is None else {"X-Modelyard-Deadline-Ms": str(int(total_s * 1000))}
    body = {"model": model, "stream": streamed, "messages": [{"role": "user", "content": "How is it?"}]}
    began_at, text, code, has_end = time.perf_counter(), "", "", False
    async with session.post(f"{server.url}/v1/chat/completions", json=body, headers=headers) as answer:
        node = answer.headers.get("x-modelyard-node", "")
        if not streamed or answer.content_type != "text/event-stream":
            told = await answer.json()
            code = (told.get("error") or {}).get("code", "")
            if not code:
                text, has_end = told["choices"][0]["message"]["content"], True
        else:
            async for line in answer.content:
                if line.startswith(b"data: [DONE]"):
                    has_end = True
                elif line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    code = code or (event.get("error") or {}).get("code", "")
                    text += "".join(one["delta"].get("content") or "" for one in event.get("choices") or ())
    return Seen(text, code, node, time.perf_counter() - began_at, has_end)


def name_of(case: Case, kind: str, *, streamed: bool) -> str:
    """A model of its own for each row: a node that failed once is not asked first again."""
    return f"{kind}-{'streamed' if streamed else 'plain'}-{case.name.lower().replace(' ', '-')}"


async def _server(stack: AsyncExitStack, kind: str, model: str, script: Script) -> FakeServer:
    made: FakeServer = FakeOllama([model]) if kind == "ollama" else FakeOpenAI([model])
    made.script = script
    return await stack.enter_async_context(made)


async def _address(
    stack: AsyncExitStack, case: Case, bad: FakeServer, failing: list[Callable[[], Awaitable[None]]]
) -> str:
    """Where the failing node is said to be. It lists its model before it begins to fail."""
    if case.is_stopped:
        failing.append(bad.stop)
    if case.network is None:
        return case.where or bad.url
    proxy = await stack.enter_async_context(FaultProxy(bad.url))

    async def spoil() -> None:
        assert case.network is not None, "asked above"
        proxy.network = case.network
        proxy.cut_all()

    failing.append(spoil)
    return proxy.url


def table(rows: Sequence[Row]) -> str:
    """For people."""
    lines = [f"{'case':28} {'node':7} {'asked':9} {'seen':34} {'time':>7} {'bound':>7}"]
    for row in rows:
        seen = f"answer of {row.seen.node.rpartition('-')[2]} node" if not row.seen.code else row.seen.code
        mark = "" if row.is_right else f"  WRONG: {row.problem}"
        asked = "streamed" if row.streamed else "plain"
        lines.append(
            f"{row.case:28} {row.kind:7} {asked:9} {seen:34} {row.seen.took_s:6.2f}s {row.within_s:6.2f}s{mark}"
        )
    right = sum(row.is_right for row in rows)
    return "\n".join((*lines, "", f"{right} of {len(rows)} as promised"))


async def main() -> int:
    async with playground() as server:
        rows = await card(server)
    print(table(rows))
    return 0 if all(row.is_right for row in rows) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
