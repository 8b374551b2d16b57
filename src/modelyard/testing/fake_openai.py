"""A fake OpenAI-compatible server: models, chats, completions, embeddings and ranks, on a real socket."""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Sequence

from .playing import play_tokens, play_whole
from .script import Script
from .server import FakeServer, Recorded, Reply

QUESTIONS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank")
MALFORMED = b'data: {"choices": [{"delta": {"content": \n\n'


class FakeOpenAI(FakeServer):
    """Answers what it is told to. `models` are the names it lists."""

    def __init__(self, models: Sequence[str] = ("fake-1",), *, key: str = "", host: str = "127.0.0.1") -> None:
        super().__init__(key=key, host=host)
        self.models = tuple(models)

    def is_question(self, one: Recorded) -> bool:
        return one.path in QUESTIONS

    def refusal(self, status: int, text: str) -> object:
        return {"error": {"message": text, "type": "server_error", "param": None, "code": str(status)}}

    async def answer(self, request: Recorded, reply: Reply) -> None:
        if request.path == "/v1/models":
            listed = [{"id": name, "object": "model", "created": 1, "owned_by": "fake"} for name in self.models]
            await reply.json({"object": "list", "data": listed})
        elif request.path not in QUESTIONS:
            await reply.json(self.refusal(404, "no such path"), 404)
        elif request.body.get("model") not in self.models:
            await reply.json(self.refusal(404, "The model does not exist."), 404)
        elif request.path == "/v1/embeddings":
            await self._embed(request, reply)
        elif request.path == "/v1/rerank":
            await self._rerank(request, reply)
        elif request.body.get("stream"):
            await self._stream(request, reply)
        else:
            await self._whole(request, reply)

    async def _stream(self, request: Recorded, reply: Reply) -> None:
        body, script = request.body, reply.script
        is_chat = request.path == "/v1/chat/completions"
        head = self._head(request, ".chunk" if is_chat else "")

        def frame(delta: object, finish: str | None = None, choice: int = 0) -> bytes:
            piece = {"delta": delta} if is_chat else {"text": delta if isinstance(delta, str) else ""}
            chunk = {**head, "choices": [{"index": choice, **piece, "finish_reason": finish}]}
            return (b"\r\n" if script.blank_lines else b"") + b"data: " + json.dumps(chunk).encode() + b"\n\n"

        await reply.head(200, self.stream_type)
        if is_chat:
            await reply.send(frame({"role": "assistant", "content": ""}))
        if script.thinking:
            await reply.send(frame({"reasoning_content": script.thinking}))
        if script.tool is not None and is_chat:
            for delta in _tool_pieces(script):
                await reply.send(frame(delta))
        tokens = () if script.tool is not None else script.pieces(request.number)
        error = b"data: " + json.dumps(self.refusal(500, script.error)).encode() + b"\n\n"
        content = (lambda token: frame({"content": token})) if is_chat else frame
        if not await play_tokens(reply, tokens, content, MALFORMED, error, b": alive\n\n"):
            return
        finish = "tool_calls" if script.tool is not None and is_chat else script.finish
        for choice in range(int(body.get("n") or 1)):
            if choice:
                for token in tokens:
                    await reply.send(frame({"content": token} if is_chat else token, None, choice))
            await reply.send(frame({} if is_chat else "", finish, choice))
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {**head, "choices": [], "usage": self._usage(script, tokens)}
            await reply.send(b"data: " + json.dumps(usage).encode() + b"\n\n")
        await reply.send(b"data: [DONE]\n\n")
        await reply.end()

    async def _whole(self, request: Recorded, reply: Reply) -> None:
        script, tokens = reply.script, reply.script.pieces(request.number)
        is_chat = request.path == "/v1/chat/completions"
        text = "".join(tokens)
        message: dict[str, object] = {"role": "assistant", "content": None if script.tool is not None else text}
        if script.tool is not None:
            call = {"name": script.tool.name, "arguments": json.dumps(script.tool.arguments)}
            message["tool_calls"] = [{"id": "call_1", "type": "function", "function": call}]
        if script.thinking:
            message["reasoning_content"] = script.thinking
        finish = "tool_calls" if script.tool is not None and is_chat else script.finish
        choice = {"index": 0, "finish_reason": finish, **({"message": message} if is_chat else {"text": text})}
        value = {**self._head(request, ""), "choices": [choice], "usage": self._usage(script, tokens)}
        await play_whole(reply, value, self.refusal(500, script.error))

    async def _embed(self, request: Recorded, reply: Reply) -> None:
        given = request.body.get("input")
        inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
        size = int(request.body.get("dimensions") or 4)
        vectors = [[float(len(str(text)))] + [0.5] * (size - 1) for text in inputs]
        as_text = request.body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": at, "embedding": _base64(vector) if as_text else vector}
            for at, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": len(inputs), "total_tokens": len(inputs)}
        await reply.json({"object": "list", "model": request.body["model"], "data": data, "usage": usage})

    async def _rerank(self, request: Recorded, reply: Reply) -> None:
        """The longest document is the best."""
        documents = request.body.get("documents") or []
        order = sorted(range(len(documents)), key=lambda at: -len(documents[at]))
        results = [{"index": at, "relevance_score": len(documents[at]) / 100} for at in order]
        usage = {"prompt_tokens": len(documents), "total_tokens": len(documents)}
        await reply.json({"model": request.body["model"], "results": results, "usage": usage})

    def _head(self, request: Recorded, suffix: str) -> dict[str, object]:
        kind = "chat.completion" if request.path == "/v1/chat/completions" else "text_completion"
        return {
            "id": f"fake-{request.number}", "object": f"{kind}{suffix if kind == 'chat.completion' else ''}",
            "created": int(time.time()), "model": request.body["model"],
        }  # fmt: skip

    def _usage(self, script: Script, tokens: tuple[str, ...]) -> dict[str, int]:
        count = len(tokens) or 3
        return {
            "prompt_tokens": script.prompt_tokens, "completion_tokens": count,
            "total_tokens": script.prompt_tokens + count,
        }  # fmt: skip


def _tool_pieces(script: Script) -> list[dict[str, object]]:
    """A call as servers send it: its name first, its arguments in pieces."""
    assert script.tool is not None, "asked for a tool"
    text = json.dumps(script.tool.arguments)
    half = len(text) // 2
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": script.tool.name, "arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": part}} for part in (text[:half], text[half:])]
    return [{"tool_calls": [piece]} for piece in (first, *rest)]


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
