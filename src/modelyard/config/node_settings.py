"""The settings about other nodes. See schema.py."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from modelyard.config.section import Section


def _url(text: str) -> str:
    """An http(s) address without anything secret in it; the parts of it are never shown in a complaint."""
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or any(sign.isspace() or not sign.isprintable() for sign in text):
        raise ValueError("expected http://HOST:PORT")
    if "@" in parts.netloc:
        raise ValueError("an address holds no user name and no password")
    if parts.query or parts.fragment:
        raise ValueError("an address ends with its path")
    return text.rstrip("/")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Url = Annotated[str, AfterValidator(_url)]
NodeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
DeviceName = Annotated[str, Field(pattern=r"^(ram|gpu\d{1,3})$")]


class NodeSettings(Section):
    """Another program on this machine that holds models in the same memory.

    Its models are listed beside ours as `model@node`, counted, and unloaded when their room is needed. Requests are not
    sent to it. A node on another machine need not be listed.
    """

    kind: Literal["ollama"] = Field(default="ollama", description="What it is: `ollama`, an Ollama server.")
    url: Url = Field(default="http://127.0.0.1:11434", description="Where it listens.")
    devices: tuple[DeviceName, ...] = Field(
        default=("gpu0",),
        min_length=1,
        description="Devices of this machine that it uses: `gpu0`, `gpu1`, ..., or only `ram` where it uses no GPU. "
        "What it keeps off its GPUs counts as `ram` in any case.",
    )
    slots: int = Field(
        default=1, ge=1, le=256, description="Requests it answers at a time per model: its OLLAMA_NUM_PARALLEL."
    )
    is_this_machine: bool = Field(
        default=False,
        description="Confirms that the node uses this machine's memory although its address is not a loopback one, "
        "because one of the two runs in a container for instance.",
    )

    @model_validator(mode="after")
    def _here(self) -> NodeSettings:
        if not self.is_this_machine and not _is_loopback(self.url):
            raise ValueError(
                "the address is not on this machine; list only nodes that share its memory, and say is_this_machine = "
                "true if this one does"
            )
        if len(set(self.devices)) < len(self.devices):
            raise ValueError("a device is named twice")
        return self
