"""A server that sends us elsewhere is refused by every client we have: nobody goes there, and no key does.

Every public question of every client is asked, so one that is added later is asked too, or fails here by its name.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from modelyard.client.http import YardClient
from modelyard.client.ollama import OllamaService
from modelyard.client.ollama_retry import Retries
from modelyard.client.ollama_sync import SyncOllamaService
from modelyard.client.openai_chat import OpenAIClient
from modelyard.clock import SystemClock
from modelyard.errors import CapabilityMissing, YardError
from modelyard.providers.base import NodeControl, NodeModels, NodeProvider
from modelyard.providers.deadlines import Deadlines
from modelyard.providers.node_address import Address
from modelyard.providers.node_http import NodeConnections
from modelyard.providers.ollama import OllamaProvider
from modelyard.providers.ollama_control import OllamaControl
from modelyard.providers.ollama_residents import OllamaResidents
from modelyard.providers.openai import OpenAIProvider
from modelyard.providers.openai_control import OpenAIControl
from modelyard.providers.ticket import Ticket
from modelyard.residency.ports import SharedNode
from modelyard.testing import FakeOllama, FakeOpenAI, Script
from modelyard.testing.server import FakeServer
from modelyard.types.chat import InferenceRequest, Message
from modelyard.types.embeddings import EmbedRequest, RerankRequest
from modelyard.types.model import Model, model_at
from tests.support.fleet import fleet

KEY = "sk-sesame-open-redirect"
STATUSES = (301, 302, 303, 307, 308)
HELLO = [{"role": "user", "content": "x"}]
CLOCK, DEADLINES = SystemClock(), Deadlines(first_token_s=5, between_tokens_s=5)
# Said by a health check in place of an error, and what ends the use of a client: neither is an answer.
IS_BOOLEAN, ENDS = {"health_check"}, {"close"}
Ask = Callable[[], Any]


@dataclass
class Elsewhere:
    """Another origin: whatever comes there is written down."""

    connections: int = 0
    read: bytes = b""
    _server: asyncio.Server | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        assert self._server is not None, "it listens"
        return f"127.0.0.2:{self._server.sockets[0].getsockname()[1]}"

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                self.read += await reader.read(65_536)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def __aenter__(self) -> Elsewhere:
        self._server = await asyncio.start_server(self._take, "127.0.0.2", 0)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._server is not None, "it listens"
        self._server.close()


class SendsOn(FakeServer):
    """Answers every request by the address of somebody else."""

    def __init__(self, status: int, to: str) -> None:
        super().__init__()
        self.script = Script(status=status, headers={"Location": to})

    def is_question(self, one: object) -> bool:
        return True

    def refusal(self, status: int, text: str) -> object:
        return {}


@asynccontextmanager
async def sent_on(status: int) -> AsyncIterator[tuple[SendsOn, Elsewhere]]:
    """A server that sends whoever asks to another host, and that host."""
    async with Elsewhere() as elsewhere, SendsOn(status, f"http://{elsewhere.host}/api/chat?x=1") as server:
        yield server, elsewhere


# ---- every client, and every question it can be asked ----


def ticket() -> Ticket:
    return Ticket("t", request_id="r", route="/v1/x", caller_id="me", started_at=CLOCK.monotonic())


async def answered(provider: NodeProvider, model: Model) -> None:
    asked = ticket()
    request = InferenceRequest(model.name, messages=(Message("user", "x"),))
    with asked:
        async with provider.answer(model, request, asked) as chunks:
            async for _ in chunks:
                pass


def data_plane(provider: NodeProvider, model: Model) -> dict[str, Ask]:
    return {
        "answer": lambda: answered(provider, model),
        "embed": lambda: provider.embed(model, EmbedRequest(model.name, ("x",)), ticket()),
        "rerank": lambda: provider.rerank(model, RerankRequest(model.name, "x", ("y",)), ticket()),
    }


def control(eye: Any, model: Model) -> dict[str, Ask]:
    return {
        "look": eye.look, "probe": lambda: eye.probe(model), "load": lambda: eye.load("m"),
        "unload": lambda: eye.unload("m"), "show": lambda: eye.show("m"), "pull": lambda: eye.pull("m"),
        "delete": lambda: eye.delete("m"), "copy": lambda: eye.copy("m", "n"),
    }  # fmt: skip


def of_service(service: Any) -> dict[str, Ask]:
    """The Ollama client and its twin: each plain, and each streamed where it can be."""
    return {
        "generate": lambda: service.generate("m", "x"), "generate streamed": lambda: service.generate("m", "x", True),
        "chat": lambda: service.chat("m", HELLO), "chat streamed": lambda: service.chat("m", HELLO, True),
        "embed": lambda: service.embed("m", "x"), "list_models": service.list_models,
        "show_model": lambda: service.show_model("m"), "ps": service.ps, "load": lambda: service.load("m"),
        "unload": lambda: service.unload("m"), "pull_model": lambda: service.pull_model("m"),
        "version": service.version, "health_check": service.health_check,
    }  # fmt: skip


def of_client(client: YardClient) -> dict[str, Ask]:
    def chat() -> None:
        with client.chat("m", [Message("user", "x")]) as stream:
            list(stream)

    return {
        "models": client.models, "show": lambda: client.show("m"), "status": client.status,
        "load": lambda: client.load("m"), "unload": lambda: client.unload("m"),
        "pin": lambda: client.pin("m", pinned=True), "nodes": client.nodes,
        "edit_node": lambda: client.edit_node("n", weight=1), "check_node": lambda: client.check_node("n"),
        "chat": chat, "pull": lambda: client.pull("m"), "delete": lambda: client.delete("m"), "check": client.check,
        "rescan": client.rescan, "describe": lambda: client.describe("m"), "cancel": lambda: client.cancel("r1"),
    }  # fmt: skip


def of_openai(client: OpenAIClient) -> dict[str, Ask]:
    return {
        "ollama_version": client.ollama_version, "models": client.models, "embed": lambda: client.embed("m", "x"),
        "chat": lambda: client.chat("m", [{"role": "user", "content": "x"}]),
    }  # fmt: skip


def of_residents(node: OllamaResidents) -> dict[str, Ask]:
    return {"residents": node.residents, "load": lambda: node.load("m"), "unload": lambda: node.unload("m")}


def public(*kinds: type) -> set[str]:
    """What can be asked of such an object, by its class."""
    found = {name for kind in kinds for name, _value in inspect.getmembers(kind, inspect.isfunction)}
    return {name for name in found if not name.startswith("_")} - ENDS


async def outcome(ask: Ask) -> BaseException | object:
    """What becomes of one question, whichever way it is asked."""
    try:
        told = ask()
        if inspect.isawaitable(told):
            told = await told
        if hasattr(told, "__aiter__"):
            return [one async for one in told]
        return list(told) if hasattr(told, "__next__") else told
    except YardError as error:
        return error


async def checked(asks: Mapping[str, Ask], *, blocking: bool = False) -> None:
    """Every question ends in an error of ours that says what happened, and shows neither key nor address."""
    for name, ask in asks.items():
        told = await (asyncio.to_thread(asyncio.run, outcome(ask)) if blocking else outcome(ask))
        if name in IS_BOOLEAN:
            assert told is False, name
            continue
        assert isinstance(told, YardError), f"{name}: {told!r}"
        if isinstance(told, CapabilityMissing):
            continue  # known without asking anybody
        assert any(word in str(told) for word in ("redirect", "30", "failed")), f"{name}: {told}"
        assert KEY not in f"{told!r} {told} {told.__cause__!r}", name


def unasked(asks: Iterable[str], *kinds: type) -> set[str]:
    return public(*kinds) - {name.partition(" ")[0] for name in asks}


@pytest.mark.parametrize("status", STATUSES)
async def test_no_client_of_ours_goes_where_a_server_sends_it(status: int) -> None:
    async with sent_on(status) as (server, elsewhere):
        address = Address.parse(server.url)
        data, other = NodeConnections(address), NodeConnections(address)
        model, ours = model_at("n", "ollama", "m"), model_at("n", "openai", "m")
        ollama_asks = data_plane(OllamaProvider("n", data, CLOCK, DEADLINES, key=KEY), model)
        openai_asks = data_plane(OpenAIProvider("n", data, CLOCK, DEADLINES, key=KEY), ours)
        eye_asks = control(OllamaControl("n", other, CLOCK, key=KEY), model)
        openai_eye = OpenAIControl("n", other, key=KEY)
        openai_eye_asks = {"look": openai_eye.look, "probe": lambda: openai_eye.probe(ours)}
        for asks in (ollama_asks, openai_asks, eye_asks, openai_eye_asks):
            await checked(asks)
        residents_asks: dict[str, Ask] = {}
        async with OllamaResidents("n", server.url, ("ram",), CLOCK, unload_s=2) as node:
            residents_asks = of_residents(node)
            await checked(residents_asks)
        async with OllamaService(server.url, key=KEY, retries=Retries(attempts_max=1, pull_attempts_max=1)) as service:
            service_asks = of_service(service)
            await checked(service_asks)
        with SyncOllamaService(server.url, key=KEY, retries=Retries(attempts_max=1, pull_attempts_max=1)) as twin:
            twin_asks = of_service(twin)
            await checked(twin_asks, blocking=True)
        with YardClient(server.url, KEY) as client:
            client_asks = of_client(client)
            await checked(client_asks, blocking=True)
        openai_client = OpenAIClient(server.url, KEY)
        openai_client_asks = of_openai(openai_client)
        await checked(openai_client_asks)
        await openai_client.close()
        data.close()
        other.close()
        asked = len(server.requests)

    assert (elsewhere.connections, elsewhere.read) == (0, b"")
    assert asked >= 50  # it was the server that sent them on, each time
    assert unasked(ollama_asks, NodeProvider) == unasked(openai_asks, NodeProvider) == set()
    assert unasked(eye_asks, NodeControl, NodeModels) == set()
    assert unasked(openai_eye_asks, NodeControl) == set()
    assert unasked(residents_asks, SharedNode) == set()
    assert unasked(service_asks, OllamaService) == unasked(twin_asks, SyncOllamaService) == set()
    assert unasked(client_asks, YardClient) == unasked(openai_client_asks, OpenAIClient) == set()


class HoldsNothing(FakeOllama):
    """Says that nothing is in its memory: so it is never probed."""

    @property
    def residents(self) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("kind", [HoldsNothing, FakeOpenAI])
async def test_a_server_of_ours_sends_no_request_on_and_tells_callers_why(
    kind: type[HoldsNothing] | type[FakeOpenAI], tmp_path: Any
) -> None:
    secret = tmp_path / "key"
    secret.write_text(KEY)
    async with Elsewhere() as elsewhere:
        node = kind(["m"], key=KEY)
        async with fleet({"far": node}, {"routing": {"retry_floor": 0}}, key=f"file:{secret}") as yard:
            answers = []
            for status in STATUSES:
                for stream in (True, False):
                    for location in (f"http://{elsewhere.host}/x", f"//{elsewhere.host}/", f"https://{elsewhere.host}"):
                        node.play(replace(Script(), status=status, headers={"Location": location}), times=1)
                        answers.append(await yard.ask(stream=stream))
                        assert (await yard.ask()).is_whole  # so that it is asked again at once
            asked = len(node.questions)
            log = yard.server.text()

    assert {(one.status, one.code) for one in answers} == {(502, "upstream_invalid_response")}
    assert asked == 2 * len(answers)
    assert (elsewhere.connections, elsewhere.read) == (0, b"")
    assert KEY not in log
