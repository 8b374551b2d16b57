"""The transformers worker's HTTP: one answer per connection, streamed as llama.cpp's server streams it.

Runs inside worker processes. A client that leaves ends its request in the engine within a step. Long texts are
tokenised off the event loop. Knows neither torch nor models: what computes is handed in as a `Generator`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from modelyard.engines.answer_text import Piece, Splitter, StopCutter, TokenText
from modelyard.engines.templates import Renderer, TemplateBroken
from modelyard.engines.transformers_question import CHAT, COMPLETION, Question, Refused, Sampling, read_question

AT_ONCE_CHARS_MAX = 4096  # are tokenised within a millisecond or two
LOOK_S = 0.05  # between two looks at how far a prompt has been read
DONE = b"data: [DONE]\n\n"
THINK = "<think>"


@dataclass(frozen=True, slots=True)
class Step:
    """What an engine has made of one request so far."""

    tokens: list[int]
    is_finished: bool = False
    error: str = ""


class Generation(Protocol):
    """One request in the engine."""

    async def step(self) -> Step | None:
        """What is new; None after `LOOK_S` without anything."""
        ...

    def prompt_done(self) -> int:
        """How many tokens of the prompt were read."""
        ...

    def cancel(self) -> None:
        """Stop it, if it has not finished. To be called in any case."""
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """What computes."""

    context_length: int
    vocabulary_count: int
    defaults: Sampling
    encode: Callable[..., list[int]]  # (text, adds_special=...)
    decode: Callable[[list[int]], str]
    begin: Callable[..., Generation]  # (prompt tokens, limit, question)
    ends: frozenset[int]  # tokens that end an answer
    counters: Callable[[], Mapping[str, int]]
    renderer: Renderer | None = None
    template_names: Mapping[str, str] = field(default_factory=dict)  # names of special tokens, for templates
    may_think: bool = False
    may_call: bool = False


class Inference:
    """Answers chats and completions. An ASGI app."""

    def __init__(self, engine: Engine, *, is_chat: bool) -> None:
        self._engine = engine
        self._is_chat = is_chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        answering = asyncio.ensure_future(self._answer(body, request.headers.get("x-request-id", "0"), send))
        leaving = asyncio.ensure_future(receive())  # there is nothing more to come: it is the client's end
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)
        if not answering.cancelled() and (failure := answering.exception()) is not None:
            raise failure

    async def _answer(self, body: bytes, request_id: str, send: Send) -> None:
        try:
            question = read_question(orjson.loads(body), self._engine.defaults, is_chat=self._is_chat)
            text, tokens = await self._prompt(question)
            limit = self._limit(question, tokens)
        except Refused as refused:
            await _send_json(send, 400, refused.body)
            return
        await Answer(self._engine, question, request_id, send).give(text, tokens, limit)

    async def _prompt(self, question: Question) -> tuple[str, list[int]]:
        """The prompt's end as text, and the whole as tokens."""
        if isinstance(question.prompt, tuple):
            if not all(0 <= token < self._engine.vocabulary_count for token in question.prompt):
                raise Refused("the prompt has a token that the model does not have")
            return "", list(question.prompt)
        text = await self.rendered(question) if question.is_chat else question.prompt
        return text, await self.tokens(text, adds_special=not question.is_chat)  # a template writes its own

    async def tokens(self, text: str, *, adds_special: bool) -> list[int]:
        """A text as tokens."""
        if len(text) <= AT_ONCE_CHARS_MAX:
            return self._engine.encode(text, adds_special=adds_special)
        return await asyncio.to_thread(self._engine.encode, text, adds_special=adds_special)

    async def rendered(self, question: Question) -> str:
        """What the chat template makes of a chat."""
        if self._engine.renderer is None:
            raise Refused("chat: the model has no chat template", "not_supported_error")
        values = {
            **self._engine.template_names, **question.template_options, "messages": question.messages,
            "tools": question.tools or None, "documents": None, "add_generation_prompt": True,
        }  # fmt: skip
        try:
            return await self._engine.renderer.render(values)
        except TemplateBroken as broken:
            raise Refused(str(broken), "chat_template_error") from broken

    def _limit(self, question: Question, tokens: list[int]) -> int:
        """How many tokens the answer may have."""
        room = self._engine.context_length - len(tokens)
        if room <= 0:
            raise Refused(
                "the prompt is longer than the context", "exceed_context_size_error",
                n_prompt_tokens=len(tokens), n_ctx=self._engine.context_length,
            )  # fmt: skip
        if not tokens:
            raise Refused("the prompt is empty")
        return min(question.max_tokens or room, room)


class Answer:
    """One answer, from the first frame to the last."""

    def __init__(self, engine: Engine, question: Question, request_id: str, send: Send) -> None:
        self._engine = engine
        self._question = question
        self._send = send
        prefix, kind = ("chatcmpl-", "chat.completion.chunk") if question.is_chat else ("cmpl-", "text_completion")
        head = {"id": prefix + request_id, "object": kind, "created": int(time.time()), "model": "model"}
        self._head = orjson.dumps(head)[:-1]
        self._calls = 0

    async def give(self, prompt: str, tokens: list[int], limit: int) -> None:
        """Stream it."""
        headers = [(b"content-type", b"text/event-stream")]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        generation = self._engine.begin(tokens, limit, self._question)
        try:
            await self._relay(generation, prompt, len(tokens), limit)
        finally:
            generation.cancel()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _relay(self, generation: Generation, prompt: str, prompt_count: int, limit: int) -> None:
        began, question = time.monotonic(), self._question
        text, cutter = TokenText(self._engine.decode), StopCutter(question.stops)
        splitter = self._splitter(prompt)
        await self._write(self._progress(0, prompt_count, 0.0))
        step: Step | None = await self._first(generation, prompt_count, began)
        read = time.monotonic()
        seen, reason = 0, ""
        await self._write(self._frame({"role": "assistant", "content": None}) if question.is_chat else b"")
        while not reason:
            if step is not None:
                if step.error:  # a cut answer makes the node ask what became of us
                    raise RuntimeError(step.error)
                new, seen = step.tokens[seen:], len(step.tokens)
                has_ended = bool(new) and new[-1] in self._engine.ends and not question.ignore_eos
                reason = "stop" if has_ended else "length" if step.is_finished or seen >= limit else ""
                told = cutter.add(text.add(new[:-1] if has_ended else new))
                if reason and not cutter.is_cut:
                    told += cutter.add(text.end()) + cutter.end()
                reason = "stop" if cutter.is_cut else reason
                pieces = splitter.add(told) + (splitter.end() if reason else [])
                await self._write(b"".join([self._piece(piece) for piece in pieces]))
            if not reason:
                step = await generation.step()
        if splitter.calls and reason == "stop":
            reason = "tool_calls"
        ended = time.monotonic()
        timings = {"prompt_n": prompt_count, "prompt_ms": (read - began) * 1000, "predicted_n": seen,
                   "predicted_ms": (ended - read) * 1000}  # fmt: skip
        usage = {"prompt_tokens": prompt_count, "completion_tokens": seen, "total_tokens": prompt_count + seen}
        last = self._head + b',"choices":[],"usage":' + orjson.dumps(usage) + b',"timings":' + orjson.dumps(timings)
        await self._write(self._frame({}, reason) + b"data: " + last + b"}\n\n" + DONE)

    async def _first(self, generation: Generation, prompt_count: int, began: float) -> Step:
        """Wait for the first token, and tell meanwhile how far the prompt has been read."""
        told = 0
        while (step := await generation.step()) is None:
            done = generation.prompt_done()
            if done > told and self._question.wants_progress:
                told = done
                await self._write(self._progress(done, prompt_count, time.monotonic() - began))
        await self._write(self._progress(prompt_count, prompt_count, time.monotonic() - began))
        return step

    def _splitter(self, prompt: str) -> Splitter:
        engine, question = self._engine, self._question
        if not question.is_chat:
            return Splitter()
        return Splitter(
            is_thinking=engine.may_think and prompt.rstrip().endswith(THINK),
            may_think=engine.may_think,
            functions=question.functions if engine.may_call else frozenset(),
        )

    async def _write(self, data: bytes) -> None:
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def _progress(self, done: int, total: int, took_s: float) -> bytes:
        if not self._question.wants_progress:
            return b""
        counts = {"total": total, "cache": 0, "processed": done, "time_ms": round(took_s * 1000)}
        told = self._head + b',"choices":[],"prompt_progress":' + orjson.dumps(counts)
        return b"data: " + told + b"}\n\n"

    def _piece(self, piece: Piece) -> bytes:
        match piece.kind:
            case "text":
                return self._frame({"content": piece.text})
            case "reasoning":
                return self._frame({"reasoning_content": piece.text})
            case "call":
                number, self._calls = self._calls, self._calls + 1
                function = {"name": piece.name, "arguments": piece.text}
                call = {"index": number, "id": f"call-{number}", "type": "function", "function": function}
                return self._frame({"tool_calls": [call]})

    def _frame(self, delta: Mapping[str, object], finish: str | None = None) -> bytes:
        choice: dict[str, object] = {"finish_reason": finish, "index": 0}
        if self._question.is_chat:
            choice["delta"] = delta
        else:
            choice["text"] = delta.get("content", "")
        return b"data: " + self._head + b',"choices":[' + orjson.dumps(choice) + b"]}\n\n"


def app_of(engine: Engine) -> Starlette:
    """The whole app."""
    asker = Inference(engine, is_chat=True)

    async def health(_request: Request) -> JSONResponse:
        if engine.renderer is not None:
            await engine.renderer.begin()
        return JSONResponse({"status": "ok"})

    async def template(request: Request) -> JSONResponse:
        question = read_question({"stream": True, **orjson.loads(await request.body())}, engine.defaults, is_chat=True)
        return JSONResponse({"prompt": await asker.rendered(question)})

    async def tokenize(request: Request) -> JSONResponse:
        asked = orjson.loads(await request.body())
        content = asked["content"]
        if isinstance(content, str):
            adds_special = bool(asked.get("add_special")) and not asked.get("is_templated")
            content = await asker.tokens(content, adds_special=adds_special)
        return JSONResponse({"tokens": content})

    async def counters(_request: Request) -> JSONResponse:
        return JSONResponse(dict(engine.counters()))

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/counters", counters),
            Route("/apply-template", template, methods=["POST"]),
            Route("/tokenize", tokenize, methods=["POST"]),
            Route(CHAT, Inference(engine, is_chat=True), methods=["POST"]),
            Route(COMPLETION, Inference(engine, is_chat=False), methods=["POST"]),
        ]
    )


async def _send_json(send: Send, status: int, value: object) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(value).encode(), "more_body": False})
