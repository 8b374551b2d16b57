"""A fake Ollama server: its own API with its statuses, texts and habits, on a real socket.

It keeps models in memory as the real one does: a question brings one in, `keep_alive` says for how long, `/api/ps`
lists who is there. Looking brings nothing in and keeps nothing there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from modelyard.errors import BadRequest
from modelyard.units import parse_duration

from .playing import play_tokens, play_whole
from .script import Script
from .server import FakeServer, Recorded, Reply

QUESTIONS = ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings")
LINES = "application/x-ndjson"
MALFORMED = b'{"model": "x", "message": \n'
KEEP_ALIVE_S = 300.0
FOR_EVER_S = 290 * 365 * 86_400.0
NS = 1_000_000_000
CAPABILITIES = ("completion", "tools", "vision", "thinking")


@dataclass(slots=True)
class FakeModel:
    """A model on its disk."""

    name: str
    size: int = 1024**3
    capabilities: tuple[str, ...] = CAPABILITIES
    digest: str = ""
    vram_ratio: float = 0.0  # how much of it is on a GPU once it is in memory

    def __post_init__(self) -> None:
        if ":" not in self.name.rpartition("/")[2]:
            self.name = f"{self.name}:latest"
        self.digest = self.digest or hashlib.sha256(self.name.encode()).hexdigest()


@dataclass(slots=True)
class _Resident:
    model: FakeModel
    expires_at: float  # of the wall clock


class FakeOllama(FakeServer):
    """Answers what it is told to, with the models it was given."""

    stream_type = LINES

    def __init__(
        self,
        models: Iterable[FakeModel | str] = ("fake-1",),
        *,
        key: str = "",
        host: str = "127.0.0.1",
        version: str = "0.99.0",
        pull: Iterable[dict[str, object]] = ({"status": "pulling manifest"}, {"status": "success"}),
    ) -> None:
        """`pull` is what a download tells of its progress; it need not be true."""
        super().__init__(key=key, host=host)
        given = [one if isinstance(one, FakeModel) else FakeModel(one) for one in models]
        self.models = {one.name: one for one in given}
        self.version, self.pull = version, tuple(pull)
        self.ps_after_s = 0.0  # a server that loads may keep whoever asks what is in memory waiting
        self._residents: dict[str, _Resident] = {}

    @property
    def residents(self) -> dict[str, float]:
        """Who is in memory, and for how many seconds more."""
        now = time.time()
        self._residents = {name: one for name, one in self._residents.items() if one.expires_at > now}
        return {name: one.expires_at - now for name, one in self._residents.items()}

    def is_question(self, one: Recorded) -> bool:
        body = one.body
        lets_go = body.get("keep_alive") == 0 and not (body.get("messages") or body.get("prompt") or body.get("input"))
        return one.path in QUESTIONS and not lets_go

    def is_about(self, one: Recorded, model: str) -> bool:
        return _full(str(one.body.get("model", ""))) == _full(model)

    def refusal(self, status: int, text: str) -> object:
        return {"error": text}

    async def answer(self, request: Recorded, reply: Reply) -> None:
        match request.path:
            case "/":
                await reply.whole(200, "text/plain", b"Ollama is running")
            case "/api/version":
                await reply.json({"version": self.version})
            case "/api/tags":
                await reply.json({"models": [_tag(one) for one in self.models.values()]})
            case "/api/ps":
                await asyncio.sleep(self.ps_after_s)
                await reply.json({"models": [self._running(name) for name in self.residents]})
            case "/api/show" | "/api/delete" | "/api/copy" | "/api/pull":
                await self._about_models(request, reply)
            case path if path in QUESTIONS:
                await self._question(request, reply)
            case _:
                await reply.whole(404, "text/plain", b"404 page not found")

    # ---- models ----

    async def _about_models(self, request: Recorded, reply: Reply) -> None:
        body = request.body
        name = _full(str(body.get("source") or body.get("model") or body.get("name") or ""))
        model = self.models.get(name)
        if request.path == "/api/pull":
            await reply.head(200, LINES)
            for progress in self.pull:
                await reply.send(json.dumps(progress).encode() + b"\n")
            self.models.setdefault(name, FakeModel(name))
            await reply.end()
        elif model is None:
            await reply.json({"error": f"model '{name}' not found"}, 404)
        elif request.path == "/api/show":
            info = {"general.architecture": "fake", "fake.context_length": 8192}
            await reply.json({
                "modelfile": f"FROM {name}", "parameters": "", "template": "{{ .Prompt }}", "details": _details(),
                "model_info": info, "capabilities": list(model.capabilities),
            })  # fmt: skip
        else:
            if request.path == "/api/delete":
                del self.models[name]
                self._residents.pop(name, None)
            else:
                copy = _full(str(body.get("destination", "")))
                self.models[copy] = FakeModel(copy, model.size, model.capabilities, model.digest)
            await reply.whole(200, "application/json", b"")

    def _running(self, name: str) -> dict[str, object]:
        one = self._residents[name]
        left_s = min(one.expires_at, time.time() + 200 * 365 * 86_400) - time.time()
        until = datetime.now(UTC) + timedelta(seconds=left_s)
        return {
            **_tag(one.model), "size_vram": round(one.model.vram_ratio * one.model.size),
            "expires_at": until.isoformat(), "context_length": 4096,
        }  # fmt: skip

    def bring_in(self, name: str, keep_s: float = KEEP_ALIVE_S) -> None:
        """As if somebody had asked for it."""
        model = self.models[_full(name)]
        self._residents[model.name] = _Resident(model, time.time() + keep_s)

    # ---- questions ----

    async def _question(self, request: Recorded, reply: Reply) -> None:
        body = request.body
        model = self.models.get(_full(str(body.get("model", ""))))
        if model is None:
            text = f'model "{body.get("model")}" not found, try pulling it first'
            await reply.json({"error": text}, 404)
            return
        keep_s = _keep_alive_s(body.get("keep_alive"))
        is_empty = not (body.get("messages") or body.get("prompt") or body.get("input"))
        if not (is_empty and keep_s == 0) and (problem := self._cannot(model, request)):  # any model may be let go of
            await reply.json({"error": problem}, 400)
            return
        wants = "embedding" if request.path.startswith("/api/embed") else "completion"
        if is_empty:
            reason = "unload" if keep_s == 0 else "load"
            self._keep(model, keep_s)
            await reply.json({**self._head(body), **_nothing(request), "done": True, "done_reason": reason})
            return
        self._keep(model, KEEP_ALIVE_S)
        if wants == "embedding":
            await self._embed(request, reply)
        elif body.get("stream", True):
            await self._stream(request, reply)
        else:
            await self._whole(request, reply)
        if model.name in self._residents:  # it may have been let go of meanwhile
            self._keep(model, keep_s)

    def _cannot(self, model: FakeModel, request: Recorded) -> str:
        """What of the question is beyond the model, as the real server says it."""
        wants = "embedding" if request.path.startswith("/api/embed") else "completion"
        if wants not in model.capabilities:
            verb = "embed" if wants == "embedding" else request.path.rpartition("/")[2]
            return f'"{model.name}" does not support {verb}'
        if request.body.get("tools") and "tools" not in model.capabilities:
            return f"{model.name} does not support tools"
        if request.body.get("think") and "thinking" not in model.capabilities:
            return f'"{model.name}" does not support thinking'
        return ""

    def _keep(self, model: FakeModel, keep_s: float) -> None:
        if keep_s == 0:
            self._residents.pop(model.name, None)
        else:
            self._residents[model.name] = _Resident(model, time.time() + keep_s)

    async def _stream(self, request: Recorded, reply: Reply) -> None:
        script, head = reply.script, self._head(request.body)

        def line(piece: dict[str, object]) -> bytes:
            blank = b"\n" if script.blank_lines else b""
            return blank + json.dumps({**head, **piece, "done": False}).encode() + b"\n"

        await reply.head(200, LINES)
        if script.thinking:
            await reply.send(line(_piece(request, "", thinking=script.thinking)))
        if script.tool is not None:
            await reply.send(line(_call(script)))
        tokens = () if script.tool is not None else script.pieces(request.number)
        error = json.dumps({"error": script.error}).encode() + b"\n"
        sign = line(_piece(request, ""))
        if await play_tokens(reply, tokens, lambda token: line(_piece(request, token)), MALFORMED, error, sign):
            await reply.send(json.dumps({**head, **_nothing(request), **_end(script, tokens)}).encode() + b"\n")
            await reply.end()

    async def _whole(self, request: Recorded, reply: Reply) -> None:
        script, tokens = reply.script, reply.script.pieces(request.number)
        piece = _call(script) if script.tool is not None else _piece(request, "".join(tokens), thinking=script.thinking)
        value = {**self._head(request.body), **piece, **_end(script, tokens)}
        await play_whole(reply, value, self.refusal(500, script.error))

    async def _embed(self, request: Recorded, reply: Reply) -> None:
        given = request.body.get("input", request.body.get("prompt"))
        vectors = [[float(len(str(text))), 0.5, 0.5, 0.5] for text in (given if isinstance(given, list) else [given])]
        if request.path == "/api/embeddings":
            await reply.json({"embedding": vectors[0]})
        else:
            await reply.json({"model": request.body["model"], "embeddings": vectors, "prompt_eval_count": len(vectors)})

    def _head(self, body: dict[str, object]) -> dict[str, object]:
        return {"model": body.get("model"), "created_at": datetime.now(UTC).isoformat()}


def _full(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _keep_alive_s(value: object) -> float:
    if value is None:
        return KEEP_ALIVE_S
    if isinstance(value, int | float):
        return FOR_EVER_S if value < 0 else float(value)
    text = str(value)
    try:
        return FOR_EVER_S if text.startswith("-") else parse_duration(text)
    except (ValueError, BadRequest):
        return KEEP_ALIVE_S


def _details() -> dict[str, object]:
    return {"format": "gguf", "family": "fake", "families": ["fake"], "parameter_size": "1B",
            "quantization_level": "Q4_0", "parent_model": ""}  # fmt: skip


def _tag(model: FakeModel) -> dict[str, object]:
    return {
        "name": model.name, "model": model.name, "modified_at": "2026-01-01T00:00:00Z", "size": model.size,
        "digest": model.digest, "details": _details(),
    }  # fmt: skip


def _piece(request: Recorded, token: str, thinking: str = "") -> dict[str, object]:
    thought = {"thinking": thinking} if thinking else {}
    if request.path == "/api/generate":
        return {"response": token, **thought}
    return {"message": {"role": "assistant", "content": token, **thought}}


def _nothing(request: Recorded) -> dict[str, object]:
    return _piece(request, "")


def _call(script: Script) -> dict[str, object]:
    assert script.tool is not None, "asked for a tool"
    call = {"function": {"name": script.tool.name, "arguments": dict(script.tool.arguments)}}
    return {"message": {"role": "assistant", "content": "", "tool_calls": [call]}}


def _end(script: Script, tokens: tuple[str, ...]) -> dict[str, object]:
    return {
        "done": True, "done_reason": script.finish, "total_duration": NS, "load_duration": NS // 10,
        "prompt_eval_count": script.prompt_tokens, "prompt_eval_duration": NS // 10,
        "eval_count": len(tokens) or 3, "eval_duration": NS // 2,
    }  # fmt: skip
