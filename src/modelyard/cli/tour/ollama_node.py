"""The tour's view of an Ollama server, and of a server of ours, which speaks the same and tells more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from modelyard.cli.tour.freed import Held, come_back
from modelyard.cli.tour.nodes import Kind, Left, Piece, TourModel, Turn
from modelyard.client.ollama import OllamaService
from modelyard.client.ollama_budgets import diagnose_timeout, residents_of
from modelyard.client.yard_async import AsyncYardClient
from modelyard.diagnosis.timeouts import Phase, Resident, TimeoutDiagnosis, is_same_model
from modelyard.errors import NotAuthenticated, NotFound, OllamaServiceError, PermissionDenied, YardError
from modelyard.types.status import NodeStatus

LOOK_EVERY_S = 0.1
STATUS_S = 2.0  # for a server of ours to say what it does
NS = 1_000_000_000
SILENCE_S = 86_400.0  # the tour has budgets of its own


class OllamaNode:
    """An Ollama server."""

    kind: Kind = "Ollama"
    tells_memory = True

    def __init__(self, service: OllamaService, *, ps_budget_s: float, held: Held | None = None) -> None:
        """`held` reads what the server holds, where it is on this machine."""
        self.url = service.settings.ollama_base_url
        self._service = service
        self._ps_budget_s = ps_budget_s
        self._held = held

    async def close(self) -> None:
        await self._service.close()

    async def models(self) -> list[TourModel]:
        return [_model(told) for told in await self._service.list_models() if isinstance(told.get("name"), str)]

    async def residents(self) -> list[Resident] | None:
        return await residents_of(self._service, self._ps_budget_s)

    async def held(self) -> Mapping[str, str]:
        return {}

    async def unload(self, model: Resident, budget_s: float) -> Left:
        """The server says yes at once; gone is what `/api/ps` no longer lists, and whose memory came back."""
        name, before = model.name, self._held() if self._held is not None else 0
        is_listed = True
        try:
            async with asyncio.timeout(budget_s):
                await self._service.unload(name)
                while await self._is_listed(name):  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(LOOK_EVERY_S)
                is_listed = False
                back = await come_back(self._held, before, model.size) if self._held is not None else None
                return Left(name, is_gone=True, freed_bytes=back)
        except TimeoutError:
            return Left(name, is_gone=False, kept="busy" if is_listed else "held")
        except OllamaServiceError as error:
            return Left(name, is_gone=False, problem=str(error))

    async def _is_listed(self, name: str) -> bool:
        """Also while the server does not tell."""
        residents = await self.residents()
        return residents is None or any(is_same_model(one.name, name) for one in residents)

    async def makes_embeddings(self, model: str) -> bool | None:
        try:
            told = (await self._service.show_model(model)).get("capabilities")
        except OllamaServiceError:
            return None
        return "embedding" in told and "completion" not in told if isinstance(told, list) else None

    async def load(self, model: str) -> None:
        await self._service.load(model)

    async def progress(self, model: str) -> float | None:
        return None

    async def chat(self, model: str, turns: Sequence[Turn], tokens_max: int | None = None) -> AsyncIterator[Piece]:
        async with await self._service.chat(model, turns, stream=True, num_predict=tokens_max) as stream:
            async for chunk in stream:
                message = chunk.get("message") or {}
                count, took = chunk.get("eval_count"), chunk.get("eval_duration")
                yield Piece(
                    text=str(message.get("content") or ""),
                    thinking=str(message.get("thinking") or ""),
                    tokens=count if isinstance(count, int) else None,
                    generation_s=took / NS if isinstance(took, int) and took > 0 else None,
                )

    async def embed(self, model: str, text: str) -> int:
        return len((await self._service.embed(model, text))[0])

    async def diagnose(self, model: str, phase: Phase, budget_s: float, tokens: int) -> TimeoutDiagnosis:
        aborts = self.kind == "Ollama"
        return await diagnose_timeout(
            self._service, model, phase, budget_s, tokens=tokens, loads_abort=aborts, evidence_s=self._ps_budget_s
        )


class YardNode(OllamaNode):
    """A server of ours: it knows who is busy and pinned, how far a load is, and what an unload gave back."""

    kind: Kind = "Modelyard"

    def __init__(self, service: OllamaService, client: AsyncYardClient, *, ps_budget_s: float) -> None:
        super().__init__(service, ps_budget_s=ps_budget_s)
        self._client = client

    async def close(self) -> None:
        await super().close()
        await self._client.close()

    async def models(self) -> list[TourModel]:
        """By the names people gave them: the tag is there for Ollama's clients only."""
        return [replace(one, name=_untagged(one.name)) for one in await super().models()]

    async def residents(self) -> list[Resident] | None:
        found = await super().residents()
        return None if found is None else [replace(one, name=_untagged(one.name)) for one in found]

    async def held(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for one in (await self._status()).residents:
            if one.pinned:
                found[one.model] = "pinned"
            elif one.leases or one.waiting:
                found[one.model] = "busy"
        return found

    async def unload(self, model: Resident, budget_s: float) -> Left:
        name = model.name
        try:
            async with asyncio.timeout(budget_s):
                receipt = await self._client.unload(name)
        except TimeoutError:
            return Left(name, is_gone=False, kept="busy")
        except (PermissionDenied, NotAuthenticated):
            return Left(name, is_gone=False, kept="forbidden")
        except NotFound:  # a model at one of its nodes, which has no name of its own here
            return await super().unload(model, budget_s)
        except YardError as error:
            return Left(name, is_gone=False, problem=str(error))
        freed = receipt.worker.anonymous_bytes + sum(receipt.worker.gpu_bytes.values()) if receipt else None
        return Left(name, is_gone=True, freed_bytes=freed)

    async def progress(self, model: str) -> float | None:
        for one in (await self._status()).residents:
            if is_same_model(one.model, model):
                return one.progress
        return None

    async def _status(self) -> NodeStatus:
        """Everything the server tells; nothing, where we have no right to know or it takes its time."""
        with suppress(YardError, TimeoutError):
            async with asyncio.timeout(STATUS_S):
                return await self._client.status()
        return NodeStatus("", 0.0, ready=True, draining=False)


def _untagged(name: str) -> str:
    return name.removesuffix(":latest")


def _model(told: dict[str, Any]) -> TourModel:
    name, size = str(told["name"]), told.get("size")
    is_cloud = bool(told.get("remote_host") or told.get("remote_model")) or name.endswith(("-cloud", ":cloud"))
    return TourModel(name, size if isinstance(size, int) and size > 0 and not is_cloud else None, is_cloud)
