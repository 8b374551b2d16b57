"""The embeddings worker's HTTP: texts to vectors, and pairs to scores, in batches that take turns.

Runs inside worker processes. A batch is computed off the event loop, by one thread; between two batches another request
has its turn, and one that nobody waits for ends. Knows neither torch nor models: what computes is handed in.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

Input = str | list[int]
Pair = tuple[str, str]
Result = TypeVar("Result")


class Refused(Exception):
    """A request that cannot be answered; `body` says why."""

    def __init__(self, message: str, **members: object) -> None:
        super().__init__(message)
        self.body = {"error": {"type": "invalid_request_error", "message": message, **members}}


class Computes(Protocol):
    """One loaded model. Everything here is called by one thread at a time."""

    context_length: int
    batch_tokens: int  # of a batch, with what fills short inputs up to the longest

    def counts(self, inputs: Sequence[Input]) -> list[int]:
        """Tokens of each input. Raises `Refused` for token numbers the model has not."""
        ...

    def vectors(self, inputs: Sequence[Input]) -> list[bytes]:
        """A vector for each, as 32-bit floats, the lowest byte first. Longer ones are cut to the context."""
        ...

    def pair_counts(self, pairs: Sequence[Pair]) -> list[int]: ...

    def scores(self, pairs: Sequence[Pair]) -> list[float]: ...


def batches(counts: Sequence[int], tokens_max: int) -> list[list[int]]:
    """Places of inputs in batches, the longest first, so that little is filled up; one that is too long is alone.

    >>> batches([2, 9, 3, 3], 6)
    [[1], [2, 3], [0]]
    """
    found: list[list[int]] = []
    longest = 0
    for place in sorted(range(len(counts)), key=lambda at: -counts[at]):
        if found and (len(found[-1]) + 1) * longest <= tokens_max:
            found[-1].append(place)
        else:
            found.append([place])
            longest = counts[place]
    return found


class Answers:
    """The endpoints of one worker."""

    def __init__(self, computes: Computes, thread: ThreadPoolExecutor, *, is_reranker: bool) -> None:
        self._computes = computes
        self._thread = thread
        path, answer = ("/v1/rerank", self._rerank) if is_reranker else ("/v1/embeddings", self._embed)
        self.routes = [
            Route("/health", self._health, methods=["GET"]),
            Route(path, partial(self._guarded, answer), methods=["POST"]),
        ]

    async def _health(self, _request: Request) -> Response:
        return _json({"status": "ok"})

    async def _guarded(self, answer: Callable[[Request], object], request: Request) -> Response:
        try:
            found = answer(request)
            assert asyncio.iscoroutine(found), "both answers are"
            body: dict[str, object] = await found
            return _json(body)
        except Refused as refused:
            return _json(refused.body, 400)
        except ClientDisconnect:
            return Response(status_code=499)

    async def _embed(self, request: Request) -> dict[str, object]:
        asked = orjson.loads(await request.body())
        inputs: list[Input] = asked["input"]
        counts = await self._off_loop(self._computes.counts, inputs)
        if not asked.get("truncate"):
            self._check(counts)
        counts = [min(count, self._computes.context_length) for count in counts]
        vectors = await self._in_batches(request, counts, inputs, self._computes.vectors)
        data = [
            {"object": "embedding", "index": at, "embedding": base64.b64encode(vector).decode("ascii")}
            for at, vector in enumerate(vectors)
        ]
        return {"object": "list", "data": data, "usage": _usage(counts), "counts": counts}

    async def _rerank(self, request: Request) -> dict[str, object]:
        asked = orjson.loads(await request.body())
        pairs: list[Pair] = [(asked["query"], document) for document in asked["documents"]]
        counts = await self._off_loop(self._computes.pair_counts, pairs)
        self._check(counts)
        scores = await self._in_batches(request, counts, pairs, self._computes.scores)
        results = [{"index": at, "relevance_score": score} for at, score in enumerate(scores)]
        return {"object": "list", "results": results, "usage": _usage(counts)}

    async def _in_batches(
        self,
        request: Request,
        counts: Sequence[int],
        items: Sequence[Input] | Sequence[Pair],
        compute: Callable[..., list[Result]],
    ) -> list[Result]:
        found: dict[int, Result] = {}
        for batch in batches(counts, self._computes.batch_tokens):
            if await request.is_disconnected():
                raise ClientDisconnect
            results = await self._off_loop(compute, [items[place] for place in batch])
            found.update(zip(batch, results, strict=True))
        return [found[place] for place in range(len(items))]

    def _check(self, counts: Sequence[int]) -> None:
        context = self._computes.context_length
        for place, count in enumerate(counts):
            if count > context:
                raise Refused(
                    f"an input has {count} tokens, and the model reads {context}", code="context_length_exceeded",
                    n_prompt_tokens=count, n_ctx=context, place=place,
                )  # fmt: skip

    async def _off_loop(self, function: Callable[..., Result], *given: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *given)


def app_of(computes: Computes, thread: ThreadPoolExecutor, *, is_reranker: bool) -> Starlette:
    """The app of one worker. Everything is computed in that one thread."""
    return Starlette(routes=Answers(computes, thread, is_reranker=is_reranker).routes)


def _usage(counts: Sequence[int]) -> dict[str, int]:
    return {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}


def _json(body: object, status: int = 200) -> Response:
    """JSON has no word for a number that is none: a vector is packed, and of a score `null` is made."""
    return Response(orjson.dumps(body), status, media_type="application/json")
