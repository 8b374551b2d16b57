"""Every setting there is: its name, type, default and meaning. docs/settings.md is generated from this file.

Promises: frozen values, unknown keys are errors, sizes and durations may be written as people write them.
Refuses to know where a value came from (load.py) and who uses it: components receive values, never `Settings`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator

from modelyard.config.embedding_settings import EmbeddingSettings
from modelyard.config.guard_settings import GuardSettings
from modelyard.config.model_settings import ModelsSettings, PromptOptions
from modelyard.config.node_settings import NodeList, RoutingSettings
from modelyard.config.pull_settings import PullSettings
from modelyard.config.section import Section
from modelyard.config.sync_settings import SyncSettings
from modelyard.config.values import Bytes, NoneText, Seconds, Ttl, sendable
from modelyard.errors import N_, said

KEY_CHARS_MIN = 16
_HASH_PREFIX = "sha256:"


def _network(text: str) -> str:
    ipaddress.ip_network(text, strict=False)
    return text


Right = Literal["infer", "read", "metrics", "admin"]
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
    priority: int = Field(
        default=0, ge=-100, le=100, description="Added to the model's: whose requests get memory first."
    )

    @field_validator("secret")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if text.startswith(_HASH_PREFIX):
            digest = text.removeprefix(_HASH_PREFIX)
            if len(digest) != 64 or not set(digest.lower()) <= set("0123456789abcdef"):
                raise ValueError(N_("after sha256: come 64 hexadecimal digits"))
        elif len(sendable(value).get_secret_value()) < KEY_CHARS_MIN:
            raise ValueError(said("a key has at least {key_chars_min} characters", key_chars_min=KEY_CHARS_MIN))
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
    """How much memory models may have, and who gives way to whom."""

    policy: Literal["fit", "exclusive"] = Field(
        default="fit",
        description="`fit`: models leave only when their room is needed. `exclusive`: models of one kind (local, "
        "ollama, openai) at a time.",
    )
    headroom_bytes: Bytes = Field(default=512 * 1024**2, description="Kept free on every device.")
    headroom: Mapping[str, Bytes] = Field(
        default={}, description='Kept free on single devices instead: `headroom = { gpu0 = "1GiB" }`.'
    )
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
    embeddings: EmbeddingSettings = Field(
        default=EmbeddingSettings(), description="Models that embed or rank, and the cache of vectors."
    )
    roles: Mapping[str, str] = Field(
        default={},
        description='Roles usable as model names: `chat = "model"`. Roles that share a model load it once; unloaded by '
        "role it leaves with its last role.",
    )
    prompts: PromptOptions = Field(
        default=PromptOptions(),
        description='How long prompts may be. The same names in `[models.options."NAME"]` hold for one model.',
    )
    guards: GuardSettings = Field(default=GuardSettings(), description=" ".join((GuardSettings.__doc__ or "").split()))
    nodes: NodeList = Field(
        default=(), max_length=1000, description="Other servers that answer: one `[[nodes]]` table each."
    )
    routing: RoutingSettings = Field(default=RoutingSettings(), description="Which node answers, and how often others.")
    sync: SyncSettings = Field(default=SyncSettings(), description="Model files that nodes should have.")
    pull: PullSettings = Field(default=PullSettings(), description="Models that are pulled onto this machine.")
    log: LogSettings = Field(default=LogSettings(), description="What is logged, and how.")

    @field_validator("keys")
    @classmethod
    def _distinct(cls, keys: tuple[KeySettings, ...]) -> tuple[KeySettings, ...]:
        ids = [key.id for key in keys]
        for twice in {name for name in ids if ids.count(name) > 1}:
            raise ValueError(said("two keys have the id {twice}", twice=twice))
        return keys

    @field_validator("nodes")
    @classmethod
    def _distinct_nodes(cls, nodes: NodeList) -> NodeList:
        names = [node.name for node in nodes]
        for twice in {name for name in names if names.count(name) > 1}:
            raise ValueError(said("two nodes have the name {twice}", twice=twice))
        return nodes
