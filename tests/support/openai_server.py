"""A small server that has nothing of ours: OpenAI's API over a port or a Unix socket, as other people write them.

A program: `python openai_server.py --port N | --uds PATH [--host ADDRESS] [--fault NAME] [--api-key TOKEN]`. It streams
without progress frames, tells usage when asked, refuses as vLLM does, and fails as it is told to.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

FAULTS = (
    "",
    "exit",
    "hang",
    "elsewhere",
    "ignore-term",
    "double-fork",
    "tells-secrets",
    "slow-start",
    "stuck",
    "no-done",
)
counts = {"started": 0, "finished": 0, "cancelled": 0}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--uds")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--fault", choices=FAULTS, default="")
    parser.add_argument("--api-key", default=os.environ.get("SERVER_API_KEY", ""))
    parser.add_argument("--name", default="")
    given = parser.parse_args()
    match given.fault:
        case "exit":
            say("no such device")
            sys.exit(3)
        case "hang":
            signal.pause()
        case "elsewhere":
            given.port = 0
        case "ignore-term":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "double-fork":
            if os.fork():
                signal.pause()
            os.setsid()
            if os.fork():
                os._exit(0)
            subprocess.Popen(["sleep", "600"], start_new_session=True)
        case "tells-secrets":
            say(f"my environment: {dict(os.environ)}")
            say(f"my arguments: {sys.argv}")
            sys.exit(1)
        case "slow-start":
            time.sleep(0.5)
    asyncio.run(serve(given))


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


async def serve(given: argparse.Namespace) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer, given)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    if given.uds:
        server = await asyncio.start_unix_server(connected, given.uds)
    else:
        server = await asyncio.start_server(connected, given.host, given.port)
    await server.serve_forever()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, given: argparse.Namespace) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    path = head.split(" ")[1]
    if given.api_key and f"Authorization: Bearer {given.api_key}\r\n" not in head:
        reply(writer, 401, {"error": {"message": "no", "code": 401}})
    elif path in ("/health", "/counters"):
        reply(writer, 200, counts)
    else:
        length = next(line for line in head.split("\r\n") if line.lower().startswith("content-length"))
        asked = json.loads(await reader.readexactly(int(length.split(":")[1])))
        if (refused := refused_because(path, asked, given)) is not None:
            reply(writer, *refused)
        else:
            counts["started"] += 1
            await stream(reader, writer, asked, given.fault)


def refused_because(path: str, asked: dict[str, Any], given: argparse.Namespace) -> tuple[int, dict[str, Any]] | None:
    if not path.startswith("/v1/"):
        return 404, {"detail": "Not Found"}
    if "return_progress" in asked:
        return 400, refusal("Unrecognized request argument: return_progress")
    if given.name and asked["model"] != given.name:
        return 404, refusal(f"The model `{asked['model']}` does not exist.", 404)
    if text_of(asked) == "too long":
        told = "This model's maximum context length is 64 tokens. However, you requested 100 tokens in the messages."
        return 400, refusal(told)
    return None


def text_of(asked: dict[str, Any]) -> str:
    return str(asked["messages"][-1]["content"] if "messages" in asked else asked["prompt"])


def refusal(message: str, code: int = 400) -> dict[str, Any]:
    """As vLLM and sglang write it: without an envelope, with a number for a code."""
    return {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": code}


def reply(writer: asyncio.StreamWriter, status: int, body: object) -> None:
    text = json.dumps(body).encode()
    writer.write(
        f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text
    )


async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[str, Any], fault: str) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n")
    is_chat = "messages" in asked
    gone = asyncio.ensure_future(reader.read(1))

    def send(**fields: Any) -> None:
        frame = {"id": "cmpl-1", "object": "chunk", "created": 1, "model": asked["model"], **fields}
        writer.write(f"data: {json.dumps(frame)}\n\n".encode())

    def piece(word: str, finish: str | None = None) -> dict[str, Any]:
        told = {"delta": {"content": word}} if is_chat else {"text": word}
        return {"index": 0, "logprobs": None, "finish_reason": finish, **told}

    if is_chat:
        send(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
    count = min(asked.get("max_tokens") or 4, 100_000)
    for number in range(count):
        if gone.done():
            counts["cancelled"] += 1
            return
        if fault == "stuck" and number == 2:
            await asyncio.Event().wait()
        send(choices=[piece(f"{text_of(asked)}:{number} ")])
        await writer.drain()
        await asyncio.sleep(0.005 if count > 100 else 0)
    send(choices=[piece("", "length")])
    if asked.get("stream_options", {}).get("include_usage"):
        send(choices=[], usage={"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count})
    if fault != "no-done":
        writer.write(b"data: [DONE]\n\n")
    await writer.drain()
    gone.cancel()
    counts["finished"] += 1


if __name__ == "__main__":
    main()
