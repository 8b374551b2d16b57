"""The tour of each kind of server: whom it visits, what leaves memory there, and what cannot be told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelyard.cli.session import Session
from modelyard.cli.terminal import Terminal
from modelyard.cli.tour.meeting import Budgets, Meeting
from modelyard.cli.tour.nodes import TourModel
from modelyard.cli.tour.ollama_node import OllamaNode
from modelyard.cli.tour.visit import Visit
from modelyard.cli.tour.voice import Voice
from modelyard.client import OllamaService, Retries, TimeoutWithDiagnosis
from modelyard.testing import FakeOllama, FakeOpenAI, Script
from modelyard.testing.fake_ollama import FakeModel
from modelyard.testing.server import Recorded, Reply
from tests.cli.conftest import run, start, typed_terminal
from tests.cli.fake_node import served
from tests.cli.served import real_server
from tests.cli.test_tour import GB, SHORT, report, tour
from tests.client.ollama_script import black_hole

KEY, READER = "key-of-the-operator", "key-of-somebody-who-reads"
CONFIG = """
[models]
builtin = false
[models.echo.quick]
[models.echo.other]
[models.echo.pinned]
[models.echo.slow]
tokens_per_s = 20
reply_tokens = 100000
[models.echo.loading]
load_s = 3.0
[[keys]]
id = "operator"
secret = "env:OPERATOR"
rights = ["infer", "read", "admin"]
[[keys]]
id = "reader"
secret = "env:READER"
"""


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    os.environ.update(OPERATOR=KEY, READER=READER)
    with real_server(tmp_path_factory.mktemp("ours"), CONFIG) as url:
        yield url


@pytest.fixture
def _as_operator(ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_URL", ours)
    monkeypatch.setenv("MODELYARD_KEY", KEY)


def residents() -> dict[str, dict[str, object]]:
    return {one["model"]: one for one in json.loads(run("ps", "-o", "json").stdout)["residents"]}


@contextmanager
def being_asked(url: str, model: str) -> Iterator[None]:
    """Somebody else's question, answered as long as the block runs."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": True}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/chat/completions", body, headers)) as answer:
        answer.readline()
        yield


# A server of ours.


@pytest.mark.usefixtures("_as_operator")
def test_at_ours_what_is_pinned_or_busy_stays_and_is_named_and_the_rest_is_measured_back(ours: str) -> None:
    for model in ("other", "pinned"):
        assert run("load", model).exit_code == 0
    assert run("pin", "pinned").exit_code == 0

    with being_asked(ours, "slow"):
        result = run("tour", "--models", "quick", "-o", "json")
        left = residents()

    assert run("pin", "--off", "pinned").exit_code == 0
    assert run("unload", "slow", "--yes").exit_code == 0
    assert result.exit_code == 0, result.stderr
    assert "Modelyard at" in result.stderr
    assert "📌 pinned is pinned and stays" in result.stderr
    assert "⏸️  slow is still in use" in result.stderr
    assert "🧹 Unloading 1 loaded model" in result.stderr
    assert "✅ other" in result.stderr
    assert "came back" in result.stderr
    assert sorted(left) == ["pinned", "quick", "slow"]
    assert report(result)["quick"]["outcome"] == "ok"


@pytest.mark.usefixtures("_as_operator")
def test_a_load_at_ours_that_moves_gets_more_time_than_its_budget() -> None:
    result = run("tour", "--models", "loading", "-o", "json", "--load-timeout", "1.5")

    row = report(result)["loading"]
    assert row["outcome"] == "ok", result.stderr
    assert isinstance(row["load_s"], float)
    assert row["load_s"] > 1.5


def test_without_the_right_to_unload_one_line_says_so_and_the_tour_goes_on(
    ours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELYARD_URL", ours)
    monkeypatch.setenv("MODELYARD_KEY", READER)
    result = run("tour", "--models", "quick,other", "-o", "json")

    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("There is no right to unload models here") == 1
    assert [one["outcome"] for one in report(result).values()] == ["ok", "ok"]


# Whom it visits.


def test_by_default_ours_is_visited_if_it_answers_and_else_ollama(ours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(FakeOllama([FakeModel("a:1b", GB)])) as fake:
        monkeypatch.setenv("OLLAMA_BASE_URL", fake.url)
        monkeypatch.setenv("MODELYARD_KEY", KEY)
        monkeypatch.setenv("MODELYARD_URL", ours)
        at_ours = run("tour", "--models", "quick", "-o", "json")
        monkeypatch.setenv("MODELYARD_URL", "http://127.0.0.1:9")
        at_ollama = run("tour", "-o", "json", *SHORT)

        assert all("authorization" not in one.headers for one in fake.requests)  # our key is not for others
    assert json.loads(at_ours.stdout)["url"] == ours
    assert json.loads(at_ollama.stdout)["url"] == fake.url


def test_a_list_that_does_not_come_ends_the_tour_with_the_budget_that_ran_out() -> None:
    class Silent(FakeOllama):
        async def answer(self, request: Recorded, reply: Reply) -> None:
            if request.path == "/api/tags":
                await reply.stall()
            else:
                await super().answer(request, reply)

    with served(Silent()) as fake:
        result = tour(fake, "--list-timeout", "0.3")

    assert result.exit_code == 7
    assert "did not list its models within 0.3 s (--list-timeout)" in result.stderr


async def test_a_connection_that_does_not_come_about_is_a_budget_too() -> None:
    with black_hole() as url:
        service = OllamaService(url, retries=Retries(attempts_max=1), connect_timeout=0.3)
        node = OllamaNode(service, ps_budget_s=0.5)
        session = Session(Terminal("en", {}), {})
        voice = Voice(session, "json")
        meeting = Meeting(session.terminal, node, voice, Budgets(connect_s=0.3), shows_resources=True)
        with pytest.raises(TimeoutWithDiagnosis) as caught:
            await meeting.greet(TourModel("m:8b"), Visit("m:8b"), "Hi")
        await node.close()

    verdict = caught.value.fields["verdict"]
    assert isinstance(verdict, dict)
    assert verdict["code"] == "unreachable"
    assert (caught.value.fields["phase"], caught.value.fields["flag"]) == ("connect", "--connect-timeout")


# An OpenAI-compatible server.


def test_at_a_server_of_openai_a_model_that_refuses_to_chat_is_asked_for_a_vector() -> None:
    with served(FakeOpenAI(["embedder", "talker"])) as fake:
        fake.play(Script(status=400, error="This model does not support chat."), times=1, model="embedder")
        result = tour(fake, "-o", "json")

    rows = report(result)
    assert result.exit_code == 0, result.stderr
    assert (rows["embedder"]["kind"], rows["embedder"]["dimensions"]) == ("embedding", 4)
    assert rows["talker"]["kind"] == "chat"


def test_a_server_of_openai_that_refuses_both_has_an_error_of_its_own() -> None:
    with served(FakeOpenAI(["broken"])) as fake:
        fake.play(Script(status=500, error="no luck today"))
        result = tour(fake, "-o", "json")

    assert result.exit_code == 8
    assert report(result)["broken"]["outcome"] == "node_error"
    assert "❌ OpenAI error: no luck today" in result.stderr


def test_a_server_of_openai_that_says_nothing_more_at_all_holds_nobody_up() -> None:
    class Stuck(FakeOpenAI):
        has_listed = False

        async def answer(self, request: Recorded, reply: Reply) -> None:
            if request.path == "/v1/models":
                if self.has_listed:
                    await reply.stall()
                self.has_listed = True
            await super().answer(request, reply)

    with served(Stuck(["gpt-x"])) as fake:
        fake.play(Script(header_after_s=1e6))
        result = tour(fake, "-o", "json")

    told = report(result)["gpt-x"]["verdict"]
    assert isinstance(told, dict)
    assert told["code"] == "unreachable"


# An Ollama server.


def test_what_others_have_in_memory_elsewhere_stays_unless_it_is_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelyard.cli.tour.guide._is_here", lambda url: False)  # every test server is here
    with served(FakeOllama([FakeModel("a:1b", GB), FakeModel("b:1b", GB), FakeModel("mine:1b", GB)])) as fake:
        fake.bring_in("b:1b")
        result = tour(fake, "--no-chat", "--models", "a:1b,mine:1b")
        stayed = "b:1b" in fake.residents
        agreed = tour(fake, "--yes", "--models", "a:1b")

        assert list(fake.residents) == ["a:1b"]
    assert stayed
    assert result.stderr.count("has models in memory that this tour did not load: b:1b (1.0 GB)") == 1
    assert "They stay; --yes unloads them." in result.stderr
    assert "did not load" not in agreed.stderr


def test_memory_that_is_not_told_is_not_made_up() -> None:
    class Older(FakeOllama):
        def _running(self, name: str) -> dict[str, object]:
            return {key: value for key, value in super()._running(name).items() if key != "size_vram"}

    with served(Older([FakeModel("a:1b", GB, vram_ratio=1.0)])) as fake:
        result = tour(fake, "--no-chat")

    assert "📊 Resources: model size 1.0 GB\n" in result.stderr
    assert "CPU" not in result.stderr
    assert "0%" not in result.stdout


def test_an_answer_without_a_token_is_no_greeting() -> None:
    with served(FakeOllama([FakeModel("mute:1b", GB)])) as fake:
        fake.play(Script(), times=1)
        fake.play(Script(tokens=()), times=1)
        result = tour(fake, "-o", "json")

    assert result.exit_code == 8
    assert report(result)["mute:1b"]["outcome"] == "node_error"
    assert "mute:1b ended its answer without a single token." in result.stderr


def test_a_lack_of_memory_has_a_verdict_with_its_confidence() -> None:
    with served(FakeOllama([FakeModel("big:70b", 40 * GB)])) as fake:
        fake.play(Script(status=500, error="model requires more system memory (40 GiB) than is available (8 GiB)"))
        result = tour(fake, "-o", "json")

    row = report(result)["big:70b"]
    told = row["verdict"]
    assert isinstance(told, dict)
    assert (told["code"], told["confidence"]) == ("out_of_memory", 0.6)
    assert row["suggestions"] == ["Unload what else is in memory, or use a smaller model, quantisation or context."]


def test_the_flag_that_gives_more_time_is_named() -> None:
    with served(FakeOllama([FakeModel("slow:8b", GB, vram_ratio=1.0)])) as fake:
        fake.play(Script(), times=1)
        fake.play(Script(stall_after=2), times=1)
        result = tour(fake, "-o", "json")

    suggestions = report(result)["slow:8b"]["suggestions"]
    assert isinstance(suggestions, list)
    assert suggestions[-1] == "Or give it more time: --between-tokens-timeout 2"


def test_scripts_get_names_numbers_and_words_that_do_not_change() -> None:
    with served(FakeOllama([FakeModel("gpt-oss:120b-cloud", 1), FakeModel("a:1b", GB, vram_ratio=0.5)])) as fake:
        result = tour(fake, "-o", "plain", language="zh_TW")

    cloud, local = (line.split("\t") for line in result.stdout.splitlines())
    assert (cloud[0], cloud[1], cloud[-1]) == ("gpt-oss:120b-cloud", "-", "ok")
    assert (local[0], local[4], local[5], local[6]) == ("a:1b", str(GB), "0.500", "ok")
    assert float(local[1]) >= 0
    assert "雲端" in result.stderr


HOLDS = """
import asyncio, sys
from modelyard.testing.fake_ollama import FakeModel, FakeOllama

class Holding(FakeOllama):
    kept = b""
    def _keep(self, model, keep_s):
        super()._keep(model, keep_s)
        self.kept = b"x" * model.size if model.name in self.residents else b""

async def main():
    async with Holding([FakeModel("big:1b", 200 * 1024**2), FakeModel("a:1b", 1000)]) as fake:
        fake._keep(fake.models["big:1b"], 300)
        print(fake.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_on_this_machine_a_model_has_left_when_its_memory_has_come_back(tmp_path: Path) -> None:
    """A process named as Ollama's server, which really holds what it says."""
    program = tmp_path / "ollama"
    program.symlink_to(sys.executable)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [str(program), "-c", HOLDS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            result = run("tour", "--url", url, "--models", "a:1b", "--no-chat", *SHORT, "--unload-timeout", "20")
        finally:
            process.kill()

    line = next(line for line in result.stderr.splitlines() if "big:1b" in line)
    assert "✅ big:1b (" in line
    assert "came back" in line


# A person at a terminal.


def test_what_a_model_thinks_is_shown_beside_its_answer() -> None:
    with served(FakeOllama([FakeModel("a:1b", GB)])) as fake:
        fake.play(Script(thinking="Let me see. ", tokens=("Well", ".")))
        with typed_terminal("tour", "--url", fake.url, *SHORT, "--no-chat") as terminal:
            terminal.wait_for("Let me see.")
            terminal.wait_for("Well.")
            assert terminal.exit_code() == 0


def test_an_error_in_a_chat_is_shown_and_the_chat_goes_on() -> None:
    with served(FakeOllama([FakeModel("a:1b", GB)])) as fake:
        for script in (Script(), Script(), Script(stall_after=2)):  # the load, the greeting, the first question
            fake.play(script, times=1)
        with typed_terminal("tour", "--url", fake.url, *SHORT, "--chat-timeout", "0.5") as terminal:
            terminal.wait_for("Chat with this model?")
            terminal.type("y\r")
            terminal.wait_for(">>>")
            terminal.type("Hm?\r")
            terminal.wait_for("No complete answer within 0.5 seconds.\r\n")
            terminal.wait_for("--chat-timeout 1")
            terminal.wait_for(">>>")
            terminal.type("Again?\r")
            terminal.wait_for("Hello from a fake.")
            terminal.wait_for(">>>")
            terminal.type("q\r")
            terminal.wait_for("All models have been visited")
            assert terminal.exit_code() == 0


def test_an_answer_that_nobody_sees_is_no_chat() -> None:
    """Piped: the tour greets and goes on, and asks nothing."""
    with served(FakeOllama([FakeModel("a:1b", GB)])) as fake:
        process = start("tour", "--url", fake.url, *SHORT)
        out, errors = process.communicate(timeout=60)

    assert process.returncode == 0
    assert b"Hello from a fake." in out
    assert b"Chat with this model?" not in errors
