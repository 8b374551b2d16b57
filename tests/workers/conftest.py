"""A short private folder: socket paths must stay below the kernel's limit, and pytest's own are too long."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="my"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
