"""What a starting server tells whoever started it: where it is, how to talk to it, what is in effect, what is risky.

Pure: values in, lines out. Secrets are masked by explain.py.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence

from modelyard.config.explain import MachineFacts, effective_lines, risks, variable_lines
from modelyard.config.load import DEFAULT_URL
from modelyard.config.settings import LoadedSettings
from modelyard.errors import N_, fill
from modelyard.words import _

KEY_VARIABLE = "MODELYARD_KEY"
MESSAGE = {"role": "user", "content": "Hello"}
TITLE = N_("Modelyard {version} is ready at {url}")
NO_MODELS = N_("There is no model to serve: give a folder with --models FOLDER.")
TRY_CURL = N_("Try it:")
TRY_PYTHON = N_("From Python, with the openai package:")
TRY_CHAT = N_("In a second terminal: {command}")
SETTINGS = N_("Settings in effect (`modelyard config` shows all of them):")
DEFAULTS = N_("Every setting has its default value; `modelyard config` shows them.")
VARIABLES = N_("From the environment:")
RISKS = N_("Worth knowing:")
UNSERVABLE = N_("Model files that cannot be served: {count} ({names}). `modelyard list` says why.")
NAMES_MAX = 5


def start_lines(
    loaded: LoadedSettings,
    *,
    version: str,
    url: str,
    model: str | None,
    facts: MachineFacts,
    environment: Mapping[str, str],
    program: str = "modelyard",
    unservable: Sequence[str] = (),
) -> tuple[str, ...]:
    """The lines, in the server's language. `model` is one that can be asked; None if there is none."""
    language = loaded.settings.server.language

    def say(template: str, **fields: object) -> str:
        return fill(_(template, language), fields)

    lines = [say(TITLE, version=version, url=url), ""]
    needs_key = bool(loaded.settings.keys)
    lines += _examples(url, model, program, say, needs_key=needs_key) if model else [say(NO_MODELS)]
    effective = effective_lines(loaded)
    lines += ["", say(SETTINGS), *_indented(effective)] if effective else ["", say(DEFAULTS)]
    if variables := variable_lines(loaded, environment):
        lines += ["", say(VARIABLES), *_indented(variables)]
    found = [*risks(loaded.settings, facts), *loaded.notices]
    told = [f"{say(each.text, **each.fields)} {say(each.remedy, **each.fields)}".strip() for each in found]
    if unservable:
        names = ", ".join(unservable[:NAMES_MAX]) + (", …" if len(unservable) > NAMES_MAX else "")
        told.append(say(UNSERVABLE, count=len(unservable), names=names))
    if told:
        lines += ["", say(RISKS), *_indented(told)]
    return tuple(lines)


def _examples(url: str, model: str, program: str, say: Callable[..., str], *, needs_key: bool) -> list[str]:
    """What can be typed as it stands; a key is named by its variable, never shown."""
    key_header = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if needs_key else ""
    key = f'os.environ["{KEY_VARIABLE}"]' if needs_key else '"none"'
    chat = f"{program} chat" if url == DEFAULT_URL else f"{program} chat --url {url}"
    return [
        say(TRY_CURL),
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key_header} \\",
        f"    -d {shlex.quote(json.dumps({'model': model, 'messages': [MESSAGE]}))}",
        "",
        say(TRY_PYTHON),
        "  import openai, os" if needs_key else "  import openai",
        f'  client = openai.OpenAI(base_url="{url}/v1", api_key={key})',
        "  client.chat.completions.create(",
        f"      model={json.dumps(model)}, messages=[{json.dumps(MESSAGE)}])",
        "",
        say(TRY_CHAT, command=chat),
    ]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]
