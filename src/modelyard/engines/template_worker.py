"""Renders a model's chat template, which came with the model and may be hostile: a program that can be killed.

Started by a worker as `python -m modelyard.engines.template_worker`. Says `{}` once it is there, then reads lines of
JSON, the template first and one request per line, and answers each with `{"text": ...}` or `{"error": ...}`. Jinja's
immutable sandbox keeps a template from its surroundings; limits of this process keep it from memory, files and other
processes; whoever asks keeps the time.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.debug  # else imported with the first error, when no file can be opened any more
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from modelyard.engines.worker_cell import enter

TEXT_CHARS_MAX = 16 * 1024**2
MEMORY_BYTES_MAX = 512 * 1024**2  # of addresses: a template builds texts, and every text is counted here
PROBLEM_CHARS_MAX = 200


class TooLong(Exception):
    """The text is longer than any prompt."""


class Generation(Extension):
    """`{% generation %}`: marks what the assistant says, for training. Here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 wants it

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> ImmutableSandboxedEnvironment:
    """What chat templates are written for: the functions that the transformers library offers them."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], autoescape=False
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return made


def render(template: jinja2.Template, asked: dict[str, Any]) -> str:
    """The text of one request. Raise `TooLong`, or whatever the template raises."""
    pieces: list[str] = []
    length = 0
    for piece in template.generate(**asked):
        length += len(piece)
        if length > TEXT_CHARS_MAX:
            raise TooLong(f"it makes a text of more than {TEXT_CHARS_MAX} characters")
        pieces.append(piece)
    return "".join(pieces)


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
            sort_keys: bool = False) -> str:  # fmt: skip
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: object) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _confine() -> None:
    """No file can be written, none opened further, and memory ends."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))


def _told(error: BaseException) -> str:
    text = str(error) if isinstance(error, jinja2.TemplateError | OverflowError | TooLong) else type(error).__name__
    return text[:PROBLEM_CHARS_MAX] or type(error).__name__


def main() -> None:
    """Answer until standard input ends."""
    enter(os.environ)
    made = environment()
    made.from_string("{{ strftime_now('%Y') }}{{ [1] | tojson }}").render()  # what is read late is read now
    _confine()
    _say({})
    template: jinja2.Template | None = None
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        try:
            if template is None:
                template, answer = made.from_string(asked["template"]), {"text": ""}
            else:
                answer = {"text": render(template, asked)}
        except (Exception, RecursionError, MemoryError) as error:
            answer = {"error": _told(error)}
        _say(answer)


def _say(answer: Mapping[str, object]) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
