"""Every engine as the conformance suite sees it: a model it serves, and what is its own about it.

A new engine joins by adding a `Case` to `CASES`, and what its model needs to `configuration`.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from modelyard.demo import gguf_path, hf_folder
from modelyard.types.address import Address, LoopbackPort
from tests.support import llama_server

CONTEXT_TOKENS = 1024
BATCH_TOKENS = 16  # the least there is: a prompt is read in many steps, and can be left in the middle of them


@dataclass(frozen=True)
class Case:
    """One engine, with one model that it serves."""

    engine: str
    model: str
    is_scripted: bool = False  # says what its script says, whatever it is asked
    lacks: tuple[dict[str, Any], ...] = ()  # fields of requests it cannot serve; each is a 400 that names it
    names: tuple[str, ...] = field(default=())  # as the refusals name them

    @property
    def endless(self) -> dict[str, Any]:
        """Fields of a request whose answer goes on until the context is full."""
        return {"ignore_eos": True, "temperature": 0, "max_tokens": CONTEXT_TOKENS}


CASES = (
    Case("llamacpp", "yardling"),
    Case(
        "transformers",
        "yardling-hf",
        lacks=(
            {"response_format": {"type": "json_object"}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
            {"logprobs": True},
            {"mirostat": 2},
        ),
        names=("json", "json_schema", "logprobs", "mirostat"),
    ),
    Case("command", "yardling-command"),
    Case("echo", "parrot", is_scripted=True),
)


def configuration(folder: Path) -> dict[str, Any]:
    """A server with all of them. `folder` is for model files."""
    shutil.copytree(hf_folder(), folder / "yardling-hf")
    script = {"slots": 2, "context_length": CONTEXT_TOKENS, "tokens_per_s": 400, "prefill_tokens_per_s": 400}
    launch = {"slots": 2, "context_length": CONTEXT_TOKENS, "n_batch": BATCH_TOKENS, "threads": 1}
    command = {
        "command": f"{sys.executable} {llama_server.__file__} --port {{port}} -m {{model_path}} -np 2 "
        f"-b {BATCH_TOKENS} -t 1 -c {2 * CONTEXT_TOKENS}",
        "environment": {"LLAMA_API_KEY": "{token}"}, "model_path": str(gguf_path()), "slots": 2,
        "context_length": CONTEXT_TOKENS, "capabilities": ["chat", "completion", "tools"], "has_progress": True,
        "footprint": "200MiB",
    }  # fmt: skip
    return {
        "models": {
            "folders": [str(folder)],
            "echo": {"parrot": script},
            "launch": launch,
            "command": {"yardling-command": command},
        },
        "memory": {"gpus": False},
    }


def address_of(worker: psutil.Process) -> Address:
    """Where a worker listens, by its command line; one of a command has its token in its environment."""
    line = worker.cmdline()
    if "--socket" in line:
        return Path(line[line.index("--socket") + 1])
    return LoopbackPort(int(line[line.index("--port") + 1]), worker.environ()["LLAMA_API_KEY"])


def cpu_s(pid: int) -> float:
    """Processor time a worker and all below it have used: what shows whether it works."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))
