"""Safetensors files and model folders for tests: sparse, so that a large model costs no disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

BITS = {"F32": 32, "F16": 16, "BF16": 16, "I64": 64}


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, Sequence[int]]], **changes: object) -> Path:
    """A sound file of these (type, shape); `changes` replaces entries of the header by whatever is given."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, shape) in tensors.items():
        size = math.prod(shape) * BITS[kind] // 8
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps({**header, **changes}).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    return path


def write_folder(
    folder: Path,
    config: Mapping[str, object],
    tensors: Mapping[str, tuple[str, Sequence[int]]],
    **files: object,
) -> Path:
    """A model folder; further `files` by name, with `__` for the dot, as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", tensors)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(json.dumps(content))
    return folder


MINILM = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 384, "intermediate_size": 1536,
    "num_attention_heads": 12, "num_hidden_layers": 6, "max_position_embeddings": 512, "vocab_size": 30522,
}  # fmt: skip
MINILM_TENSORS: dict[str, tuple[str, Sequence[int]]] = {
    "embeddings.word_embeddings.weight": ("F32", (30522, 384)),
    **{f"encoder.layer.{n}.weight": ("F32", (384, 4608)) for n in range(6)},
}
QWEN = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
    "num_attention_heads": 28, "num_key_value_heads": 4, "num_hidden_layers": 28, "max_position_embeddings": 32768,
    "vocab_size": 152064, "dtype": "bfloat16",
}  # fmt: skip
QWEN_TENSORS: dict[str, tuple[str, Sequence[int]]] = {
    "model.embed_tokens.weight": ("BF16", (152064, 3584)),
    **{f"model.layers.{n}.weight": ("BF16", (3584, 65000)) for n in range(28)},
}
