"""One server with every engine, shared by the whole suite: its workers are loaded once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import Server, serving

from .cases import CASES, Case, configuration


@pytest.fixture(scope="session")
def yard() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="my") as folder, serving(configuration(Path(folder))) as server:
        yield server


@pytest.fixture(params=CASES, ids=lambda case: case.engine)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found
