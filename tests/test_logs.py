from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading

import pytest
import structlog

from modelyard import logs
from modelyard.logs import LogWriter, logging_to

SECRET = "canary-in-a-local-variable"


def fail() -> None:
    prompt = SECRET
    raise ValueError("of an error", len(prompt))


def lines(stream: io.BytesIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_its_fields() -> None:
    stream = io.BytesIO()
    with logging_to(stream):
        structlog.get_logger().info("model.loaded", model="a\nb", took_s=1.5)

    (line,) = lines(stream)
    assert (line["event"], line["model"], line["took_s"], line["level"]) == ("model.loaded", "a\nb", 1.5, "info")


def test_below_the_level_nothing_is_logged() -> None:
    stream = io.BytesIO()
    with logging_to(stream, level="warning"):
        structlog.get_logger().info("quiet")
        structlog.get_logger().warning("loud")

    assert [line["event"] for line in lines(stream)] == ["loud"]


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_traceback_shows_no_local_variables(format: str) -> None:
    stream = io.BytesIO()
    with logging_to(stream, format=format):  # type: ignore[arg-type]
        try:
            fail()
        except ValueError:
            structlog.get_logger().exception("failed")
            logging.getLogger("some.library").exception("failed too")

    text = stream.getvalue().decode()
    assert text.count("of an error") >= 2
    assert "test_logs.py" in text
    assert SECRET not in text


@pytest.mark.parametrize("format", ["json", "console"])
def test_what_cannot_be_encoded_is_logged_all_the_same(format: str) -> None:
    stream = io.BytesIO()
    with logging_to(stream, format=format):  # type: ignore[arg-type]
        structlog.get_logger().info("folder", path=os.fsdecode(b"caf\xe9.gguf"), bytes=2**70)

    assert b"caf\\udce9.gguf" in stream.getvalue()


def test_libraries_log_the_same_way() -> None:
    stream = io.BytesIO()
    with logging_to(stream):
        logging.getLogger("some.library").warning("odd: %s", 7)
        logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("later")

    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["text"]) == ("library.log", "some.library", "odd: 7")


class Gate(io.RawIOBase):
    """A stream that lets through nothing before it is opened."""

    def __init__(self) -> None:
        self.opened, self.entered = threading.Event(), threading.Event()
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.entered.set()
        self.opened.wait(60)
        self.written += bytes(data)  # type: ignore[call-overload]
        return len(bytes(data))  # type: ignore[call-overload]


def test_lines_that_nobody_takes_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "BACKLOG_LINES_MAX", 5)
    gate = Gate()
    writer = LogWriter(gate)  # type: ignore[arg-type]
    writer.line(b"first")
    assert gate.entered.wait(60)
    for number in range(8):
        writer.line(b"%d" % number)
    assert writer.dropped_count == 3

    gate.opened.set()
    writer.close()

    written = gate.written.splitlines()
    written.remove(b'{"event":"log.lines_dropped","count":3}')
    assert written == [b"first", b"0", b"1", b"2", b"3", b"4"]


def test_a_reader_that_is_gone_ends_the_writing_and_nothing_else() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as stream, logging_to(stream) as writer:
        for _number in range(100):
            structlog.get_logger().info("said")
        writer.close()


def test_a_process_ends_in_order_while_nobody_reads_its_log() -> None:
    program = (
        "import sys, structlog\n"
        "from modelyard.logs import logging_to\n"
        "with logging_to():\n"
        "    for n in range(2000): structlog.get_logger().info('said', text='x' * 100)\n"
        "sys.exit(7)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as process:
        try:
            assert process.wait(60) == 7
        finally:
            process.kill()
