"""A static upstream: nginx answers every completion with the same stream, on a worker's socket or on a port.

It computes nothing, so what a request costs beyond it is what we add.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import psutil

from modelyard.engines.base import LaunchOptions, WorkerCommand
from modelyard.types.memory import Footprint
from modelyard.types.model import Capability, Model

from .machine import pin, tool

MODEL = "static"
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Say hello to the benchmark, please."}]})

CONFIGURATION = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit; {user}
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    {listen}
    location = /health {{ default_type application/json; return 200 '{{"status":"ok"}}'; }}
    location = /v1/models {{ default_type application/json; return 200 '{models}'; }}
    location /v1/ {{ {answer} }}
  }}
}}
"""


def recorded_stream() -> str:
    """What an engine sends for a short answer: role, content, finish, usage, end."""
    base = {"id": "chatcmpl-static", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    deltas: list[tuple[Mapping[str, object], str | None]] = [
        ({"role": "assistant", "content": None}, None),
        ({"content": "Hello, benchmark."}, None),
        ({}, "stop"),
    ]
    frames = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} for delta, finish in deltas]
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    frames.append({**base, "choices": [], "usage": usage})
    return "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames) + "data: [DONE]\n\n"


def command(folder: Path, listen: str) -> list[str]:
    """The static upstream. On core 1, like the load: core 0 is for what is measured."""
    quoted = recorded_stream().replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return [*pin(1), *_nginx(folder, listen, f'default_type text/event-stream; return 200 "{quoted}";')]


def relay_command(folder: Path, port: int, socket: Path) -> list[str]:
    """A server that hands every piece on as it comes, and does nothing else."""
    listen = f"listen 127.0.0.1:{port};"
    return _nginx(folder, listen, f"proxy_buffering off; proxy_pass http://unix:{socket}:;")


def worker_of(master: int) -> int:
    """The process of an nginx that does the work."""
    return int(psutil.Process(master).children()[0].pid)


def _nginx(folder: Path, listen: str, answer: str) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    user = "user root;" if os.geteuid() == 0 else ""  # else root's nginx gives up the right to open private sockets
    path = folder / "nginx.conf"
    models = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]})
    path.write_text(CONFIGURATION.format(folder=folder, listen=listen, answer=answer, user=user, models=models))
    return [tool("nginx"), "-p", str(folder), "-c", str(path)]


class StaticEngine:
    """Serves the one model `static` by nginx, through the same door as every other worker."""

    name = "static"
    version = "1"

    def __init__(self, folder: Path, slots: int = 256) -> None:
        self._folder = folder
        self._slots = slots

    def serves(self, model: Model) -> bool:
        return model.engine == self.name

    def options(self, model: Model) -> LaunchOptions:
        return LaunchOptions(slots=self._slots, context_length=4096)

    async def footprint(self, model: Model, options: LaunchOptions) -> Footprint:
        return self.estimate(model, options)

    def estimate(self, model: Model, options: LaunchOptions) -> Footprint:
        return Footprint({"ram": 16 * 1024**2}, source="declared")

    def command(self, model: Model, options: LaunchOptions, socket: Path) -> WorkerCommand:
        return WorkerCommand(tuple(command(self._folder, f"listen unix:{socket};")), {}, socket)

    def explain_failure(self, last_lines: tuple[str, ...]) -> str:
        return last_lines[-1] if last_lines else "nginx did not start"


def static_model() -> Model:
    return Model(
        name=MODEL, engine="static", identity=MODEL, capabilities=frozenset((Capability.CHAT, Capability.COMPLETION))
    )
