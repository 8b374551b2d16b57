"""Makes the model files of a trained run: a Hugging Face folder and a GGUF file with the same 16-bit weights.

python -m tools.yardling.export --run /tmp/yardling-run --out src/modelyard/demo
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Qwen2Config

from . import vocabulary
from .train import CONTEXT, Recipe, configuration

TEMPLATE = Path(__file__).parent / "chat_template.jinja"
DESCRIPTION = "A tiny demo model for trying Modelyard. It knows greetings, Modelyard's commands and small sums."
LANGUAGES = ["en", "zh"]
BLOCK = {
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
}
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


def half_weights(run: Path) -> dict[str, torch.Tensor]:
    """The trained weights in 16 bits; the output layer is the embedding and is not kept twice."""
    state: dict[str, Any] = torch.load(run / "checkpoint.pt", weights_only=True)
    weights = {name: value.to(torch.float16).contiguous() for name, value in state["model"].items()}
    del weights["lm_head.weight"]
    return weights


def chat_template() -> str:
    return TEMPLATE.read_text(encoding="utf-8").rstrip("\n")


def write_hf(folder: Path, config: Qwen2Config, weights: dict[str, torch.Tensor], tokenizer: Tokenizer) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    values = config.to_dict()
    # Stored in 16 bits, computed in 32: the numbers llama.cpp comes closest to.
    values |= {"architectures": ["Qwen2ForCausalLM"], "dtype": "float32"}
    values.pop("transformers_version", None)
    write_json(folder / "config.json", values)
    write_json(
        folder / "generation_config.json",
        {"do_sample": False, "eos_token_id": config.eos_token_id, "pad_token_id": config.pad_token_id},
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT,
            "eos_token": vocabulary.END,
            "pad_token": vocabulary.PAD,
            "additional_special_tokens": [vocabulary.START, vocabulary.END],
            "clean_up_tokenization_spaces": False,
            "chat_template": chat_template(),
        },
    )


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_gguf(path: Path, config: Qwen2Config, weights: dict[str, torch.Tensor], tokenizer: Tokenizer) -> None:
    writer = gguf.GGUFWriter(path, "qwen2")
    write_header(writer, config)
    write_tokens(writer, tokenizer)
    for name, value in weights.items():
        data = value.numpy()
        writer.add_tensor(gguf_name(name), data if data.ndim > 1 else data.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    if name in TOP:
        return TOP[name]
    _, _, number, rest = name.split(".", 3)
    return f"blk.{number}.{BLOCK[rest]}"


def write_header(writer: gguf.GGUFWriter, config: Qwen2Config) -> None:
    writer.add_name("yardling")
    writer.add_description(DESCRIPTION)
    writer.add_author("The Modelyard project")
    writer.add_license("mit")
    writer.add_languages(LANGUAGES)
    writer.add_tags(["demo", "text-generation"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads or config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)


def write_tokens(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    numbers = tokenizer.get_vocab()
    names = sorted(numbers, key=numbers.__getitem__)
    assert len(names) == vocabulary.SIZE
    special = {vocabulary.PAD, vocabulary.START, vocabulary.END}
    kinds = [gguf.TokenType.CONTROL if name in special else gguf.TokenType.NORMAL for name in names]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(numbers[vocabulary.END])
    writer.add_pad_token_id(numbers[vocabulary.PAD])
    writer.add_bos_token_id(numbers[vocabulary.PAD])
    writer.add_add_bos_token(False)
    writer.add_chat_template(chat_template())


def export(run: Path, out: Path) -> None:
    recipe = Recipe(**json.loads((run / "recipe.json").read_text()))
    config = configuration(recipe)
    weights = half_weights(run)
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    write_hf(out / "yardling-hf", config, weights, tokenizer)
    write_gguf(out / "yardling.gguf", config, weights, tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    export(arguments.run, arguments.out)


if __name__ == "__main__":
    main()
