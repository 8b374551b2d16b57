"""English texts that are found again by what stands between their values."""

from __future__ import annotations

import pytest

from modelyard.errors import LoadFailed, ModelFileError, said
from modelyard.words import render, told


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("it is not JSON", "不是 JSON"),
        (said("part {number} of {count} is missing", number=2, count=5), "缺少第 2 部分（共 5 部分）"),
        ("m could not be loaded: it is cut (killed by signal KILL)", "無法載入 m：檔案不完整（被信號 KILL 終止）"),
        ("a: looks fail: stall (it is not JSON); b: draining", "a：檢查失敗：stall（不是 JSON）；b：停止派工中"),
        ("what {nobody} says (ever): here", "what {nobody} says (ever): here"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_text_with_its_values_in_it_is_said_in_the_language(english: str, chinese: str) -> None:
    assert told(english, "zh_TW") == chinese
    assert told(english) == english


def test_words_of_ours_inside_an_error_are_translated_and_names_are_not() -> None:
    inner = LoadFailed(model="none", problem="the file is damaged or cut")

    message, _hints = render(LoadFailed(model="thinking", problem=inner), "zh_TW")

    assert message == "無法載入 thinking：無法載入 none：檔案損壞或不完整"


def test_a_long_or_hostile_text_costs_little_and_stays_as_it_is() -> None:
    hostile = "; ".join(["(" * 50 + ": " * 50] * 100)

    message, _hints = render(ModelFileError(path="x.gguf", problem=hostile), "zh_TW")

    assert message.endswith(hostile)
