"""Counts tokens with a worker's own tokenizer: its chat template applied, then its tokens counted, over its socket.

Two questions of llama.cpp's server that our own workers answer too: `/apply-template` and `/tokenize`. Neither takes a
slot. Texts pass through without being decoded here, and tokens are counted by their commas: a prompt of a megabyte
must not hold up the event loop. Whoever does not answer is not asked again about the same request.
"""

from __future__ import annotations

import asyncio

import msgspec
import orjson

from modelyard.types.chat import InferenceRequest

from .openai_request import encode_request
from .prompt_tokens import has_images
from .worker_http import BrokenConnection, NoConnection, RunningWorker, post

ANSWER_S = 20.0  # a megabyte takes half a second
COUNTED_BYTES_MAX = 4 * 1024**2  # more than any context holds: an estimate is told
_PROMPT = b'{"add_special":true,"parse_special":true,"content":%s}'
_TEMPLATED = b'{"add_special":true,"parse_special":true,"is_templated":true,"content":%s}'  # by what a template made
_TEXT = b'{"add_special":false,"parse_special":false,"content":%s}'  # marks of templates are plain text in it


class _Prompt(msgspec.Struct):
    prompt: msgspec.Raw


class _Tokens(msgspec.Struct):
    tokens: msgspec.Raw


class WorkerCounter:
    """The tokenizer of one worker, for one request."""

    def __init__(self, worker: RunningWorker, request_id: str, connect_s: float) -> None:
        self._worker, self._request_id, self._connect_s = worker, request_id, connect_s
        self._is_silent = False

    async def prompt(self, request: InferenceRequest) -> int | None:
        """Of a whole prompt, as the worker will read it. None: it cannot tell."""
        if has_images(request) or request.suffix:
            return None
        if not request.is_chat:
            return await self._count(_PROMPT % orjson.dumps(request.prompt))
        answer = await self._asked("/apply-template", encode_request(request, progress=True))
        if answer is None:
            return None
        try:
            prompt = bytes(msgspec.json.decode(answer, type=_Prompt).prompt)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return await self._count(_TEMPLATED % prompt)

    async def text(self, text: str) -> int | None:
        """Of a text by itself. None: it cannot tell."""
        return await self._count(_TEXT % orjson.dumps(text))

    async def _count(self, body: bytes) -> int | None:
        answer = await self._asked("/tokenize", body)
        if answer is None:
            return None
        try:
            tokens = bytes(msgspec.json.decode(answer, type=_Tokens).tokens)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return tokens.count(b",") + 1 if tokens[1:-1].strip() else 0

    async def _asked(self, path: str, body: bytes) -> bytes | None:
        if self._is_silent or len(body) > COUNTED_BYTES_MAX:
            return None
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._answer(path, body)
        except (TimeoutError, NoConnection, BrokenConnection):
            self._is_silent = True
            return None

    async def _answer(self, path: str, body: bytes) -> bytes | None:
        answer = await post(self._worker.socket, path, body, request_id=self._request_id, connect_s=self._connect_s)
        try:
            if answer.status != 200:
                self._is_silent = True
                return None
            pieces = []
            while piece := await answer.read():
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            answer.close()
