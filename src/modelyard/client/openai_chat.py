"""An asynchronous client of any OpenAI-compatible server: its models, a streamed chat, one vector.

Every failure is an error of our tree; closing a stream closes its connection, which ends the work at the server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import httpx2

from modelyard.client.event_lines import Events
from modelyard.client.http import BODY_BYTES_MAX, CONNECT_S, SILENCE_S, transport_errors
from modelyard.client.replies import chunks_of, convert, decode, error_of
from modelyard.errors import N_, ConfigError, UpstreamInvalid
from modelyard.loopback import is_loopback
from modelyard.types.chat import Delta, Usage


class OpenAIClient:
    """One server. `url` with or without `/v1`."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        silence_s: float = SILENCE_S,
        connect_s: float = CONNECT_S,
        language: str = "",
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {key}"} if key else {})
        if language:
            headers["accept-language"] = language.replace("_", "-")
        try:
            parsed = httpx2.URL(self.url)
            if parsed.scheme not in ("http", "https") or not parsed.host:
                raise httpx2.InvalidURL("expected http://HOST:PORT")
        except httpx2.InvalidURL as problem:
            hints = (N_("Write it as http://127.0.0.1:11435."),)
            raise ConfigError(where=f"{url} (--url)", problem=str(problem), hints=hints) from problem
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=httpx2.Timeout(silence_s, connect=connect_s),
            follow_redirects=False,
            trust_env=not is_loopback(parsed.host),  # no proxy stands between us and this machine
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def ollama_version(self) -> dict[str, Any]:
        """What it says of itself where it speaks Ollama too. Servers that do not answer with an error."""
        return await self._ask("GET", "/api/version")

    async def models(self) -> list[str]:
        """The names of its models, as it lists them."""
        told = await self._ask("GET", "/v1/models")
        listed = convert(told.get("data"), list[dict[str, Any]], self.url)
        return [one["id"] for one in listed if isinstance(one.get("id"), str)]

    async def embed(self, model: str, text: str) -> list[float]:
        """One text's vector."""
        told = await self._ask("POST", "/v1/embeddings", {"model": model, "input": text})
        first = convert(told.get("data"), list[dict[str, Any]], self.url)[:1]
        return convert(first[0].get("embedding") if first else None, list[float], self.url)

    async def chat(
        self, model: str, messages: Sequence[Mapping[str, str]], tokens_max: int | None = None
    ) -> AsyncGenerator[Delta | Usage, None]:
        """The pieces of an answer. Ends normally only if the server says that it is complete."""
        body = {
            "model": model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            **({} if tokens_max is None else {"max_tokens": tokens_max}),
        }
        events = Events()
        with transport_errors(self.url):
            async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise await self._refusal(response)
                async for piece in response.aiter_raw():
                    for data in events.feed(piece):
                        if data == b"[DONE]":
                            return
                        if not data:
                            continue
                        told = decode(data, self.url)
                        if "error" in told:
                            raise error_of(response.status_code, told)
                        for one in chunks_of(told):
                            yield one
        raise UpstreamInvalid(N_("{provider} cut off the answer before its end."), provider=self.url)

    async def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        with transport_errors(self.url):
            async with self._http.stream(method, path, json=body) as response:
                if response.status_code != 200:
                    raise await self._refusal(response)
                return decode(await self._body(response), self.url)

    async def _refusal(self, response: httpx2.Response) -> Exception:
        try:
            told: object = decode(await self._body(response), self.url)
        except UpstreamInvalid:
            told = None
        return error_of(response.status_code, told)

    async def _body(self, response: httpx2.Response) -> bytes:
        pieces = bytearray()
        async for piece in response.aiter_raw():
            pieces += piece
            if len(pieces) > BODY_BYTES_MAX:
                raise UpstreamInvalid(N_("{provider} sent more than we read."), provider=self.url)
        return bytes(pieces)
