"""Records what llama.cpp's server really streams, byte by byte, for tests of the decoder.

    python -m tools.record_streams tests/providers/recorded

Starts one worker on a model with random weights, so the words are nonsense and the framing is real.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import aiohttp
from tools.gguf_files import write_tiny_llama

PARAMS = {"n_ctx": 2048, "n_parallel": 2, "n_batch": 64, "n_ubatch": 64, "n_gpu_layers": 0, "cache_ram_mib": 0,
          "n_ctx_checkpoints": 0, "threads": 1, "kv_type": "f16"}  # fmt: skip
ASK = {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True, "max_tokens": 4, "seed": 1}
HI = [{"role": "user", "content": "hi there"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"enum": ["Oslo"]}}, "required": ["city"]}}}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, object]]] = {
    "chat": ("/v1/chat/completions", {"messages": HI}),
    "chat-logprobs": ("/v1/chat/completions", {"messages": HI, "logprobs": True, "top_logprobs": 2}),
    "chat-two-choices": ("/v1/chat/completions", {"messages": HI, "n": 2}),
    "chat-long-prompt": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi there " * 60}]}),
    "chat-tool": ("/v1/chat/completions", {"messages": HI, "max_tokens": 120, "tools": [WEATHER],
                                          "tool_choice": "required"}),
    "completion": ("/v1/completions", {"prompt": "hi there"}),
    "completion-logprobs": ("/v1/completions", {"prompt": "hi there", "logprobs": 2}),
    "too-long": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi there " * 3000}]}),
}  # fmt: skip


async def record(folder: Path) -> None:
    """Ask for every case and keep the bytes of its answer."""
    with tempfile.TemporaryDirectory(prefix="my") as scratch:
        model, path = Path(scratch, "tiny.gguf"), Path(scratch, "w.sock")
        write_tiny_llama(model)
        argv = [sys.executable, "-m", "modelyard.engines.llamacpp_launcher", "--socket", str(path)]
        worker = subprocess.Popen([*argv, "--params", json.dumps({"model": str(model), **PARAMS})])  # noqa: ASYNC220
        try:
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path), force_close=True)) as session:
                await _ready(session)
                for name, (route, body) in CASES.items():
                    async with session.post(f"http://w{route}", json={**ASK, **body}) as answer:
                        data = await answer.read()
                        print(name, answer.status, len(data))
                        suffix = "sse" if answer.status == 200 else f"{answer.status}.json"
                        Path(folder, f"{name}.{suffix}").write_bytes(data)  # noqa: ASYNC240
        finally:
            worker.kill()
            worker.wait()


async def _ready(session: aiohttp.ClientSession) -> None:
    for _attempt in range(200):
        try:
            async with session.get("http://w/health") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.05)
    raise SystemExit("the worker did not start")


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
