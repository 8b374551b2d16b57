"""The picture of `top`: widths, bars, choices; and the screen at a real terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.cli.session import Session
from modelyard.cli.terminal import Terminal
from modelyard.cli.top.picture import Row, bar, moved, picture, rows_of
from modelyard.cli.widths import cut, width
from modelyard.types.memory import DeviceReading
from modelyard.types.status import DeviceStatus, NodeStatus, RequestStatus, Residency, ResidentStatus, WaitStatus
from tests.cli.conftest import run, typed_terminal
from tests.cli.served import real_server

GIB = 1024**3


def device(reserved: int = GIB, foreign: int = GIB, headroom: int = GIB) -> DeviceStatus:
    reading = DeviceReading("ram", "RAM", 16 * GIB, 8 * GIB)
    return DeviceStatus(reading, headroom, 14 * GIB, reserved, foreign, free_bytes=4 * GIB)


def resident(name: str, **known: object) -> ResidentStatus:
    given: dict[str, object] = {"measured_bytes": {"ram": GIB}, "expires_in_s": 60.0, **known}
    return ResidentStatus(
        name, "echo", Residency.RESIDENT, 1, False, 4, 1, 0, 2048, {"ram": GIB}, footprint_source="formula",
        loaded_at=0.0, load_s=1.0, **given,  # type: ignore[arg-type]
    )  # fmt: skip


def status() -> NodeStatus:
    request = RequestStatus("req-1", "模型", "alice", "prefill", 2.0, 0, prompt_ratio=0.6)
    waits = RequestStatus("req-2", "b", "bob", "queued", 1.0, 0, wait=WaitStatus("b", 2, "memory", 1.0, 3.0))
    return NodeStatus(
        "1.0", 0.0, True, False, (device(),), (resident("模型"), resident("b\x1b[2J", progress=0.43, phase="loading")),
        requests=(request, waits), waiting=(WaitStatus("b", 2, "memory", 1.0, 3.0),), failures={"c": "out of memory"},
    )  # fmt: skip


def session() -> Session:
    return Session(Terminal("en", {}), {})


@given(st.integers(20, 160))
def test_no_line_is_wider_than_the_window(columns: int) -> None:
    assert all(width(line.text) <= max(columns, 20) for line in picture(session(), status(), columns))


def test_everything_that_goes_on_is_in_the_picture_and_nothing_moves_the_cursor() -> None:
    text = "\n".join(line.text for line in picture(session(), status(), 120))

    for words in ("模型", "loading 43 %", "reading the prompt 60 %", "place 2", "out of memory", "1.0 GiB for models"):
        assert words in text
    assert "\x1b" not in text


@given(st.integers(0, 20 * GIB), st.integers(-GIB, 20 * GIB), st.integers(0, 20 * GIB), st.integers(10, 50))
def test_a_bar_is_always_as_wide_as_it_should_be(reserved: int, foreign: int, headroom: int, columns: int) -> None:
    drawn = bar(device(reserved, foreign, headroom), columns)

    assert len(drawn) == columns
    assert ("█" in drawn) == (reserved > 0)


def test_choices_stay_within_what_there_is() -> None:
    rows = rows_of(status())

    assert moved(rows, None, 1) == rows[0]
    assert moved(rows, rows[0], -1) == rows[0]
    assert moved(rows, rows[-1], 1) == rows[-1]
    assert moved(rows, Row("request", "gone"), 1) == rows[0]
    assert moved([], None, 1) is None


def test_a_cut_text_ends_with_a_mark() -> None:
    assert cut("模型模型", 5) == "模型…"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = "[models]\nbuiltin = false\n[models.echo.slow]\ntokens_per_s = 20\nreply_tokens = 100000\n"
    with real_server(tmp_path_factory.mktemp("top"), config) as address:
        yield address


@pytest.mark.usefixtures("_fresh")
def test_a_request_is_cancelled_from_the_screen(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_URL", url)
    command = [sys.executable, "-m", "modelyard.cli", "ask", "-m", "slow", "hi"]
    asking = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with typed_terminal("top") as terminal:
        terminal.wait_for("generating")
        terminal.type("jj")
        terminal.type("x")
        terminal.wait_for("Cancel request")
        terminal.type("y")
        terminal.wait_for("(none)")
        terminal.type("q")
        assert terminal.exit_code() == 0
    _answer, said = asking.communicate(timeout=60)

    assert asking.returncode == 1
    assert "cancelled" in said
    assert json.loads(run("ps", "-o", "json").stdout)["requests"] == []
