"""The examples in docstrings are tests of the functions they stand in."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["modelyard.units", "modelyard.errors", "modelyard.types.model", "modelyard.words"])
def test_docstring_examples_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))

    assert result.attempted > 0
    assert result.failed == 0
