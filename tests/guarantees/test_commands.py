"""Models that commands serve, in a whole node: asked like any other, out of reach of every API, gone with the node."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from modelyard import demo
from tests.support import llama_server, openai_server
from tests.support.counts import count
from tests.support.node import (
    Answer,
    Server,
    ask,
    chat_body,
    client,
    fetch,
    ready,
    resident,
    running,
    serving,
    short_folder,
    start_server,
    stopped,
    until,
)

KILLS = count(suite=2, prove=100)
CANARY = "canary-5d1f7b2e90"
PLAIN = f"{sys.executable} {openai_server.__file__}"
LLAMA = f"{sys.executable} {llama_server.__file__} --port {{port}} -m {{model_path}} --api-key {{token}}"


def config(**commands: dict[str, Any]) -> dict[str, Any]:
    return {"models": {"builtin": False, "command": commands}, "memory": {"gpus": False}}


EVERYTHING = config(
    llama={
        "command": LLAMA, "model_path": str(demo.gguf_path()), "has_progress": True, "footprint": "200MiB",
        "context_length": 1024,
    },
    uds={"command": f"{PLAIN} --uds {{socket}} --name their-name", "served_name": "their-name", "footprint": "50MiB"},
    tcp={
        "command": f"{PLAIN} --port {{port}} --fault slow-start", "footprint": "50MiB",
        "environment": {"SERVER_API_KEY": "{token}", "HF_TOKEN": "env:MINE", "LEVEL": "high"},
    },
    cut={"command": f"{PLAIN} --uds {{socket}} --fault no-done", "footprint": "50MiB"},
    exits={"command": f"{PLAIN} --port {{port}} --fault exit", "footprint": "50MiB"},
)  # fmt: skip


@pytest.fixture(scope="module")
def node() -> Iterator[Server]:
    with serving(EVERYTHING, environment={"MINE": CANARY, "OPENAI_API_KEY": CANARY}) as server:
        yield server


def commands_of(server: Server, program: str) -> list[psutil.Process]:
    """The running servers of a program, not their guardians."""
    return [one for one in server.workers() if one.cmdline()[1:2] == [program]]


@pytest.mark.parametrize("model", ["llama", "uds", "tcp"])
async def test_a_command_answers_like_any_other_model(node: Server, model: str) -> None:
    async with client() as session:
        whole = await ask(session, node, model, content="hi", max_tokens=3, temperature=0)
        streamed = await ask(
            session, node, model, content="hi", max_tokens=3, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        body = {"model": model, "messages": chat_body(model, "hi")["messages"], "options": {"num_predict": 3}}
        ollama = await fetch(session, node, "/api/chat", "POST", json={**body, "stream": False})

    assert whole.status == 200, whole.body
    text = whole.json["choices"][0]["message"]["content"]
    assert text
    assert streamed.text == text
    assert streamed.done
    assert whole.json["usage"]["completion_tokens"] == 3
    assert streamed.frames[-1]["usage"]["completion_tokens"] == 3
    assert ollama["eval_count"] == 3
    assert whole.json["model"] == model


async def test_an_answer_nobody_waits_for_any_more_is_stopped(node: Server) -> None:
    async with client() as session:
        body = chat_body("tcp", "go", stream=True, max_tokens=100_000)
        async with session.post(f"{node.url}/v1/chat/completions", json=body) as response:
            await response.content.readline()
        counted: dict[str, Any] = {}

        async def is_cancelled() -> bool:
            status = await fetch(session, node, "/admin/status")
            counted.update(status)
            return not status["requests"] and not any(one["leases"] for one in status["residents"])

        await until(is_cancelled, "the lease is back")


async def test_what_the_server_refuses_is_told_as_what_it_is(node: Server) -> None:
    async with client() as session:
        too_long = await ask(session, node, "uds", content="too long")

    assert too_long.status == 400
    assert too_long.error is not None
    assert too_long.error["code"] == "context_length_exceeded"
    assert "100" in too_long.error["message"]


async def test_an_answer_that_is_cut_never_looks_complete(node: Server) -> None:
    async with client() as session:
        answer = await ask(session, node, "cut", content="x", max_tokens=5, stream=True)

    assert answer.error is not None
    assert answer.error["code"] == "upstream_invalid_response"
    assert answer.finish is None
    assert not answer.done


async def test_a_command_that_falls_silent_is_a_stall_though_it_tells_no_progress() -> None:
    given = config(stuck={"command": f"{PLAIN} --uds {{socket}} --fault stuck", "footprint": "50MiB"})
    async with running({**given, "deadlines": {"between_tokens_s": 1}}) as server, client() as session:
        answer = await ask(session, server, "stuck", content="x", max_tokens=5, stream=True)

    assert answer.error is not None
    assert answer.error["code"] == "upstream_stalled"
    assert not answer.done


async def test_a_command_that_exits_is_a_typed_error(node: Server) -> None:
    async with client() as session:
        answer = await ask(session, node, "exits")

    assert answer.status == 503
    assert answer.error is not None
    assert answer.error["code"] == "model_load_failed"
    assert openai_server.__file__ not in json.dumps(answer.error)


async def test_operators_see_and_move_it_and_secrets_are_nowhere(node: Server) -> None:
    async with client() as session:
        await fetch(session, node, "/admin/models/tcp/unload", "POST", json={})
        await fetch(session, node, "/admin/models/tcp/load", "POST", json={})
        loaded = await resident(session, node, "tcp")
        shown = await fetch(session, node, "/v1/models/tcp")
        told = [
            await fetch(session, node, path)
            for path in ("/admin/status", "/admin/config", "/v1/models", "/v1/models/tcp", "/api/tags", "/api/ps")
        ]
        found = commands_of(node, openai_server.__file__)
        environments = [one.environ() for one in found]
        await fetch(session, node, "/admin/models/tcp/unload", "POST", json={})
        gone = await resident(session, node, "tcp")

    assert loaded is not None
    assert loaded["state"] == "resident"
    assert gone is None
    assert "tcp" in json.dumps(shown)
    mine = next(one for one in environments if one.get("LEVEL") == "high")
    assert mine["HF_TOKEN"] == CANARY  # what it was given,
    assert "OPENAI_API_KEY" not in mine  # and nothing else
    for text in (json.dumps(told), node.text()):
        assert CANARY not in text
        assert mine["SERVER_API_KEY"] not in text


async def test_nothing_that_an_api_says_reaches_a_command(node: Server, tmp_path: Path) -> None:
    hostile = f"; touch {tmp_path}/canary"
    fields = {
        "command": f"touch {tmp_path}/canary", "argv": ["touch"], "model_path": hostile, "port": 1, "socket": hostile,
        "environment": {"LD_PRELOAD": hostile}, "served_name": hostile, "stop_command": hostile, "user": hostile,
        "metadata": {"a": hostile}, "keep_alive": "5m", "options": {"num_ctx": 123456, "model_path": hostile},
    }  # fmt: skip
    async with client() as session:
        await ask(session, node, "uds")
        before = [one.cmdline() for one in commands_of(node, openai_server.__file__)]
        for name in ("uds", "-x", "--help", "uds --port 1", f"uds{hostile}", "{port}", "../uds", "uds\0", "uds@x"):
            for path in ("/v1/chat/completions", "/api/chat", "/api/generate"):
                body = {**fields, "model": name, "prompt": hostile, "messages": [{"role": "user", "content": hostile}]}
                async with session.post(f"{node.url}{path}", json=body) as response:
                    await response.read()
                    assert response.status < 500
        for name in ("uds", "-x", "%2e%2e%2fuds", f"uds{hostile}"):
            async with session.post(f"{node.url}/admin/models/{name}/load", json=fields) as response:
                assert response.status in (400, 404)
        await fetch(session, node, "/admin/models/uds/unload", "POST", json={})
        await fetch(session, node, "/admin/models/uds/load", "POST", json={})
        after = [one.cmdline() for one in commands_of(node, openai_server.__file__)]

    def shape(lines: list[list[str]]) -> list[list[str]]:
        return sorted([part for part in line if ".sock" not in part and not part.isdecimal()] for line in lines)

    assert shape(after) == shape(before)
    assert hostile not in json.dumps(after)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("number", range(KILLS))
async def test_no_command_outlives_a_killed_node(number: int) -> None:
    wrapper = "setsid sleep 600 & (setsid sh -c 'sleep 600 & sleep 600' &) ; exec \"$@\""
    given = config(
        forks={"command": f"{PLAIN} --port {{port}} --fault double-fork", "footprint": "20MiB"},
        stubborn={"command": f"{PLAIN} --uds {{socket}} --fault ignore-term", "footprint": "20MiB"},
        wrapped={
            "command": ["/bin/sh", "-c", wrapper, "sh", *PLAIN.split(), "--port", "{port}"], "footprint": "20MiB",
        },
    )  # fmt: skip
    with short_folder() as folder:
        server = await ready(start_server(folder, given))
        async with client() as session:
            answers = await asyncio.gather(*(ask(session, server, name) for name in ("forks", "stubborn", "wrapped")))
            assert [answer.status for answer in answers] == [200] * 3
        workers = server.workers()
        assert len(workers) >= 3 * 2 + 2 + 4

        server.signal(signal.SIGKILL)
        server.process.wait()

        await until(lambda: not any(one.is_running() and one.status() != "zombie" for one in workers), "all are gone")


async def test_a_command_of_unknown_size_is_measured_at_its_first_load_and_that_is_remembered() -> None:
    given = config(a={"command": f"{PLAIN} --uds {{socket}}"})
    with short_folder() as folder:

        async def footprint(server: Server) -> dict[str, Any]:
            async with client() as session:
                return dict((await fetch(session, server, "/v1/models/a"))["modelyard"]["footprint"])

        server = await ready(start_server(folder, given))
        before = await footprint(server)
        async with client() as session:
            answer = await ask(session, server, "a")
        await stopped(server)
        server = await ready(start_server(folder, given))
        after = await footprint(server)
        await stopped(server)

    assert answer.status == 200
    assert before["source"] == "unknown"
    assert after["source"] == "measured"
    assert after["bytes"]["ram"] > 5 * 1024**2


async def test_a_changed_command_counts_from_the_next_load_and_a_removed_one_leaves() -> None:
    given = config(
        a={"command": f"{PLAIN} --uds {{socket}}", "footprint": "20MiB"},
        b={"command": f"{PLAIN} --uds {{socket}}", "footprint": "20MiB"},
    )
    async with running(given) as server, client() as session:
        for name in ("a", "b"):
            assert (await ask(session, server, name)).status == 200
        old = {one.pid for one in commands_of(server, openai_server.__file__)}
        changed = config(a={"command": f"{PLAIN} --uds {{socket}} --name a", "footprint": "20MiB"})
        path = server.folder / "modelyard.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

        async def b_is_gone() -> bool:
            return await resident(session, server, "b") is None

        await until(b_is_gone, "the removed model leaves")
        again: Answer = await ask(session, server, "a")
        missing = await ask(session, server, "b")
        now = commands_of(server, openai_server.__file__)

    assert again.status == 200
    assert missing.status == 404
    assert len(now) == 1
    assert now[0].pid not in old
