"""`/set`: what may be changed while a chat goes on, in Ollama's words, as members of OpenAI's request."""

from __future__ import annotations

import math

from modelyard.cli.chat.conversation import Conversation
from modelyard.errors import N_, BadRequest

# Ollama's name of a sampling parameter, OpenAI's or the engines', and its type.
PARAMETERS: dict[str, tuple[str, type]] = {
    "temperature": ("temperature", float),
    "top_p": ("top_p", float),
    "top_k": ("top_k", int),
    "min_p": ("min_p", float),
    "seed": ("seed", int),
    "num_predict": ("max_tokens", int),
    "max_tokens": ("max_tokens", int),
    "repeat_penalty": ("repeat_penalty", float),
    "presence_penalty": ("presence_penalty", float),
    "frequency_penalty": ("frequency_penalty", float),
    "stop": ("stop", str),
}
SETTINGS = (
    "parameter", "system", "history", "nohistory", "wordwrap", "nowordwrap", "format json", "noformat", "verbose",
    "quiet", "think", "nothink",
)  # fmt: skip
HELP = N_(
    "/set parameter NAME VALUE   {parameters}\n"
    "/set system TEXT            instructions to the model\n"
    "/set history|nohistory      keep the conversation and what you type, or no longer\n"
    "/set wordwrap|nowordwrap    draw Markdown, or show answers as they come\n"
    "/set format json|noformat   answers in JSON\n"
    "/set verbose|quiet          every figure after an answer, or none\n"
    "/set think|nothink          have models think, or not, where they can"
)


def change(chat: Conversation, rest: str) -> None:
    """One setting. Raises `BadRequest` for what there is not."""
    terminal, settings = chat.session.terminal, chat.settings
    words = rest.split(maxsplit=1)
    name, value = (words[0] if words else ""), (words[1] if len(words) > 1 else "")
    match name:
        case "parameter" if value:
            _parameter(chat, value)
        case "system":
            settings.system = value.strip('"')
        case "history" | "nohistory":
            _history(chat, is_kept=name == "history")
        case "wordwrap" | "nowordwrap":
            terminal.draws_markdown = name == "wordwrap"
        case "format" if value == "json":
            settings.options["response_format"] = {"type": "json_object"}
        case "noformat":
            settings.options.pop("response_format", None)
        case "verbose" | "quiet":
            settings.is_verbose = name == "verbose"
            settings.shows_statistics = settings.shows_statistics and name == "verbose"
        case "think" | "nothink":
            settings.options["reasoning_effort"] = "medium" if name == "think" else "none"
            settings.shows_thinking = name == "think"
        case _:
            terminal.say(HELP, parameters=", ".join(PARAMETERS))
            return
    terminal.say(N_("Set."))


def _history(chat: Conversation, *, is_kept: bool) -> None:
    if is_kept and chat.store is None:
        raise BadRequest(N_("This chat was begun without a history."))
    chat.keep(is_kept=is_kept)


def _parameter(chat: Conversation, text: str) -> None:
    name, _space, value = text.partition(" ")
    if name == "num_ctx":
        raise BadRequest(N_("The context is the server's to set: models.options.NAME.context_length."))
    if name not in PARAMETERS:
        raise BadRequest(N_("There is no parameter {name}; there are {names}."), name=name, names=", ".join(PARAMETERS))
    member, kind = PARAMETERS[name]
    try:
        found = kind(value.strip())
        if isinstance(found, float) and not math.isfinite(found):
            raise ValueError(value)  # JSON has no such number
        chat.settings.options[member] = found
    except ValueError as problem:
        raise BadRequest(N_("{value} is no value for {name}."), value=value or "''", name=name) from problem
