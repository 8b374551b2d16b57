"""Who is asked first, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from modelyard.routing.ranking import Ranked, Standing, Strategy, Usable, rank, work_tokens
from modelyard.routing.room import NodeMemory, has_room, load_seconds
from modelyard.routing.turns import Turns
from modelyard.types.model import Pick

STRATEGIES: tuple[Strategy, ...] = ("best", "round_robin", "weighted", "least_busy")


def at(name: str, **known: Any) -> Standing:
    return Standing(f"m@{name}", name, **known)


def asked(*standings: Standing, turns: Turns | None = None, **how: Any) -> tuple[Ranked, ...]:
    return rank(standings, group="m", turns=Turns() if turns is None else turns, **how)


def first(*standings: Standing, **how: Any) -> tuple[str, str]:
    chosen = asked(*standings, **how)[0]
    return chosen.standing.node, chosen.reason


def test_the_resident_copy_goes_before_one_that_must_be_loaded() -> None:
    assert first(at("a", load_s=20), at("b", is_resident=True)) == ("b", "resident")


def test_a_queue_at_the_resident_copy_pays_for_a_second_one() -> None:
    busy = at("a", is_resident=True, in_flight=40, slots=2, queued_tokens=12_000, tokens_per_s=30.0)

    assert first(busy, at("b", load_s=5, has_room=True)) == ("b", "copy")
    assert first(replace(busy, in_flight=2, queued_tokens=300), at("b", load_s=5, has_room=True))[0] == "a"


def test_who_would_push_others_out_is_dearer_than_who_has_room() -> None:
    assert first(at("a", load_s=10, has_room=False), at("b", load_s=12, has_room=True)) == ("b", "load")


def test_a_session_stays_but_not_behind_a_long_queue() -> None:
    had = at("a", is_resident=True, is_favoured=True, in_flight=1, slots=4)
    other = at("b", is_resident=True)

    assert first(had, other) == ("a", "affinity")
    assert first(replace(had, in_flight=60, queued_tokens=20_000), other)[0] == "b"


def test_errors_and_slow_starts_stand_back() -> None:
    assert first(at("a", is_resident=True, error_ratio=0.8), at("b", is_resident=True))[0] == "b"
    turns = Turns()
    seen = Counter(
        first(at("a", is_resident=True, share=0.2), at("b", is_resident=True), turns=turns)[0] for _ in range(1000)
    )
    assert abs(seen["a"] / 1000 - 0.2 / 1.2) <= 0.1


def test_equals_take_turns_by_weight_and_are_not_all_sent_to_the_first() -> None:
    turns = Turns()
    copies = [at("a", is_resident=True, weight=2), at("b", is_resident=True), at("c", is_resident=True)]
    seen = Counter(first(*copies, turns=turns)[0] for _ in range(400))

    assert seen["a"] > seen["b"]
    assert min(seen.values()) >= 80


@pytest.mark.parametrize("weights", [(5, 3, 2), (1, 1, 8), (0.5, 0.25, 0.25)])
def test_weights_hold_to_a_point_and_without_bursts(weights: tuple[float, ...]) -> None:
    turns, total = Turns(), sum(weights)
    nodes = [at(name, weight=weight) for name, weight in zip("abc", weights, strict=True)]
    order = [first(*nodes, strategy="weighted", turns=turns)[0] for _ in range(10_000)]

    for name, weight in zip("abc", weights, strict=True):
        assert abs(order.count(name) / 10_000 - weight / total) <= 0.01
        heavy = 10 * weight / total
        assert max(order[begin : begin + 10].count(name) for begin in range(9_990)) <= heavy + 2


def test_an_edited_weight_counts_from_the_next_request_on() -> None:
    turns = Turns()
    for _ in range(500):
        first(at("a", weight=9), at("b", weight=1), strategy="weighted", turns=turns)
    after = [first(at("a", weight=1), at("b", weight=1), strategy="weighted", turns=turns)[0] for _ in range(20)]

    assert 8 <= after.count("a") <= 12


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nobody_who_is_drained_or_out_is_named(strategy: Strategy) -> None:
    found = asked(
        at("drained", weight=0), at("out", usable=Usable.NO), at("well"), at("doubtful", usable=Usable.LAST),
        at("half-open", usable=Usable.TRIAL), strategy=strategy,
    )  # fmt: skip

    assert [(one.standing.node, one.reason) for one in found][1:] == [("doubtful", "doubtful"), ("half-open", "trial")]
    assert found[0].standing.node == "well"
    assert asked(at("drained", weight=0), strategy=strategy) == ()


def test_least_busy_counts_by_weight() -> None:
    assert first(at("a", in_flight=3, weight=2), at("b", in_flight=2), strategy="least_busy") == ("a", "least-loaded")


def test_an_alias_may_want_a_warm_one_or_the_first_until_it_is_full() -> None:
    big, small = at("a", slots=2, in_flight=2, place=0), at("b", is_resident=True, place=1)
    warm: Pick = "warm"

    assert first(replace(big, in_flight=1), small, pick="first") == ("a", "first")
    assert first(big, small, pick="first") == ("b", "overflow")
    assert first(replace(big, in_flight=0), small, pick=warm) == ("b", "warm")
    assert first(replace(big, in_flight=0), replace(small, is_resident=False), pick=warm)[1] in ("load", "turn")


def test_one_alone_is_the_only_one() -> None:
    assert first(at("a")) == ("a", "only")


def test_room_counts_what_was_sent_there_since_the_last_look() -> None:
    assert has_room(10, NodeMemory(0)) is True
    assert has_room(10, NodeMemory(20, most_bytes=40)) is True
    assert has_room(10, NodeMemory(20, most_bytes=40, coming_bytes=(10,))) is None
    assert has_room(10, NodeMemory(20, free_bytes=5)) is False
    assert load_seconds(100, 10.0) == 12.0
    assert load_seconds(100, 10.0, (50,)) == 19.0
    assert work_tokens(2000, 300) == 400


standing = some.builds(
    Standing,
    some.sampled_from([f"m@{name}" for name in "abcdef"]),
    some.sampled_from("abcdef"),
    weight=some.floats(0, 100),
    usable=some.sampled_from(Usable),
    is_resident=some.booleans(),
    load_s=some.floats(0, 600),
    has_room=some.sampled_from([True, False, None]),
    in_flight=some.integers(0, 200),
    slots=some.integers(0, 16),
    queued_tokens=some.integers(0, 100_000),
    tokens_per_s=some.none() | some.floats(0.1, 1000),
    error_ratio=some.floats(0, 1),
    is_favoured=some.booleans(),
    share=some.floats(0, 1),
    place=some.integers(0, 5),
)


@given(some.lists(standing, max_size=6, unique_by=lambda one: one.model), some.sampled_from(STRATEGIES),
       some.sampled_from(("best", "warm", "first")), some.integers(0, 100_000))  # fmt: skip
def test_whatever_is_known_everybody_who_may_be_asked_is_named_once(
    standings: list[Standing], strategy: Strategy, pick: Pick, prompt_tokens: int
) -> None:
    found = asked(*standings, strategy=strategy, pick=pick, prompt_tokens=prompt_tokens)
    able = {one.model for one in standings if one.usable is not Usable.NO and one.weight > 0}

    assert {one.standing.model for one in found} == able
    assert len(found) == len(able)
    assert [one.standing.usable for one in found] == sorted(one.standing.usable for one in found)
    assert all(one.score >= 0 for one in found)
