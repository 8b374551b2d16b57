"""A client that costs next to nothing: sends one request, counts what comes back, and when."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path

PIECE = b'"content":"'  # in every chunk with text, however the rest of it looks


@dataclass(slots=True)
class Answer:
    """One streamed answer so far; times are of the monotonic clock."""

    chunks: int = 0
    first_at: float | None = None
    ended_at: float | None = None
    is_complete: bool = False


OPENAI, OLLAMA = "/v1/chat/completions", "/api/chat"


def chat(model: str, prompt: str, tokens: int, path: str = OPENAI) -> bytes:
    """A streamed chat, as the dialect of `path` has it."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True}
    limit: dict[str, object] = {"max_tokens": tokens} if path == OPENAI else {"options": {"num_predict": tokens}}
    return json.dumps({**body, **limit}).encode()


async def ask(where: int | Path, body: bytes, answer: Answer, *, key: str = "", path: str = OPENAI) -> None:
    """Ask on a loopback port or a Unix socket, and count until the last byte."""
    connect = asyncio.open_connection("127.0.0.1", where) if isinstance(where, int) else (
        asyncio.open_unix_connection(str(where))
    )  # fmt: skip
    reader, writer = await connect
    try:
        authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"{authorization}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        while data := await reader.read(65536):
            if count := data.count(PIECE):
                answer.chunks += count
                answer.first_at = answer.first_at or time.monotonic()
            answer.is_complete = answer.is_complete or b"[DONE]" in data or b'"done":true' in data
        answer.ended_at = time.monotonic()
    finally:
        writer.close()
