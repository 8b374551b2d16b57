"""Waiting with a budget, and what is known when it runs out: asked over another connection before the first is closed.

    try:
        await within(service.load("llama3.1:8b"), 300, lambda: diagnose_timeout(service, "llama3.1:8b", "load", 300))
    except TimeoutWithDiagnosis as timeout:
        print(timeout)

Evidence comes first because leaving changes it: an Ollama server gives a load up when whoever waits for it leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from modelyard import diagnosis
from modelyard.client.ollama import OllamaService
from modelyard.diagnosis.timeouts import Phase, Resident, TimeoutDiagnosis, TimeoutEvidence
from modelyard.errors import OllamaServiceError

Value = TypeVar("Value")
Diagnose = Callable[[], Awaitable[TimeoutDiagnosis]]
EVIDENCE_S = 10.0  # for a server to say what is in memory
PROGRESS_EVERY_S = 1.0
STALL_S = 60.0  # a load that moves is given so much more after every step


async def diagnose_timeout(
    service: OllamaService,
    model: str,
    phase: Phase,
    budget_s: float,
    *,
    tokens: int = 0,
    loads_abort: bool = True,
    evidence_s: float = EVIDENCE_S,
) -> TimeoutDiagnosis:
    """Ask the server what it can tell now, and judge. Takes at most `evidence_s` seconds; never raises for the server.

    `phase`: connect, load, first_token or between_tokens. `tokens`: how many had come. `loads_abort`: whether the
    server gives a load up when its client leaves, as Ollama does.
    """
    residents, is_alive = await asyncio.gather(residents_of(service, evidence_s), _is_alive(service, evidence_s))
    return diagnosis.diagnose_timeout(
        TimeoutEvidence(model, phase, budget_s, tokens, residents, is_alive, loads_abort=loads_abort)
    )


async def residents_of(service: OllamaService, budget_s: float = EVIDENCE_S) -> list[Resident] | None:
    """What is in the server's memory; None if it does not tell in time."""
    try:
        async with asyncio.timeout(budget_s):
            return [resident for one in await service.ps() if (resident := _resident(one)) is not None]
    except (TimeoutError, OllamaServiceError):
        return None


def _resident(told: dict[str, Any]) -> Resident | None:
    """One entry of `/api/ps`; servers are not to be trusted with shapes."""
    name = told.get("name") or told.get("model")
    if not isinstance(name, str):
        return None
    size, vram = (one if isinstance(one, int) and one >= 0 else None for one in map(told.get, ("size", "size_vram")))
    return Resident(name, size or 0, vram)


async def _is_alive(service: OllamaService, budget_s: float) -> bool:
    try:
        async with asyncio.timeout(budget_s):
            return await service.health_check()
    except TimeoutError:
        return False


async def within(
    work: Coroutine[Any, Any, Value],
    budget_s: float,
    diagnose: Diagnose,
    progress: Callable[[], Awaitable[float | None]] | None = None,
) -> Value:
    """The work's result, if it comes in time. Else its diagnosis is taken, the work is cancelled, and it is raised.

    `progress`, asked once a second, tells how far the work is, 0 to 1: while that grows, the work is given more time.
    Raises `TimeoutWithDiagnosis`.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    deadline, furthest = loop.time() + budget_s, 0.0
    try:
        while (left_s := deadline - loop.time()) > 0:
            await asyncio.wait({task}, timeout=left_s if progress is None else min(left_s, PROGRESS_EVERY_S))
            if task.done():
                return task.result()
            reached = await progress() if progress is not None else None
            if reached is not None and reached > furthest:
                furthest, deadline = reached, max(deadline, loop.time() + STALL_S)
        raise (await diagnose()).error()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen: it may have failed while the evidence was taken


async def paced(
    pieces: AsyncIterator[Value],
    first_s: float,
    between_s: float,
    is_token: Callable[[Value], bool],
    diagnose: Callable[[Phase, float, int], Awaitable[TimeoutDiagnosis]],
) -> AsyncGenerator[Value, None]:
    """A stream's pieces, while its tokens come in time. Pieces that hold nothing buy no time.

    Raises `TimeoutWithDiagnosis`.
    """
    loop, tokens = asyncio.get_running_loop(), 0
    deadline, budget_s, phase = loop.time() + first_s, first_s, _phase("first_token")
    while True:

        async def ask(phase: Phase = phase, budget_s: float = budget_s, tokens: int = tokens) -> TimeoutDiagnosis:
            return await diagnose(phase, budget_s, tokens)

        piece = await within(_next(pieces), max(0.0, deadline - loop.time()), ask)
        if piece is msgspec.UNSET:
            return
        yield piece
        if is_token(piece):
            tokens += 1
            deadline, budget_s, phase = loop.time() + between_s, between_s, _phase("between_tokens")


def _phase(name: Phase) -> Phase:
    return name


async def _next(pieces: AsyncIterator[Value]) -> Any:
    """The next piece, or UNSET at the end: a task cannot carry `StopAsyncIteration`."""
    return await anext(pieces, msgspec.UNSET)
