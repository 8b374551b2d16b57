"""One log line for every act of an operator: who, what, on what, how it ended; written before its result is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from modelyard.errors import YardError

from .keys import Caller

TARGET_CHARS_MAX = 300

log = structlog.get_logger()


@contextmanager
def audited(caller: Caller, act: str, target: str) -> Iterator[None]:
    """The block is the act."""
    result = "failed"
    try:
        yield
        result = "done"
    except YardError as error:
        result = error.code
        raise
    except asyncio.CancelledError:
        result = "cancelled"
        raise
    finally:
        safe_target = target if target.isprintable() else ascii(target)  # nobody writes a second line
        log.info("admin.act", who=caller.id, act=act, target=safe_target[:TARGET_CHARS_MAX], result=result)
