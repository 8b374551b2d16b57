from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.units import format_bytes, format_duration, parse_bytes, parse_duration


@pytest.mark.parametrize("text", ["", "4 XB", "-1", "1e9", "NaN", "4GiB4", "9999999999TiB" * 9, "4,5GB"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 2**64])
def test_a_number_that_cannot_be_a_size_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(value)


@pytest.mark.parametrize("text", ["", "5 minutes", "m5", "--5", "1h-3m", "1e99", "nan"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=2**60))
def test_a_printed_size_reads_back_within_its_rounding(count: int) -> None:
    assert abs(parse_bytes(format_bytes(count)) - count) <= count * 0.051


@given(st.floats(min_value=1, max_value=1e6))
def test_a_printed_duration_reads_back_within_its_rounding(seconds: float) -> None:
    again = parse_duration(format_duration(seconds).replace(" ", ""))

    assert abs(again - seconds) <= max(0.051, 31 if seconds >= 3600 else 0.51)
