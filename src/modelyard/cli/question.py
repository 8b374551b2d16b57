"""What is asked on the command line: words, files and piped text as one; and a schema, written out or in a file."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from modelyard.errors import N_, BadRequest, RequestTooLarge
from modelyard.units import format_bytes

INPUT_BYTES_MAX = 8 * 1024**2


class QuestionFault(ValueError):
    """There is nothing to ask, or it is no text. `text` says so, marked for translation."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def question_of(words: Sequence[str], files: Sequence[Path] = (), beside: str = "") -> str:
    """The whole question. Raises `QuestionFault`, and `RequestTooLarge` or `BadRequest` for what cannot be read."""
    told = " ".join(word for word in words if word != "-")
    is_meant = "-" in words or Path("-") in files
    piped = _piped_text() if is_meant or not (told or files) or _is_piped() else ""
    texts = [_file_text(path) for path in files if path != Path("-")]
    question = "\n\n".join(part for part in (told, *texts, piped) if part)
    if not question:
        raise QuestionFault(N_("there is no question: give words, or pipe text in"))
    if not _is_text(f"{question}\n{beside}"):
        raise QuestionFault(N_("the question is not text in UTF-8"))
    return question


def schema_of(told: str) -> dict[str, object]:
    """A JSON schema, written out or in a file. Raises `BadRequest`."""
    text = told
    if not told.lstrip().startswith("{"):
        text = _read(Path(told))
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()  # half a character, as JSON can write it, cannot be sent
    except (ValueError, RecursionError) as problem:
        raise BadRequest(N_("The schema is no JSON: {problem}"), problem=str(problem)) from problem
    if not isinstance(found, dict):
        raise BadRequest(N_("The schema is no JSON object."))
    return found


def is_json(text: str) -> bool:
    """Whether it is one JSON value, as JSON is written: `NaN` is not."""
    try:
        json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return False
    return True


def _no_json(name: str) -> object:
    raise ValueError(name)


def _file_text(path: Path) -> str:
    """A file in a fence longer than any in it, under its name: the model sees where it begins and ends."""
    text = _read(path)
    fence = "```"
    while fence in text:
        fence += "`"
    name = "".join(sign for sign in path.name if sign.isprintable())
    return f"{name}:\n{fence}\n{text.rstrip()}\n{fence}"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(INPUT_BYTES_MAX + 1)
    except OSError as problem:
        raise BadRequest(N_("{path} cannot be read: {problem}"), path=str(path), problem=problem.strerror) from problem
    if len(raw) > INPUT_BYTES_MAX:
        raise RequestTooLarge(what=str(path), limit=format_bytes(INPUT_BYTES_MAX), hints=())
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise BadRequest(N_("{path} is no text in UTF-8."), path=str(path)) from problem


def _is_text(text: str) -> bool:
    """False where bytes came in that are not text: Python carries them as surrogates, JSON cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_piped() -> bool:
    """Whether stdin is a pipe or a file. Anything else (a service's /dev/null) might never end, or is not meant."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return not sys.stdin.isatty()
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _piped_text() -> str:
    if sys.stdin.isatty():
        return ""
    text = sys.stdin.read(INPUT_BYTES_MAX + 1)
    if len(text) > INPUT_BYTES_MAX:
        raise RequestTooLarge(what="stdin", limit=format_bytes(INPUT_BYTES_MAX), hints=())
    return text.strip()
