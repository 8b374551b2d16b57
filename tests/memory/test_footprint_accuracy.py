"""The formula against the engine's own allocator, on files with real models' numbers and no weights in them."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest
from tools.footprint_accuracy import CONTEXTS, KINDS, Case, cases, measure, summary
from tools.gguf_zoo import ZOO

from modelyard.memory.footprint import FORMULA_BAND_RATIO
from tests.support.counts import PROVE, tell

ERROR_RATIO_MAX = 0.03  # in the middle
ARCHITECTURES_MIN = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


async def test_the_formula_says_what_the_engine_asks_for(folder: Path) -> None:
    """In the suite each shape once, with another cache format and context for each; all of them under `make prove`."""
    some = [(name, KINDS[n % len(KINDS)], CONTEXTS[n // len(KINDS) % len(CONTEXTS)]) for n, name in enumerate(ZOO)]

    found: list[Case] = await measure(cases(ZOO) if PROVE else some, folder)

    tell("\n".join(summary(found)))
    assert len(ZOO) >= ARCHITECTURES_MIN
    assert median(abs(case.error_ratio) for case in found) <= ERROR_RATIO_MAX
    for case in found:
        assert case.error_ratio > -FORMULA_BAND_RATIO, f"{case} is predicted too low"
        assert case.asked["kv"] or case.model.startswith("mamba"), f"{case}: nothing was kept"


async def test_a_cache_format_and_a_context_change_what_they_should(folder: Path) -> None:
    name = "qwen3-8b"
    found = await measure(cases([name], KINDS, (8192,)) + cases([name], ("f16",), (32768,)), folder)

    by_case = {(case.kind, case.context): case for case in found}
    full, small = by_case["f16", 8192], by_case["q4_0", 8192]
    assert small.asked["kv"] * 64 == full.asked["kv"] * 18
    assert small.predicted["kv"] == small.asked["kv"]
    assert by_case["f16", 32768].predicted["kv"] == 4 * full.predicted["kv"]
