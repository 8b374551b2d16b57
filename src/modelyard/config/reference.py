"""The settings reference, docs/settings.md, written from the schema so that the two cannot differ. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from modelyard.config.command_settings import CommandSettings
from modelyard.config.echo import EchoSettings
from modelyard.config.explain import written
from modelyard.config.model_settings import GroupSettings, LaunchSettings, ModelOptions
from modelyard.config.node_settings import NodeSettings
from modelyard.config.schema import KeySettings, Settings

_HEAD = """# Settings

This page is generated: `python -m modelyard.config.reference > docs/settings.md`.

A setting may be given in five places; the first one that has it wins:

1. a flag of `modelyard serve`: `--host`, `--port`, `--models`, `--ram-limit`, `--log-level`, `--log-format`, and
   `--set NAME=VALUE` for every other;
2. the environment: `MODELYARD_` and the name, with `__` for each dot: `MODELYARD_SERVER__PORT=8000`. Lists and
   tables are written as JSON;
3. a file `.env` in the working folder, with the same names;
4. a configuration file: `--config`, else `MODELYARD_CONFIG`, else `modelyard.toml` (or `.yaml`, `.json`) in the working
   folder, else in the user's configuration folder (`modelyard paths`);
5. the default below.

`modelyard config` prints every value and where it came from, and of launch values that are not set what this machine
chooses and why; `modelyard show MODEL` does so for one model. `modelyard config check` only says what is wrong.
An unknown name is an error. Sizes are bytes or texts such as `512MiB` and `8GB`; durations are seconds or texts such as
`90s` and `1h30m`; `none` takes a value back. In a file `${NAME}` and `${NAME:-otherwise}` stand for environment
variables. Folders in a file are relative to that file.

Commands that ask a server find it by `MODELYARD_URL` and send the key in `MODELYARD_KEY`, or in the file that
`MODELYARD_KEY_FILE` names.

Also read, as other tools name them: `MODEL_PATH` (models.path), `MODEL_BACKEND` (models.engine),
`MODEL_UNLOAD_ENABLED` (residency.unload_enabled) and `MAX_INPUT_TOKENS` (prompts.max_input_tokens).

```toml
[server]
port = 11435

[memory]
ram_limit_bytes = "12GiB"

[models]
folders = ["~/models"]
aliases = { small = "qwen2.5-0.5b-instruct-q4_k_m" }

[models.options."qwen2.5-0.5b-instruct-q4_k_m"]
slots = 4
idle_ttl_s = "30m"

[[keys]]
id = "laptop"
secret = "env:LAPTOP_KEY"
```
"""
_TABLES: dict[str, tuple[type[BaseModel], str]] = {
    "nodes": (NodeSettings, "[nodes]"),
    "models.launch": (LaunchSettings, "models.launch"),
    "models.options": (ModelOptions, 'models.options."NAME"'),
    "models.groups": (GroupSettings, 'models.groups."NAME"'),
    "models.command": (CommandSettings, 'models.command."NAME"'),
    "models.echo": (EchoSettings, 'models.echo."NAME"'),
}


def settings_markdown() -> str:
    """The whole page."""
    sections = [_HEAD]
    for name, field in Settings.model_fields.items():
        if name in _TABLES:
            continue
        kind = KeySettings if name == "keys" else field.annotation
        sections.append(f"## [[{name}]]\n" if name == "keys" else f"## [{name}]\n")
        sections.append(f"{field.description}\n")
        if isinstance(kind, type) and issubclass(kind, BaseModel):  # else a plain table: name = value
            sections.extend(_entries(kind, name))
    for prefix, (kind, title) in _TABLES.items():
        sections.append(f"## [{title}]\n")
        sections.append(f"{' '.join((kind.__doc__ or '').split())}\n")
        sections.extend(_entries(kind, prefix))
    return "\n".join(sections)


def _entries(kind: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        path = f"{prefix}.{name}"
        if path in _TABLES:
            yield f"### {path}\n\n{field.description}\n"
            continue
        yield f"### {path}\n\n{field.description} {_kind_text(name, field)}\n"


def _kind_text(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "Required."
    text = f"Default: `{written(name, field.default)}`."
    choices = () if isinstance(field.default, tuple) else _choices(field.annotation)
    return f"One of {', '.join(f'`{choice}`' for choice in choices)}. {text}" if choices else text


def _choices(kind: object) -> tuple[str, ...]:
    if get_origin(kind) is Literal:
        return tuple(str(value) for value in get_args(kind))
    return next((found for inner in get_args(kind) if (found := _choices(inner))), ())


if __name__ == "__main__":
    print(settings_markdown(), end="")  # noqa: T201 - this is the program's output
