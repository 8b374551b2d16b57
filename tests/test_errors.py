from __future__ import annotations

import re

import pytest

from modelyard import errors
from modelyard.errors import InsufficientMemory, ModelNotFound, YardError


def tree(root: type[YardError] = YardError) -> list[type[YardError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in tree(child))]


def test_every_error_is_drawn_in_the_tree_with_its_code() -> None:
    drawing = errors.__doc__ or ""

    for error in tree():
        if error.__module__ == "modelyard.errors":
            assert re.search(rf"\b{error.__name__}\s+{error.code}\b", drawing), error


def test_every_code_belongs_to_one_error() -> None:
    codes = [error.code for error in tree()]

    assert len(codes) == len(set(codes))


def test_an_error_is_readable_without_a_dictionary() -> None:
    error = ModelNotFound(model="lama", near="llama")

    assert str(error) == "There is no model named lama."
    assert error.suggestions == ("Did you mean: llama?", "`modelyard list` shows every model.")


def test_a_hint_whose_values_are_unknown_is_left_out() -> None:
    assert ModelNotFound(model="lama").suggestions == ("`modelyard list` shows every model.",)


@pytest.mark.parametrize("never", [True, False])
def test_a_memory_error_tells_the_hopeless_case(never: bool) -> None:
    assert InsufficientMemory(model="m", never=never).never_fits is never


def test_braces_in_a_value_are_not_templates() -> None:
    assert str(YardError("said {what}", what="{model}")) == "said {model}"
