"""The written data: topics, questions, sums and unknown subjects in three languages.

Reads the TOML files beside it and promises that one text never has two answers. Knows nothing about dialogues,
tokens or training.
"""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
LANGUAGES = ("en", "zh_TW", "zh_CN")
SUM_MAX = 20
UNKNOWN = "unknown"
SUM = "sum"


@dataclass(frozen=True, slots=True)
class Pair:
    """One question and what yardling answers; `origin` is the phrase a person wrote for it."""

    topic: str
    language: str
    question: str
    answer: str
    origin: str


@cache
def read(name: str) -> dict[str, Any]:
    with (DATA / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


def fold(text: str) -> str:
    """The text as compared between sets: no case, no punctuation, no white space.

    >>> fold("What's  Modelyard?")
    'whatsmodelyard'
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\s.,!?;:'\"`()。，！？、；：…]", "", text)


def phrasings(topic: str, language: str) -> list[str]:
    """What a person wrote for this topic in this language: questions, and goals that frames turn into questions."""
    entry = read(language)["topics"][topic]
    return [*entry["questions"], *entry.get("goals", [])]


def topics() -> list[str]:
    return list(read("en")["topics"])


def answer_of(topic: str, language: str) -> str:
    source = read(language)
    if topic == UNKNOWN:
        return str(source["unknown_answer"])
    return str(source["topics"][topic]["answer"])


def topic_pairs() -> Iterator[Pair]:
    for language in LANGUAGES:
        source = read(language)
        for topic, entry in source["topics"].items():
            answer = entry["answer"]
            for question in entry["questions"]:
                yield Pair(topic, language, question, answer, question)
            for goal in entry.get("goals", []):
                for frame in source["frames"]:
                    yield Pair(topic, language, capital(frame.format(goal)), answer, goal)


def unknown_pairs() -> Iterator[Pair]:
    for language in LANGUAGES:
        answer = answer_of(UNKNOWN, language)
        source = read("unknown")[language]
        for question in source["questions"]:
            yield Pair(UNKNOWN, language, question, answer, question)
        for subject in source["subjects"]:
            for frame in source["frames"]:
                yield Pair(UNKNOWN, language, capital(frame.format(subject)), answer, subject)
        for goal in source["goals"]:
            for frame in read(language)["frames"]:
                yield Pair(UNKNOWN, language, capital(frame.format(goal)), answer, goal)


def sum_answer(a: int, op: str, b: int) -> str:
    return f"{a} {op} {b} = {a + b if op == '+' else a - b}"


def sum_pairs() -> Iterator[Pair]:
    """Every sum and difference yardling knows: numbers from 0 to 20, results never below 0."""
    for language in LANGUAGES:
        source = read(language)
        for a in range(SUM_MAX + 1):
            for b in range(SUM_MAX + 1):
                for op, frames in (("+", source["plus"]), ("-", source["minus"])):
                    if op == "-" and b > a:
                        continue
                    for frame in frames:
                        yield Pair(SUM, language, frame.format(a=a, b=b), sum_answer(a, op, b), frame)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


@cache
def pairs() -> tuple[Pair, ...]:
    """Every pair of the training data. A text that reads the same in two languages belongs to the first.

    Raises ValueError when one language gives one text two answers.
    """
    seen: dict[str, Pair] = {}
    kept: list[Pair] = []
    for pair in (*topic_pairs(), *sum_pairs(), *unknown_pairs()):
        key = fold(pair.question)
        first = seen.setdefault(key, pair)
        if first is pair:
            kept.append(pair)
        elif first.language == pair.language and first.answer != pair.answer:
            raise ValueError(f"two answers for {pair.question!r}: {first.topic} and {pair.topic}")
    return tuple(kept)


def held_out(name: str) -> list[dict[str, Any]]:
    """Questions never trained on: `paraphrases` and `strangers` (the examination), `validation` (for tuning)."""
    entries: list[dict[str, Any]] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return entries


def assert_held_out() -> None:
    """No held-out question is a training question, not even behind a "please"; no two held-out sets share one."""
    sets = {"training": {fold(pair.question) for pair in pairs()}}
    for name in ("paraphrases", "strangers", "validation"):
        asked = {form for entry in held_out(name) for form in bare_forms(entry["question"])}
        for other, questions in sets.items():
            if asked & questions:
                raise ValueError(f"{name} are also in {other}: {sorted(asked & questions)}")
        sets[name] = asked


def bare_forms(question: str) -> set[str]:
    """The folded question, and what is left of it without each polite opening or ending that augmentation may add."""
    whole = fold(question)
    forms = {whole}
    for language in LANGUAGES:
        source = read(language)
        forms |= {whole.removeprefix(fold(opening)) for opening in source["polite_before"]}
        forms |= {whole.removesuffix(fold(ending)) for ending in source["polite_after"]}
    return forms - {""}
