"""The settings of a command that serves a model: what is run, and what it is like. From a configuration file only.

Placeholders are checked here, so that a command that cannot work is refused with its file and line, and not at its
first load. See engines/command.py for what they stand for.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from modelyard.config.node_settings import DeviceName
from modelyard.config.secrets import Hidden
from modelyard.config.section import Section
from modelyard.config.values import Bytes, NoneText
from modelyard.errors import N_, said
from modelyard.types.model import ModelRef
from modelyard.types.placeholders import placeholders

PLACEHOLDERS = ("port", "socket", "model_path", "token")
OWN_VARIABLES = "MODELYARD_"


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as problem:
        raise ValueError(N_("its quotes do not match")) from problem


def _checked(parts: tuple[str, ...]) -> tuple[str, ...]:
    for part in parts:
        if "\0" in part:
            raise ValueError(N_("a command holds no NUL"))
    _known(parts)
    return parts


def _known(texts: tuple[str, ...]) -> None:
    for name in sorted(placeholders(texts) - set(PLACEHOLDERS)):
        known = ", ".join(f"{{{one}}}" for one in PLACEHOLDERS)
        raise ValueError(
            said(
                "there is no placeholder {{{name}}}, only {known}; the text itself is written {{{{{name}}}}}",
                name=name,
                known=known,
            )
        )


def _program(parts: tuple[str, ...]) -> tuple[str, ...]:
    if not parts or not parts[0].strip():
        raise ValueError(N_("it names no program"))
    if placeholders(parts[:1]):
        raise ValueError(N_("the program itself is no placeholder"))
    return parts


def _as_text(value: object) -> object:
    """A number is written as one; what was a reference stays hidden."""
    if isinstance(value, Hidden):
        return SecretStr(value.text)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _value(value: str | SecretStr) -> str | SecretStr:
    if "\0" in (value if isinstance(value, str) else value.get_secret_value()):
        raise ValueError(N_("a variable holds no NUL"))
    if isinstance(value, str):
        _known((value,))
    return value


def _variable(name: str) -> str:
    if name.startswith(OWN_VARIABLES):
        raise ValueError(said("names that begin with {own_variables} are ours", own_variables=OWN_VARIABLES))
    return name


def _model_name(name: str) -> str:
    if "@" in name:
        raise ValueError(N_("a name with @ is a copy at another node"))
    ModelRef.parse(name)
    return name


def _per_device(value: object) -> object:
    return {"ram": value} if isinstance(value, str | int | float) and not isinstance(value, bool) else value


Argv = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_checked)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_variable)]
Value = Annotated[str | SecretStr, BeforeValidator(_as_text), AfterValidator(_value)]
CommandName = Annotated[str, AfterValidator(_model_name)]
Ability = Literal["chat", "completion", "embed", "rerank", "tools", "images", "thinking"]


class CommandSettings(Section):
    """One model that a command of yours serves: `llama-server`, `vllm serve`, `sglang`, or any other program that
    answers like OpenAI's API. Only a configuration file can say this: no environment variable, no flag and no API
    reaches a command. It is run as it stands, never by a shell. See docs/engines.md for examples.
    """

    command: Annotated[Argv, AfterValidator(_program)] = Field(
        description="The program and its arguments: a list, or one text that is split as a shell would. It holds "
        "`{port}` (of 127.0.0.1) or `{socket}` where it is to listen, and may hold `{model_path}` and `{token}`. What "
        "begins with `./`, `../` or `~/` is relative to this file, or to your home."
    )
    model_path: str = Field(
        default="",
        description="What `{model_path}` stands for: a file, a folder, or a name that the command knows.",
    )
    ready_path: str = Field(
        default="/health", pattern=r"^/[!-~]*$", description="What it answers with 200 once it serves."
    )
    environment: Mapping[Variable, Value] = Field(
        default={},
        description="Environment variables for it, besides a few such as PATH and HOME. Values may be `env:NAME` and "
        "`file:PATH`, which are shown to nobody, and hold `{token}`.",
    )
    stop_command: Argv = Field(
        default=(), description="Run before it is sent TERM, for at most 5 s; with the same placeholders."
    )
    slots: int = Field(default=4, ge=1, le=1024, description="Requests it serves at once; the others wait here.")
    context_length: Annotated[int | None, NoneText] = Field(
        default=None, ge=64, description="Tokens of context per slot; nobody knows if not given."
    )
    capabilities: tuple[Ability, ...] = Field(
        default=("chat", "completion"), min_length=1,
        description="What it can be asked for: `chat`, `completion`, `embed`, `rerank`, `tools`, `images`, `thinking`.",
    )  # fmt: skip
    served_name: str = Field(
        default="", description="What it calls its model. Not given: its `model_path`, else the name of this table."
    )
    footprint: Annotated[Mapping[DeviceName, Bytes] | None, BeforeValidator(_per_device), NoneText] = Field(
        default=None,
        description='Memory it needs: `"8GiB"` of main memory, or `{ gpu0 = "20GiB", ram = "2GiB" }`. Not given: '
        "measured at its first load, for which it gets the devices to itself, and remembered.",
    )
    has_progress: bool = Field(
        default=False,
        description="It tells how much of a prompt it has read when asked for `return_progress`, as `llama-server` "
        "does: then a prompt being read can be cancelled, and is never taken for a stall.",
    )

    @model_validator(mode="after")
    def _listens_once(self) -> CommandSettings:
        plain = tuple(value for value in self.environment.values() if isinstance(value, str))
        started_with = placeholders((*self.command, *plain))
        used = started_with | placeholders(self.stop_command)
        if "port" in used and "socket" in used:
            raise ValueError(N_("it listens on {port} or on {socket}, not on both"))
        if not started_with & {"port", "socket"}:
            raise ValueError(N_("nothing tells it where to listen: command needs {port} or {socket}"))
        if "token" in used and "socket" in used:
            raise ValueError(N_("on a {socket} nobody else reaches it: it needs no {token}"))
        if "token" in used and "token" not in started_with:
            raise ValueError(N_("only stop_command holds {token}"))
        if "model_path" in used and not self.model_path:
            raise ValueError(N_("it uses {model_path}, and model_path is not given"))
        return self
