"""Another Modelyard as a registry: it hands out manifests of its store, and files by digest, to its administrators."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

from modelyard.errors import N_, NotFound, NotOfferedThere, UpstreamInvalid, UpstreamModelMissing, UpstreamTimeout
from modelyard.models.manifest import decode
from modelyard.models.partial import Wanted
from modelyard.providers.node_ask import NodeQuestions
from modelyard.providers.node_http import NodeConnections

from .fetch import FileRequest
from .plan import PlannedFile, PullPlan
from .reference import NodeReference
from .transfer import Source

ANSWER_S = 30.0


class Yard:
    """One of them."""

    def __init__(self, name: str, connections: NodeConnections, *, key: str, connect_s: float) -> None:
        self._questions = NodeQuestions(name, connections, key=key, connect_s=connect_s)
        self._name, self._key, self._address = name, key, connections.address

    async def plan(self, reference: NodeReference) -> PullPlan:
        """What to fetch from there for this model."""
        path = f"/admin/store/models/{quote(reference.model, safe='/:')}"
        try:
            async with asyncio.timeout(ANSWER_S):
                raw = await self._questions.raw("GET", path, model=reference.model)
        except TimeoutError:
            raise UpstreamTimeout(N_("{provider} did not answer."), provider=self._name, hints=()) from None
        except (NotFound, NotOfferedThere, UpstreamModelMissing):
            raise NotFound(
                N_("{node} has no {model} in a store: it is no Modelyard, or has the model elsewhere."),
                hints=(), node=self._name, model=reference.model,
            ) from None  # fmt: skip
        try:
            manifest = decode(raw)
        except ValueError as problem:
            raise UpstreamInvalid(provider=self._name, problem=str(problem), hints=()) from problem
        files = tuple(
            PlannedFile(
                one.path,
                Wanted(one.size_bytes, one.digest.removeprefix("sha256:"), label=f"{reference.source} {one.path}"),
                Source(self._request(one.digest, one.size_bytes)),
            )
            for one in sorted(manifest.files, key=lambda one: one.size_bytes)
        )
        return PullPlan(manifest.name, manifest.aliases, reference.source, manifest.revision, files)

    def _request(self, digest: str, size_bytes: int) -> FileRequest:
        base = self._address.url
        return FileRequest(f"{base}/admin/store/blobs/{digest}", size_bytes, base, self._key, self._address)
