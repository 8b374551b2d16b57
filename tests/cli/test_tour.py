"""The tour, against scripted servers on real sockets: what is said, what is reported, how it ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree

import pytest
from click.testing import Result

from modelyard.testing import FAULTS, FakeOllama, FakeOpenAI, Script
from modelyard.testing.fake_ollama import FakeModel
from modelyard.testing.server import Recorded, Reply
from tests.cli.conftest import run, typed_terminal
from tests.cli.fake_node import served

GB = 1024**3
SHORT = (
    "--load-timeout", "1", "--first-token-timeout", "1", "--between-tokens-timeout", "1",
    "--unload-timeout", "1", "--ps-timeout", "1",
)  # fmt: skip
FINE, HUNG = Script(), Script(header_after_s=1e6)


@contextmanager
def node(*models: FakeModel) -> Iterator[FakeOllama]:
    with served(FakeOllama(models or [FakeModel("a:1b", GB, vram_ratio=1.0)])) as fake:
        yield fake


def tour(fake: FakeOllama | FakeOpenAI, *words: str, language: str = "en", text: str = "") -> Result:
    return run("--lang", language, "tour", "--url", fake.url, *SHORT, *words, text=text)


def report(result: Result) -> dict[str, dict[str, object]]:
    return {one["model"]: one for one in json.loads(result.stdout)["models"]}


def test_a_model_is_loaded_greeted_and_compared() -> None:
    with node(FakeModel("a:1b", 2 * GB, vram_ratio=0.5)) as fake:
        result = tour(fake, "--prompt", "Hello?")

    assert result.exit_code == 0, result.stderr
    assert "🤖 a:1b (2.0 GB)" in result.stderr
    assert "📊 Resources: model size 2.0 GB, VRAM 1.0 GB (50%)" in result.stderr
    assert "A part of the model is in system memory" in result.stderr
    assert "Hello from a fake." in result.stdout
    assert "50%" in result.stdout.splitlines()[-1]
    load, greeting = fake.questions
    assert (load.path, greeting.body["messages"]) == ("/api/generate", [{"role": "user", "content": "Hello?"}])


def test_a_model_on_the_cpu_is_said_to_be_there_without_a_warning() -> None:
    with node(FakeModel("a:1b", GB)) as fake:
        result = tour(fake)

    assert "The model runs on the CPU." in result.stderr
    assert "slower" not in result.stderr


def test_without_models_there_is_a_warning_and_a_clean_end() -> None:
    with served(FakeOllama([])) as fake:
        result = tour(fake)

    assert result.exit_code == 0
    assert "has no models" in result.stderr


def test_what_is_in_memory_leaves_before_a_model() -> None:
    with node(FakeModel("a:1b", GB), FakeModel("b:1b", 2 * GB)) as fake:
        fake.bring_in("a:1b")
        fake.bring_in("b:1b")
        result = tour(fake, "--models", "a:1b")

        assert list(fake.residents) == ["a:1b"]
    assert "🧹 Unloading 2 loaded models to free memory (3.0 GB in all)…" in result.stderr
    assert "✅ b:1b" in result.stderr


def test_with_keep_nothing_leaves() -> None:
    with node(FakeModel("a:1b", GB), FakeModel("b:1b", GB)) as fake:
        fake.bring_in("b:1b")
        result = tour(fake, "--models", "a:1b", "--keep")

        assert sorted(fake.residents) == ["a:1b", "b:1b"]
    assert "🧹" not in result.stderr


def test_a_model_that_does_not_leave_in_time_is_said_to_be_in_use() -> None:
    class Stubborn(FakeOllama):
        @property
        def residents(self) -> dict[str, float]:
            return {**super().residents, "b:1b": 300.0}

    fake = Stubborn([FakeModel("a:1b", GB), FakeModel("b:1b", GB)])
    fake.bring_in("b:1b")
    fake._keep = lambda model, keep_s: None  # type: ignore[method-assign]  # says yes, and does nothing
    with served(fake):
        result = tour(fake, "--models", "a:1b")

    assert "b:1b is still in use" in result.stderr
    assert "✅ b:1b" not in result.stderr
    assert "Hello from a fake." in result.stdout


def test_an_embedding_model_is_asked_for_one_vector() -> None:
    with node(FakeModel("e:1b", GB, capabilities=("embedding",))) as fake:
        result = tour(fake, "-o", "json")

    row = report(result)["e:1b"]
    assert (row["kind"], row["dimensions"], row["outcome"]) == ("embedding", 4, "ok")


# How models fail, the script of its load and of its greeting, what is said in each language, and the report's word.
WAYS = {
    "a load that takes too long": ([HUNG], "timeout", "out_of_memory", (
        "⏱️  No complete answer within 1 seconds", "⏱️  超過 1 秒未完成回應，跳過此模型。",
        "⏱️  超过 1 秒未完成回复，跳过此模型。")),
    "no memory": ([FAULTS["oom"]], "out_of_memory", None, (
        "💥 Out of memory (OOM): this model cannot be loaded or run: ", "💥 記憶體不足 (OOM)，無法載入或執行此模型：",
        "💥 内存不足 (OOM)，无法加载或运行此模型：")),
    "too slow": ([FINE, Script(stall_after=2)], "timeout", "too_slow", (
        "The model began to answer, but too slowly", "模型已開始生成但回應過慢", "模型已开始生成但回复过慢")),
    "no first token": ([FINE, Script(first_after_s=1e6)], "timeout", "load_timeout", (
        "The model is loaded, but its load phase ran out of time", "模型已載入但載入階段逾時",
        "模型已加载但加载阶段超时")),
    "an error of its own": ([FINE, FAULTS["error-event"]], "node_error", None, (
        "❌ Ollama error: the model gave up", "❌ Ollama 錯誤：the model gave up",
        "❌ Ollama 错误：the model gave up")),
    "a broken connection": ([FINE, FAULTS["cut"]], "network", None, (
        "❌ Failed to get an answer: ", "❌ 取得回覆失敗：", "❌ 获取回复失败：")),
}  # fmt: skip


@pytest.mark.parametrize(("column", "language"), list(enumerate(("en", "zh_TW", "zh_CN"))))
@pytest.mark.parametrize("way", WAYS)
def test_a_failure_is_named_explained_and_passed(way: str, column: int, language: str) -> None:
    scripts, outcome, verdict, words = WAYS[way]
    with node(FakeModel("bad:8b", 8 * GB, vram_ratio=1.0), FakeModel("good:1b", GB, vram_ratio=1.0)) as fake:
        for script in scripts:
            fake.play(script, times=1, model="bad:8b")
        result = tour(fake, "-o", "json", language=language)

    rows = report(result)
    assert result.exit_code == 8
    assert words[column] in result.stderr
    assert rows["bad:8b"]["outcome"] == outcome
    assert rows["good:1b"]["outcome"] == "ok"
    if verdict:
        told = rows["bad:8b"]["verdict"]
        assert isinstance(told, dict)
        assert told["code"] == verdict


def test_the_report_can_be_read_as_junit() -> None:
    with node(FakeModel("bad<&>:8b", GB), FakeModel("good:1b", GB)) as fake:
        fake.play(FAULTS["oom"], times=1, model="bad<&>:8b")
        result = tour(fake, "-o", "junit")

    suite = ElementTree.fromstring(result.stdout)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    failed, fine = suite.findall("testcase")
    assert failed.get("name") == "bad<&>:8b"
    assert "cudaMalloc failed" in (failed.findtext("failure") or "")
    assert fine.find("failure") is None


@pytest.mark.parametrize("form", ["jsonl", "yaml", "plain", "table"])
def test_every_form_names_every_model(form: str) -> None:
    with node(FakeModel("a:1b", GB), FakeModel("b:1b", GB)) as fake:
        result = tour(fake, "-o", form)

    assert "a:1b" in result.stdout
    assert "b:1b" in result.stdout


def test_an_unknown_model_is_refused_before_anything_is_done() -> None:
    with node() as fake:
        result = tour(fake, "--models", "a:1b,none")

        assert not fake.questions
    assert result.exit_code == 5
    assert "none" in result.stderr


def test_a_server_of_openai_tells_nothing_of_memory_and_nothing_is_said_of_it() -> None:
    with served(FakeOpenAI(["gpt-x"])) as fake:
        result = tour(fake, "-o", "json")

    row = report(result)["gpt-x"]
    assert result.exit_code == 0, result.stderr
    assert (row["outcome"], row["load_s"], row["size_bytes"]) == ("ok", None, None)
    assert "📊" not in result.stderr


def test_a_server_of_openai_that_is_silent_is_no_guess_about_memory() -> None:
    with served(FakeOpenAI(["gpt-x"])) as fake:
        fake.play(HUNG)
        result = tour(fake, "-o", "json")

    row = report(result)["gpt-x"]
    told = row["verdict"]
    assert isinstance(told, dict)
    assert (row["outcome"], told["code"]) == ("timeout", "unknown")


def test_nobody_there_is_an_error_with_a_way_on() -> None:
    result = run("tour", "--url", "http://127.0.0.1:9")

    assert result.exit_code == 4
    assert "OLLAMA_BASE_URL" in result.stderr


# A person at a terminal.


def test_a_person_talks_to_a_model_which_remembers_and_goes_on_to_the_next() -> None:
    with node(FakeModel("a:1b", GB), FakeModel("b:1b", GB)) as fake:
        with typed_terminal("tour", "--url", fake.url, *SHORT, "--prompt", "Hello?") as terminal:
            terminal.wait_for("Chat with this model?")
            terminal.type("y\r")
            terminal.wait_for(">>>")
            terminal.type("\r")
            terminal.wait_for(">>>")
            terminal.type("And you?\r")
            terminal.wait_for("Hello from a fake.")
            terminal.wait_for(">>>")
            terminal.type("/bye\r")
            terminal.wait_for("b:1b")
            terminal.wait_for("Chat with this model?")
            terminal.type("n\r")
            terminal.wait_for("✅ All models have been visited")
            terminal.wait_for("VERDICT")
            assert terminal.exit_code() == 0
        asked = [one.body["messages"] for one in fake.questions if one.body.get("messages")]
    assert [turn["content"] for turn in asked[1]] == ["Hello?", "Hello from a fake.", "And you?"]


def test_q_leaves_the_tour() -> None:
    with (
        node(FakeModel("a:1b", GB), FakeModel("b:1b", GB)) as fake,
        typed_terminal("tour", "--url", fake.url, *SHORT) as terminal,
    ):
        terminal.wait_for("Chat with this model?")
        terminal.type("q\r")
        terminal.wait_for("VERDICT")
        assert terminal.exit_code() == 0
        assert all(one.body.get("model") != "b:1b" for one in fake.questions)


def test_ctrl_c_skips_the_model_and_ends_its_work_but_not_the_tour() -> None:
    with node(FakeModel("a:1b", GB), FakeModel("b:1b", GB)) as fake:
        fake.play(FINE, times=1, model="a:1b")
        fake.play(Script(stall_after=2), times=1, model="a:1b")
        words = ("tour", "--url", fake.url, "--between-tokens-timeout", "600", "--no-chat")
        with typed_terminal(*words) as terminal:
            terminal.wait_for("Hello from")
            terminal.type("\x03")
            terminal.wait_for("Interrupted")
            terminal.wait_for("b:1b")
            terminal.wait_for("✅ All models have been visited")
            assert terminal.exit_code() == 0
        assert fake.questions[1].left.is_set()


def test_ctrl_c_twice_leaves_the_tour() -> None:
    with node(FakeModel("a:1b", GB), FakeModel("b:1b", GB), FakeModel("c:1b", GB)) as fake:
        fake.play(Script(header_after_s=1e6))
        with typed_terminal("tour", "--url", fake.url, "--no-chat") as terminal:
            terminal.wait_for("Loading the model")
            terminal.type("\x03")
            terminal.wait_for("Interrupted")
            terminal.wait_for("[2/3]")
            terminal.wait_for("Loading the model")
            terminal.type("\x03")
            assert terminal.exit_code() == 128 + signal.SIGINT
        assert all(one.body.get("model") != "c:1b" for one in fake.questions)


# The leaves of the tree that need more than a script of the answer.
LEAVES = {
    "partly_in_ram": (
        "not wholly in VRAM", "模型未完全載入 VRAM，部分使用系統記憶體", "模型未完全加载到 VRAM，部分使用系统内存",
    ),
    "still_loading": ("it is still loading", "模型仍在載入", "模型仍在加载"),
    "unreachable": ("does not answer at all", "伺服器完全沒有回應", "服务器完全没有响应"),
}  # fmt: skip


class Mute(FakeOllama):
    """Hangs with everything, once a question has come."""

    async def answer(self, request: Recorded, reply: Reply) -> None:
        if self.questions:
            await reply.stall()
        else:
            await super().answer(request, reply)


@pytest.mark.parametrize(("column", "language"), list(enumerate(("en", "zh_TW", "zh_CN"))))
@pytest.mark.parametrize("code", LEAVES)
def test_the_other_leaves_are_reached_and_said(code: str, column: int, language: str) -> None:
    models = [FakeModel("bad:8b", 8 * GB, vram_ratio=0.5)]
    with served(Mute(models) if code == "unreachable" else FakeOllama(models)) as fake:
        if code == "partly_in_ram":
            fake.play(FINE, times=1)
            fake.play(Script(first_after_s=1e6), times=1)
        elif code == "still_loading":
            fake.play(HUNG)
            fake.ps_after_s = 1e6
        result = tour(fake, "-o", "json", "--keep", language=language)

    told = report(result)["bad:8b"]["verdict"]
    assert isinstance(told, dict)
    assert told["code"] == code
    assert LEAVES[code][column] in result.stderr
