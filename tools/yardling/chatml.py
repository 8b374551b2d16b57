"""ChatML as pieces of text: who speaks, what is said, and what of it the model is to learn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of text: `learn` what the model says, `special` for the two turn marks."""

    text: str
    learn: bool = False
    special: bool = False


Dialogue = list[Part]


def turn(role: str, text: str) -> Dialogue:
    return [Part("<|im_start|>", special=True), Part(f"{role}\n{text}"), *end(learn=False)]


def end(*, learn: bool) -> Dialogue:
    return [Part("<|im_end|>", learn=learn, special=True), Part("\n")]


def said(text: str, *, learn: bool = True) -> Dialogue:
    return [Part("<|im_start|>", special=True), Part("assistant\n"), Part(text, learn=learn), *end(learn=learn)]
