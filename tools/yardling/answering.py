"""Two ways to ask yardling: its Hugging Face folder through transformers, its GGUF file through llama.cpp's server.

Both answer greedily. The server runs in its own process, because its engine cannot be stopped inside ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Messages = list[dict[str, Any]]
ANSWER_MAX = 160


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said, the tokens of the prompt, and whether the model ended its turn by itself."""

    text: str
    prompt: tuple[int, ...]
    ended: bool


class Answerer(Protocol):
    name: str

    def ask(self, messages: Messages) -> Answer: ...


class HuggingFace:
    name = "Hugging Face"

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder)

    def render(self, messages: Messages, tools: list[dict[str, Any]] | None = None) -> str:
        text = self.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
        return str(text)

    def ask(self, messages: Messages) -> Answer:
        prompt = self.tokenizer(self.render(messages), return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            out = self.model.generate(**prompt, max_new_tokens=ANSWER_MAX, do_sample=False)
        size = prompt["input_ids"].shape[1]
        made = out[0][size:].tolist()
        ended = bool(made) and made[-1] == self.model.generation_config.eos_token_id
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        return Answer(str(text), tuple(prompt["input_ids"][0].tolist()), ended)


class Gguf:
    name = "GGUF"

    def __init__(self, path: Path, *, port: int, threads: int = 1) -> None:
        command = [sys.executable, "-m", "tools.yardling.serve_gguf", str(path), str(port), str(threads)]
        self.address = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        for _ in range(300):
            try:
                self.post("/tokenize", {"content": ""})
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        raise TimeoutError("the GGUF server did not become ready")

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data, headers)  # noqa: S310 - our own loopback server
        with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310
            value: dict[str, Any] = json.load(response)
        return value

    def chat(self, messages: Messages, **more: Any) -> dict[str, Any]:
        """The first choice of a chat completion."""
        body = {"messages": messages, "temperature": 0, "max_tokens": ANSWER_MAX, **more}
        choice: dict[str, Any] = self.post("/v1/chat/completions", body)["choices"][0]
        return choice

    def ask(self, messages: Messages) -> Answer:
        choice = self.chat(messages)
        prompt = self.post("/apply-template", {"messages": messages})["prompt"]
        tokens = self.post("/tokenize", {"content": prompt, "parse_special": True})["tokens"]
        return Answer(str(choice["message"]["content"]), tuple(tokens), choice["finish_reason"] == "stop")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)
