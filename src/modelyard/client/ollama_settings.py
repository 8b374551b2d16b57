"""Where the Ollama client finds its server and how long it waits: by the program, the environment, or a default.

Promises: a value that makes no sense is an error that names the variable. Knows nothing about HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv6Address
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from modelyard.config.load import process_environment
from modelyard.errors import N_, ConfigError

URL_HINT = N_("Write it as http://127.0.0.1:11434.")


def _address(text: str) -> str:
    """An address as a person writes it, in full: without a scheme it is http; what APIs are below it, we know."""
    url = (text if "://" in text else f"http://{text}").strip().rstrip("/")
    url = url.removesuffix("/v1").removesuffix("/api")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or " " in url or not url.isprintable():
        raise ValueError("expected http://HOST:PORT")
    if ":" in parts.hostname:
        IPv6Address(parts.hostname)
    elif not re.fullmatch(r"[\w.-]+", parts.hostname):
        raise ValueError("a host has letters, digits, dots and hyphens")
    parts.hostname.encode("idna")  # labels too long, or empty: a ValueError here, and no surprise on the way
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("an address has no user, query or fragment")
    if parts.port == 0:  # reading it checks that it is a number up to 65535
        raise ValueError("a port is a number from 1 to 65535")
    return url


class OllamaSettings(BaseModel):
    """What `OllamaService` uses where a program does not say otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ollama_base_url: Annotated[str, AfterValidator(_address)] = Field(
        "http://localhost:11434", description="The server's address."
    )
    ollama_default_model: str = Field("llama2", min_length=1, description="The model of a call that names none.")
    ollama_timeout: float = Field(
        300.0, gt=0, allow_inf_nan=False, description="Seconds without a byte of an answer until a call fails."
    )
    ollama_max_connections: int = Field(
        5, ge=1, le=1000, description="Connections kept open between calls; at most twice as many are open at once."
    )


def get_settings(environment: Mapping[str, str] | None = None) -> OllamaSettings:
    """The settings the environment gives: `OLLAMA_BASE_URL` and its like. An empty variable counts as none."""
    found = process_environment() if environment is None else environment
    named = {name: found.get(name.upper()) for name in OllamaSettings.model_fields}
    return _checked({name: value for name, value in named.items() if value}, str.upper)


def settings_of(base_url: str | None, timeout: float | None, max_connections: int | None) -> OllamaSettings:
    """What a program said, over what the environment says. A bad variable that was overruled does not matter."""
    said = {"ollama_base_url": base_url, "ollama_timeout": timeout, "ollama_max_connections": max_connections}
    given = {name: value for name, value in said.items() if value is not None}
    environment = {name: value for name, value in process_environment().items() if name.lower() not in given}
    # Checked apart, so that an error names the argument, or the variable, that is at fault.
    checked = _checked(given, lambda name: name.removeprefix("ollama_"))
    return get_settings(environment).model_copy(update={name: getattr(checked, name) for name in given})


def _checked(values: Mapping[str, Any], as_written: Any) -> OllamaSettings:
    try:
        return OllamaSettings.model_validate(values)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0])
        raise ConfigError(
            where=as_written(name),
            problem=str(first["msg"]).removeprefix("Value error, "),
            hints=(URL_HINT,) if name == "ollama_base_url" else (),
        ) from wrong
