from __future__ import annotations

import asyncio

import pytest

from modelyard.errors import ClientClosed, RequestCancelled
from modelyard.providers.ticket import Ticket


def ticket() -> Ticket:
    return Ticket("r1", request_id="req", route="/v1/x", caller_id="me", started_at=0.0)


async def forever() -> None:
    await asyncio.Event().wait()


async def test_an_interrupt_ends_the_work_with_its_reason() -> None:
    mine = ticket()

    async def work() -> None:
        with mine:
            asyncio.get_running_loop().call_soon(mine.interrupt, RequestCancelled())
            await forever()

    with pytest.raises(RequestCancelled):
        await asyncio.create_task(work())


async def test_the_first_reason_counts() -> None:
    mine, loop = ticket(), asyncio.get_running_loop()

    async def work() -> None:
        with mine:
            loop.call_soon(mine.interrupt, ClientClosed())
            loop.call_soon(mine.interrupt, RequestCancelled())
            await forever()

    with pytest.raises(ClientClosed):
        await work()

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_from_outside_stays_one() -> None:
    mine = ticket()

    async def work() -> None:
        with mine:
            await forever()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    mine.interrupt(ClientClosed())
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_interrupt_after_the_work_does_nothing() -> None:
    mine = ticket()

    with mine:
        pass
    mine.interrupt(ClientClosed())
    await asyncio.sleep(0)


async def test_an_error_of_the_work_itself_stays() -> None:
    mine = ticket()

    with pytest.raises(ZeroDivisionError), mine:
        raise ZeroDivisionError
