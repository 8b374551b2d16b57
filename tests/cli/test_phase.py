"""What a request is doing, in words, from what the server tells of it."""

from __future__ import annotations

import pytest

from modelyard.cli.phase import phase_text
from modelyard.cli.session import Session
from modelyard.cli.terminal import Terminal
from modelyard.types.status import NodeStatus, RequestStatus, WaitStatus


def waits(reason: str, position: int = 1, detail: str = "", eta_s: float | None = None) -> WaitStatus:
    return WaitStatus("m", position, reason, 1.0, eta_s, detail)


@pytest.mark.parametrize(("phase", "known", "text"), [
    ("queued", {"wait": waits("slot", 2)}, "every slot is in use, place 2"),
    ("queued", {"wait": waits("memory", 3, eta_s=90.0)}, "memory is being made free, place 3, about 1m30s"),
    ("loading", {"wait": waits("loading", 1, "43%")}, "the model is loading 43%"),
    ("loading", {}, "loading the model"),
    ("queued", {}, "queued, 4 waiting"),
    ("prefill", {"prompt_ratio": 0.6}, "reading the prompt 60 %"),
    ("prefill", {}, "reading the prompt"),
    ("generating", {"prompt_ratio": 1.0}, "generating"),
    ("dreaming", {}, "dreaming"),
])  # fmt: skip
def test_each_phase_has_words(phase: str, known: dict[str, object], text: str) -> None:
    ours = RequestStatus("cli-1", "m", "me", phase, 1.0, 0, **known)  # type: ignore[arg-type]
    other = RequestStatus("cli-2", "m", "you", "generating", 1.0, 0)
    told = NodeStatus("1.0", 0.0, True, False, (), (), queue=4, requests=(other, ours))

    assert phase_text(Session(Terminal("en", {}), {}), told, "cli-1") == text
    assert phase_text(Session(Terminal("en", {}), {}), told, "cli-3") == ""
