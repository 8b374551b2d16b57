"""Official clients, and one that leaves, against every engine that embeds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import ollama
import openai
import pytest

from tests.support.minilm import WIDTH
from tests.support.node import Server, client, fetch, resident, until


@pytest.fixture
def official(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_openais_client_gets_packed_vectors_and_unpacks_them(official: openai.OpenAI, embedder: str) -> None:
    packed = official.embeddings.create(model=embedder, input=["one text", "another"])
    plain = official.embeddings.create(model=embedder, input="another", encoding_format="float", dimensions=32)

    assert [len(one.embedding) for one in packed.data] == [WIDTH, WIDTH]
    assert [one.index for one in packed.data] == [0, 1]
    assert packed.usage.prompt_tokens == 7
    assert len(plain.data[0].embedding) == 32
    with pytest.raises(openai.BadRequestError, match="embed"):
        official.embeddings.create(model="yardling", input="a")


def test_ollamas_client_embeds(server: Server, embedder: str) -> None:
    with ollama.Client(server.url) as native:
        several = native.embed(embedder, ["one text", "another"])
        one = native.embeddings(embedder, "another")

        assert [len(vector) for vector in several.embeddings] == [WIDTH, WIDTH]
        assert several.prompt_eval_count == 7
        assert list(one.embedding) == pytest.approx(list(several.embeddings[1]), abs=1e-4)


async def test_who_leaves_ends_the_work_and_the_next_is_served(server: Server, embedder: str) -> None:
    many = json.dumps({"model": embedder, "input": ["some words to read and to think about " * 20] * 1500}).encode()
    async with client() as session:

        async def is_working() -> bool:
            status = await fetch(session, server, "/admin/status")
            return any(one["phase"] == "prefill" for one in status["requests"])

        async def is_idle() -> bool:
            found = await resident(session, server, embedder)
            return found is not None and found["leases"] == 0

        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(many)}\r\n\r\n".encode() + many)
        await until(is_working, "the worker reads")
        writer.close()

        await until(is_idle, "the slot is free again", deadline_s=15)
        assert not await reader.read(1)
        answer = await fetch(session, server, "/v1/embeddings", "POST", json={"model": embedder, "input": "a"})
        assert len(answer["data"][0]["embedding"]) == WIDTH
