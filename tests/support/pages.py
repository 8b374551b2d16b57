"""Reads our Markdown pages: blocks, tables, links. And asks what a `curl` line in one of them asks."""

from __future__ import annotations

import json
import re
import shlex
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
FREE = ("top_logprobs",)  # members whose own members are data
SOMETIMES = ("load_duration",)  # members that only the first answer has
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    kind: str
    text: str


@dataclass(frozen=True)
class Example:
    """A curl line and what the page says came back."""

    command: str
    answer: str


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    return [Block(kind, body) for kind, body in _BLOCK.findall(text)]


def prose(text: str) -> str:
    """A page without its blocks."""
    return _BLOCK.sub("", text)


def links(text: str) -> list[str]:
    return _LINK.findall(prose(text))


def rows(text: str) -> Iterator[list[str]]:
    """The rows of every table, as their cells."""
    for line in prose(text).splitlines():
        if line.startswith("|") and not line.startswith("|--"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]


def code_words(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def heading_of(line: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")


def examples(text: str) -> list[Example]:
    """Each block that is a curl line, with the block after it."""
    found = blocks(text)
    return [
        Example(one.text, after.text)
        for one, after in pairwise(found)
        if one.kind == "sh" and one.text.startswith("curl ")
    ]


def curl(command: str, url: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of what a curl line asks, at another address. Knows the options our pages use."""
    words = shlex.split(command.replace("\\\n", " "))
    method, headers, data, path = "", {}, None, ""
    rest = iter(words[1:])
    for word in rest:
        if word in ("-H", "--header"):
            name, _colon, value = next(rest).partition(":")
            headers[name.strip()] = value.strip()
        elif word in ("-X", "--request"):
            method = next(rest)
        elif word in ("-d", "--data"):
            data = next(rest).encode()
        elif word.startswith("http://127.0.0.1:11435"):
            path = word.removeprefix("http://127.0.0.1:11435")
        else:
            assert word in ("-s", "-N", "-sN"), f"what does {word} mean?"
    request = urllib.request.Request(url + path, data, headers, method=method or ("POST" if data else "GET"))
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:
            return response.status, dict(response.headers), response.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, dict(refused.headers), refused.read().decode()


def shape(value: Any) -> Any:
    """What a reader relies on: the members and their kinds. A number is a number; null may stand for anything."""
    match value:
        case dict():
            told = {name: inner for name, inner in value.items() if name not in SOMETIMES}
            return {name: None if name in FREE else shape(inner) for name, inner in told.items()}
        case list():
            return [shape(inner) for inner in value[:1]]
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "text"
    return None


def frames(text: str) -> list[Any]:
    """The frames of a stream, with `[DONE]` as itself."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return ["[DONE]" if line == "[DONE]" else json.loads(line) for line in lines]
