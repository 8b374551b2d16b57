"""How settings are written by people: sizes, durations and "none". Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr

from modelyard.errors import N_
from modelyard.units import parse_bytes, parse_duration


def _bytes(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else value


def _seconds(value: object) -> object:
    return parse_duration(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else value


def _none(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() in ("", "none") else value


def sendable(key: SecretStr) -> SecretStr:
    """A key that a header can carry. What is wrong with another is said without showing it."""
    text = key.get_secret_value()
    if not text:
        raise ValueError(N_("the key is empty: there is nothing in its file or variable"))
    if not (text.isascii() and text.isprintable()):
        raise ValueError(N_("a key is one line of ASCII characters, since a header carries it"))
    return key


Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=0, strict=True)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, strict=True)]
Ttl = Annotated[float, BeforeValidator(_seconds), Field(strict=True)]  # negative means for ever
NoneText = BeforeValidator(_none)  # TOML and the environment have no null: `none` takes back what a file has set
