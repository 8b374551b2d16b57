"""Simulated traffic: our way to choose a node against four others. The whole table is `make bench-routing`."""

from __future__ import annotations

import pytest
from bench.routing import FOUR, STRICT, main, outcomes, together
from bench.routing_traces import SHAPES, make_trace

SEEDS = (101, 102, 103)
COUNT = 1000


@pytest.mark.parametrize("name", SHAPES)
def test_ours_loads_less_and_answers_sooner_than_each_of_the_four(name: str) -> None:
    found = [outcomes(name, seed, COUNT) for seed in SEEDS]

    loads, p95_s = together(found, "ours")
    for other in FOUR:
        assert loads < together(found, other)[0], f"{other}: {found}"
        assert p95_s < together(found, other)[1], f"{other}: {found}"


def test_the_same_seed_gives_the_same_figures() -> None:
    assert outcomes("bursty", 7, 200) == outcomes("bursty", 7, 200)
    assert make_trace("bursty", 7, 50) != make_trace("bursty", 8, 50)


def test_the_table_names_every_way_and_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--seed", "5", "--requests", "60", "--seeds", "1"])

    printed = capsys.readouterr().out
    assert all(way in printed for way in (*FOUR, STRICT, "ours", *SHAPES, "seed 5"))
