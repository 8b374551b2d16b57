"""What a person sees at a real terminal, from the first key to the last line.

The tours are kept in docs/transcripts; `MODELYARD_RECORD=1` writes them anew.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from modelyard.cli.widths import width
from modelyard.testing import FAULTS, FakeOllama, FakeOpenAI, Script
from modelyard.testing.fake_ollama import FakeModel
from tests.cli.conftest import run
from tests.cli.fake_node import served
from tests.cli.served import real_server
from tests.support.node import counters
from tests.support.packages import has_program
from tests.support.tmux import same, screen

pytestmark = pytest.mark.skipif(not has_program("tmux"), reason="needs tmux, which could not be installed here")
TRANSCRIPTS = Path(__file__).parents[2] / "docs" / "transcripts"
RECORDS = "MODELYARD_RECORD" in os.environ
GB = 1024**3
BUDGETS = (
    "--load-timeout", "1", "--first-token-timeout", "1", "--between-tokens-timeout", "1",
    "--unload-timeout", "1", "--ps-timeout", "1",
)  # fmt: skip
TABLE = "| 模型 | 大小 |\n|:--|--:|\n| llama3.1:8b | 4.9 GB |\n| 通義千問 | 20 GB |\n"


def five_models() -> FakeOllama:
    """One times out while it loads, one is out of memory, one too slow, one errs, one is fine."""
    fake = FakeOllama([
        FakeModel("llama3.3:70b", int(40.9 * GB)), FakeModel("qwen3-vl:30b", 20 * GB),
        FakeModel("glm-4.7-flash:q8_0", 30 * GB, vram_ratio=0.6), FakeModel("broken:1b", GB, vram_ratio=1.0),
        FakeModel("llama3.1:8b", int(4.9 * GB), vram_ratio=1.0),
    ])  # fmt: skip
    fake.play(Script(header_after_s=1e6), times=1, model="llama3.3:70b")
    fake.play(FAULTS["oom"], times=1, model="qwen3-vl:30b")
    fake.play(Script(), times=1, model="glm-4.7-flash:q8_0")
    fake.play(Script(stall_after=2), times=1, model="glm-4.7-flash:q8_0")
    fake.play(Script(), times=1, model="broken:1b")
    fake.play(FAULTS["error-event"], times=1, model="broken:1b")
    return fake


@pytest.mark.parametrize(("language", "question", "end"), [
    ("en", "Chat with this model?", "All models have been visited"),
    ("zh_TW", "要和這個模型聊聊嗎？", "所有模型測試完成"),
    ("zh_CN", "要和这个模型聊聊吗？", "所有模型测试完成"),
])  # fmt: skip
def test_a_tour_over_five_models_of_which_one_is_fine(tmp_path: Path, language: str, question: str, end: str) -> None:
    with served(five_models()) as fake:
        words = ("--lang", language, "tour", "--url", fake.url, *BUDGETS)
        with screen(tmp_path, *words, rows=70) as window:
            window.wait_for(question)
            window.type("y")
            window.keys("Enter")
            window.wait_for(">>>")
            window.type("And you?")
            window.keys("Enter")
            window.wait_for(">>>", 2)
            window.type("/bye")
            window.keys("Enter")
            window.wait_for(end)
            shown = window.wait_for("exit code 0")

    kept, text = TRANSCRIPTS / f"tour.{language}.txt", same(shown) + "\n"
    if RECORDS:
        kept.write_text(text)
    assert text == kept.read_text(), "MODELYARD_RECORD=1 writes the transcripts anew"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(FakeOpenAI(["table"])) as node:
        node.play(Script(tokens=tuple(TABLE)))
        config = f"""
[models]
builtin = false
[models.echo.slow]
tokens_per_s = 20
reply_tokens = 100000
[[nodes]]
name = "elsewhere"
kind = "openai"
url = "{node.url}"
"""
        with real_server(tmp_path_factory.mktemp("transcripts"), config) as address:
            yield address


def status(url: str) -> dict[str, object]:
    with urllib.request.urlopen(f"{url}/admin/status") as answer:
        found: dict[str, object] = json.load(answer)
    return found


def test_a_chat_with_a_paste_an_interruption_another_model_and_a_table(url: str, tmp_path: Path) -> None:
    with screen(tmp_path, "chat", "slow", HOME=str(tmp_path), MODELYARD_URL=url) as window:
        window.wait_for(">>>")
        window.paste("first line\nsecond line")
        window.wait_for("second line")
        assert status(url)["requests"] == []  # a pasted end of line sends nothing
        window.keys("Enter")
        window.wait_for("cli-", 4)  # each token begins so
        window.keys("C-c")
        window.wait_for("(interrupted)")
        _generation_has_stopped(url)
        window.type("/model table")
        window.keys("Enter")
        window.wait_for("Now talking to table.")
        window.type("show it")
        window.keys("Enter")
        shown = window.wait_for("通義千問")
        window.type("/bye")
        window.keys("Enter")
        window.wait_for("exit code 0")

    rows = [line for line in shown.splitlines() if "GB" in line]
    assert len(rows) == 2
    assert width(rows[0].rstrip()) == width(rows[1].rstrip())


def test_a_narrow_window_and_a_change_of_its_width_spoil_nothing(url: str, tmp_path: Path) -> None:
    with screen(tmp_path, "chat", "table", columns=24, HOME=str(tmp_path), MODELYARD_URL=url) as window:
        window.wait_for(">>>")
        window.type("show it")
        window.keys("Enter")
        window.wait_for(">>>", 2)
        window.resize(60, 20)
        window.type("again")
        window.keys("Enter")
        window.wait_for(">>>", 3)
        assert window.text().count("通義千問") == 2
        window.keys("C-d")
        window.wait_for("exit code 0")


def test_ctrl_c_ends_a_question_with_130(url: str, tmp_path: Path) -> None:
    with screen(tmp_path, "ask", "-m", "slow", "hi", HOME=str(tmp_path), MODELYARD_URL=url) as window:
        window.wait_for("cli-", 4)
        window.keys("C-c")
        window.wait_for("(the answer is incomplete)")
        window.wait_for("exit code 130")
    _generation_has_stopped(url)


def _generation_has_stopped(url: str) -> None:
    """Nothing is being answered, and the worker itself has stopped making tokens."""
    deadline = time.monotonic() + 30
    while status(url)["requests"]:
        assert time.monotonic() < deadline, "the request is still being answered"
        time.sleep(0.05)
    residents = status(url)["residents"]
    assert isinstance(residents, list)
    (worker,) = [one["pid"] for one in residents if one["model"] == "slow"]
    words = psutil.Process(worker).cmdline()
    socket = Path(words[words.index("--socket") + 1])
    while (counted := asyncio.run(counters(socket)))["running"]:  # the worker's own count
        assert time.monotonic() < deadline, "the worker goes on"
        time.sleep(0.05)
    assert counted["cancelled"] >= 1


def test_help_is_there_in_every_language() -> None:
    assert "Ask one question." in run("--lang", "en", "--help").stdout
    assert "Ask one question." not in run("--lang", "zh_TW", "--help").stdout
