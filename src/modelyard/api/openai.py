"""OpenAI's endpoints: chat completions and plain completions. Reads, asks, writes; decides nothing."""

from __future__ import annotations

import os
from collections.abc import Callable

import orjson
from starlette.requests import Request
from starlette.responses import Response

from modelyard.clock import Clock
from modelyard.gateway.keys import Caller
from modelyard.providers.ticket import Ticket
from modelyard.types.status import WaitStatus

from .asked import Asked
from .exchange import Answering, Format, Surface
from .frames import Collector, Frames
from .openai_answer import ChatAnswer, ChatFrames, CompletionAnswer, CompletionFrames
from .openai_codec import read_chat, read_completion
from .streaming import HEADERS, wait_comment


def _format(
    route: str,
    id_prefix: str,
    read: Callable[[bytes], Asked],
    frames: Callable[[str, int, str, bool], Frames],
    whole: Callable[[str, int, str], Collector],
) -> Format:
    def new_frames(asked: Asked, _ticket: Ticket, clock: Clock) -> Frames:
        return frames(_new_id(id_prefix), int(clock.wall()), asked.request.model, asked.include_usage)

    def new_whole(asked: Asked, _ticket: Ticket, clock: Clock) -> Collector:
        return whole(_new_id(id_prefix), int(clock.wall()), asked.request.model)

    return Format(route, read, new_frames, new_whole, _failure, _silence, HEADERS)


def _new_id(prefix: str) -> str:
    return prefix + os.urandom(12).hex()


def _failure(body: dict[str, object]) -> bytes:
    return b"data: " + orjson.dumps(body, default=str) + b"\n\n"


def _silence(_frames: Frames, wait: WaitStatus | None) -> bytes:
    return wait_comment(wait)


CHAT = _format("/v1/chat/completions", "chatcmpl-", read_chat, ChatFrames, ChatAnswer)
COMPLETION = _format("/v1/completions", "cmpl-", read_completion, CompletionFrames, CompletionAnswer)


class OpenAIEndpoints(Surface):
    """The endpoints of one node."""

    async def chat_completions(self, request: Request, caller: Caller) -> Response:
        """POST /v1/chat/completions."""
        return Answering(self, CHAT, request, caller)

    async def completions(self, request: Request, caller: Caller) -> Response:
        """POST /v1/completions."""
        return Answering(self, COMPLETION, request, caller)
