"""Whether a model fits: budgets, headroom, foreign use, and honest refusals."""

from hypothesis import given
from hypothesis import strategies as st

from modelyard.memory.eviction import Candidate
from modelyard.memory.planner import (
    Ledger,
    NoFit,
    Plan,
    add,
    corrected,
    foreign_bytes,
    in_use,
    never_fits,
    overcommit,
    plan,
    raised,
    shortage,
)
from modelyard.types.memory import Footprint, ProcessMemory


def gpu(total: int = 10, headroom: int = 0, foreign: int = 0) -> dict[str, Ledger]:
    return {"gpu0": Ledger("gpu0", total, headroom, foreign)}


def test_what_fits_needs_no_eviction() -> None:
    assert plan({"gpu0": 4}, {"gpu0": 6}, gpu()) == Plan()


def test_headroom_and_foreign_use_are_not_for_models() -> None:
    assert shortage({"gpu0": 4}, {"gpu0": 3}, gpu(headroom=2, foreign=3)) == {"gpu0": 2}


def test_a_device_that_nobody_reads_has_nothing_to_give() -> None:
    assert shortage({"gpu7": 1, "gpu0": 0}, {}, gpu()) == {"gpu7": 1}
    assert never_fits({"gpu7": 1}, gpu()) == NoFit("gpu7", 1, 0, 0, 0, never=True)


def test_what_must_leave_is_named() -> None:
    idle = Candidate("idle", {"gpu0": 6}, 1.0)

    assert plan({"gpu0": 8}, {"gpu0": 6}, gpu(), [idle]) == Plan(("idle",))


def test_a_refusal_has_the_numbers_of_the_tightest_device() -> None:
    ledgers = gpu(headroom=1, foreign=2) | {"ram": Ledger("ram", 100)}
    idle = Candidate("idle", {"gpu0": 2}, 1.0)

    refused = plan({"gpu0": 8, "ram": 1}, {"gpu0": 5}, ledgers, [idle])

    assert refused == NoFit("gpu0", needed_bytes=8, budget_bytes=9, free_bytes=4, foreign_bytes=2, never=False)


def test_what_is_larger_than_the_budget_never_fits() -> None:
    assert never_fits({"gpu0": 10}, gpu(headroom=1)) == NoFit("gpu0", 10, 9, 9, 0, never=True)
    assert never_fits({"gpu0": 9}, gpu(headroom=1, foreign=9)) is None


def test_headroom_larger_than_the_device_leaves_no_budget() -> None:
    assert Ledger("gpu0", total_bytes=1, headroom_bytes=2).budget_bytes == 0


def test_overcommit_is_seen_where_we_hold_something() -> None:
    ledgers = gpu(foreign=8) | {"ram": Ledger("ram", 10, 0, 99)}

    assert overcommit({"gpu0": 5}, ledgers) == {"gpu0": 3}
    assert overcommit({"gpu0": 2}, ledgers) == {}


def test_foreign_use_is_exact_when_all_of_ours_is_known() -> None:
    assert foreign_bytes(used=10, known=4, unknown_max=0, last=99) == 6
    assert foreign_bytes(used=3, known=4, unknown_max=0, last=0) == 0


def test_foreign_use_stays_as_it_was_while_a_worker_grows() -> None:
    assert foreign_bytes(used=10, known=4, unknown_max=5, last=3) == 3
    assert foreign_bytes(used=10, known=4, unknown_max=5, last=0) == 1, "more is used than ours could be"
    assert foreign_bytes(used=5, known=4, unknown_max=5, last=9) == 1, "less is used than it was"


def test_measured_ram_only_raises_and_a_measured_gpu_stands() -> None:
    predicted = Footprint({"ram": 100, "gpu0": 50, "gpu1": 5}, band_ratio=0.5)

    assert corrected(predicted, ProcessMemory(80, 999, {"gpu0": 40, "gpu1": 0})) == {"ram": 100, "gpu0": 40, "gpu1": 5}
    assert corrected(predicted, ProcessMemory(120)) == {"ram": 120, "gpu0": 50, "gpu1": 5}


def test_file_backed_memory_is_not_in_use() -> None:
    assert in_use(ProcessMemory(5, 999, {"gpu0": 7})) == {"ram": 5, "gpu0": 7}


def test_a_reservation_follows_growth_and_not_shrinkage() -> None:
    assert raised({"ram": 5}, {"ram": 7, "gpu0": 1}) == {"ram": 7, "gpu0": 1}
    assert raised({"ram": 5}, {"ram": 3}) == {"ram": 5}
    assert raised({"ram": 5}, None) == {"ram": 5}


@given(
    need=st.integers(1, 20),
    held=st.lists(st.integers(1, 8), max_size=5),
    may_leave=st.sets(st.integers(0, 4)),
    foreign=st.integers(0, 10),
)
def test_a_plan_that_is_carried_out_keeps_the_budget(
    need: int, held: list[int], may_leave: set[int], foreign: int
) -> None:
    ledgers = gpu(total=20, headroom=2, foreign=foreign)
    models = {f"m{n}": {"gpu0": count} for n, count in enumerate(held)}
    candidates = [Candidate(f"m{n}", {"gpu0": count}, n) for n, count in enumerate(held) if n in may_leave]

    answer = plan({"gpu0": need}, add(*models.values()), ledgers, candidates)

    if isinstance(answer, Plan):
        left = add({"gpu0": need}, *(count for name, count in models.items() if name not in answer.evict))
        assert left["gpu0"] + foreign <= 18
    else:
        kept = sum(count for n, count in enumerate(held) if n not in may_leave)
        assert need + kept + foreign > 18
        assert answer.never == (need > 18)
