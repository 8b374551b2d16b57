from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(params=["async", "sync"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the Ollama twins."""
    return str(request.param)


@pytest.fixture
def no_logs_set_up() -> Iterator[None]:
    """As in a program that never heard of structlog, whatever ran here before."""
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
    if before is not None:
        structlog.configure(**before)
