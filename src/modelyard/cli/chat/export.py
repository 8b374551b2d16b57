"""A conversation as a file: Markdown for people, JSON for programs. Pure but for `write`, which overwrites nothing."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from modelyard.cli.chat.store import Kept
from modelyard.cli.output import SCHEMA_VERSION
from modelyard.errors import N_, BadRequest

FORMS = ("md", "json")


def as_text(kept: Kept, form: str) -> str:
    """The whole conversation in one of `FORMS`."""
    return _json(kept) if form == "json" else _markdown(kept)


def form_of(path: Path) -> str:
    """What a file's name asks for.

    >>> form_of(Path("a.json")), form_of(Path("a"))
    ('json', 'md')
    """
    return "json" if path.suffix.lower() == ".json" else "md"


def write(path: Path, text: str) -> None:
    """A new file, readable by its owner only. Raises `BadRequest` if there is one of that name."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as problem:
        raise BadRequest(N_("{path} is there already; nothing was written."), path=str(path)) from problem
    except OSError as error:
        raise BadRequest(N_("{path} cannot be written: {problem}"), path=str(path), problem=error.strerror) from error


def _markdown(kept: Kept) -> str:
    parts = [f"# {kept.title or kept.id}", f"{kept.model} · {time_text(kept.created_at)}"]
    if kept.system:
        parts += ["## System", kept.system]
    for turn in kept.turns:
        mark = "" if turn.is_complete else " (interrupted)"
        parts += ["## You", turn.question, f"## {turn.model or kept.model}{mark}", turn.answer]
    return "\n\n".join(parts) + "\n"


def _json(kept: Kept) -> str:
    whole = asdict(kept)
    turns = [{**one, "at": time_text(one["at"]), "images": len(one["images"])} for one in whole.pop("turns")]
    times = {name: time_text(whole[name]) for name in ("created_at", "updated_at")}
    told = {"schema_version": SCHEMA_VERSION, **whole, **times, "turns": turns}
    return json.dumps(told, ensure_ascii=False, indent=2) + "\n"


def time_text(at: float) -> str:
    """A time as machines read it.

    >>> time_text(1.0)
    '1970-01-01T00:00:01Z'
    """
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
