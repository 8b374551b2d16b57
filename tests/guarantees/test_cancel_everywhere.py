"""Cancel a request at each of its suspensions: nothing it owned is left, and it had exactly one outcome.

A whole node in this process, with real workers. Its own coroutine is stepped through: at the k-th suspension it is
cancelled, once or twice, or ended by its ticket, for k = 1, 2, … until it finishes undisturbed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from modelyard.api.security import Secured
from modelyard.compose import running_node
from modelyard.config.settings import load_settings
from modelyard.errors import ClientClosed
from modelyard.gateway.keys import ALL_RIGHTS, Caller
from modelyard.node import Node
from tests.support.counts import PROVE, tell
from tests.support.node import chat_body, counters, echo, short_folder, until

CALLER = Caller("local:127.0.0.1", ALL_RIGHTS)
SUSPENSIONS_MAX = 400


class Stepped:
    """Awaits a coroutine and acts at its k-th suspension, and maybe at the next as well."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], act: Callable[[], object], at: int, times: int) -> None:
        self.coroutine, self.act, self.at, self.times, self.count = coroutine, act, at, times, 0

    def __await__(self) -> Generator[Any, Any, None]:
        inner = self.coroutine.__await__()
        try:
            waited_for = inner.send(None)
            while True:
                self.count += 1
                if self.at <= self.count < self.at + self.times:
                    self.act()
                try:
                    result = yield waited_for
                except BaseException as failure:
                    waited_for = inner.throw(failure)
                else:
                    waited_for = inner.send(result)
        except StopIteration:
            return


@dataclass
class Exchange:
    """One request as the server would hand it to the app, and what came back."""

    app: Any
    path: str
    body: dict[str, Any]
    id: str
    method: str = "POST"
    messages: list[dict[str, Any]] = field(default_factory=list)
    is_read: bool = False

    async def run(self) -> None:
        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"x-request-id", self.id.encode())]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": self.method, "scheme": "http",
            "path": self.path, "raw_path": self.path.encode(), "query_string": b"", "root_path": "",
            "headers": headers, "client": ("127.0.0.1", 9), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        await self.app(scope, self.receive, self.send)

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if self.is_read:
            await asyncio.Event().wait()
        self.is_read = True
        return {"type": "http.request", "body": json.dumps(self.body).encode(), "more_body": False}

    async def send(self, message: Any) -> None:
        await asyncio.sleep(0)  # as if the socket were full
        self.messages.append(dict(message))

    @property
    def is_whole(self) -> bool:
        return bool(self.messages) and self.messages[-1].get("more_body", False) is False

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.messages).decode()


@dataclass
class Yard:
    """A node in this process."""

    node: Node
    tasks: set[asyncio.Task[Any]]
    serial: int = 0

    def exchange(self, path: str, method: str = "POST", **body: Any) -> Exchange:
        self.serial += 1
        return Exchange(self.node.app, path, body, f"x{self.serial}", method)

    def chat(self, model: str, **fields: Any) -> Exchange:
        return self.exchange("/v1/chat/completions", **chat_body(model, **fields))

    def running_of_callers(self) -> int:
        """What the limits count."""
        guards = [route.endpoint.guard for route in self.node.app.routes if isinstance(route.endpoint, Secured)]  # type: ignore[attr-defined]
        return sum(guard.limits.running_count(CALLER) for guard in guards[:1])

    def ledgers(self) -> dict[str, int]:
        manager = self.node.manager
        return {
            "leases": manager.lease_count,
            "queue": manager.queue_length,
            "answers awaited": len(manager._asked),
            "in flight": self.node.inference.in_flight_count,
            "limits": self.running_of_callers(),
        }

    def worker_leases(self) -> int:
        return sum(one.leases for one in self.node.manager.residents())

    async def workers_are_idle(self) -> bool:
        sockets = sorted(self.node.run.path.glob("w*.sock"))
        counts = []
        for path in sockets:
            with suppress(OSError):
                counts.append(await counters(path))
        return not any(one["running"] or one["waiting"] for one in counts)

    def further_tasks(self) -> set[asyncio.Task[Any]]:
        return asyncio.all_tasks() - self.tasks - {asyncio.current_task()}

    @property
    def fds(self) -> int:
        """Open files and connections of this process, those to workers among them."""
        return int(psutil.Process().num_fds())

    async def is_clean(self, what: str) -> None:
        """Nothing is owned by any request, now; and what had to be ended is ended soon."""
        assert not any(self.ledgers().values()), f"{what}: {self.ledgers()}"
        assert self.worker_leases() == 0, what
        await until(lambda: not self.further_tasks(), f"no task is left, {what}")


@asynccontextmanager
async def yard() -> AsyncIterator[Yard]:
    models: dict[str, Any] = {
        "warm": {"slots": 2, "tokens_per_s": 500},  # so that tokens come one by one, and each is waited for
        "narrow": {"slots": 1, "tokens_per_s": 500},
        "cold": {"slots": 2, "load_s": 0.02},
        "garbage": {"garbage_after_tokens": 2},
        "cut": {"cut_after_bytes": 700},
    }
    config = {**echo(**models), "limits": {"concurrent_max": 100, "requests_max": 10**6}, "server": {"port": 0}}
    with short_folder() as folder:
        path = folder / "modelyard.json"
        path.write_text(json.dumps(config))
        home = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run"), "TMPDIR": str(folder)}
        loaded = load_settings(config_file=path, environment=home, folder=Path(folder))
        async with running_node(loaded) as node:
            node.operations.mark_started()
            await asyncio.sleep(0)
            yield Yard(node, asyncio.all_tasks())


Story = Callable[[Yard], Exchange]
Ground = Callable[[Yard], Coroutine[Any, Any, None]]


async def nothing(_yard: Yard) -> None:
    """No preparation."""


async def unloaded(yard: Yard) -> None:
    await yard.node.manager.unload("cold", force=True)


async def loaded(yard: Yard) -> None:
    await yard.chat("cold", max_tokens=1).run()


# Every path of a request through the node, and how each attempt begins.
STORIES: dict[str, tuple[Story, Ground]] = {
    "streamed": (lambda yard: yard.chat("warm", stream=True, max_tokens=6), nothing),
    "plain": (lambda yard: yard.chat("warm", max_tokens=6), nothing),
    "completion": (lambda yard: yard.exchange("/v1/completions", model="warm", prompt="a b", max_tokens=2), nothing),
    "two choices": (lambda yard: yard.chat("warm", n=2, stream=True, max_tokens=2), nothing),
    "loads": (lambda yard: yard.chat("cold", stream=True, max_tokens=2), unloaded),
    "garbage": (lambda yard: yard.chat("garbage", stream=True, max_tokens=4), nothing),
    "cut": (lambda yard: yard.chat("cut", max_tokens=8), nothing),
    "refused": (lambda yard: yard.chat("nobody"), nothing),
    "operator loads": (lambda yard: yard.exchange("/admin/models/cold/load"), unloaded),
    "operator unloads": (lambda yard: yard.exchange("/admin/models/cold/unload"), loaded),
    "operator cancels": (lambda yard: yard.exchange("/admin/requests/nobody", "DELETE"), nothing),
    "status": (lambda yard: yard.exchange("/admin/status", "GET"), nothing),
}
SLOW = ("loads", "cut", "operator loads", "operator unloads")  # in the suite in one way only
GROUPS = [tuple(name for name in STORIES if name not in SLOW), *((name,) for name in SLOW if PROVE or name != "cut")]
WAYS = {"once": 1, "twice": 2, "interrupted": 1}


async def attempt(yard: Yard, exchange: Exchange, at: int, way: str) -> bool:
    """Run one request, disturbed at its k-th suspension. True if it never came to that."""

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        inference = yard.node.inference
        act = task.cancel if way != "interrupted" else lambda: inference.interrupt_all(ClientClosed())
        stepped = Stepped(exchange.run(), act, at, WAYS[way])
        await stepped
        assert stepped.count < SUSPENSIONS_MAX
        counts.append(stepped.count)

    counts: list[int] = []
    with capture_logs() as logs:
        running = asyncio.create_task(run())
        await asyncio.wait((running,), timeout=30)
        assert running.done(), f"it hangs, {way} at {at}"
        if not running.cancelled():
            running.result()
    outcomes = [one for one in logs if one["event"] == "request.finished" and one["request_id"] == exchange.id]
    assert len(outcomes) <= 1, f"{way} at {at}: {outcomes}"
    assert not [one for one in outcomes if one["code"] == "internal"], f"{way} at {at}: {outcomes}"
    if outcomes and outcomes[0]["code"] == "ok":
        assert exchange.is_whole
        assert outcomes[0]["finish_reason"] == "length"
    return bool(counts) and counts[0] < at


@pytest.mark.parametrize("names", GROUPS, ids=lambda names: names[0])
async def test_nothing_is_left_wherever_a_request_is_cancelled(names: tuple[str, ...]) -> None:
    async with yard() as here:
        for name in names:
            await everywhere(here, name)

        # Everything still works, and gives its memory back.
        last = here.chat("warm", max_tokens=2)
        await last.run()
        assert last.messages[0]["status"] == 200
        for one in here.node.manager.residents():
            await here.node.manager.unload(one.model)
        assert [device.reserved_bytes for device in here.node.manager.devices()] == [0]


async def everywhere(here: Yard, name: str) -> None:
    """One story, cancelled at each of its suspensions in each way."""
    make, ground = STORIES[name]
    await make(here).run()
    await here.is_clean(name)
    await until(here.workers_are_idle, "the workers are idle")
    tried, fds = 0, here.fds
    for way in WAYS if PROVE or name not in SLOW else ("twice",):
        at, is_over = 0, False
        while not is_over:
            at += 1
            await ground(here)
            is_over = await attempt(here, make(here), at, way)
            await here.is_clean(f"{name}, {way} at {at}")
        tried += at - 1
    await until(here.workers_are_idle, "the workers are idle")
    await until(lambda: here.fds <= fds, "no connection is left")
    tell(f"{name}: {tried} cancellations")
    assert tried >= 3


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_left_of_one_cancelled_in_the_queue(way: str) -> None:
    async with yard() as here:
        model = here.node.catalog.resolve("narrow")

        async def waits(at: int) -> bool:
            async with here.node.manager.lease(model, ticket="", caller="other", deadline=1e12):
                exchange = here.chat("narrow", stream=True, max_tokens=1)
                trying = asyncio.create_task(attempt(here, exchange, at, way))
                await until(lambda: here.node.manager.queue_length == 1 or trying.done(), "it waits, or is over")
                assert here.node.manager.queue_length == (not trying.done()), "who is gone does not wait"
            return await trying

        at = 1
        while not await waits(at):
            await here.is_clean(f"{way} at {at}")
            at += 1

        assert at > 5
