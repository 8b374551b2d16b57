"""Sends a script's tokens, and does on the way what the script says goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .server import Recorded, Reply


SIGNS_PER_S = 10


async def play_tokens(
    reply: Reply, tokens: tuple[str, ...], frame: Callable[[str], bytes], malformed: bytes, error: bytes, sign: bytes
) -> bool:
    """Send a script's tokens, each as `frame(token)`; True if the end may follow. `sign` is one of life."""
    script, request = reply.script, reply.recorded
    for _ in range(round(script.alive_for_s * SIGNS_PER_S)):
        await reply.send(sign)
        if await left_within(request, 1 / SIGNS_PER_S):
            return False
    if await left_within(request, script.first_after_s):
        return False
    for at in range(len(tokens) + 1):
        if script.stall_after == at:
            await reply.stall()
            return False
        if script.cut_after == at:
            await reply.cut()
            return False
        if script.error_after == at:
            await reply.send(error)
            await reply.end()
            return False
        if script.malformed_after == at:
            await reply.send(malformed)
        if at == len(tokens) or not reply.is_open:
            break
        await reply.send(frame(tokens[at]))
        request.tokens_sent += 1
        if await left_within(request, script.between_s):
            return False
    if script.without_end:
        await reply.end()
        return False
    return reply.is_open


async def play_whole(reply: Reply, value: object, refusal: object) -> None:
    """Send an answer that is not streamed, with the faults that make sense for one."""
    script = reply.script
    body = json.dumps(value).encode()
    half = body[: len(body) // 2]
    if await left_within(reply.recorded, script.first_after_s + script.between_s * len(script.tokens)):
        return
    if script.error_after is not None:
        await reply.json(refusal, 500)
    elif script.stall_after is not None:
        await reply.head(200, "application/json")
        await reply.send(half)
        await reply.stall()
    elif script.cut_after is not None or script.cut_at is not None:
        await reply.head(200, "application/json")
        await reply.send(body if script.cut_at is not None else half)
        await reply.cut()
    elif script.malformed_after is not None or script.without_end:
        await reply.whole(200, "application/json", half)
    else:
        await reply.whole(200, "application/json", body)


async def left_within(request: Recorded, seconds: float) -> bool:
    """Wait; True if the client left meanwhile."""
    if seconds > 0:
        with suppress(TimeoutError):
            await asyncio.wait_for(request.left.wait(), seconds)
    return request.left.is_set()
