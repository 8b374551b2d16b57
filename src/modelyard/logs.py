"""Logs as events with fields, written by a thread of their own: a slow disk or terminal never stalls a request.

Lines that come faster than they can be written are dropped, counted, and the count is logged.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

import orjson
import structlog

BACKLOG_LINES_MAX = 10_000
CLOSE_S = 2.0
_END = b""


class LogWriter:
    """Takes finished lines from any thread, writes them in one."""

    def __init__(self, stream: BinaryIO) -> None:
        self.dropped_count = 0
        self._stream = stream
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="logs", daemon=True)
        self._thread.start()

    def line(self, line: bytes) -> None:
        if self._lines.qsize() >= BACKLOG_LINES_MAX:
            self.dropped_count += 1
        else:
            self._lines.put(line)

    def close(self) -> None:
        """Write what is left, for a bounded time."""
        self._lines.put(_END)
        self._thread.join(CLOSE_S)

    def _write(self) -> None:
        while (line := self._lines.get()) is not _END:
            batch = [line]
            while not self._lines.empty() and batch[-1] is not _END:
                batch.append(self._lines.get())
            ended = batch[-1] is _END
            try:
                self._stream.write(b"".join(each + b"\n" for each in batch if each is not _END))
                if self.dropped_count:
                    count, self.dropped_count = self.dropped_count, 0
                    self._stream.write(orjson.dumps({"event": "log.lines_dropped", "count": count}) + b"\n")
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more: serving goes on
                return
            if ended:
                return


class _Lines:
    """What structlog writes to: one method per level, all the same."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = self.exception = write


@contextmanager
def logging_to(
    stream: BinaryIO | None = None,
    *,
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["auto", "console", "json"] = "auto",
) -> Iterator[LogWriter]:
    """Log to a stream (standard error) until the block ends. Console lines on a terminal, else JSON."""
    target = sys.stderr.buffer if stream is None else stream
    is_console = format == "console" or (format == "auto" and target.isatty())
    writer = LogWriter(target)
    renderer: list[Any] = (
        [structlog.dev.ConsoleRenderer(colors=target.isatty()), lambda _logger, _name, text: text.encode()]
        if is_console
        else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(serializer=orjson.dumps)]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_names: _Lines(writer.line),
        cache_logger_on_first_use=False,  # loggers outlive this configuration in tests and embedded servers
    )
    try:
        yield writer
    finally:
        writer.close()
        structlog.reset_defaults()
