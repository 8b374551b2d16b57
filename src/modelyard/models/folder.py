"""From a folder as Hugging Face lays it out (config.json, safetensors files) to a `Model`.

A folder with `modules.json` is a sentence-transformers one. Weights that can run code when read, and models that need
code of their own, become models with a problem: listed, and never served. Reads headers and settings, never weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from modelyard.errors import N_, ModelFileError, said
from modelyard.types.facts import LayerFacts, ModelFacts
from modelyard.types.model import Capability, Model

from .problems import NO_CONFIG, NO_WEIGHTS, OWN_CODE, PICKLED_WEIGHTS
from .safetensors import StoredTensor, read_tensors
from .sentence_folder import folder_problem

CONFIG_MAX_BYTES = 4 * 1024**2
PARTS_MAX = 1000
LAYER_COUNT_MAX = 1024
NUMBER_MAX = 2**32 - 1
INPUT_TOKENS_MAX = 1_000_000  # who states more means that there is no limit
TRANSFORMERS, EMBEDDINGS = "transformers", "embeddings"
TOKENIZERS = {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"}
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
WEIGHT_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
_STORED_AS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn"}

Config = Mapping[str, Any]


def is_model_folder(names: Iterable[str]) -> bool:
    """Whether a folder with these files is one model.

    >>> is_model_folder(["config.json", "model.safetensors"]), is_model_folder(["config.json", "notes.txt"])
    (True, False)
    """
    found = set(names)
    return "config.json" in found and any(name.endswith(".safetensors") or _is_pickled(name) for name in found)


def is_part_of_model(folder: Path, names: Iterable[str]) -> bool:
    """Whether a folder that is not a whole model was meant to be one: people should see what it lacks.

    Weights without a configuration; or a configuration without weights, if it is a model's: not every program's
    `config.json`. What lies beside a GGUF file belongs to that.
    """
    found = set(names)
    if any(name.lower().endswith(".gguf") for name in found) or "adapter_config.json" in found:
        return False
    if "config.json" not in found:
        return any(name.endswith(".safetensors") for name in found)
    if any(name.endswith(".safetensors") for name in found) or found & TOKENIZERS:
        return True
    try:
        return isinstance(_read_json(folder / "config.json").get("model_type"), str)
    except (OSError, ValueError):
        return False


def _is_pickled(name: str) -> bool:
    return name.endswith(PICKLED) and name.startswith(("pytorch_model", "model"))


def describe_folder(name: str, folder: Path, *, may_run_code: bool = False) -> Model:
    """The model in a folder; one that cannot be read has a problem.

    `may_run_code`: whoever configured this server trusts the program code in this very folder.
    """
    engine = EMBEDDINGS if (folder / "modules.json").exists() else TRANSFORMERS
    files = tuple(sorted(folder.glob("*.safetensors")))[:PARTS_MAX]
    common = Model(name=name, engine=engine, files=files, format="safetensors", metadata={"folder": str(folder)})
    if not (folder / "config.json").exists():
        return replace(common, problem=NO_CONFIG, identity=name)
    try:
        about = [path.stat() for path in (*files, folder / "config.json")]
        stamp = hashlib.sha256("\0".join(f"{one.st_size} {one.st_mtime_ns}" for one in about).encode())
        config = _read_json(folder / "config.json")
        stamp.update(msgspec.json.encode(config))
        common = replace(
            common,
            size_bytes=sum(one.st_size for one in about),
            modified_at=max(one.st_mtime for one in about),
            identity=stamp.hexdigest(),
        )
        if may_run_code and "auto_map" in config:
            common = replace(common, metadata={**common.metadata, "runs_code": True})
        problem = _problem(folder, files, config, may_run_code=may_run_code)
        if problem:
            return replace(common, problem=problem)
        tensors = tuple(tensor for path in files for tensor in read_tensors(path))
        return _with_config(common, folder, config, tensors)
    except ModelFileError as damage:
        return replace(common, problem=str(damage.fields["problem"]), identity=common.identity or name)
    except OSError as failure:
        problem = said("cannot be read: {failure}", failure=failure.strerror or failure)
        return replace(common, problem=problem, identity=common.identity or name)
    except ValueError as failure:
        return replace(common, problem=str(failure), identity=common.identity or name)


def facts_of_config(config: Config, tensors: Iterable[StoredTensor]) -> ModelFacts:
    """What the formula needs. Raises `ValueError` for numbers no model has."""
    text = config.get("text_config")
    inner: Config = {**config, **text} if isinstance(text, dict) else config
    count = _number(inner, "num_hidden_layers", "n_layer", "num_layers")
    if not 1 <= count <= LAYER_COUNT_MAX:
        raise ValueError(said("its configuration says it has {count} layers", count=count))
    width = _number(inner, "hidden_size", "n_embd", "d_model")
    heads = _number(inner, "num_attention_heads", "n_head") or 1
    weight_bytes = WEIGHT_BYTES.get(kept_as(config, tensors))
    stored = sum(_loaded_bytes(tensor, weight_bytes) for tensor in tensors)
    layer = _layer(inner, heads, width)
    windows = _windows(inner, count)
    return ModelFacts(
        architecture=str(config.get("model_type", ""))[:60],
        layers=tuple(replace(layer, window_tokens=window) for window in windows),
        embedding_width=width,
        head_count=heads,
        head_width=_number(inner, "head_dim") or width // heads,
        feed_forward_width=_number(inner, "intermediate_size", "n_inner", "ffn_dim") or 4 * width,
        vocabulary_count=_number(inner, "vocab_size"),
        context_length=_number(inner, "max_position_embeddings", "n_positions", "max_seq_len"),
        output_bytes=stored,
        is_output_tied=bool(config.get("tie_word_embeddings")),
    )


def kept_as(config: Config, tensors: Iterable[StoredTensor]) -> str:
    """The number format the weights have in memory: the configuration's, else the one most are stored in."""
    stated = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    if stated in WEIGHT_BYTES:
        return stated
    held: dict[str, int] = {}
    for tensor in tensors:
        held[tensor.type] = held.get(tensor.type, 0) + tensor.size_bytes
    return _STORED_AS.get(max(held, key=held.__getitem__, default=""), "")


def _with_config(common: Model, folder: Path, config: Config, tensors: tuple[StoredTensor, ...]) -> Model:
    if not tensors:
        raise ValueError(NO_WEIGHTS)
    facts = facts_of_config(config, tensors)
    able = _capabilities(common.engine, folder, config)
    if able & {Capability.EMBED, Capability.RERANK}:  # whatever lies beside it: this engine serves it
        common = _for_vectors(common, folder, config, able)
        facts = replace(facts, context_length=_longest_input(folder, facts.context_length))
    return replace(
        common,
        architecture=facts.architecture,
        parameter_count=sum(tensor.weight_count for tensor in tensors),
        quantization=kept_as(config, tensors),
        context_length=facts.context_length or None,
        capabilities=able,
        facts=facts,
    )


def _longest_input(folder: Path, positions: int) -> int:
    """What `max_seq_length` says, and never more tokens than the model has positions for; 0 if nothing is known."""
    settings = folder / "sentence_bert_config.json"
    stated = _number(_read_json(settings), "max_seq_length") if settings.exists() else 0
    return min((length for length in (stated, positions) if 0 < length <= INPUT_TOKENS_MAX), default=0)


def _for_vectors(common: Model, folder: Path, config: Config, able: frozenset[Capability]) -> Model:
    """A model that gives vectors or scores. Raises `ValueError` for one that is not safe, or gives something else."""
    if problem := folder_problem(folder):
        raise ValueError(problem)
    labels = config.get("id2label")
    if Capability.RERANK in able and isinstance(labels, dict) and len(labels) != 1:
        raise ValueError(said("it sorts texts into {count} kinds, which no request asks for", count=len(labels)))
    lengths = config.get("matryoshka_dimensions")
    if isinstance(lengths, list) and lengths and all(isinstance(length, int) for length in lengths):
        common = replace(common, metadata={**common.metadata, "matryoshka_dimensions": tuple(lengths)})
    stamp = hashlib.sha256(common.identity.encode())
    for path in sorted((*folder.glob("*.json"), *folder.glob("*/*.json"), *folder.glob("*/*.safetensors")))[:PARTS_MAX]:
        about = path.stat()  # tokenizer, pooling, prompts: each of them changes the vectors
        stamp.update(f"{path.relative_to(folder)} {about.st_size} {about.st_mtime_ns}\0".encode(errors="replace"))
    return replace(common, engine=EMBEDDINGS, identity=stamp.hexdigest())


def _problem(folder: Path, files: tuple[Path, ...], config: Config, *, may_run_code: bool) -> str:
    if not files and not any(_is_pickled(path.name) for path in folder.iterdir()):
        return NO_WEIGHTS
    if not files:
        return PICKLED_WEIGHTS
    if "auto_map" in config and not may_run_code:
        return OWN_CODE
    index = folder / "model.safetensors.index.json"
    if index.exists():
        parts = _read_json(index).get("weight_map")
        wanted = {str(part) for part in parts.values()} if isinstance(parts, dict) else set()
        missing = sorted(wanted - {path.name for path in files})
        if missing:
            return said("part {missing} is missing", missing=f"{missing[0][:100]!a}")
    return ""


def _capabilities(engine: str, folder: Path, config: Config) -> frozenset[Capability]:
    names = _classes(config)
    if any(name.endswith("ForSequenceClassification") for name in names):
        return frozenset({Capability.RERANK})
    if engine == EMBEDDINGS or not any("ForCausalLM" in name or "ConditionalGeneration" in name for name in names):
        return frozenset({Capability.EMBED})
    tokenizer = folder / "tokenizer_config.json"
    template = str(_read_json(tokenizer).get("chat_template", "")) if tokenizer.exists() else ""
    if (folder / "chat_template.jinja").exists():
        template = (folder / "chat_template.jinja").read_text(errors="replace")[:CONFIG_MAX_BYTES]
    able = {Capability.COMPLETION} | ({Capability.CHAT} if template else set())
    if "tools" in template and "<tool_call>" in template:  # how calls are written that the worker can read
        able.add(Capability.TOOLS)
    if "<think>" in template or "enable_thinking" in template:
        able.add(Capability.THINKING)
    return frozenset(able)


def _layer(config: Config, heads: int, width: int) -> LayerFacts:
    names = _classes(config)
    if names and not any("CausalLM" in name or "ConditionalGeneration" in name for name in names):
        return LayerFacts()  # an encoder keeps nothing between batches
    kv_heads = _number(config, "num_key_value_heads") or (1 if config.get("multi_query") else heads)
    head = _number(config, "head_dim") or width // heads
    keys, values = kv_heads * head, kv_heads * head
    if _number(config, "kv_lora_rank"):  # this library keeps the compressed form unpacked
        keys = heads * (_number(config, "qk_nope_head_dim") + _number(config, "qk_rope_head_dim"))
        values = heads * _number(config, "v_head_dim")
    return LayerFacts(key_width=keys, value_width=values)


def _windows(config: Config, count: int) -> list[int]:
    window = _number(config, "sliding_window") if config.get("use_sliding_window", True) else 0
    kinds = config.get("layer_types")
    if not window:
        return [0] * count
    if isinstance(kinds, list) and len(kinds) == count:
        return [window if kind == "sliding_attention" else 0 for kind in kinds]
    return [window] * count


def _classes(config: Config) -> list[str]:
    named = config.get("architectures") or []
    if not isinstance(named, list):
        raise ValueError(N_("its configuration does not name its classes as a list"))
    return [str(name) for name in named]


def _loaded_bytes(tensor: StoredTensor, weight_bytes: int | None) -> int:
    is_number = tensor.type in _STORED_AS
    return tensor.weight_count * weight_bytes if weight_bytes and is_number else tensor.size_bytes


def _number(config: Config, *names: str) -> int:
    """The first of these that is there, as a whole number that is not negative; 0 if none is."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            if not 0 <= value <= NUMBER_MAX:
                raise ValueError(said("its configuration has an impossible {name}", name=name))
            return value
    return 0


def _read_json(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        raw = file.read(CONFIG_MAX_BYTES + 1)
    if len(raw) > CONFIG_MAX_BYTES:
        raise ValueError(said("{name} is too large", name=path.name))
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as problem:
        raise ValueError(said("{name} is not JSON", name=path.name)) from problem
    if not isinstance(value, dict):
        raise ValueError(said("{name} is not a JSON object", name=path.name))
    return value
