"""Who is asked first, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.routing.ranking import Ranked, Standing, Strategy, Turns, Usable, rank, work_tokens
from modelyard.routing.room import NodeMemory, has_room, load_seconds
from modelyard.types.model import Pick

STRATEGIES: tuple[Strategy, ...] = ("best", "round_robin", "weighted", "least_busy")
COUNT = 10_000


def copy(node: str, **known: object) -> Standing:
    base = Standing(f"m@{node}", node, is_resident=True, slots=4, tokens_per_s=50.0)
    return replace(base, **known)  # type: ignore[arg-type]


def first(*standings: Standing, turns: Turns | None = None, strategy: Strategy = "best", pick: Pick = "best") -> Ranked:
    return rank(standings, strategy=strategy, pick=pick, group="m", turns=Turns() if turns is None else turns)[0]


def shares(standings: list[Standing], strategy: Strategy = "best", count: int = COUNT) -> dict[str, float]:
    turns = Turns()
    chosen = Counter(first(*standings, turns=turns, strategy=strategy).standing.node for _ in range(count))
    return {one.node: chosen[one.node] / count for one in standings}


@pytest.mark.parametrize("strategy", ["best", "weighted", "least_busy"])
def test_each_idle_node_gets_its_weights_part_of_the_requests(strategy: Strategy) -> None:
    found = shares([copy("a", weight=5), copy("b", weight=3), copy("c", weight=2)], strategy)

    assert found == pytest.approx({"a": 0.5, "b": 0.3, "c": 0.2}, abs=0.01)


def test_weights_come_without_bursts() -> None:
    turns, nodes = Turns(), [copy("a", weight=5), copy("b", weight=3), copy("c", weight=2)]

    order = "".join(first(*nodes, turns=turns, strategy="weighted").standing.node for _ in range(1000))

    assert "aaa" not in order
    assert "bb" not in order
    assert "cc" not in order


def test_round_robin_does_not_look_at_weights() -> None:
    found = shares([copy("a", weight=9), copy("b"), copy("c", in_flight=30)], "round_robin")

    assert found == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, abs=0.01)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("pick", ["best", "warm", "first"])
def test_weight_nought_is_never_asked(strategy: Strategy, pick: Pick) -> None:
    drained, busy = copy("a", weight=0), copy("b", in_flight=90, is_resident=False)

    ranked = rank([drained, busy], strategy=strategy, pick=pick, group="m", turns=Turns())

    assert [one.standing.node for one in ranked] == ["b"]


@pytest.mark.parametrize("strategy", ["best", "weighted", "least_busy"])
def test_an_edited_weight_counts_from_the_next_request_on(strategy: Strategy) -> None:
    turns = Turns()
    for _ in range(777):
        first(copy("a", weight=500), copy("b", weight=1), turns=turns, strategy=strategy)

    after = [first(copy("a"), copy("b"), turns=turns, strategy=strategy).standing.node for _ in range(20)]

    assert 9 <= after.count("b") <= 11
    assert first(copy("a", weight=0), copy("b"), turns=turns, strategy=strategy).standing.node == "b"


def test_a_node_with_two_copies_gets_no_more_than_a_node_with_one() -> None:
    found: Counter[str] = Counter()
    turns, nodes = Turns(), [copy("a"), copy("a", model="other@a"), copy("b")]
    for _ in range(1000):
        found[first(*nodes, turns=turns, strategy="weighted").standing.node] += 1

    assert found["a"] == pytest.approx(found["b"], abs=2)


def test_a_heavy_node_may_be_busier_before_another_is_preferred() -> None:
    heavy, light = copy("a", weight=4, in_flight=8, queued_tokens=2400), copy("b", in_flight=6, queued_tokens=1800)

    assert first(heavy, light).standing.node == "a"
    assert first(replace(heavy, weight=1.0), light).standing.node == "b"


@pytest.mark.parametrize("strategy", ["best", "round_robin", "weighted", "least_busy"])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75, 1.0])
def test_a_slow_starter_gets_the_ramps_part_of_the_requests(strategy: Strategy, share: float) -> None:
    found = shares([copy("a", share=share), copy("b"), copy("c")], strategy, 2000)

    assert found["a"] == pytest.approx(share / (2 + share), abs=0.10)
    assert found["a"] > 0


def test_a_slow_starter_is_not_flooded_because_it_is_idle() -> None:
    found = shares([copy("a", share=0.2), copy("b", in_flight=40), copy("c", in_flight=40)], count=1000)

    assert found["a"] == pytest.approx(0.2 / 2.2, abs=0.10)


def test_a_slow_starter_that_alone_has_the_model_is_not_held_back() -> None:
    found = shares([copy("a", share=0.1), copy("b", is_resident=False, load_s=30)], count=100)

    assert found["a"] == 1


def test_a_slow_starter_alone_is_asked() -> None:
    assert first(copy("a", share=0.0)).reason == "only"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equals_are_not_all_sent_to_the_first(strategy: Strategy) -> None:
    found = shares([copy(name) for name in "abcdefgh"], strategy, 800)

    assert set(found.values()) == {1 / 8}


def test_first_requests_for_many_models_go_to_different_nodes() -> None:
    turns, chosen = Turns(), Counter[str]()
    for number in range(300):
        nodes = [Standing(f"m{number}@{name}", name) for name in "abc"]
        chosen[rank(nodes, group=f"m{number}", turns=turns)[0].standing.node] += 1

    assert min(chosen.values()) > 60


def test_a_resident_copy_goes_before_a_load() -> None:
    found = first(copy("a", is_resident=False, load_s=8, has_room=True), copy("b", in_flight=3, queued_tokens=900))

    assert (found.standing.node, found.reason) == ("b", "resident")


def test_a_hot_model_gets_a_second_copy_when_its_line_costs_more_than_the_load() -> None:
    hot = copy("b", in_flight=20, queued_tokens=6000)
    cold = copy("a", is_resident=False, load_s=8, has_room=True)

    assert (first(hot, cold).standing.node, first(hot, cold).reason) == ("a", "copy")
    assert first(hot, replace(cold, load_s=40)).standing.node == "b"
    assert first(hot, replace(cold, has_room=False)).standing.node == "b"


def test_a_load_goes_where_nobody_has_to_leave() -> None:
    cold = [copy(name, is_resident=False, load_s=8) for name in "abc"]
    nodes = [replace(cold[0], has_room=False), cold[1], replace(cold[2], has_room=True)]

    ranked = rank(nodes, group="m", turns=Turns())

    assert [one.standing.node for one in ranked] == ["c", "b", "a"]
    assert ranked[0].reason == "load"


def test_who_comes_during_a_load_joins_it() -> None:
    loading = copy("a", is_resident=False, load_s=8, in_flight=2, queued_tokens=600)

    assert first(loading, copy("b", is_resident=False, load_s=8)).standing.node == "a"


def test_the_line_counts_in_tokens_over_speed() -> None:
    long_line, short_line = copy("a", in_flight=8, queued_tokens=8000), copy("b", in_flight=8, queued_tokens=800)

    assert first(long_line, short_line) == first(short_line, long_line)
    assert (first(long_line, short_line).standing.node, first(long_line, short_line).reason) == ("b", "least-loaded")
    assert first(replace(long_line, tokens_per_s=900.0), short_line).standing.node == "a"


def test_recent_errors_count_against_a_copy() -> None:
    assert first(copy("a", error_ratio=0.3), copy("b", in_flight=3, queued_tokens=600)).standing.node == "b"


def test_affinity_holds_while_its_node_is_not_much_busier() -> None:
    favoured = copy("a", is_favoured=True, in_flight=2, queued_tokens=500)
    crowded = replace(favoured, in_flight=40, queued_tokens=12_000)

    assert (first(favoured, copy("b")).standing.node, first(favoured, copy("b")).reason) == ("a", "affinity")
    assert first(crowded, copy("b")).standing.node == "b"


def test_a_long_prompt_that_was_read_is_worth_a_longer_wait() -> None:
    nodes = [copy("a", is_favoured=True, in_flight=6, queued_tokens=1000), copy("b")]

    short = rank(nodes, group="m", turns=Turns(), prompt_tokens=10)[0].standing.node
    long = rank(nodes, group="m", turns=Turns(), prompt_tokens=8000)[0].standing.node

    assert (short, long) == ("b", "a")


def test_the_doubtful_come_after_the_well_and_who_is_on_trial_comes_last() -> None:
    nodes = [
        copy("trial", usable=Usable.TRIAL, is_favoured=True),
        copy("doubtful", usable=Usable.LAST),
        copy("no", usable=Usable.NO, reason_not="cooling down"),
        copy("well", in_flight=50, is_resident=False, load_s=99),
    ]

    ranked = rank(nodes, group="m", turns=Turns())

    assert [one.standing.node for one in ranked] == ["well", "doubtful", "trial"]
    assert [one.reason for one in ranked][1:] == ["doubtful", "trial"]


def test_nobody_to_ask_is_an_empty_order() -> None:
    assert rank([copy("a", usable=Usable.NO)], turns=Turns()) == ()


def test_one_alone_is_the_only_one() -> None:
    assert first(copy("a"), copy("b", usable=Usable.NO)).reason == "only"
    assert first(copy("a", usable=Usable.TRIAL)).reason == "trial"


def kinds(order: str) -> list[Standing]:
    """A copy of each kind, cold, in that order."""
    every = {"l": Standing("m", "", kind="local", load_s=30.0), "o": Standing("m@o", "o", kind="ollama", load_s=5.0)}
    every["c"] = Standing("m@c", "c", kind="openai", is_resident=True, is_told=False)
    return [replace(every[letter], place=place) for place, letter in enumerate(order)]


@pytest.mark.parametrize(("order", "chosen"), [("loc", ""), ("olc", "o"), ("col", "c")])
def test_where_no_kind_has_it_in_memory_the_first_in_order_is_asked(order: str, chosen: str) -> None:
    for _ in range(3):
        assert first(*kinds(order)).standing.node == chosen


def test_a_kind_that_has_it_in_memory_goes_before_those_that_have_not_or_never_say() -> None:
    here, there, cloud = kinds("loc")

    assert first(here, replace(there, is_resident=True), cloud).standing.node == "o"
    assert first(replace(here, is_resident=True), replace(there, is_resident=True), cloud).standing.node == ""
    assert [one.standing.node for one in rank(kinds("loc"), turns=Turns())] == ["", "c", "o"]


def test_an_earlier_kind_is_worth_some_waiting_and_not_more() -> None:
    here = Standing("m", "", kind="local", is_resident=True, slots=2, in_flight=2, queued_tokens=400)
    there = Standing("m@o", "o", kind="ollama", is_resident=True, slots=4, place=1)

    assert first(here, there).standing.node == ""
    assert first(replace(here, in_flight=60, queued_tokens=15_000), there).standing.node == "o"


def test_strategies_by_turns_do_not_look_at_kinds() -> None:
    turns = Turns()

    seen = {first(*kinds("loc"), turns=turns, strategy="round_robin").standing.node for _ in range(6)}

    assert seen == {"", "o", "c"}


def test_warm_means_one_in_memory_if_any_is() -> None:
    cold, warm = copy("a", is_resident=False), copy("b", in_flight=90, queued_tokens=90_000)

    assert (first(cold, warm, pick="warm").standing.node, first(cold, warm, pick="warm").reason) == ("b", "warm")
    assert first(cold, replace(cold, model="n@c", node="c"), pick="warm").reason == "load"


def test_first_means_the_next_only_when_it_is_full() -> None:
    one, two, three = copy("a", place=0), copy("b", place=1), copy("c", place=2)
    full = replace(one, in_flight=4)

    assert (first(three, two, one, pick="first").standing, first(one, pick="first").reason) == (one, "only")
    assert first(one, two, pick="first").reason == "first"
    assert (first(full, two, pick="first").standing.node, first(full, two, pick="first").reason) == ("b", "overflow")
    assert first(full, replace(two, in_flight=4), pick="first").standing.node == "a"
    assert first(replace(full, slots=0), two, pick="first").standing.node == "a"


def test_least_busy_looks_at_requests_per_weight() -> None:
    found = first(copy("a", in_flight=3, weight=2), copy("b", in_flight=2), strategy="least_busy")

    assert (found.standing.node, found.reason) == ("a", "least-loaded")
    assert first(copy("a"), copy("b"), strategy="least_busy").reason == "turn"


def test_the_reason_of_a_turn_is_the_strategys() -> None:
    assert first(copy("a"), copy("b"), strategy="weighted").reason == "weight"
    assert first(copy("a"), copy("b"), strategy="round_robin").reason == "turn"
    assert first(copy("a"), copy("b")).reason == "turn"


def test_turns_are_bounded_and_forget_who_is_gone() -> None:
    turns = Turns(groups_max=3)
    for number in range(50):
        rank([copy("a"), copy("b", share=0.5)], group=str(number), turns=turns)
    turns.keep_only("49", [])
    turns.ramped("49", "m@b")

    assert len(turns) == 3


def test_reading_is_less_work_than_writing() -> None:
    assert work_tokens(1000, 0) < work_tokens(0, 1000)


def test_room_is_what_a_node_tells_or_was_seen_to_hold() -> None:
    assert has_room(10, NodeMemory(resident_bytes=5, free_bytes=11)) is True
    assert has_room(10, NodeMemory(resident_bytes=5, free_bytes=10)) is False
    assert has_room(10, NodeMemory(resident_bytes=5, free_bytes=20, coming_bytes=(10,))) is False
    assert has_room(10, NodeMemory(resident_bytes=0)) is True
    assert has_room(10, NodeMemory(resident_bytes=5, most_bytes=16)) is True
    assert has_room(10, NodeMemory(resident_bytes=5, most_bytes=15)) is None


def test_a_load_waits_for_those_that_began_before() -> None:
    assert load_seconds(10, 5.0, [20]) - load_seconds(10, 5.0) == pytest.approx(load_seconds(20, 5.0))


standings_strategy = st.lists(
    st.builds(
        Standing,
        model=st.uuids().map(str),
        node=st.sampled_from(["", "a", "b", "c"]),
        weight=st.sampled_from([0.0, 0.001, 1.0, 5.0, 1e6]),
        usable=st.sampled_from(Usable),
        is_resident=st.booleans(),
        load_s=st.floats(0, 1e4),
        has_room=st.sampled_from([None, True, False]),
        in_flight=st.integers(0, 500),
        slots=st.integers(0, 64),
        queued_tokens=st.integers(0, 10**7),
        tokens_per_s=st.sampled_from([None, 0.0, 0.1, 900.0]),
        error_ratio=st.floats(0, 1),
        is_favoured=st.booleans(),
        share=st.floats(0, 1),
        place=st.integers(0, 3),
    ),
    max_size=8,
)


@given(
    st.lists(standings_strategy, min_size=1, max_size=6),
    st.sampled_from(STRATEGIES),
    st.sampled_from(["best", "warm", "first"]),
)
def test_whatever_is_known_everybody_askable_is_named_once_and_tiers_hold(
    rounds: list[list[Standing]], strategy: Strategy, pick: Pick
) -> None:
    turns = Turns()
    for standings in rounds:
        ranked = rank(standings, strategy=strategy, pick=pick, group="g", turns=turns, prompt_tokens=100)

        askable = {one.model for one in standings if one.weight > 0 and one.usable is not Usable.NO}
        assert sorted(one.standing.model for one in ranked) == sorted(askable)
        assert all(a.standing.usable <= b.standing.usable for a, b in pairwise(ranked))
        assert all(one.reason and one.score >= 0 for one in ranked)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=6))
def test_turns_stay_within_two_requests_of_what_is_owed(weights: list[int]) -> None:
    turns, taken = Turns(), Counter[str]()
    named = {str(number): float(weight) for number, weight in enumerate(weights)}
    for turn in range(1, 300):
        taken[turns.next("g", named)] += 1

        assert all(abs(taken[name] - turn * one / sum(weights)) < 2 for name, one in named.items())
