"""The settings about other nodes, and how one of them is chosen. See schema.py."""

from __future__ import annotations

import hashlib
import re
import ssl
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, SecretStr, model_validator

from modelyard.config.section import Section
from modelyard.config.values import NoneText, Seconds, sendable
from modelyard.errors import N_, said
from modelyard.loopback import is_loopback

OLLAMA_URL = "http://127.0.0.1:11434"
KINDS = ("local", "ollama", "openai")


def _url(text: str) -> str:
    """An http(s) address without anything secret in it; the parts of it are never shown in a complaint."""
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")  # as whoever connects has to: a part may be empty, or too long
    except ValueError:
        is_address = False
    if not is_address or any(sign.isspace() or not sign.isprintable() for sign in text):
        raise ValueError(N_("expected http://HOST:PORT"))
    if not text.isascii():
        raise ValueError(N_("an address is ASCII: a name beyond it is written in its xn-- form, a path with % signs"))
    if "@" in parts.netloc:
        raise ValueError(N_("an address holds no user name and no password"))
    if parts.query or parts.fragment:
        raise ValueError(N_("an address ends with its path"))
    return text.rstrip("/")


def _certificates(path: Path) -> Path:
    """A file that a connection can be made with. It is read again then; nothing of it is shown."""
    if not path.is_file():
        raise ValueError(N_("there is no such file"))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise ValueError(N_("there are no certificates in this file")) from None
    except OSError as problem:
        raise ValueError(
            said("the file cannot be read: {why}", why=(problem.strerror or "not a file").lower())
        ) from None
    return path


def _own_name(name: str) -> str:
    if name in KINDS:
        raise ValueError(said("{name} is the name of a kind", name=name))
    return name


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError(N_("a fingerprint is the SHA-256 of the certificate: 64 hexadecimal digits"))
    return digits


Url = Annotated[str, AfterValidator(_url)]
NodeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$"), AfterValidator(_own_name)]
DeviceName = Annotated[str, Field(pattern=r"^(ram|gpu\d{1,3})$")]
NodeKind = Literal["ollama", "openai"]
AnyKind = Literal["local", "ollama", "openai"]
Weight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


class NodeSettings(Section):
    """Another server that answers: an Ollama machine, a vLLM server, a cloud API, another Modelyard.

    With `devices` it is a program on this machine that holds models in the same memory: its models are then counted
    with ours, and unloaded when their room is needed.
    """

    name: NodeName = Field(description="What it is called here: its models are `MODEL@NAME`.")
    kind: NodeKind = Field(
        default="ollama",
        description="`ollama`: an Ollama server. `openai`: any server with OpenAI's API; a Modelyard is one.",
    )
    url: Url = Field(default=OLLAMA_URL, description="Where it listens. A path that ends in `/v1` may be left out.")
    key: Annotated[SecretStr, AfterValidator(sendable)] | None = Field(
        default=None, description="The key it wants: `env:NAME` or `file:PATH`. The key itself is never written here."
    )
    weight: Weight = Field(default=1.0, description="How much of the work it gets beside others; 0 gives it none.")
    draining: bool = Field(default=False, description="It gets no new work; what it has it finishes.")
    devices: tuple[DeviceName, ...] = Field(
        default=(),
        description="Devices of this machine that it uses: `gpu0`, `gpu1`, ..., or only `ram` where it uses no GPU. "
        "What it keeps off its GPUs counts as `ram` in any case.",
    )
    slots: Annotated[int | None, NoneText] = Field(
        default=None, ge=1, le=1024, description="Requests it answers at a time per model: its OLLAMA_NUM_PARALLEL."
    )
    models: tuple[str, ...] = Field(
        default=(), description="Which of its models are offered, by name or pattern (`llama*`); all if not given."
    )
    extra_options: bool = Field(
        default=True, description="Send it sampling fields beyond OpenAI's own, such as `top_k`. Off for OpenAI itself."
    )
    new_token_limit: bool = Field(
        default=False, description="It wants `max_completion_tokens` in place of `max_tokens`."
    )
    continues: bool = Field(
        default=False,
        description="An OpenAI-compatible server that continues an assistant turn (vLLM's `continue_final_message`): "
        "may then take over answers that broke off. Ollama servers always can.",
    )
    ca_file: Annotated[Path, AfterValidator(_certificates)] | None = Field(
        default=None, description="Certificates it is trusted by, in place of the system's."
    )
    fingerprint: Annotated[str, AfterValidator(_fingerprint)] | None = Field(
        default=None, description="SHA-256 of its certificate, in hexadecimal digits: only that one is trusted."
    )
    look_s: Seconds = Field(default=10.0, gt=0, description="Between two looks at what it has and holds.")
    health_timeout_s: Seconds = Field(default=10.0, gt=0, description="For one look or probe.")
    connect_s: Seconds = Field(default=2.0, gt=0, description="For a connection: name, TCP and TLS together.")
    first_token_s: Seconds = Field(
        default=300.0, gt=0, description="Silence before the first token; a load gets time on top."
    )
    between_tokens_s: Seconds = Field(default=300.0, gt=0, description="Silence between two tokens.")
    is_this_machine: bool = Field(
        default=False,
        description="Confirms that a node with `devices` uses this machine's memory although its address is not a "
        "loopback one, because one of the two runs in a container for instance.",
    )

    _ca_sha256: str = PrivateAttr(default="")  # a file that holds other certificates is another setting

    def model_post_init(self, _context: object) -> None:
        """Note what the file holds."""
        if self.ca_file is not None:
            self._ca_sha256 = hashlib.sha256(self.ca_file.read_bytes()).hexdigest()

    def leaf(self, field: str) -> object:
        """A value as it is compared with that of another configuration."""
        return (self.ca_file, self._ca_sha256) if field == "ca_file" else getattr(self, field)

    @model_validator(mode="after")
    def _fits(self) -> NodeSettings:
        if self.devices and not self.is_this_machine and not is_loopback(urlsplit(self.url).hostname or ""):
            raise ValueError(
                N_(
                    "the address is not on this machine; give devices only to a node that shares this machine's "
                    "memory, and say is_this_machine = true if this one does"
                )
            )
        if self.devices and self.kind != "ollama":
            raise ValueError(N_("only an Ollama server can be told to unload models, so only one can share devices"))
        if len(set(self.devices)) < len(self.devices):
            raise ValueError(N_("a device is named twice"))
        if self.kind == "openai" and self.url == OLLAMA_URL:
            raise ValueError(N_("a server with OpenAI's API needs its url"))
        return self


def _as_list(value: object) -> object:
    """`[nodes.studio]` was how this was written once."""
    if isinstance(value, dict):
        name = next(iter(value), "NAME")
        raise ValueError(said('nodes are a list: write [[nodes]] and name = "{name}" below it', name=name))
    return value


NodeList = Annotated[tuple[NodeSettings, ...], BeforeValidator(_as_list)]


class RoutingSettings(Section):
    """Which of the nodes that have a model answers, and what happens when one fails."""

    strategy: Literal["best", "round_robin", "weighted", "least_busy"] = Field(
        default="best",
        description="`best` uses all that is known: what is in memory, load times, queues, speed, errors, sessions. "
        "`weighted` goes by weight alone, smoothly; `round_robin` by turns; `least_busy` by requests under way.",
    )
    order: tuple[AnyKind, ...] = Field(
        default=("local", "ollama", "openai"), description="Which kind goes first where nothing else decides."
    )
    attempts_max: int = Field(
        default=3, ge=1, le=10, description="Nodes asked for one request, before its first content has come."
    )
    retry_ratio: float = Field(
        default=0.2, ge=0, le=1, description="Second attempts per request, over time: what a failing fleet is spared."
    )
    retry_floor: int = Field(default=3, ge=0, le=1000, description="Second attempts there are in any case.")
    retry_on_timeout: bool = Field(
        default=False, description="Ask another node also after one was merely too slow. It may still be at work."
    )
    continue_streams: bool = Field(
        default=False,
        description="Let another node continue an answer that broke off in its middle, where it can. The reply says "
        "so. Off: such an answer ends with an error.",
    )
    total_s: Annotated[Seconds | None, NoneText] = Field(
        default=None, description="Longest time for a whole answer; no limit if not given. Callers may ask for less."
    )
