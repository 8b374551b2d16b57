"""Every text for a person goes through the catalogue: found in the source itself, so that a new one cannot forget it.

If one of these fails: write the text as one template with `{fields}`, mark it with `N_()` (or `said()` where it goes
into another text), run `make catalogues`, and translate it. Machine fields and names of columns stay English.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from modelyard import errors
from modelyard.words.phrases import WORDED

ROOT = Path(__file__).parents[2] / "src" / "modelyard"
FILES = sorted(ROOT.rglob("*.py"))
NAMES = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.YardError)}
# Whose texts: which arguments, by place or name, are read by people.
SPEAKING: dict[str, tuple[int | str, ...]] = {
    **dict.fromkeys(NAMES, (0, "hints", *sorted(WORDED))),
    **dict.fromkeys(("say", "note", "strong", "status", "confirm", "prompt", "echo", "secho"), (0, "text", "prompt")),
    **dict.fromkeys(("UsageError", "BadParameter", "ClickException", "fail", "PhaseLine", "tell"), (0, 2, "text")),
    **dict.fromkeys(("command", "group", "option", "argument"), ("help", "short_help", "epilog", "prompt")),
    "Choice": (1, "reason"), "invalid": (1,), "_Damaged": (0,),
}  # fmt: skip
IN = {
    **dict.fromkeys(("confirm", "prompt", "echo", "secho", "fail", "command", "group", "option", "argument"), "cli/"),
    **dict.fromkeys(("say", "note", "strong", "status", "PhaseLine", "tell"), "cli/"), "Choice": "engines/",
    "invalid": "api/",
}  # fmt: skip
WORD = re.compile(r"[A-Za-z][a-z]")
# What is no sentence of ours, each with its reason.
EXCEPTIONS = {
    "chat": "the name of a capability, as the API and `show` say it",
    "stdin": "the name of a stream",
}
THAT_PASS_ON = ("cli/terminal.py", "cli/click_words.py", "engines/echo_worker.py")  # the last counts requests


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def raw_texts(node: ast.AST | None) -> Iterator[str]:
    """Texts that stand in an expression as they are, in no call: a call may be `N_()`."""
    match node:
        case ast.Constant(value=str(text)) if WORD.search(text):
            yield text
        case ast.JoinedStr(values=values):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in values)
            if WORD.search(text):
                yield text
        case ast.BoolOp(values=several) | ast.Tuple(elts=several) | ast.List(elts=several):
            for one in several:
                yield from raw_texts(one)
        case ast.IfExp(body=body, orelse=other) | ast.BinOp(left=body, right=other):
            yield from raw_texts(body)
            yield from raw_texts(other)
        case ast.Starred(value=value):
            yield from raw_texts(value)


def name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


@cache
def calls() -> tuple[tuple[str, str, ast.Call], ...]:
    """Every call in the source: its file, the name that is called, and the call."""
    return tuple(
        (path.relative_to(ROOT).as_posix(), name_of(node), node)
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
    )


def arguments(call: ast.Call, which: tuple[int | str, ...]) -> Iterator[ast.AST]:
    yield from (call.args[place] for place in which if isinstance(place, int) and place < len(call.args))
    yield from (keyword.value for keyword in call.keywords if keyword.arg in which)


@pytest.mark.parametrize("name", sorted(SPEAKING))
def test_what_is_said_to_people_is_marked_for_translation(name: str) -> None:
    unmarked = [
        f"{file}:{call.lineno}: {text!r}"
        for file, called, call in calls()
        if called == name and file.startswith(IN.get(name, ""))
        for argument in arguments(call, SPEAKING[name])
        for text in raw_texts(argument)
        if text not in EXCEPTIONS
    ]

    assert not unmarked, "\n".join(unmarked)


def test_the_words_of_an_error_class_are_marked() -> None:
    unmarked = [
        f"{node.name}: {text!r}"
        for node in ast.walk(tree_of(ROOT / "errors.py"))
        if isinstance(node, ast.ClassDef)
        for line in node.body
        if isinstance(line, ast.Assign | ast.AnnAssign)
        for target in (line.targets if isinstance(line, ast.Assign) else [line.target])
        if isinstance(target, ast.Name) and target.id in ("text", "hints")
        for text in raw_texts(line.value)
    ]

    assert not unmarked, "\n".join(unmarked)


def test_a_problem_of_a_setting_or_a_file_is_marked() -> None:
    unmarked = [
        f"{file}:{call.lineno}: {text!r}"
        for file, called, call in calls()
        if file.startswith(("config/", "models/", "types/", "units.py")) and called == "ValueError"
        for argument in call.args
        for text in raw_texts(argument)
    ]

    assert not unmarked, "\n".join(unmarked)


def test_what_is_marked_is_one_text_that_can_be_found_in_the_source() -> None:
    lost = [
        f"{file}:{call.lineno}: {ast.unparse(call)[:80]}"
        for file, called, call in calls()
        for place in {"N_": (0,), "said": (0,), "NN_": (0, 1), "counted": (1, 2)}.get(called, ())
        if file not in THAT_PASS_ON and place < len(call.args) and not isinstance(call.args[place], ast.Constant)
    ]

    assert not lost, "\n".join(lost)


def test_a_text_is_translated_by_its_template_and_never_after_its_values() -> None:
    wrong = [
        f"{file}:{call.lineno}: {ast.unparse(call)[:80]}"
        for file, called, call in calls()
        if called == "_" and call.args and any(raw_texts(call.args[0]))
    ]

    assert not wrong, "\n".join(wrong)
