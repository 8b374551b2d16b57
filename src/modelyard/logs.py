"""Logs as events with fields, written by a thread of their own: a slow disk or terminal never stalls a request.

Lines that come faster than they can be written are dropped, counted, and the count is logged. What libraries say
through Python's own logging goes the same way. Never logs the values of local variables: prompts and keys are there.
"""

from __future__ import annotations

import io
import json
import logging
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

import orjson


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """As if a package were not installed, for whoever is imported in the block."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


# It takes rich up wherever that is installed, for tracebacks that we never print: 5 MB and a sixth of a small start.
# So the servers import this file before all others that log.
with _hidden("rich"):
    import structlog

BACKLOG_LINES_MAX = 10_000
CLOSE_S = 1.0
_END = b"\0the end"  # told by identity: an empty line is a line


class LogWriter:
    """Takes finished lines from any thread, writes them in one."""

    def __init__(self, stream: BinaryIO) -> None:
        self.dropped_count = 0
        self._stream = _unbuffered(stream)
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
                self._put(b"".join(each + b"\n" for each in batch if each is not _END))
                if self.dropped_count:
                    count, self.dropped_count = self.dropped_count, 0
                    self._put(orjson.dumps({"event": "log.lines_dropped", "count": count}) + b"\n")
            except (OSError, ValueError):  # nobody reads any more: serving goes on
                return
            if ended:
                return

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._stream.write(rest) or len(rest) :]


def _unbuffered(stream: BinaryIO) -> BinaryIO | io.FileIO:
    """The file below a stream. A thread that hangs in a buffered stream holds its lock, and whoever else writes there
    hangs with it; a thread that hangs in the kernel holds nothing.
    """
    try:
        return io.FileIO(stream.fileno(), "wb", closefd=False)
    except (OSError, ValueError):
        return stream


class _Lines:
    """What structlog writes to: one method per level, all the same."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = self.exception = write


class _Libraries(logging.Handler):
    """What libraries say through `logging`, as events like ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        event, text = "library.log", record.getMessage().strip()
        if record.levelno >= logging.ERROR:
            log.error(event, logger=record.name, text=text, exc_info=record.exc_info or None)
        else:
            log.warning(event, logger=record.name, text=text)


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
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(_console(colors=target.isatty()) if is_console else _json()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_names: _Lines(writer.line),
        cache_logger_on_first_use=False,  # loggers outlive this configuration in tests and embedded servers
    )
    libraries = _Libraries(logging.WARNING)
    logging.root.addHandler(libraries)
    try:
        yield writer
    finally:
        logging.root.removeHandler(libraries)
        writer.close()
        structlog.reset_defaults()


def _console(*, colors: bool) -> list[Any]:
    render = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
    return [render, lambda _logger, _name, text: text.encode(errors="backslashreplace")]


def _json() -> list[Any]:
    failures = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [
        structlog.processors.ExceptionRenderer(failures),
        structlog.processors.JSONRenderer(serializer=_serialized),
    ]


def _serialized(fields: dict[str, Any], *, default: Callable[[Any], Any]) -> bytes:
    try:
        return orjson.dumps(fields, default=default)
    except TypeError:  # a path that is not UTF-8, a number of more than 64 bits: a line that cannot be written is lost
        return json.dumps(fields, default=default, skipkeys=True).encode()
