"""The picture of `top`: widths, bars, choices; and the screen at a real terminal."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.cli.session import Session
from modelyard.cli.terminal import Terminal
from modelyard.cli.top.picture import Line, Row, bar, moved, picture, rows_of, seen
from modelyard.cli.widths import cut, width
from modelyard.types.memory import DeviceReading
from modelyard.types.status import DeviceStatus, NodeStatus, RequestStatus, Residency, ResidentStatus, WaitStatus
from tests.cli.conftest import run, typed_terminal
from tests.cli.served import real_server
from tests.client.yard_server import YardServer

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

    for words in (
        "模型",
        "loading 43 %",
        "reading the prompt 60 %",
        "place 2",
        "out of memory",
        "models 1.0 GiB",
        "measured 2.0 GiB",
    ):
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


def test_a_model_stays_chosen_when_it_is_pinned() -> None:
    free, pinned = resident("a"), replace(resident("a"), pinned=True)
    chosen = rows_of(replace(status(), residents=(free,)))[0]
    lines = picture(session(), replace(status(), residents=(pinned,)), 80, chosen)

    assert [one.text.split()[0] for one in lines if one.style == "chosen"] == ["a"]


@given(st.integers(1, 60), st.integers(0, 39), st.integers(1, 50))
def test_the_chosen_line_is_always_in_the_window(count: int, at: int, rows: int) -> None:
    lines = [Line(str(place), "chosen" if place == at else "") for place in range(count)]
    found = seen(lines, rows)

    assert len(found) == min(rows, count)
    assert at >= count or lines[at] in found
    assert found == lines[int(found[0].text) :][: len(found)]


def test_long_names_keep_the_columns_in_line() -> None:
    whole = replace(status(), residents=(resident("a" * 60), resident("模型" * 30), resident("b")))
    lines = [one.text for one in picture(session(), whole, 80) if "1.0 GiB  1/4" in one.text]

    assert len(lines) == 3
    assert len({width(line.partition("1.0 GiB")[0]) for line in lines}) == 1


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
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as asking:
        try:
            with typed_terminal("top") as terminal:
                terminal.wait_for("nerating")  # over another phase only the letters that differ are drawn
                terminal.type("jj")
                terminal.type("x")
                terminal.wait_for("Cancel request")
                terminal.type("y")
                terminal.wait_for("(none)")
                terminal.type("q")
                assert terminal.exit_code() == 0
            _answer, said = asking.communicate(timeout=60)
        finally:
            asking.kill()

    assert asking.returncode == 1
    assert "cancelled" in said
    assert json.loads(run("ps", "-o", "json").stdout)["requests"] == []


@contextmanager
def between(url: str) -> Iterator[tuple[str, threading.Event, threading.Event]]:
    """The server behind an address of its own: once `is_silent`, what is asked is taken and never answered.

    The last event says that something was asked since.
    """
    host, _colon, port = url.removeprefix("http://").partition(":")
    is_silent, was_asked = threading.Event(), threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if is_silent.is_set():
                    was_asked.set()
                    continue
                target.sendall(data)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                near, _address = listening.accept()
            except OSError:
                return
            far = socket.create_connection((host, int(port)))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=copy, args=(one, other), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", is_silent, was_asked
    finally:
        listening.close()


@pytest.mark.usefixtures("_fresh")
def test_a_server_that_is_silent_is_said_to_be_and_holds_nobody(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with between(url) as (address, is_silent, was_asked):
        monkeypatch.setenv("MODELYARD_URL", address)
        with typed_terminal("top") as terminal:
            terminal.wait_for("leave")
            is_silent.set()
            terminal.wait_for("no answer for")
            assert was_asked.is_set()
            terminal.type("q")

            assert terminal.exit_code() == 0


@pytest.mark.usefixtures("_fresh")
def test_what_may_not_be_done_is_said_until_the_next_key(server: YardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_URL", server.url)
    with typed_terminal("top") as terminal:
        terminal.wait_for("leave")
        terminal.type("jjj")
        terminal.type("x")
        terminal.wait_for("Cancel request r-1?")
        terminal.type("y")
        terminal.wait_for("\u26a0")
        terminal.type("k")
        terminal.wait_for("choose")
        terminal.type("u")
        terminal.wait_for("Unload mixed and free 4.0 GiB?")
        terminal.type("n")
        terminal.wait_for("choose")
        terminal.type("q")

        assert terminal.exit_code() == 0
    assert not any("/unload" in path for _method, path, _body in server.seen)


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TTY_INTERACTIVE": "0"}])
def test_a_terminal_that_cannot_be_drawn_on_gets_one_picture(
    server: YardServer, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    monkeypatch.setenv("MODELYARD_URL", server.url)
    with typed_terminal("top", environment=environment) as terminal:
        terminal.wait_for("In memory")

        assert terminal.exit_code() == 0
        assert "\x1b" not in terminal.seen
