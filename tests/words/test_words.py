from __future__ import annotations

import pytest

from modelyard.errors import ModelNotFound
from modelyard.words import language_of, language_of_header, render


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({"LC_ALL": "zh_CN.UTF-8", "LANG": "zh_TW"}, "zh_CN"),
        ({"LC_MESSAGES": "zh_HK"}, "zh_TW"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({}, "en"),
    ],
)
def test_the_first_locale_variable_that_is_set_decides(variables: dict[str, str], language: str) -> None:
    assert language_of(variables) == language


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-TW", "zh_TW"),
        ("zh", "zh_CN"),
        ("de, zh-Hans;q=0.5", "zh_CN"),
        ("en-GB", "en"),
        ("de", None),
        (";q=x", None),
    ],
)
def test_the_accept_language_header_is_read_by_weight(header: str, language: str | None) -> None:
    assert language_of_header(header) == language


def test_an_error_is_rendered_with_its_suggestions() -> None:
    message, hints = render(ModelNotFound(model="x", near="y"))

    assert message == "There is no model named x."
    assert hints == ["Did you mean: y?", "`modelyard list` shows every model."]
