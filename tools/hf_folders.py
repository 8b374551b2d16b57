"""Writes Hugging Face folders with random weights, for benchmarks: nonsense answers at the speed of a real model.

The tokenizer and the template are yardling's; all but its words have no weight, so an answer is made of words and never
ends by itself. Needs numpy only; knows nothing about Modelyard.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

YARDLING = Path(__file__).resolve().parent.parent / "src" / "modelyard" / "demo" / "yardling-hf"
WORDS_COUNT = 3069  # of yardling's vocabulary; what comes after are its control tokens
PATTERN_COUNT = 65_537  # prime, so that rows of a tiled matrix differ
STORED_BYTES = 2
HALF_BILLION = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "dtype": "float32", "hidden_act": "silu",
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 32_768, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "tie_word_embeddings": True,
    "use_sliding_window": False, "sliding_window": None,
}  # fmt: skip


def write_half_billion_folder(folder: Path, *, seed: int = 0) -> Path:
    """A folder of a 0.5B shape: about 780 MB, and twice that in memory."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(HALF_BILLION))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False}))
    shutil.copy(YARDLING / "tokenizer.json", folder)
    told = json.loads((YARDLING / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**told, "eos_token": None}))
    _write_weights(folder / "model.safetensors", np.random.default_rng(seed))
    return folder


def tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of the shape, by name."""
    width, wide = int(str(HALF_BILLION["hidden_size"])), int(str(HALF_BILLION["intermediate_size"]))
    kept = width // int(str(HALF_BILLION["num_attention_heads"])) * int(str(HALF_BILLION["num_key_value_heads"]))
    yield "model.embed_tokens.weight", (int(str(HALF_BILLION["vocab_size"])), width)
    for number in range(int(str(HALF_BILLION["num_hidden_layers"]))):
        layer = f"model.layers.{number}."
        yield layer + "input_layernorm.weight", (width,)
        yield layer + "post_attention_layernorm.weight", (width,)
        for name, rows in (("q", width), ("k", kept), ("v", kept)):
            yield f"{layer}self_attn.{name}_proj.weight", (rows, width)
            yield f"{layer}self_attn.{name}_proj.bias", (rows,)
        yield layer + "self_attn.o_proj.weight", (width, width)
        yield layer + "mlp.gate_proj.weight", (wide, width)
        yield layer + "mlp.up_proj.weight", (wide, width)
        yield layer + "mlp.down_proj.weight", (width, wide)
    yield "model.norm.weight", (width,)


def _write_weights(path: Path, random: np.random.Generator) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors():
        size = math.prod(shape) * STORED_BYTES
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    pattern = random.normal(0, 0.02, PATTERN_COUNT).astype(np.float16)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for name, shape in tensors():
            count = math.prod(shape)
            if "norm" in name:
                file.write(np.ones(count, np.float16).tobytes())
                continue
            weights = np.resize(pattern, count)
            if name == "model.embed_tokens.weight":
                weights[WORDS_COUNT * shape[1] :] = 0
            file.write(weights.tobytes())


def main() -> None:
    """`python -m tools.hf_folders /tmp/half`"""
    parser = argparse.ArgumentParser(description="Write a Hugging Face folder of a 0.5B shape with random weights.")
    parser.add_argument("folder", type=Path)
    write_half_billion_folder(parser.parse_args().folder)


if __name__ == "__main__":
    main()
