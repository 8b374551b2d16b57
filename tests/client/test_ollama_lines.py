"""Lines cut at any place, and progress that lies."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from modelyard.client.ollama_lines import Lines, LineTooLong, Progress

NUMBERS = some.one_of(
    some.none(),
    some.booleans(),
    some.text("1-e. é模", max_size=2),
    some.floats(),
    some.integers(-5, 20),
    some.just(2**80),
)
TOLD = some.fixed_dictionaries(
    {"status": some.sampled_from(["pulling", "verifying"])},
    optional={"digest": some.sampled_from(["a", "b"]), "total": NUMBERS, "completed": NUMBERS},
)


@given(some.lists(some.binary(min_size=1, max_size=8).filter(lambda one: b"\n" not in one and one.strip() == one)),
       some.lists(some.integers(0, 60)))  # fmt: skip
def test_lines_are_the_same_wherever_they_are_cut(lines: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(line + b"\r\n\n" for line in lines)
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    reader = Lines()

    found = [line for start, end in pairwise(edges) for line in reader.feed(whole[start:end])]

    assert found == lines
    assert reader.end() == b""


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_line_has_a_limit_however_it_arrives(size: int) -> None:
    reader = Lines(bytes_max=10)
    assert list(reader.feed(b"0123456789\n")) == [b"0123456789"]

    with pytest.raises(LineTooLong):
        _ = [line for _ in range(0, 100, size) for line in reader.feed(b"x" * size)]


def test_a_line_over_the_limit_is_none_even_if_it_ends() -> None:
    with pytest.raises(LineTooLong):
        list(Lines(bytes_max=10).feed(b"x" * 11 + b"\n"))


@given(some.lists(TOLD, max_size=12))
def test_whatever_is_told_progress_makes_sense(told: list[dict[str, Any]]) -> None:
    progress = Progress()
    before: dict[tuple[str, str], int] = {}

    for one in told:
        right = progress.put_right(one)

        part = right.get("digest", right["status"])
        assert right["status"] == one["status"]
        if "total" in right:
            assert right["total"] > 0
            assert 0 <= right["completed"] <= right["total"]
        for name in ("total", "completed"):
            assert right.get(name, 0) >= before.get((part, name), 0)
            before[part, name] = right.get(name, 0)


@pytest.mark.parametrize(
    ("told", "right"),
    [
        ([{"status": "pulling manifest"}], {"status": "pulling manifest"}),
        ([{"status": "p", "total": 0, "completed": 0}], {"status": "p"}),
        ([{"status": "p", "total": 9}], {"status": "p", "total": 9, "completed": 0}),
        ([{"status": "p", "completed": 4}], {"status": "p", "completed": 4}),
        ([{"status": "p", "total": 9, "completed": 12}], {"status": "p", "total": 12, "completed": 12}),
        ([{"status": "p", "total": 9, "completed": 7}, {"status": "p", "total": 9, "completed": 2}],
         {"status": "p", "total": 9, "completed": 7}),
        ([{"status": "p", "digest": "a", "total": 9, "completed": 7}, {"status": "p", "digest": "b", "total": 5}],
         {"status": "p", "digest": "b", "total": 5, "completed": 0}),
        ([{"status": None, "total": -3, "completed": "all"}], {"status": ""}),
    ],
    ids=["no numbers", "zeros", "no completed", "no total", "too much", "backwards", "parts", "nonsense"],
)  # fmt: skip
def test_progress_that_lies_is_put_right(told: list[dict[str, Any]], right: dict[str, Any]) -> None:
    progress = Progress()

    assert [progress.put_right(one) for one in told][-1] == right
