"""The settings about models: which there are, how their workers are started, how long they stay. See schema.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from modelyard.config.command_settings import CommandName, CommandSettings
from modelyard.config.echo import EchoSettings
from modelyard.config.section import Section
from modelyard.config.values import Bytes, NoneText, Ttl
from modelyard.errors import N_, said

LADDER_FIELDS = ("context_length", "n_batch", "kv_type", "n_gpu_layers", "model")


def _engine_name(value: object) -> object:
    return (
        {"llama.cpp": "llamacpp", "llama_cpp": "llamacpp", "huggingface": "transformers"}.get(value.lower(), value)
        if isinstance(value, str)
        else value
    )


def _ladder_step(text: str) -> str:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not value or name not in LADDER_FIELDS:
        raise ValueError(
            said("a step is one of {ladder_fields}, then = and a value", ladder_fields=", ".join(LADDER_FIELDS))
        )
    if name in ("context_length", "n_batch", "n_gpu_layers") and not value.isdecimal():
        raise ValueError(said("{name} is a whole number", name=name))
    if name == "kv_type" and value not in ("f16", "q8_0", "q4_0"):
        raise ValueError(N_("kv_type is one of f16, q8_0, q4_0"))
    return f"{name}={value}"


EngineName = Annotated[
    Literal["llamacpp", "transformers", "embeddings", "command", "echo"], BeforeValidator(_engine_name)
]
LadderStep = Annotated[str, AfterValidator(_ladder_step)]


class LaunchSettings(Section):
    """How workers are started. What is not given is chosen from the hardware; `modelyard show MODEL` says why."""

    context_length: Annotated[int | None, NoneText] = Field(
        default=None, ge=64, description="Tokens of context per slot."
    )
    slots: Annotated[int | None, NoneText] = Field(
        default=None, ge=1, le=256, description="Requests a worker serves at once."
    )
    threads: Annotated[int | None, NoneText] = Field(
        default=None, ge=1, le=1024, description="CPU threads of a worker."
    )
    n_batch: Annotated[int | None, NoneText] = Field(
        default=None, ge=16, le=65536, description="Prompt tokens computed in one step."
    )
    n_gpu_layers: Annotated[int | None, NoneText] = Field(
        default=None, ge=0, le=100_000, description="Layers placed on the GPU; 0 keeps the model off it."
    )
    kv_type: Literal["f16", "q8_0", "q4_0"] | None = Field(default=None, description="Number format of the KV cache.")
    prompt_cache_bytes: Annotated[Bytes | None, NoneText] = Field(
        default=None, description="Memory for prompts kept between requests; counted in the footprint."
    )
    device: Annotated[str, Field(pattern=r"^(cpu|gpu\d+)$")] | None = Field(
        default=None,
        description="Where a `transformers` worker computes: `cpu`, or a device of `modelyard ps`: `gpu0`.",
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        default=None, description="Number format of a `transformers` model in memory, instead of its own."
    )
    quantization: Literal["4bit", "8bit"] | None = Field(
        default=None,
        description="Weights of a `transformers` model are made smaller when it is loaded. Needs bitsandbytes.",
    )
    kv_blocks: Annotated[int | None, NoneText] = Field(
        default=None, ge=1, le=10_000_000, description="Blocks of 256 tokens in the KV pool of a `transformers` worker."
    )
    ladder: tuple[LadderStep, ...] = Field(
        default=(),
        description="What to give up, step by step, when a model does not fit: `context_length=8192`, `n_batch=64`, "
        "`kv_type=q8_0`, `n_gpu_layers=20`, or `model=NAME`, another model that answers instead, after all other "
        "steps. The reply says so.",
    )

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """The models of the ladder, which answer instead, in order."""
        steps = (step.partition("=") for step in self.ladder)
        return tuple(name for key, _equals, name in steps if key == "model")


class PromptOptions(Section):
    """How long prompts may be."""

    max_input_tokens: Annotated[int | None, NoneText] = Field(
        default=None, ge=16, le=1_000_000_000,
        description="Most tokens a prompt may have, counted by the model's own tokenizer where there is one; not "
        "given: as many as its context has. Over it: 400 `context_length_exceeded`, or see `trim`.",
    )  # fmt: skip
    max_message_tokens: Annotated[int | None, NoneText] = Field(
        default=None, ge=32, le=1_000_000_000,
        description="Most tokens one message of a chat may have. Over it: 400, or with `trim` its middle is cut out.",
    )  # fmt: skip
    trim: bool | None = Field(
        default=None,
        description="Leave out what is too long instead of refusing it, also what the context has no room for: the "
        "oldest turns go first, a tool call and its results together; system messages and the last user turn stay. The "
        "reply says so. Off where it is not given.",
    )


class ModelOptions(LaunchSettings, PromptOptions):
    """What differs for one model."""

    idle_ttl_s: Annotated[Ttl | None, NoneText] = Field(
        default=None, description="Its own idle TTL instead of `residency.idle_ttl_s`; negative: never unloaded."
    )
    pinned: bool = Field(default=False, description="Loaded at start, never evicted, never expired.")
    weight: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="How much dearer than its load time it is to bring back; heavier ones are evicted later.",
    )
    priority: int = Field(
        default=0, ge=-100, le=100, description="Who waits for a model of higher priority gets memory first."
    )
    engines: tuple[EngineName, ...] = Field(default=(), description="Its own order instead of `models.engines`.")
    group: str = Field(default="", description="Name of its group in `models.groups`.")


NO_OPTIONS = ModelOptions()


class GroupSettings(Section):
    """Models of which only so many are in memory at a time."""

    resident_max: int = Field(default=1, ge=1, description="How many of the group are in memory at a time.")


class OneOf(Section):
    """An alias that means one of several models: whichever is in memory (`warm`), or the first until it is full."""

    warm: tuple[str, ...] = Field(default=(), max_length=64, description="Whichever of these is in memory.")
    first: tuple[str, ...] = Field(default=(), max_length=64, description="The first until it is full, then the next.")

    @model_validator(mode="after")
    def _one(self) -> OneOf:
        if bool(self.warm) == bool(self.first):
            raise ValueError(N_("an alias for several models is either { warm = [...] } or { first = [...] }"))
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return self.warm or self.first


class ModelsSettings(Section):
    """Which models there are, and their names."""

    folders: tuple[Path, ...] = Field(
        default=(), description="Folders (or single files) to look for models in. Not given: the `models` folder of "
        "`modelyard paths`, if it exists."
    )  # fmt: skip
    path: Annotated[Path | None, NoneText] = Field(
        default=None,
        description="One model, a file or a folder: served beside those in `folders`, and answering requests that name "
        "none, if `default` does not say otherwise.",
    )
    code_folders: tuple[Path, ...] = Field(
        default=(),
        description="Model folders, each named exactly, whose own program code may run in their workers. Such code can "
        "do whatever this server's user can; name only what you have read.",
    )
    builtin: bool = Field(default=True, description="Offer the small built-in model `yardling`.")
    default: str | None = Field(default=None, min_length=1, description="Model that answers a request that names none.")
    engine: EngineName | None = Field(default=None, description="Serve with this engine only.")
    engines: tuple[EngineName, ...] = Field(
        default=(),
        description="Which engine serves a folder that holds a GGUF file beside safetensors: the first of these that "
        'is installed and can serve it, `engines = ["transformers", "llamacpp"]`. Those not named come after, llamacpp '
        "first. `modelyard show` says which and why.",
    )
    aliases: Mapping[str, str | OneOf] = Field(
        default={},
        description='Further names: `alias = "model"`; or for several models `alias = { warm = ["a", "b"] }`, whichever'
        ' is in memory, and `alias = { first = ["a", "b"] }`, the first until it is full.',
    )
    launch: LaunchSettings = Field(default=LaunchSettings(), description="How every worker is started.")
    options: Mapping[str, ModelOptions] = Field(
        default={}, description='What differs per model: `[models.options."name"]`.'
    )
    groups: Mapping[str, GroupSettings] = Field(
        default={}, description='Groups of models of which only some are in memory: `[models.groups."name"]`.'
    )
    command: Mapping[CommandName, CommandSettings] = Field(
        default={}, description='Models that commands of yours serve: `[models.command."name"]`.'
    )
    echo: Mapping[str, EchoSettings] = Field(
        default={}, description='Scripted fake models for tests and demonstrations: `[models.echo."name"]`.'
    )

    def own_options(self, name: str) -> ModelOptions:
        """What is set for one model alone."""
        return next((value for key, value in self.options.items() if key.lower() == name.lower()), NO_OPTIONS)

    @model_validator(mode="after")
    def _commands_speak_for_themselves(self) -> ModelsSettings:
        commands = {name.lower() for name in self.command}
        for name, options in self.options.items():
            given = options.model_fields_set & (set(LaunchSettings.model_fields) - {"ladder"})
            if given and name.lower() in commands:
                raise ValueError(
                    said(
                        'options."{name}".{given} has no effect on a command; see models.command',
                        name=name,
                        given=min(given),
                    )
                )
        return self

    def options_for(self, name: str) -> ModelOptions:
        """The options of one model: its own where given, else those for every worker."""
        own = self.own_options(name)
        return own.model_copy(
            update={
                field: value for field, value in self.launch if getattr(own, field) in (None, ()) and value is not None
            }
        )
