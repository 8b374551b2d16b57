"""Writes GGUF files for tests and benchmarks: real ones that llama.cpp loads, headers without data, and broken ones.

Weights are random, so answers are nonsense, but sizes, speeds and memory are those of a real model of that shape.
Every word of the vocabulary is one token, and a model never ends an answer by itself: lengths are exact.
Needs numpy only; knows nothing about Modelyard.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from tools.gguf_bytes import (
    ALIGNMENT_BYTES,
    ARRAY,
    BOOL,
    FLOAT32,
    INT32,
    STRING,
    TENSOR_TYPES,
    UINT32,
    Header,
    Tensor,
    Value,
)  # fmt: skip

Quantization = Literal["F32", "F16", "Q8_0", "Q4_0", "Q4_K"]
Architecture = Literal["llama", "qwen2", "qwen3", "gemma3"]

FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K": 15}
PATTERN_BLOCKS = 65_537  # prime, so that rows of a tiled matrix differ

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL_TOKENS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
EOS_ID = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides a model's size and speed."""

    architecture: Architecture = "llama"
    layers: int = 2
    embedding: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_width: int = 0  # 0: embedding / heads
    feed_forward: int = 128
    vocabulary: int = 512
    context_length: int = 4096
    experts: int = 0
    experts_used: int = 0
    sliding_window: int = 0  # gemma3 only: five of six layers see just that many tokens
    tied_output: bool = False

    @property
    def width(self) -> int:
        return self.head_width or self.embedding // self.heads


TINY = Shape()
HALF_BILLION = Shape("llama", 24, 896, 14, 2, 64, 4864, 32_768, 32_768)
SEVEN_BILLION = Shape("llama", 32, 4096, 32, 8, 128, 14_336, 32_000, 32_768)
SEVENTY_BILLION = Shape("llama", 80, 8192, 64, 8, 128, 28_672, 128_256, 131_072)
QWEN2_1B = Shape("qwen2", 28, 1536, 12, 2, 128, 8960, 151_936, 32_768, tied_output=True)
QWEN3_4B = Shape("qwen3", 36, 2560, 32, 8, 128, 9728, 151_936, 40_960, tied_output=True)
GEMMA3_4B = Shape("gemma3", 34, 2560, 8, 4, 256, 10_240, 262_144, 131_072, sliding_window=1024, tied_output=True)
MIXTRAL = Shape("llama", 32, 4096, 32, 8, 128, 14_336, 32_000, 32_768, experts=8, experts_used=2)
SHAPES = {
    "tiny": TINY,
    "half-billion": HALF_BILLION,
    "seven-billion": SEVEN_BILLION,
    "seventy-billion": SEVENTY_BILLION,
    "qwen2-1b": QWEN2_1B,
    "qwen3-4b": QWEN3_4B,
    "gemma3-4b": GEMMA3_4B,
    "mixtral": MIXTRAL,
}


def text_of_tokens(count: int) -> str:
    """A prompt of exactly `count` tokens for any vocabulary of ours (a template adds its own)."""
    syllables = _syllables()
    return " ".join(syllables[n % len(syllables)] for n in range(count))


def _syllables() -> list[str]:
    return ["".join(pair) for pair in product("bcdfghjklmnpqrstvwxz", "aeiou")]


def vocabulary(count: int) -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and kinds of a sentencepiece vocabulary whose words are made of syllables."""
    syllables = _syllables()
    pieces = ["▁", *"abcdefghijklmnopqrstuvwxyz", *syllables, *("▁" + one for one in syllables)]
    controls, byte_tokens = list(CONTROL_TOKENS), [f"<0x{n:02X}>" for n in range(256)]
    room = count - len(controls) - len(byte_tokens) - len(pieces)
    if room < 0:
        raise ValueError(f"a vocabulary needs at least {count - room} tokens")
    words = ("▁" + "".join(parts) for size in (2, 3) for parts in product(syllables, repeat=size))
    pieces += [word for word, _n in zip(words, range(room), strict=False)]
    tokens = controls + byte_tokens + pieces
    scores = [0.0] * (len(tokens) - len(pieces)) + [float(len(piece)) for piece in pieces]
    kinds = [2] + [3] * (len(controls) - 1) + [6] * len(byte_tokens) + [1] * len(pieces)
    return tokens, scores, kinds


def model_values(
    shape: Shape, *, name: str, quantization: str, chat_template: str | None = CHAT_TEMPLATE
) -> dict[str, Value]:
    """The header values llama.cpp needs."""
    arch = shape.architecture
    tokens, scores, kinds = vocabulary(shape.vocabulary)
    values = {
        "general.architecture": Value(STRING, arch),
        "general.name": Value(STRING, name),
        "general.file_type": Value(UINT32, FILE_TYPES[quantization]),
        f"{arch}.context_length": Value(UINT32, shape.context_length),
        f"{arch}.embedding_length": Value(UINT32, shape.embedding),
        f"{arch}.block_count": Value(UINT32, shape.layers),
        f"{arch}.feed_forward_length": Value(UINT32, shape.feed_forward),
        f"{arch}.attention.head_count": Value(UINT32, shape.heads),
        f"{arch}.attention.head_count_kv": Value(UINT32, shape.kv_heads),
        f"{arch}.attention.key_length": Value(UINT32, shape.width),
        f"{arch}.attention.value_length": Value(UINT32, shape.width),
        f"{arch}.attention.layer_norm_rms_epsilon": Value(FLOAT32, 1e-6),
        f"{arch}.rope.dimension_count": Value(UINT32, shape.width),
        f"{arch}.rope.freq_base": Value(FLOAT32, 10_000.0),
        f"{arch}.vocab_size": Value(UINT32, shape.vocabulary),
        "tokenizer.ggml.model": Value(STRING, "llama"),
        "tokenizer.ggml.tokens": Value(ARRAY, tokens, STRING),
        "tokenizer.ggml.scores": Value(ARRAY, scores, FLOAT32),
        "tokenizer.ggml.token_type": Value(ARRAY, kinds, INT32),
        "tokenizer.ggml.bos_token_id": Value(UINT32, 1),
        "tokenizer.ggml.eos_token_id": Value(UINT32, EOS_ID),
        "tokenizer.ggml.unknown_token_id": Value(UINT32, 0),
        "tokenizer.ggml.add_bos_token": Value(BOOL, value=False),
    }
    if chat_template:
        values["tokenizer.chat_template"] = Value(STRING, chat_template)
    if shape.experts:
        values[f"{arch}.expert_count"] = Value(UINT32, shape.experts)
        values[f"{arch}.expert_used_count"] = Value(UINT32, shape.experts_used)
    if shape.sliding_window:
        values[f"{arch}.attention.sliding_window"] = Value(UINT32, shape.sliding_window)
    return values


def model_tensors(shape: Shape, quantization: str) -> tuple[Tensor, ...]:
    """The tensors llama.cpp expects for that shape, in its order."""
    size, wide, narrow = shape.embedding, shape.heads * shape.width, shape.kv_heads * shape.width
    tensors = [Tensor("token_embd.weight", (size, shape.vocabulary), quantization)]
    for n in range(shape.layers):
        tensors += [
            Tensor(f"blk.{n}.attn_norm.weight", (size,), std=0),
            Tensor(f"blk.{n}.attn_q.weight", (size, wide), quantization),
            Tensor(f"blk.{n}.attn_k.weight", (size, narrow), quantization),
            Tensor(f"blk.{n}.attn_v.weight", (size, narrow), quantization),
            Tensor(f"blk.{n}.attn_output.weight", (wide, size), quantization),
            Tensor(f"blk.{n}.ffn_norm.weight", (size,), std=0),
            *_feed_forward(n, shape, quantization),
            *_extras(n, shape),
        ]
    tensors.append(Tensor("output_norm.weight", (size,), std=0))
    if not shape.tied_output:
        tensors.append(Tensor("output.weight", (size, shape.vocabulary), quantization, std=0.1))
    return tuple(tensors)


def _feed_forward(n: int, shape: Shape, quantization: str) -> list[Tensor]:
    size, inner = shape.embedding, shape.feed_forward
    if not shape.experts:
        return [
            Tensor(f"blk.{n}.ffn_gate.weight", (size, inner), quantization),
            Tensor(f"blk.{n}.ffn_up.weight", (size, inner), quantization),
            Tensor(f"blk.{n}.ffn_down.weight", (inner, size), quantization),
        ]
    return [
        Tensor(f"blk.{n}.ffn_gate_inp.weight", (size, shape.experts)),
        Tensor(f"blk.{n}.ffn_gate_exps.weight", (size, inner, shape.experts), quantization),
        Tensor(f"blk.{n}.ffn_up_exps.weight", (size, inner, shape.experts), quantization),
        Tensor(f"blk.{n}.ffn_down_exps.weight", (inner, size, shape.experts), quantization),
    ]


def _extras(n: int, shape: Shape) -> list[Tensor]:
    size, wide, narrow = shape.embedding, shape.heads * shape.width, shape.kv_heads * shape.width
    if shape.architecture == "qwen2":
        biases = {"q": wide, "k": narrow, "v": narrow}
        return [Tensor(f"blk.{n}.attn_{part}.bias", (length,)) for part, length in biases.items()]
    norms = [Tensor(f"blk.{n}.attn_{part}_norm.weight", (shape.width,), std=0) for part in "qk"]
    if shape.architecture == "gemma3":
        return [*norms, *(Tensor(f"blk.{n}.post_{part}_norm.weight", (size,), std=0) for part in ("attention", "ffw"))]
    return norms if shape.architecture == "qwen3" else []


def write_model(
    path: Path,
    shape: Shape = TINY,
    *,
    quantization: Quantization = "F16",
    name: str = "Tiny Llama",
    chat_template: str | None = CHAT_TEMPLATE,
    extra: Mapping[str, Value] | None = None,
    is_sparse: bool = False,
    seed: int = 0,
) -> Path:
    """Write a whole model file; a sparse one has its header, its length, and a hole for weights."""
    values = model_values(shape, name=name, quantization=quantization, chat_template=chat_template)
    header = Header({**values, **(extra or {})}, model_tensors(shape, quantization))
    encoded = header.encode()
    with path.open("wb") as file:
        file.write(encoded)
        if is_sparse:
            file.truncate(len(encoded) + header.data_bytes)
            return path
        patterns: dict[tuple[str, float], bytes] = {}
        for tensor in header.tensors:
            kind = (tensor.type, tensor.std)
            if kind not in patterns:
                patterns[kind] = _pattern(tensor.type, tensor.std, np.random.default_rng(seed))
            _write_weights(file, tensor, patterns[kind])
    return path


def write_tiny_llama(
    path: Path,
    *,
    context_length: int = TINY.context_length,
    shape: Shape = TINY,
    quantization: Quantization = "F16",
    name: str = "Tiny Llama",
    chat_template: str | None = CHAT_TEMPLATE,
    seed: int = 0,
) -> Path:
    """Write a chat model of 0.3 MB that llama.cpp loads in some milliseconds."""
    sized = replace(shape, context_length=context_length)
    return write_model(path, sized, quantization=quantization, name=name, chat_template=chat_template, seed=seed)


def write_half_billion(path: Path, *, quantization: Quantization = "Q8_0", seed: int = 0) -> Path:
    """Write a model of a 0.5B shape (about 440 MB in Q8_0), for benchmarks."""
    return write_model(path, HALF_BILLION, quantization=quantization, name="Half Billion", seed=seed)


def _pattern(tensor_type: str, std: float, random: np.random.Generator) -> bytes:
    """Blocks of random weights, to be repeated as often as needed."""
    count = PATTERN_BLOCKS
    if std == 0:
        return np.ones(count, np.float32).tobytes()
    if tensor_type in ("F32", "F16"):
        weights = random.normal(0, std, count)
        return weights.astype(np.float32 if tensor_type == "F32" else np.float16).tobytes()
    _number, _weights, block_bytes = TENSOR_TYPES[tensor_type]
    blocks = random.integers(0, 256, (count, block_bytes), np.uint8)
    spread = {"Q8_0": 74.0, "Q4_0": 4.6, "Q4_K": 4.6 * 18}[tensor_type]  # of the integers, for a scale of 1
    blocks[:, 0:2] = np.frombuffer(np.float16(std / spread).tobytes(), np.uint8)
    if tensor_type == "Q4_K":  # the second half is the offset that centres unsigned weights
        blocks[:, 2:4] = np.frombuffer(np.float16(7.5 * std / spread).tobytes(), np.uint8)
    return blocks.tobytes()


def _write_weights(file: BinaryIO, tensor: Tensor, pattern: bytes) -> None:
    left = tensor.size_bytes
    if tensor.name in ("output.weight", "token_embd.weight"):
        # Control and byte tokens get no weight: their logits stay 0, so an answer is made of words and never ends.
        silent = (len(CONTROL_TOKENS) + 256) * tensor.size_bytes // tensor.shape[1]
        file.write(bytes(silent))
        left -= silent
    whole, rest = divmod(left, len(pattern))
    for _n in range(whole):
        file.write(pattern)
    file.write(pattern[:rest])
    file.write(bytes(-tensor.size_bytes % ALIGNMENT_BYTES))


def main() -> None:
    """`python -m tools.gguf_files half-billion /tmp/model.gguf --quantization Q8_0`"""
    parser = argparse.ArgumentParser(description="Write a GGUF file with random weights.")
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("path", type=Path)
    parser.add_argument("--quantization", choices=sorted(TENSOR_TYPES), default="Q8_0")
    parser.add_argument("--sparse", action="store_true", help="header and length only")
    asked = parser.parse_args()
    write_model(
        asked.path, SHAPES[asked.shape], quantization=asked.quantization, name=asked.shape, is_sparse=asked.sparse
    )
    print(asked.path, asked.path.stat().st_size)


if __name__ == "__main__":
    main()
