"""Sparse GGUF files of real models' shapes for many architectures, to ask an engine what they would take.

Headers and lengths only: the tensors llama.cpp demands, with the numbers published for a well-known model of each kind.
Every word of the vocabulary is made up. Knows nothing about Modelyard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools.gguf_bytes import ARRAY, BOOL, FLOAT32, UINT32, Header, Tensor, Value
from tools.gguf_files import GEMMA3_4B, MIXTRAL, Shape, model_values, write_model

Numbers = dict[str, int | float | bool | list[int]]
Make = Callable[["Wild"], Iterator[Tensor]]


@dataclass(frozen=True, slots=True)
class Wild:
    """A model found in the wild, as far as memory goes."""

    architecture: str
    shape: Shape
    blocks: Make
    numbers: Numbers = field(default_factory=dict)
    quantization: str = "Q4_K"
    is_tied: bool = False
    outside: tuple[tuple[str, int], ...] = (("output_norm.weight", 0),)  # a length of 0: the model's width


def write_wild(path: Path, name: str) -> Path:
    """Write the sparse file of a model of the zoo."""
    found = ZOO[name]
    if isinstance(found, Shape):
        return write_model(path, found, quantization="Q4_K", name=name, is_sparse=True)
    values = model_values(found.shape, name=name, quantization="Q4_K")
    values = {key.replace("llama.", f"{found.architecture}.", 1) if key.startswith("llama.") else key: value
              for key, value in values.items()}  # fmt: skip
    values["general.architecture"] = Value(values["general.architecture"].type, found.architecture)
    for key, number in found.numbers.items():
        values[f"{found.architecture}.{key}"] = _value(number)
    width, vocabulary = found.shape.embedding, found.shape.vocabulary
    tensors = [_matrix("token_embd", found.quantization, width, vocabulary), *found.blocks(found)]
    tensors += [Tensor(part, (length or width,)) for part, length in found.outside]
    if not found.is_tied:
        tensors.append(_matrix("output", found.quantization, width, vocabulary))
    header = Header(values, tuple(tensors))
    encoded = header.encode()
    with path.open("wb") as file:
        file.write(encoded)
        file.truncate(len(encoded) + header.data_bytes)
    return path


def _value(number: float | list[int]) -> Value:
    if isinstance(number, bool):
        return Value(BOOL, number)
    if isinstance(number, list):
        return Value(ARRAY, number, UINT32)
    return Value(UINT32, number) if isinstance(number, int) else Value(FLOAT32, number)


def _matrix(name: str, quantization: str, *shape: int) -> Tensor:
    """A matrix in the wanted type, or in Q8_0 where its rows are no multiple of that type's blocks."""
    kind = "Q8_0" if quantization == "Q4_K" and shape[0] % 256 else quantization
    return Tensor(f"{name}.weight", shape, "F32" if shape[0] % 32 else kind)


def _attention(n: int, wild: Wild, *, has_bias: bool = False, norms: str = "") -> Iterator[Tensor]:
    shape, kind = wild.shape, wild.quantization
    wide, narrow = shape.heads * shape.width, shape.kv_heads * shape.width
    for part, length in (("q", wide), ("k", narrow), ("v", narrow)):
        yield _matrix(f"blk.{n}.attn_{part}", kind, shape.embedding, length)
        if has_bias:
            yield Tensor(f"blk.{n}.attn_{part}.bias", (length,))
        if part in norms:
            yield Tensor(f"blk.{n}.attn_{part}_norm.weight", (shape.width,))
    yield _matrix(f"blk.{n}.attn_output", kind, wide, shape.embedding)
    if has_bias:
        yield Tensor(f"blk.{n}.attn_output.bias", (shape.embedding,))


def _feed_forward(
    n: int, wild: Wild, *, inner: int = 0, parts: str = "gate up down", suffix: str = ""
) -> Iterator[Tensor]:
    size, wide = wild.shape.embedding, inner or wild.shape.feed_forward
    for part in parts.split():
        pair = (wide, size) if part == "down" else (size, wide)
        yield _matrix(f"blk.{n}.ffn_{part}{suffix}", wild.quantization, *pair)


def _experts(n: int, wild: Wild, inner: int, kind: str = "") -> Iterator[Tensor]:
    size, count = wild.shape.embedding, wild.shape.experts
    yield Tensor(f"blk.{n}.ffn_gate_inp.weight", (size, count))
    for part in ("gate", "up", "down"):
        pair = (inner, size) if part == "down" else (size, inner)
        yield _matrix(f"blk.{n}.ffn_{part}_exps", kind or wild.quantization, *pair, count)


def _norms(n: int, wild: Wild, *names: str, has_bias: bool = False) -> Iterator[Tensor]:
    for name in names:
        yield Tensor(f"blk.{n}.{name}.weight", (wild.shape.embedding,))
        if has_bias:
            yield Tensor(f"blk.{n}.{name}.bias", (wild.shape.embedding,))


def _gemma2(wild: Wild) -> Iterator[Tensor]:
    for n in range(wild.shape.layers):
        yield from _norms(n, wild, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        yield from _attention(n, wild)
        yield from _feed_forward(n, wild)


def _qwen3moe(wild: Wild) -> Iterator[Tensor]:
    for n in range(wild.shape.layers):
        yield from _norms(n, wild, "attn_norm", "ffn_norm")
        yield from _attention(n, wild, norms="qk")
        yield from _experts(n, wild, 768)


def _deepseek2(wild: Wild) -> Iterator[Tensor]:
    size, heads, kind = wild.shape.embedding, wild.shape.heads, wild.quantization
    for n in range(wild.shape.layers):
        yield from _norms(n, wild, "attn_norm", "ffn_norm")
        yield _matrix(f"blk.{n}.attn_q", kind, size, heads * 192)
        yield _matrix(f"blk.{n}.attn_kv_a_mqa", kind, size, 576)
        yield Tensor(f"blk.{n}.attn_kv_a_norm.weight", (512,))
        yield _matrix(f"blk.{n}.attn_k_b", kind, 128, 512, heads)
        yield _matrix(f"blk.{n}.attn_v_b", kind, 512, 128, heads)
        yield _matrix(f"blk.{n}.attn_output", kind, heads * 128, size)
        if n == 0:
            yield from _feed_forward(n, wild)
        else:
            yield from _experts(n, wild, 1408)
            yield from _feed_forward(n, wild, inner=2816, suffix="_shexp")


def _gpt_oss(wild: Wild) -> Iterator[Tensor]:
    shape = wild.shape
    for n in range(shape.layers):
        yield from _norms(n, wild, "attn_norm", "post_attention_norm")
        yield from _attention(n, wild, has_bias=True)
        yield Tensor(f"blk.{n}.attn_sinks.weight", (shape.heads,))
        yield from _experts(n, wild, shape.feed_forward, "MXFP4")
        yield Tensor(f"blk.{n}.ffn_gate_inp.bias", (shape.experts,))
        for part in ("gate", "up", "down"):
            yield Tensor(f"blk.{n}.ffn_{part}_exps.bias", (shape.embedding, shape.experts))


def _cohere2(wild: Wild) -> Iterator[Tensor]:
    for n in range(wild.shape.layers):
        yield from _norms(n, wild, "attn_norm")
        yield from _attention(n, wild)
        yield from _feed_forward(n, wild)


def _starcoder2(wild: Wild) -> Iterator[Tensor]:
    for n in range(wild.shape.layers):
        yield from _norms(n, wild, "attn_norm", "ffn_norm", has_bias=True)
        yield from _attention(n, wild, has_bias=True)
        yield from _feed_forward(n, wild, parts="up down")
        yield Tensor(f"blk.{n}.ffn_up.bias", (wild.shape.feed_forward,))
        yield Tensor(f"blk.{n}.ffn_down.bias", (wild.shape.embedding,))


def _mamba(wild: Wild) -> Iterator[Tensor]:
    size, kind = wild.shape.embedding, wild.quantization
    inner, state, rank = 2 * size, 16, 160
    for n in range(wild.shape.layers):
        yield from _norms(n, wild, "attn_norm")
        yield _matrix(f"blk.{n}.ssm_in", kind, size, 2 * inner)
        yield Tensor(f"blk.{n}.ssm_conv1d.weight", (4, inner))
        yield Tensor(f"blk.{n}.ssm_conv1d.bias", (inner,))
        yield _matrix(f"blk.{n}.ssm_x", kind, inner, rank + 2 * state)
        yield Tensor(f"blk.{n}.ssm_dt.weight", (rank, inner))
        yield Tensor(f"blk.{n}.ssm_dt.bias", (inner,))
        yield Tensor(f"blk.{n}.ssm_a", (state, inner))
        yield Tensor(f"blk.{n}.ssm_d", (inner,))
        yield _matrix(f"blk.{n}.ssm_out", kind, inner, size)


def _mamba2_mixer(
    n: int, wild: Wild, *, inner: int, state: int, heads: int, groups: int, has_norm: bool = True
) -> Iterator[Tensor]:
    size, conv = wild.shape.embedding, inner + 2 * groups * state
    yield _matrix(f"blk.{n}.ssm_in", wild.quantization, size, inner + conv + heads)
    yield Tensor(f"blk.{n}.ssm_conv1d.weight", (4, conv))
    yield Tensor(f"blk.{n}.ssm_conv1d.bias", (conv,))
    yield Tensor(f"blk.{n}.ssm_dt.bias", (heads,))
    yield Tensor(f"blk.{n}.ssm_a", (1, heads))
    yield Tensor(f"blk.{n}.ssm_d", (1, heads))
    if has_norm:
        yield Tensor(f"blk.{n}.ssm_norm.weight", (inner // groups, groups))
    yield _matrix(f"blk.{n}.ssm_out", wild.quantization, inner, size)


GRANITE_ATTENTION = (5, 15, 25, 35)


def _granite_hybrid(wild: Wild) -> Iterator[Tensor]:
    for n in range(wild.shape.layers):
        yield from _norms(n, wild, "attn_norm", "ffn_norm")
        if n in GRANITE_ATTENTION:
            yield from _attention(n, wild)
        else:
            yield from _mamba2_mixer(n, wild, inner=3072, state=128, heads=48, groups=1)
        yield from _experts(n, wild, 512)
        yield from _feed_forward(n, wild, inner=1024, suffix="_shexp")


def _lfm2(wild: Wild) -> Iterator[Tensor]:
    size = wild.shape.embedding
    for n, heads in enumerate(LFM2_HEADS):
        yield from _norms(n, wild, "attn_norm", "ffn_norm")
        if heads:
            yield from _attention(n, wild, norms="qk")
        else:
            yield Tensor(f"blk.{n}.shortconv.conv.weight", (3, size))
            yield _matrix(f"blk.{n}.shortconv.in_proj", wild.quantization, size, 3 * size)
            yield _matrix(f"blk.{n}.shortconv.out_proj", wild.quantization, size, size)
        yield from _feed_forward(n, wild)


LFM2_HEADS = [8 if n in (2, 5, 8, 10, 12, 14) else 0 for n in range(16)]
_EXPERTS: Numbers = {"expert_feed_forward_length": 768}
ZOO: dict[str, Wild | Shape] = {
    "llama-8b": Shape("llama", 32, 4096, 32, 8, 128, 14_336, 128_256, 131_072),
    "llama-70b": Shape("llama", 80, 8192, 64, 8, 128, 28_672, 128_256, 131_072),
    "mixtral-8x7b": MIXTRAL,
    "qwen2-7b": Shape("qwen2", 28, 3584, 28, 4, 128, 18_944, 152_064, 32_768),
    "qwen3-8b": Shape("qwen3", 36, 4096, 32, 8, 128, 12_288, 151_936, 40_960),
    "qwen3moe-30b": Wild(
        "qwen3moe", Shape("llama", 48, 2048, 32, 4, 128, 6144, 151_936, 40_960, 128, 8), _qwen3moe, _EXPERTS
    ),
    "gemma2-9b": Wild(
        "gemma2", Shape("llama", 42, 3584, 16, 8, 256, 14_336, 256_000, 32_768, sliding_window=4096), _gemma2,
        is_tied=True,
    ),
    "gemma3-4b": GEMMA3_4B,
    "deepseek2-16b": Wild(
        "deepseek2", Shape("llama", 27, 2048, 16, 1, 576, 10_944, 102_400, 163_840, 64, 6), _deepseek2,
        {"attention.key_length": 576, "attention.value_length": 512, "attention.key_length_mla": 192,
         "attention.value_length_mla": 128, "attention.kv_lora_rank": 512, "rope.dimension_count": 64,
         "expert_feed_forward_length": 1408, "expert_shared_count": 2, "leading_dense_block_count": 1,
         "expert_weights_scale": 1.0, "expert_gating_func": 1},
    ),
    "gpt-oss-20b": Wild(
        "gpt-oss", Shape("llama", 24, 2880, 64, 8, 64, 2880, 201_088, 131_072, 32, 4, 128), _gpt_oss,
        {"expert_feed_forward_length": 2880}, "Q8_0",
    ),
    "cohere2-7b": Wild(
        "cohere2", Shape("llama", 32, 4096, 32, 8, 128, 14_336, 256_000, 131_072, sliding_window=4096), _cohere2,
        {"logit_scale": 0.25, "attention.layer_norm_epsilon": 1e-5}, is_tied=True,
    ),
    "starcoder2-7b": Wild(
        "starcoder2", Shape("llama", 32, 4608, 36, 4, 128, 18_432, 49_152, 16_384), _starcoder2,
        {"attention.layer_norm_epsilon": 1e-5}, outside=(("output_norm.weight", 0), ("output_norm.bias", 0)),
    ),
    "mamba-3b": Wild(
        "mamba", Shape("llama", 64, 2560, 1, 1, 1, 1, 50_280, 1_048_576), _mamba,
        {"ssm.conv_kernel": 4, "ssm.inner_size": 5120, "ssm.state_size": 16, "ssm.time_step_rank": 160,
         "attention.head_count": 0, "attention.head_count_kv": 0, "feed_forward_length": 0},
        is_tied=True,
    ),
    "granite-h-7b": Wild(
        "granitehybrid", Shape("llama", 40, 1536, 12, 4, 128, 512, 100_352, 131_072, 64, 6), _granite_hybrid,
        {"ssm.conv_kernel": 4, "ssm.inner_size": 3072, "ssm.state_size": 128, "ssm.time_step_rank": 48,
         "ssm.group_count": 1, "expert_shared_feed_forward_length": 1024, "rope.scaling.finetuned": False,
         "attention.head_count_kv": [4 if n in GRANITE_ATTENTION else 0 for n in range(40)]},
        is_tied=True,
    ),
    "lfm2-1b": Wild(
        "lfm2", Shape("llama", 16, 2048, 32, 8, 64, 8192, 65_536, 128_000), _lfm2,
        {"shortconv.l_cache": 3, "attention.head_count_kv": LFM2_HEADS},
        is_tied=True, outside=(("token_embd_norm.weight", 0),),
    ),
}  # fmt: skip
