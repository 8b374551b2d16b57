"""Every setting there is: its name, type, default and meaning. docs/settings.md is generated from this file.

Promises: frozen values, unknown keys are errors, sizes and durations may be written as people write them.
Refuses to know where a value came from (load.py) and who uses it: components receive values, never `Settings`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

from modelyard.config.echo import EchoSettings
from modelyard.config.values import Bytes, NoneText, Seconds, Ttl

KEY_CHARS_MIN = 16
_HASH_PREFIX = "sha256:"


class Section(BaseModel):
    """A frozen group of settings that refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def _network(text: str) -> str:
    ipaddress.ip_network(text, strict=False)
    return text


def _engine_name(value: object) -> object:
    return (
        {"llama.cpp": "llamacpp", "llama_cpp": "llamacpp"}.get(value.lower(), value)
        if isinstance(value, str)
        else value
    )


Right = Literal["infer", "read", "metrics", "admin"]
EngineName = Annotated[Literal["llamacpp", "echo"], BeforeValidator(_engine_name)]
Network = Annotated[str, AfterValidator(_network)]


class ServerSettings(Section):
    """Where the server listens and whom it answers."""

    host: str = Field(
        default="127.0.0.1", min_length=1, description="Address to listen on. Off loopback a key is required."
    )
    port: int = Field(default=11435, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    fd: Annotated[int | None, NoneText] = Field(
        default=None, ge=3, description="Listen on this inherited socket (systemd hands on 3) instead of host and port."
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="Names in a Host header that are answered, besides loopback names and the bind address."
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(), description="Origins of web pages that may call this server, such as `https://chat.example.org`."
    )
    allow_open_bind: bool = Field(
        default=False,
        description="Listen off loopback without any key. Whoever reaches the port may ask models and see the status.",
    )
    trusted_proxies: tuple[Network, ...] = Field(
        default=(), description="Addresses or networks whose X-Forwarded-For header is believed."
    )
    body_max_bytes: Bytes = Field(default=10 * 1024**2, ge=1024, description="Largest request body that is read.")
    drain_s: Seconds = Field(default=30.0, description="How long a stopping server lets running requests finish.")
    language: Literal["en", "zh_TW", "zh_CN"] = Field(
        default="en", description="Language of messages to callers that ask for none."
    )


class KeySettings(Section):
    """One API key and what it may do."""

    id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Short name of the key in logs and limits."
    )
    secret: SecretStr = Field(
        description="`env:NAME`, `file:PATH`, or `sha256:HEX` of the key. The key itself is never written in a file."
    )
    rights: tuple[Right, ...] = Field(
        default=("infer", "read"), min_length=1, description="What the key may do: `infer`, `read`, `metrics`, `admin`."
    )
    models: tuple[str, ...] | None = Field(
        default=None, description="Models the key may use; every model if not given."
    )

    @field_validator("secret")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if text.startswith(_HASH_PREFIX):
            digest = text.removeprefix(_HASH_PREFIX)
            if len(digest) != 64 or not set(digest.lower()) <= set("0123456789abcdef"):
                raise ValueError("after sha256: come 64 hexadecimal digits")
        elif len(text) < KEY_CHARS_MIN:
            raise ValueError(f"a key has at least {KEY_CHARS_MIN} characters")
        return value

    @property
    def secret_sha256(self) -> str:
        """The hexadecimal SHA-256 of the key, however it was given."""
        text = self.secret.get_secret_value()
        if text.startswith(_HASH_PREFIX):
            return text.removeprefix(_HASH_PREFIX).lower()
        return sha256(text.encode()).hexdigest()


class LimitSettings(Section):
    """What one caller (a key, else an address) may use."""

    requests_max: Annotated[int | None, NoneText] = Field(
        default=None, ge=1, description="Requests per caller in `window_s`; no limit if not given."
    )
    window_s: Seconds = Field(default=60.0, gt=0, description="The window that `requests_max` counts in.")
    concurrent_max: Annotated[int | None, NoneText] = Field(
        default=None, ge=1, description="Requests of one caller in flight at a time; no limit if not given."
    )


class MemorySettings(Section):
    """How much memory models may have."""

    headroom_bytes: Bytes = Field(default=512 * 1024**2, description="Kept free on every device.")
    ram_limit_bytes: Annotated[Bytes | None, NoneText] = Field(
        default=None, ge=1, description="Most main memory that models may have together; all of it if not given."
    )
    gpus: bool = Field(default=True, description="Use the GPUs of this machine.")


class ResidencySettings(Section):
    """Who is in memory, and how long requests wait for it."""

    idle_ttl_s: Ttl = Field(
        default=300.0, description="Unload a model this long after its last request; negative: never."
    )
    unload_enabled: bool = Field(default=True, description="Unload idle models at all.")
    queue_max: int = Field(default=512, ge=1, le=100_000, description="Requests that may wait at a time.")
    queue_s: Seconds = Field(default=300.0, gt=0, description="Longest wait for memory and a slot.")


class DeadlineSettings(Section):
    """How long each part of a request may take. There is no limit on the whole of it."""

    connect_s: Seconds = Field(default=2.0, gt=0, description="Connecting to a worker.")
    first_token_s: Seconds = Field(
        default=300.0, gt=0, description="Silence before the first token, extended by progress."
    )
    between_tokens_s: Seconds = Field(default=30.0, gt=0, description="Silence of a worker between two tokens.")
    load_stall_s: Seconds = Field(default=60.0, gt=0, description="A load without progress for this long is stopped.")
    load_s: Seconds = Field(default=300.0, gt=0, description="Longest load, to which `load_per_gib_s` is added.")
    load_per_gib_s: Seconds = Field(default=20.0, description="Added to `load_s` for each GiB of the model.")


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


class ModelOptions(LaunchSettings):
    """What differs for one model."""

    idle_ttl_s: Annotated[Ttl | None, NoneText] = Field(
        default=None, description="Its own idle TTL instead of `residency.idle_ttl_s`; negative: never unloaded."
    )
    pinned: bool = Field(default=False, description="Loaded at start, never evicted, never expired.")


class ModelsSettings(Section):
    """Which models there are, and their names."""

    folders: tuple[Path, ...] = Field(
        default=(), description="Folders (or single files) to look for models in. Not given: the `models` folder of "
        "`modelyard paths`, if it exists."
    )  # fmt: skip
    builtin: bool = Field(default=True, description="Offer the small built-in model `yardling`.")
    default: str | None = Field(default=None, min_length=1, description="Model that answers a request that names none.")
    engine: EngineName | None = Field(default=None, description="Serve with this engine only: `llamacpp`.")
    aliases: Mapping[str, str] = Field(default={}, description='Further names: `alias = "model"`.')
    launch: LaunchSettings = Field(default=LaunchSettings(), description="How every worker is started.")
    options: Mapping[str, ModelOptions] = Field(
        default={}, description='What differs per model: `[models.options."name"]`.'
    )
    echo: Mapping[str, EchoSettings] = Field(
        default={}, description='Scripted fake models for tests and demonstrations: `[models.echo."name"]`.'
    )

    def options_for(self, name: str) -> ModelOptions:
        """The options of one model: its own where given, else those for every worker."""
        own = next((value for key, value in self.options.items() if key.lower() == name.lower()), ModelOptions())
        return own.model_copy(
            update={field: value for field, value in self.launch if getattr(own, field) is None and value is not None}
        )


class LogSettings(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is logged."
    )
    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="`console` for people, `json` for machines, `auto`: console on a terminal."
    )


class Settings(Section):
    """All of it."""

    server: ServerSettings = Field(
        default=ServerSettings(), description="Where the server listens and whom it answers."
    )
    keys: tuple[KeySettings, ...] = Field(
        default=(), max_length=10_000, description="API keys: one `[[keys]]` table each."
    )
    limits: LimitSettings = Field(default=LimitSettings(), description="What one caller may use.")
    memory: MemorySettings = Field(default=MemorySettings(), description="How much memory models may have.")
    residency: ResidencySettings = Field(default=ResidencySettings(), description="Who is in memory, and how long.")
    deadlines: DeadlineSettings = Field(
        default=DeadlineSettings(), description="How long each part of a request may take."
    )
    models: ModelsSettings = Field(default=ModelsSettings(), description="Which models there are, and their names.")
    log: LogSettings = Field(default=LogSettings(), description="What is logged, and how.")

    @field_validator("keys")
    @classmethod
    def _distinct(cls, keys: tuple[KeySettings, ...]) -> tuple[KeySettings, ...]:
        ids = [key.id for key in keys]
        for twice in {name for name in ids if ids.count(name) > 1}:
            raise ValueError(f"two keys have the id {twice}")
        return keys
