"""The files that tests run on: llama.cpp loads them, counts their tokens, and they never end by themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gguf_files import TINY, Shape, text_of_tokens, write_model, write_tiny_llama

ANSWER = """
import json, os, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.verbosity = sys.argv[1], 512, -1
params.warmup = params.fit_params = False
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
asked = {"messages": [{"role": "user", "content": sys.argv[2]}], "max_tokens": 24, "temperature": 1.0}
plain = {"prompt": sys.argv[2], "max_tokens": 8}
print(json.dumps([server.handle_chat_completions(asked), server.handle_completions(plain)]), flush=True)
os._exit(0)
"""

SHAPES = {
    "llama": TINY,
    "qwen2": Shape("qwen2"),
    "qwen3": Shape("qwen3"),
    "gemma3": Shape("gemma3", layers=6, sliding_window=64, tied_output=True),
    "experts": Shape(experts=4, experts_used=2),
}


def answers(path: Path, prompt: str) -> list[dict[str, dict[str, int]]]:
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, path, prompt], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(told, list)
    return told


@pytest.mark.parametrize("kind", SHAPES)
def test_llama_cpp_loads_every_kind_of_model_and_gets_an_answer_of_the_asked_length(tmp_path: Path, kind: str) -> None:
    path = write_model(tmp_path / "model.gguf", SHAPES[kind])

    chat, plain = answers(path, text_of_tokens(50))

    assert chat["usage"]["completion_tokens"] == 24
    assert plain["usage"] == plain["usage"] | {"prompt_tokens": 50, "completion_tokens": 8}


def test_a_quantised_model_of_any_context_can_be_written(tmp_path: Path) -> None:
    shape = Shape(embedding=256, feed_forward=256)
    for quantization in ("F32", "Q8_0", "Q4_0", "Q4_K"):
        path = write_tiny_llama(tmp_path / "q.gguf", shape=shape, quantization=quantization, context_length=777)

        assert answers(path, "ba be")[0]["usage"]["completion_tokens"] == 24
