"""What Ollama's clients send and see when they have text made."""

from __future__ import annotations

from typing import Any

import pytest

from tests.providers.fake_worker import DONE, HEAD, Step, event, usage

from .data_plane import data_plane

GENERATE: dict[str, Any] = {"model": "tiny", "prompt": "hi", "stream": False}


def text_steps(text: str) -> list[Step]:
    return [
        HEAD,
        event({"choices": [{"index": 0, "text": text, "finish_reason": None}]}),
        event({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}),
        usage(),
        DONE,
    ]


async def test_a_prompt_becomes_a_chat_with_the_models_own_template() -> None:
    async with data_plane() as plane:
        whole = await plane.ask(GENERATE | {"system": "be brief"}, "/api/generate")
        streamed = await plane.ask(GENERATE | {"stream": True}, "/api/generate")

        assert plane.worker.bodies[0]["messages"] == [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
        ]
        assert whole.json()["response"] == "Hello there"
        assert "message" not in whole.json()
        assert [line["response"] for line in streamed.lines()] == ["Hello", " there", ""]
        assert [line["done"] for line in streamed.lines()] == [False, False, True]
        await plane.settled(ok=2)


async def test_a_raw_prompt_is_continued_as_it_is() -> None:
    async with data_plane(lambda _body: text_steps("ho")) as plane:
        answer = await plane.ask(GENERATE | {"raw": True, "prompt": "<s>hi"}, "/api/generate")

        assert plane.worker.bodies[0]["prompt"] == "<s>hi"
        assert "messages" not in plane.worker.bodies[0]
        assert answer.json()["response"] == "ho"


@pytest.mark.parametrize(
    "wrong",
    [
        {"template": "{{ .Prompt }}"},
        {"context": [1, 2, 3]},
        {"raw": True, "system": "x"},
        {"suffix": "end", "system": "x"},
        {"images": ["AAAA"]},
        {"prompt": ["a"]},
    ],
)
async def test_what_is_not_taken_is_refused(wrong: dict[str, Any]) -> None:
    async with data_plane() as plane:
        answer = await plane.ask(GENERATE | wrong, "/api/generate")

        assert answer.status == 400
        assert isinstance(answer.json()["error"], str)
        assert plane.residency.asked == []


async def test_empty_members_that_clients_always_send_are_nothing() -> None:
    empty = {"suffix": "", "system": "", "template": "", "context": [], "raw": False, "format": "", "images": []}
    async with data_plane() as plane:
        answer = await plane.ask(GENERATE | empty | {"options": {}}, "/api/generate")

        assert answer.status == 200
        assert plane.worker.bodies[0]["messages"] == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(("keep_alive", "act"), [(None, "load"), (-1, "load"), (0, "unload")])
async def test_no_prompt_loads_and_unloads(keep_alive: object, act: str) -> None:
    async with data_plane() as plane:
        answer = await plane.ask({"model": "tiny", "keep_alive": keep_alive}, "/api/generate")

        said = answer.json()
        assert plane.standby.asked[0][0] == act
        assert (said["response"], said["done"], said["done_reason"]) == ("", True, act)
        assert "total_duration" not in said


@pytest.mark.parametrize(("default", "status"), [("tiny", 200), (None, 400)])
async def test_a_request_that_names_no_model_gets_the_default_one(default: str | None, status: int) -> None:
    async with data_plane(default_model=default) as plane:
        answer = await plane.ask({"prompt": "hi", "stream": False}, "/api/generate")

        assert answer.status == status
