"""Who is in memory and why, beyond bytes: contexts, kinds, groups, priorities, smaller ways, growth, roles."""

from __future__ import annotations

from dataclasses import replace

from modelyard.errors import InsufficientMemory, LoadFailed
from modelyard.residency.messages import (
    Adopt,
    Adopted,
    DevicesRead,
    Left,
    LimitsChanged,
    LoadAsked,
    LoadBroke,
    RecycleAsked,
    Requested,
    UnloadAsked,
)
from modelyard.residency.state import ResidencyLimits
from modelyard.types.memory import DeviceReading, Footprint
from modelyard.types.model import ModelSpec
from tests.residency.stage import FOREVER, Stage, spec

A, B, C = spec("a", 6), spec("b", 6), spec("c", 3)


def with_rungs(full: int, *sizes: int) -> ModelSpec:
    rungs = tuple(spec("a", size, identity=f"a{size}", degraded=(f"context_length={size}",)) for size in sizes)
    return spec("a", full, rungs=rungs)


def broke(stage: Stage, model: str) -> Stage:
    error = LoadFailed(model=model, problem="no memory")
    stage.feed(LoadBroke(stage.now, model, stage.epoch(model), error, is_memory=True))
    return stage


# Contexts.


def test_a_larger_context_serves_a_smaller_wish() -> None:
    stage = Stage().resident(replace(A, context_length=8192))

    assert stage.ask(1, replace(A, context_length=4096)).granted == [1]


def test_a_larger_wish_replaces_the_resident_once() -> None:
    small, large = replace(A, context_length=4096), replace(A, context_length=8192)
    stage = Stage().resident(small).ask(1, small)

    stage.ask(2, large)
    assert stage.state("a") == "draining"
    stage.ask(3, small)
    stage.release(1).unloaded("a")

    assert stage.loads == ["a"]
    assert stage.scheduler.records["a"].spec is large
    assert stage.loaded("a", slots=2).granted == [2, 3]


def test_a_wish_that_has_left_is_not_loaded_for() -> None:
    small, large = replace(A, context_length=4096), replace(A, context_length=8192)
    stage = Stage().resident(B).ask(1, B).ask(2, small).ask(3, large)

    stage.cancel(3).release(1).unloaded("b")

    assert stage.scheduler.records["a"].spec is small


# Kinds.


def of_kind(kind: str, name: str, size: int = 2) -> ModelSpec:
    return spec(name, size, kind=kind)


def test_under_fit_kinds_stay_together_while_both_fit() -> None:
    stage = Stage().resident(of_kind("ollama", "o"))

    assert stage.ask(1, of_kind("local", "l")).loads == ["l"]


def test_under_exclusive_the_other_kind_is_seen_gone_before_the_load() -> None:
    stage = Stage(policy="exclusive").resident(of_kind("ollama", "o"))

    assert stage.ask(1, of_kind("local", "l")).sent_away == ["o"]
    assert stage.loads == []
    assert stage.unloaded("o").loads == ["l"]


def test_under_exclusive_a_cloud_model_without_memory_makes_local_ones_leave_too() -> None:
    cloud = ModelSpec("gpt", "gpt", Footprint({}), kind="openai")
    stage = Stage(policy="exclusive").resident(of_kind("local", "l"))

    assert stage.ask(1, cloud).sent_away == ["l"]
    assert stage.unloaded("l").loads == ["gpt"]


def test_under_exclusive_a_busy_kind_finishes_and_then_makes_room() -> None:
    stage = Stage(policy="exclusive", drain_after_s=10).ask(1, of_kind("local", "l")).loaded("l")

    assert stage.ask(2, of_kind("ollama", "o")).sent_away == []
    assert stage.ask(3, of_kind("local", "l")).granted == []
    stage.at(11)
    assert stage.state("l") == "draining"
    assert stage.release(1).sent_away == ["l"]
    assert stage.unloaded("l").loads == ["o"]


def test_under_exclusive_a_pinned_model_stays() -> None:
    stage = Stage(policy="exclusive").resident(of_kind("local", "l")).pin("l")

    assert stage.ask(1, of_kind("ollama", "o")).loads == ["o"]


def test_a_change_of_kind_is_told() -> None:
    stage = Stage().resident(of_kind("local", "l"))

    assert "model.switched" not in stage.resident(of_kind("local", "l2")).told
    stage.ask(1, of_kind("ollama", "o")).loaded("o")
    assert "model.switched" in stage.told


# Sizes nobody knows.


def test_an_unknown_size_has_the_device_to_itself_once() -> None:
    unknown = ModelSpec("u", "u", Footprint({"gpu0": 0}, "unknown"))
    stage = Stage(total=10).resident(C)

    assert stage.ask(1, unknown).sent_away == ["c"]
    assert stage.unloaded("c").loads == ["u"]
    assert stage.scheduler.records["u"].held == {"gpu0": 10}
    assert stage.ask(2, C).loads == []
    assert stage.loaded("u", size=4).loads == ["c"]


# What other nodes hold.


def adopt(stage: Stage, size: int = 6) -> Stage:
    reading = DeviceReading("gpu0", "gpu", stage.total, stage.total - size, "gpu")
    stage.feed(DevicesRead(stage.now, (reading,)))
    stage.feed(Adopted(stage.now, of_kind("ollama", "o", size), {"gpu0": size}))
    return stage


def test_an_adopted_model_is_an_entry_like_any_other() -> None:
    stage = adopt(Stage())

    assert stage.all_of(Adopt)[0].model == "o"
    assert stage.state("o") == "resident"
    assert stage.scheduler.books.ledgers["gpu0"].foreign_bytes == 0
    assert stage.ask(1, A).sent_away == ["o"]
    assert stage.read(used=0).unloaded("o").loads == ["a"]


def test_an_adopted_model_does_not_expire_here_and_may_leave_by_itself() -> None:
    stage = adopt(Stage(idle_ttl_s=5))

    assert stage.at(1000).sent_away == []
    stage.feed(Left(stage.now, "o", stage.epoch("o")))
    assert "o" not in stage.scheduler.records


def test_what_is_known_is_not_adopted_twice() -> None:
    stage = Stage().resident(of_kind("ollama", "o"))

    assert stage.feed(Adopted(stage.now, of_kind("ollama", "o"), {"gpu0": 2})) == []


# Groups, weights, priorities.


def test_of_a_group_only_so_many_are_in_memory() -> None:
    stage = Stage(total=100, groups={"coding": 1}).resident(replace(A, group="coding")).resident(C)

    assert stage.ask(1, replace(B, group="coding")).sent_away == ["a"]
    assert stage.unloaded("a").loads == ["b"]


def test_of_some_groups_the_member_not_used_for_longest_leaves_whatever_it_costs() -> None:
    dear, cheap = (spec(name, 3, group="(vectors)", purpose="embedding") for name in ("dear", "cheap"))

    def full(**limits: object) -> Stage:
        stage = Stage(total=100, groups={"(vectors)": 2}, **limits).resident(dear, load_s=100.0).at(5.0)
        return stage.resident(cheap, load_s=0.2).at(10.0)

    third = spec("third", 3, group="(vectors)", purpose="embedding")
    assert full(oldest_first=frozenset({"(vectors)"})).ask(1, third).sent_away == ["dear"]
    assert full().ask(1, third).sent_away == ["cheap"]


def test_models_that_embed_have_an_idle_time_of_their_own_that_changes_while_they_are_there() -> None:
    embeds, chats = spec("embeds", 3, purpose="embedding"), spec("chats", 3)
    stage = Stage(idle_ttl_s=300.0, vectors_idle_ttl_s=60.0).resident(embeds).resident(chats)

    assert stage.at(59.0).unloads == []
    limits = ResidencyLimits(headroom_bytes=0, idle_ttl_s=300.0, vectors_idle_ttl_s=100.0)
    stage.feed(LimitsChanged(stage.now, limits))
    assert stage.at(99.0).unloads == []
    assert stage.at(100.0).unloads == [("embeds", "expiry")]


def test_a_busy_member_of_a_full_group_is_waited_for() -> None:
    stage = Stage(total=100, groups={"coding": 1}, drain_after_s=10).ask(1, replace(A, group="coding")).loaded("a")

    assert stage.ask(2, replace(B, group="coding")).loads == []
    stage.release(1)
    assert stage.sent_away == ["a"]


def test_the_heavier_model_stays() -> None:
    stage = Stage(total=12).resident(replace(A, weight=100.0), load_s=1).resident(B, load_s=1).at(60)

    assert stage.ask(1, C).sent_away == ["b"]


def test_a_higher_priority_gets_memory_first_but_not_for_ever() -> None:
    stage = Stage(total=6, drain_after_s=1e9, bypass_count_max=3).ask(0, A).loaded("a")
    stage.ask(1, B).ask(2, replace(C, footprint=A.footprint, priority=5))

    stage.release(0)
    assert stage.unloaded("a").loads == ["c"]
    stage.loaded("c")
    stage.release(2)
    for number in range(3, 8):
        stage.ask(number, replace(C, footprint=A.footprint, priority=5)).release(number)
    assert stage.state("c") == "leaving"


def test_within_a_line_the_urgent_caller_goes_first() -> None:
    stage = Stage().ask(1, A).loaded("a").ask(2, A, caller="slow")
    stage.feed(Requested(stage.now, 3, A, "fast", FOREVER, priority=1))

    assert stage.release(1).granted == [3]


# Smaller ways.


def test_what_never_fits_in_full_is_started_smaller() -> None:
    stage = Stage(total=10).ask(1, with_rungs(20, 12, 8))

    assert stage.loads == ["a"]
    assert stage.scheduler.records["a"].spec.degraded == ("context_length=8",)
    assert stage.loaded("a").granted == [1]


def test_busy_models_are_waited_for_rather_than_starting_smaller() -> None:
    stage = Stage(total=10).ask(1, B).loaded("b").ask(2, with_rungs(8, 2))

    assert stage.loads == []


def test_what_others_hold_is_not_waited_for_if_a_smaller_way_fits() -> None:
    stage = Stage(total=10).read(used=5).ask(1, with_rungs(8, 4))

    assert stage.scheduler.records["a"].spec.degraded == ("context_length=4",)


def test_a_load_that_breaks_for_memory_goes_down_the_ladder_and_ends() -> None:
    wanted = with_rungs(8, 6, 4)
    stage = Stage(total=10).resident(spec("idle", 1)).ask(1, wanted)

    assert broke(stage, "a").sent_away == ["idle"]
    assert stage.unloaded("idle").loads == ["a"]
    assert broke(stage, "a").loads == ["a"]
    assert stage.scheduler.records["a"].held == {"gpu0": 6}
    assert broke(stage, "a").loads == ["a"]
    assert isinstance(broke(stage, "a").error, LoadFailed)
    assert stage.ask(2, wanted).error.retry_after_s


def test_a_refusal_says_what_was_tried() -> None:
    refused = Stage(total=10).ask(1, with_rungs(20, 12)).error

    assert isinstance(refused, InsufficientMemory)
    assert refused.fields["tried"] == "context_length=12"


def test_a_degraded_resident_serves_who_wants_it_in_full() -> None:
    wanted = with_rungs(20, 8)
    stage = Stage(total=10).ask(1, wanted).loaded("a").release(1)

    assert stage.ask(2, wanted).granted == [2]


# Growth.


def test_who_outgrows_its_reservation_is_replaced_when_idle() -> None:
    stage = Stage(growth_bytes_min=1).ask(1, spec("a", 4)).loaded("a", slots=2)

    stage.read(used=7, a=7)
    assert stage.told == ["model.recycling"]
    assert stage.read(used=8, a=8).told == []
    assert stage.ask(2, spec("a", 4)).granted == [2]
    stage.release(1)
    assert stage.release(2).sent_away == ["a"]
    assert stage.scheduler.records["a"].peak == {"gpu0": 8}


def test_who_is_never_idle_drains_after_a_while() -> None:
    stage = Stage(drain_after_s=10).ask(1, A).loaded("a", slots=2)

    stage.feed(RecycleAsked(stage.now, "a", stage.epoch("a"), "it leaks"))
    stage.at(5).ask(2, A)
    assert stage.granted == [2]
    stage.at(11)
    assert stage.state("a") == "draining"
    stage.ask(3, A).release(1).release(2)
    assert stage.sent_away == ["a"]
    assert stage.unloaded("a").loads == ["a"]


# Roles.


def test_a_model_leaves_with_its_last_role() -> None:
    stage = Stage()
    stage.feed(LoadAsked(0, 1, A, FOREVER, role="chat"))
    stage.loaded("a")
    stage.feed(LoadAsked(0, 2, A, FOREVER, role="translation"))

    stage.feed(UnloadAsked(0, "a", role="chat"))
    assert stage.sent_away == []
    stage.feed(UnloadAsked(0, "a", role="translation"))
    assert stage.sent_away == ["a"]


# Batches.


def test_requests_in_turn_do_not_mean_swaps_in_turn() -> None:
    stage = Stage(drain_after_s=1000, bypass_count_max=8)
    for number in range(40):
        stage.ask(number, (A, B)[number % 2])
    loads, model = 1, "a"
    stage.loaded("a")
    while len(stage.scheduler.queue) or stage.scheduler.leases:
        running = list(stage.scheduler.leases)
        stage.now += 1
        stage.release(running[0])
        if stage.sent_away:
            model = "b" if model == "a" else "a"
            stage.unloaded("b" if model == "a" else "a").loaded(model)
            loads += 1

    assert loads <= 4


# What went wrong once.


def test_a_model_loaded_for_an_urgent_request_serves_it() -> None:
    stage = Stage(total=6, drain_after_s=10).ask(0, A).loaded("a").ask(1, B)
    stage.now = 5.0
    stage.ask(2, replace(C, footprint=A.footprint, priority=5))
    stage.release(0)
    assert stage.unloaded("a").loads == ["c"]

    stage.now = 20.0
    assert stage.loaded("c").granted == [2]
    assert stage.release(2).sent_away == ["c"]
    assert stage.unloaded("c").loads == ["b"]


def test_under_exclusive_a_third_line_does_not_take_another_kinds_turn() -> None:
    stage = Stage(total=100, policy="exclusive", drain_after_s=1).ask(0, of_kind("local", "l0")).loaded("l0")
    stage.ask(1, of_kind("ollama", "o")).at(2).ask(2, of_kind("local", "l1")).ask(3, of_kind("local", "l2"))

    stage.at(9).release(0)
    assert stage.sent_away == ["l0"]
    assert stage.unloaded("l0").loads == ["o"]


def test_new_launch_options_stay_when_whoever_brought_them_leaves() -> None:
    old, new = A, replace(A, identity="a2")
    stage = Stage().ask(1, B).loaded("b").ask(2, old).ask(3, new).cancel(3)

    stage.release(1)
    stage.unloaded("b")

    assert stage.scheduler.records["a"].spec.identity == "a2"
