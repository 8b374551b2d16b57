"""The commands of a chat: each declared once, for its help, its completion, its page in the docs, and what it does.

Ollama's names do what fingers expect of them. A command that fails says why; the chat goes on.
"""

from __future__ import annotations

import base64
import difflib
import functools
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import click

from modelyard.cli.answering import can_chat, require_chat
from modelyard.cli.chat.conversation import Conversation
from modelyard.cli.chat.export import as_text, form_of, write
from modelyard.cli.chat.fitting import fit_text
from modelyard.cli.chat.setting import SETTINGS, change
from modelyard.cli.chat.why import why_text
from modelyard.cli.images import read_image
from modelyard.cli.markdown.stream import code_blocks
from modelyard.cli.models import write_models, write_residents
from modelyard.cli.statistics import statistics_text, verbose_text
from modelyard.cli.terminal import plain
from modelyard.errors import N_, BadRequest

COPY_BYTES_MAX = 100_000  # terminals take no more through their clipboard sequence
_NAME = re.compile(r"/[A-Za-z]{1,20}|/\?")  # anything else after a slash is a path, a comment or a question
PARTS = ("info", "license", "modelfile", "parameters", "system", "template")


class Leave(Exception):
    """The person wants to go."""


@dataclass(frozen=True, slots=True)
class Slash:
    """One command: its name, what it takes, a line of help, what Tab offers after it."""

    name: str
    takes: str
    help: str
    run: Callable[[Conversation, str], None]
    words: tuple[str, ...] = ()
    takes_model: bool = False


def _model(chat: Conversation, name: str) -> None:
    terminal = chat.session.terminal
    if not name:
        terminal.say(N_("Talking to {model}."), model=chat.model)
        for entry in chat.client.models():
            if entry.name != chat.model and can_chat(entry):
                told = chat.client.show(entry.name)
                terminal.note(f"  {entry.name}  {fit_text(terminal, told)}".rstrip())
        return
    entry = require_chat(chat.client, name)
    fit = fit_text(terminal, entry)
    chat.switch(name, entry)
    terminal.say(N_("Now talking to {model}."), model=name)
    if fit:
        terminal.faint(fit)


def _list(chat: Conversation, _rest: str) -> None:
    with chat.session.terminal.answers_beside():
        write_models(chat.session, "table", chat.client.models())


def _ps(chat: Conversation, _rest: str) -> None:
    with chat.session.terminal.answers_beside():
        write_residents(chat.session, "table", chat.client.status())


def _unload(chat: Conversation, name: str) -> None:
    model = name or chat.model
    receipt = chat.client.unload(model)
    text = N_("{model} is unloaded.") if receipt else N_("{model} was not in memory.")
    chat.session.terminal.say(text, model=model)


def _pin(chat: Conversation, name: str) -> None:
    words = name.split()
    pinned = "off" not in words
    model = next((word for word in words if word != "off"), chat.model)
    chat.client.pin(model, pinned=pinned)
    text = N_("{model} is pinned.") if pinned else N_("{model} is no longer pinned.")
    chat.session.terminal.say(text, model=model)


def _show(chat: Conversation, part: str) -> None:
    part = part or "info"
    if part not in PARTS:
        raise BadRequest(N_("/show knows {parts}."), parts=", ".join(PARTS))
    if part == "system":
        text: object = chat.settings.system
    else:
        told = chat.client.describe(chat.model)
        wanted = {**told.get("details", {}), **told.get("model_info", {})} if part == "info" else told.get(part)
        text = "\n".join(f"{name}: {value}" for name, value in wanted.items()) if isinstance(wanted, dict) else wanted
    chat.session.terminal.note(str(text or "").strip() or chat.session.terminal._(N_("(nothing)")))


def _clear(chat: Conversation, _rest: str) -> None:
    chat.forget()
    chat.session.terminal.say(N_("A new conversation begins."))


def _retry(chat: Conversation, _rest: str) -> None:
    if not chat.retry():
        chat.session.terminal.say(N_("There is nothing to ask again."))


def _undo(chat: Conversation, _rest: str) -> None:
    text = N_("The last turn is taken back.") if chat.undo() else N_("There is no turn to take back.")
    chat.session.terminal.say(text)


def _edit(chat: Conversation, rest: str) -> None:
    try:
        text = click.edit(rest, extension=".md")
    except click.ClickException as problem:
        raise BadRequest(N_("The editor failed: {problem}"), problem=problem.format_message()) from problem
    if text and text.strip():
        chat.ask(text.strip())


def _copy(chat: Conversation, number: str) -> None:
    """Into the clipboard of whoever sits at the terminal, by the sequence terminals have for it, also over SSH."""
    if not chat.turns or not chat.turns[-1].answer:
        raise BadRequest(N_("There is no answer to copy."))
    if not chat.session.terminal.is_watched:
        raise BadRequest(N_("There is no terminal whose clipboard could take it."))
    text = plain(chat.turns[-1].answer)  # what is pasted into a shell has no keys in it
    blocks = code_blocks(text)
    if number:
        if not number.isdigit() or not 0 < int(number) <= len(blocks):
            raise BadRequest(N_("The last answer has {count} blocks of code."), count=len(blocks))
        text = blocks[int(number) - 1]
    raw = text.encode()
    if len(raw) > COPY_BYTES_MAX:
        raise BadRequest(N_("It is too long for a terminal's clipboard; /export writes it into a file."))
    sys.stderr.write(f"\x1b]52;c;{base64.b64encode(raw).decode()}\x07")
    sys.stderr.flush()
    chat.session.terminal.say(N_("Copied, if your terminal allows it."))


def _export(chat: Conversation, name: str) -> None:
    kept = chat.as_kept()
    if not kept.turns:
        raise BadRequest(N_("There is nothing to export yet."))
    path = Path(name or f"conversation-{kept.id or int(kept.updated_at)}.md").expanduser()
    write(path, as_text(kept, form_of(path)))
    chat.session.terminal.say(N_("Written: {path}"), path=str(path))


def _save(chat: Conversation, title: str) -> None:
    if chat.store is None or not chat.id or not title:
        raise BadRequest(N_("/save NAME names a conversation that is kept."))
    chat.store.rename(chat.id, title)
    chat.session.terminal.say(N_("Kept as {title} ({id})."), title=title, id=chat.id)


def _stats(chat: Conversation, _rest: str) -> None:
    terminal = chat.session.terminal
    if chat.last is None:
        terminal.say(N_("There is no answer yet."))
        return
    terminal.note(verbose_text(terminal, chat.last.statistics))
    terminal.note(statistics_text(terminal, chat.last.statistics, chat.resident()))


def _why(chat: Conversation, _rest: str) -> None:
    chat.session.terminal.note(why_text(chat))


def _image(chat: Conversation, name: str) -> None:
    if not name:
        raise BadRequest(N_("/image PATH adds a picture to the next question."))
    chat.images.append(read_image(Path(name).expanduser()))
    chat.session.terminal.say(N_("The picture goes with your next question."))


def _next(chat: Conversation, _rest: str) -> None:
    chat.session.terminal.say(N_("/next goes on in a tour (`modelyard tour`); /model NAME changes the model here."))


def _bye(_chat: Conversation, _rest: str) -> None:
    raise Leave


def _help(chat: Conversation, topic: str) -> None:
    terminal = chat.session.terminal
    if topic == "shortcuts":
        terminal.say(SHORTCUTS)
        return
    lines = [(f"{one.name} {one.takes}".strip(), terminal._(one.help)) for one in TABLE]
    width = max(len(name) for name, _text in lines)
    terminal.note("\n".join(f"{name:<{width}}  {text}" for name, text in lines))
    terminal.say(N_('Ctrl-C stops an answer. """ begins and ends several lines. /? shortcuts lists the keys.'))


SHORTCUTS = N_(
    "Ctrl-C           stop an answer\n"
    "Ctrl-D           leave\n"
    "Ctrl-R           look for what you typed before\n"
    "Alt-Enter        begin a new line\n"
    "Ctrl-X Ctrl-E    write in your editor\n"
    '"""              begin and end several lines\n'
    "a leading space  keep this line out of the history"
)

TABLE: tuple[Slash, ...] = (
    Slash(
        "/model",
        "[NAME]",
        N_("change the model, or show which ones fit and what would leave"),
        _model,
        takes_model=True,
    ),
    Slash("/load", "NAME", N_("the same as /model NAME"), _model, takes_model=True),
    Slash("/list", "", N_("the server's models"), _list),
    Slash("/ps", "", N_("what is in memory"), _ps),
    Slash("/unload", "[NAME]", N_("take a model out of memory"), _unload, takes_model=True),
    Slash("/pin", "[NAME] [off]", N_("keep a model in memory, or no longer"), _pin, takes_model=True),
    Slash("/set", "...", N_("change a setting; /set lists them"), change, SETTINGS),
    Slash("/show", "PART", N_("info, license, modelfile, parameters, system or template of the model"), _show, PARTS),
    Slash("/image", "PATH", N_("add a picture to the next question"), _image),
    Slash("/retry", "", N_("ask the last question again"), _retry),
    Slash("/undo", "", N_("take the last turn back"), _undo),
    Slash("/edit", "[TEXT]", N_("write the question in your editor"), _edit),
    Slash("/copy", "[N]", N_("copy the last answer, or its N-th block of code"), _copy),
    Slash("/export", "[FILE]", N_("write the conversation into a file, .md or .json"), _export),
    Slash("/save", "NAME", N_("name this conversation"), _save),
    Slash("/stats", "", N_("what the last answer took"), _stats),
    Slash("/why", "", N_("who answered and why, or what the last error means"), _why),
    Slash("/clear", "", N_("forget the conversation and begin anew"), _clear),
    Slash("/next", "", N_("in a tour: the next model"), _next),
    Slash("/?", "[shortcuts]", N_("this list"), _help, ("shortcuts",)),
    Slash("/bye", "", N_("leave (Ctrl-D too)"), _bye),
)
ALIASES = {"/help": "/?", "/exit": "/bye", "/quit": "/bye"}
BY_NAME = {one.name: one for one in TABLE}


def completions(models: Callable[[], Iterable[str]]) -> dict[str, Callable[[], Iterable[str]]]:
    """What may follow each command, by its name; `models` asks the server."""
    found = {one.name: models if one.takes_model else functools.partial(iter, one.words) for one in TABLE}
    return {**found, **{alias: found[name] for alias, name in ALIASES.items()}}


def run(chat: Conversation, line: str) -> None:
    """Carry out one line that begins with a slash. Raises `Leave`, or what went wrong."""
    name, *more = line.split(maxsplit=1)
    rest = more[0] if more else ""
    found = BY_NAME.get(ALIASES.get(name, name))
    if found is None and (not _NAME.fullmatch(name) or Path(name).exists()):
        chat.ask(line)
        return
    if found is None:
        near = difflib.get_close_matches(name, [*BY_NAME, *ALIASES], n=1)
        text = N_("There is no command {name} here; did you mean {near}?")
        if not near:
            text = N_("There is no command {name} here; /? lists them.")
        chat.session.terminal.say(text, name=name, near="".join(near))
        return
    found.run(chat, rest)
