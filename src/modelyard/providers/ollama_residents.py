"""What an Ollama server holds in memory, and how to have it bring a model in or take one out. Residency's `SharedNode`.

Promises: an answer is one of known shape and bounded size, or an error that names the node and never its address; a
model counts as gone only when `/api/ps` no longer lists it. It trusts no number more than it must: sizes are kept
within reason here, and within what the devices say by whoever asks. Knows nothing of ledgers.

A model is loaded with a long `keep_alive` instead of an endless one: who keeps it is our idle TTL, but should we be
killed, the server lets go of it in the end. Options are never sent along: others than those it was loaded with would
make the server load it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from modelyard.clock import Clock
from modelyard.diagnosis import Evidence, diagnose, explained
from modelyard.diagnosis.showing import shown
from modelyard.errors import (
    N_,
    LoadFailed,
    OutOfMemory,
    UpstreamError,
    UpstreamInvalid,
    UpstreamTimeout,
    UpstreamUnreachable,
    said,
)
from modelyard.residency.ports import NodeResident
from modelyard.types.memory import RAM
from modelyard.types.model import Kind, ModelRef

if TYPE_CHECKING:
    import httpx2

BODY_BYTES_MAX = 1024**2
SIZE_BYTES_MAX = 1024**5
RESIDENTS_COUNT_MAX = 256
CONNECT_S = 2.0
LOAD_S = 600.0
ASK_S = 5.0  # for what a server knows without working, from the first byte sent to the last one read
POLL_S = 0.1  # between two looks at a model that is leaving
KEEP_ALIVE = "24h"
NOT_FOR_TEXT = "does not support generate"  # an embedding model is loaded by asking for no embedding

Value = TypeVar("Value")


class _Running(msgspec.Struct):
    name: str = ""
    model: str = ""
    size: int = 0
    size_vram: int = 0
    expires_at: Any = None


class _Ps(msgspec.Struct):
    models: list[_Running] | None = None


class _Done(msgspec.Struct):
    done: bool | None = None
    error: Any = None


class OllamaResidents:
    """One Ollama server that shares devices with us. A context manager: it keeps connections."""

    kind: Kind = "ollama"

    def __init__(
        self,
        name: str,
        url: str,
        devices: Sequence[str],
        clock: Clock,
        *,
        load_s: Callable[[], float] = lambda: LOAD_S,
        unload_s: float = 15.0,
    ) -> None:
        import httpx2  # heavy, and needed only where such a node is configured

        self._httpx = httpx2
        self._name, self._devices, self._clock = name, tuple(devices), clock
        self._load_s, self._unload_s = load_s, unload_s
        self._http = httpx2.AsyncClient(
            base_url=url,
            headers={"accept-encoding": "identity"},  # what is compressed may be a thousand times as large
            limits=httpx2.Limits(max_connections=4, max_keepalive_connections=1, keepalive_expiry=30.0),
            follow_redirects=False,
            trust_env=False,  # no proxy stands between two programs of one machine
        )

    async def __aenter__(self) -> OllamaResidents:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def residents(self) -> tuple[NodeResident, ...]:
        """What is in memory now, by the server's own names."""
        answer = await self._ask("GET", "/api/ps", _Ps, within_s=ASK_S)
        listed = answer.models or []
        if len(listed) > RESIDENTS_COUNT_MAX:
            raise self._invalid("more models than it can have in memory")
        found = (self._resident(one) for one in listed)
        return tuple(one for one in found if one is not None)

    async def load(self, name: str) -> NodeResident:
        """Bring a model in. Leaving early makes the server give the load up."""
        body = {"model": name, "keep_alive": KEEP_ALIVE, "stream": False}
        try:
            await self._ask("POST", "/api/generate", _Done, body, within_s=self._load_s())
        except LoadFailed as refused:
            if NOT_FOR_TEXT not in str(refused):
                raise
            await self._ask("POST", "/api/embed", _Done, {**body, "input": ""}, within_s=self._load_s())
        found = await self._find(name)
        if found is None:
            raise LoadFailed(model=name, problem=N_("the node says it is loaded, and does not list it"))
        return found

    async def unload(self, name: str) -> None:
        """Take a model out and see it gone. One that answers somebody is let go of after that, if that is soon."""
        began_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._unload_s):
                body = {"model": name, "keep_alive": 0, "stream": False}
                with suppress(LoadFailed):  # it may not know the name any more; whether it holds it is what counts
                    await self._ask("POST", "/api/generate", _Done, body, within_s=ASK_S)
                while await self._find(name) is not None:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise UpstreamError(
                N_("{provider} still holds {model}, {waited_s} s after it was asked to let go of it."),
                provider=self._name, model=name, waited_s=round(self._clock.monotonic() - began_at, 1),
            ) from None  # fmt: skip

    async def _find(self, name: str) -> NodeResident | None:
        wanted = _full(name)
        return next((one for one in await self.residents() if _full(one.name) == wanted), None)

    def _resident(self, one: _Running) -> NodeResident | None:
        """None for a name nobody could write: what it holds then counts as somebody else's."""
        name = one.name or one.model
        try:
            ModelRef.parse(name)
        except ValueError:
            return None
        if not (0 <= one.size <= SIZE_BYTES_MAX and 0 <= one.size_vram <= SIZE_BYTES_MAX):
            raise self._invalid("a size that cannot be")
        return NodeResident(name, self._placed(one), self._expires_in_s(one.expires_at))

    def _placed(self, one: _Running) -> dict[str, int]:
        """Per device. Over several GPUs evenly: nobody says how, and what is wrong with it shows as foreign use."""
        gpus = [device for device in self._devices if device != RAM]
        total = max(one.size, one.size_vram)
        in_vram = one.size_vram if gpus else 0
        placed = {gpu: in_vram // len(gpus) for gpu in gpus}
        if gpus:
            placed[gpus[0]] += in_vram % len(gpus)
        placed[RAM] = total - in_vram
        return {device: count for device, count in placed.items() if count}

    def _expires_in_s(self, stamp: Any) -> float | None:
        try:
            at = msgspec.convert(stamp, datetime)
        except msgspec.ValidationError:
            return None
        if at.tzinfo is None:
            return None
        return max(0.0, at.timestamp() - self._clock.wall())

    # HTTP.

    async def _ask(
        self, method: str, path: str, kind: type[Value], body: Mapping[str, object] | None = None, *, within_s: float
    ) -> Value:
        """One question with its whole answer in the time there is; however it fails, as an error of ours."""
        async with self._errors(within_s):
            timeout = self._httpx.Timeout(within_s, connect=min(CONNECT_S, within_s))
            async with self._http.stream(method, path, json=body, timeout=timeout) as response:
                raw = await self._read(response)
            if response.status_code != 200:
                raise self._refused(response.status_code, raw, body)
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise self._invalid("not what Ollama answers") from problem

    async def _read(self, response: httpx2.Response) -> bytes:
        pieces = bytearray()
        async for piece in response.aiter_raw():
            pieces += piece
            if len(pieces) > BODY_BYTES_MAX:
                raise self._invalid("more than we read")
        return bytes(pieces)

    def _refused(self, status: int, raw: bytes, body: Mapping[str, object] | None) -> UpstreamError | LoadFailed:
        try:
            error = msgspec.json.decode(raw, type=_Done).error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            error = None
        text = shown(error) if isinstance(error, str) else ""
        if body is not None and text:
            verdict = diagnose(Evidence(text=text))
            failed = OutOfMemory if verdict.is_memory else LoadFailed
            return explained(failed(LoadFailed.text, model=str(body["model"]), problem=text), verdict)
        return UpstreamError(provider=self._name, problem=said("it answered {status}", status=status))

    def _invalid(self, problem: str) -> UpstreamInvalid:
        return UpstreamInvalid(provider=self._name, problem=problem)

    @asynccontextmanager
    async def _errors(self, within_s: float) -> AsyncIterator[None]:
        """The only place where the transport's exceptions become ours. Their texts may hold the address."""
        httpx2 = self._httpx
        try:
            async with asyncio.timeout(within_s):
                yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as problem:
            raise UpstreamUnreachable(provider=self._name, problem=N_("nobody answers there")) from problem
        except (httpx2.TimeoutException, TimeoutError) as problem:
            raise UpstreamTimeout(
                N_("{provider} did not answer within {budget_s} s."), provider=self._name, budget_s=within_s
            ) from problem
        except (httpx2.RemoteProtocolError, httpx2.DecodingError) as problem:
            raise self._invalid("what came is not HTTP") from problem
        except httpx2.TransportError as problem:
            raise UpstreamUnreachable(provider=self._name, problem=type(problem).__name__) from problem


def _full(name: str) -> str:
    """A name as Ollama compares it.

    >>> _full("Llama") == _full("llama:latest")
    True
    """
    lowered = name.lower()
    return lowered if ":" in lowered.rpartition("/")[2] else f"{lowered}:latest"
