"""The ranking on made-up traffic, beside other ways to choose a node: fewer loads, and less waiting."""

from __future__ import annotations

import pytest
from bench.routing import FOUR, is_ahead, outcomes
from bench.routing_traces import SHAPES

SEED, REQUESTS = 1, 1500
SHAPES_TO_LEAD = tuple(name for name in SHAPES if name != "a node fails")


@pytest.mark.parametrize("shape", SHAPES_TO_LEAD)
def test_ours_loads_less_and_waits_less_than_four_others(shape: str) -> None:
    found = outcomes(shape, SEED, REQUESTS)

    assert is_ahead(found, FOUR), found


def test_the_same_seed_comes_to_the_same() -> None:
    assert outcomes("steady", 3, 300) == outcomes("steady", 3, 300)
