"""Cancel a request at each of its suspensions, once and twice: nothing it owned is left, nobody else is hurt."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from tests.residency.fakes import model, until
from tests.residency.test_manager import Yard, running


class CancelAt:
    """Awaits a coroutine and throws a cancellation into it at its k-th suspension, and maybe at the next as well."""

    def __init__(self, coroutine: Any, at: int, times: int) -> None:
        self.coroutine, self.at, self.times, self.count = coroutine, at, times, 0

    def __await__(self) -> Generator[Any, Any, Any]:
        result: Any = None
        inner = self.coroutine.__await__()
        try:
            waited_for = inner.send(None)
            while True:
                self.count += 1
                if self.at <= self.count < self.at + self.times:
                    waited_for = inner.throw(asyncio.CancelledError())
                    continue
                result = yield waited_for
                waited_for = inner.send(result)
        except StopIteration as done:
            return done.value


async def story(yard: Yard) -> None:
    """A request with everything: a load, another model's eviction, a wait for a slot."""
    await yard.use("a")
    await yard.use("b")
    async with yard.lease("b"):
        pass
    await yard.manager.load(model("c"))
    await yard.manager.unload("c")


@pytest.mark.parametrize("times", [1, 2])
async def test_nothing_is_left_wherever_a_request_is_cancelled(times: int) -> None:
    at = 1
    while True:
        async with running() as yard:
            run = CancelAt(story(yard), at, times)
            try:
                await run
                was_cancelled = False
            except asyncio.CancelledError:
                was_cancelled = True

            assert yard.manager.lease_count == 0, f"a lease is left, cancelled at {at}"
            assert yard.manager.queue_length == 0, f"a ticket is left, cancelled at {at}"
            assert not yard.manager._asked, f"an answer is awaited, cancelled at {at}"
            await yard.use("a")  # and everything still works
        assert yard.starter.live == []
        assert yard.devices.used_bytes["gpu0"] == 0
        if not was_cancelled:
            break
        at += 1

    assert at > 5, "the story has too few suspensions to prove anything"


async def test_a_grant_that_comes_with_the_cancellation_is_given_back() -> None:
    async with running() as yard:
        async with yard.lease("a"):
            waiting = asyncio.create_task(yard.use("a"))
            await until(lambda: yard.manager.queue_length == 1)
        assert yard.manager.lease_count == 1, "granted, but not yet run"
        waiting.cancel()
        await asyncio.wait([waiting])

        assert waiting.cancelled()
        assert yard.manager.lease_count == 0
        await yard.use("a")
