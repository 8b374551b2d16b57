"""Who leaves: only as many as needed, the cheapest to bring back."""

from hypothesis import given
from hypothesis import strategies as st

from modelyard.memory.eviction import Candidate, cost_of_return, relief, victims


def gpu(model: str, count: int, cost: float) -> Candidate:
    return Candidate(model, {"gpu0": count}, cost)


def test_nobody_leaves_when_nothing_is_short() -> None:
    assert victims({}, [gpu("a", 4, 1)]) == ()


def test_the_cheapest_that_suffices_leaves() -> None:
    assert victims({"gpu0": 4}, [gpu("dear", 4, 9), gpu("cheap", 4, 1)]) == ("cheap",)


def test_nobody_is_touched_when_all_together_do_not_suffice() -> None:
    assert victims({"gpu0": 9}, [gpu("a", 4, 1), gpu("b", 4, 1)]) is None


def test_a_model_that_holds_nothing_there_is_left_alone() -> None:
    assert victims({"gpu0": 4}, [Candidate("other", {"ram": 99}, 0), gpu("a", 4, 1)]) == ("a",)


def test_a_small_one_is_spared_when_a_bigger_one_has_to_go_anyway() -> None:
    assert victims({"gpu0": 8}, [gpu("small", 2, 1), gpu("big", 8, 5)]) == ("big",)


def test_one_alone_leaves_if_that_is_cheaper_than_two() -> None:
    assert victims({"gpu0": 6}, [gpu("a", 3, 2), gpu("b", 3, 2), gpu("c", 6, 3)]) == ("c",)


def test_two_leave_if_that_is_cheaper_than_one() -> None:
    assert victims({"gpu0": 6}, [gpu("a", 3, 1), gpu("b", 3, 1), gpu("c", 6, 3)]) == ("a", "b")


def test_every_short_device_is_served() -> None:
    chosen = victims({"gpu0": 2, "ram": 2}, [gpu("a", 2, 1), Candidate("b", {"ram": 2}, 1)])

    assert chosen == ("a", "b")


def test_equal_costs_are_decided_by_name() -> None:
    assert victims({"gpu0": 1}, [gpu("b", 1, 1), gpu("a", 1, 1)]) == ("a",)


def test_relief_takes_what_helps_even_if_it_does_not_suffice() -> None:
    assert relief({"gpu0": 99}, [gpu("b", 1, 1), gpu("a", 1, 1), Candidate("c", {"ram": 1}, 0)]) == ("a", "b")
    assert relief({"gpu0": 1}, [gpu("b", 1, 1), gpu("a", 1, 1)]) == ("a",)


def test_long_idle_is_cheap_and_busy_is_dear() -> None:
    assert cost_of_return(10, idle_s=100) < cost_of_return(10, idle_s=0)
    assert cost_of_return(100, idle_s=0) > cost_of_return(1, idle_s=0) > 0
    assert cost_of_return(1, idle_s=0, leases=2) > cost_of_return(100, idle_s=0, leases=1) - 60
    assert cost_of_return(0, idle_s=0) > 0


CANDIDATES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 5)), max_size=6, unique_by=lambda x: x
).map(lambda rows: [Candidate(f"m{n}", {"gpu0": g, "ram": r}, float(c)) for n, (g, r, c) in enumerate(rows)])


@given(CANDIDATES, st.integers(0, 20), st.integers(0, 20))
def test_the_chosen_suffice_and_none_of_them_is_spare(candidates: list[Candidate], gpu0: int, ram: int) -> None:
    short = {device: count for device, count in (("gpu0", gpu0), ("ram", ram)) if count}
    by_name = {one.model: one for one in candidates}

    chosen = victims(short, candidates)

    def given_back(names: tuple[str, ...], device: str) -> int:
        return sum(by_name[name].bytes[device] for name in names)

    if chosen is None:
        assert any(given_back(tuple(by_name), device) < count for device, count in short.items())
        return
    assert all(given_back(chosen, device) >= count for device, count in short.items())
    for spare in chosen:
        rest = tuple(name for name in chosen if name != spare)
        assert any(given_back(rest, device) < count for device, count in short.items())
