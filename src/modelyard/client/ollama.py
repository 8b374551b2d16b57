"""`OllamaService`: an asynchronous client of Ollama servers, and of ours.

    async with OllamaService() as service:
        print(await service.generate("llama3.2", "Why is the sky blue?"))

Promises: whatever fails is an `OllamaServiceError`; an answer that was cut is an error and never a short answer;
leaving a stream, or being cancelled, closes its connection, which ends the work at the server. One event loop each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from functools import partial
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar, overload

import httpx2

from modelyard.client import ollama_questions as questions
from modelyard.client.ollama_lines import Progress
from modelyard.client.ollama_questions import Question
from modelyard.client.ollama_replies import chat_answer, chat_piece, member, text_piece
from modelyard.client.ollama_retry import Retries
from modelyard.client.ollama_settings import settings_of
from modelyard.client.ollama_transport import asking, client_arguments, closed, health_times, request_arguments
from modelyard.errors import OllamaServiceError

Piece = TypeVar("Piece")
END_S = 1.0  # for a complete answer's connection to be fit for the next one


class OllamaStream(Generic[Piece]):
    """The pieces of one answer as they come. As a context manager it closes its connection for certain and at once."""

    def __init__(self, pieces: AsyncGenerator[Piece, None]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> OllamaStream[Piece]:
        return self

    async def __anext__(self) -> Piece:
        return await anext(self._pieces)

    async def __aenter__(self) -> OllamaStream[Piece]:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection; the server stops working on this answer."""
        await self._pieces.aclose()


class OllamaService:
    """One Ollama server. What is not said here comes from the environment, see `get_settings`.

    `timeout`: seconds without a byte of an answer. `max_connections`: kept open between calls; twice as many at most.
    `key`: for servers that want one. `retries`: how often, and how long between.
    `language`: of the messages of a server of ours: en, zh_TW or zh_CN. `connect_timeout`: seconds, else 10.
    """

    def __init__(
        self,
        base_url: str | None = None,
        timeout: float | None = None,
        max_connections: int | None = None,
        *,
        key: str | None = None,
        retries: Retries | None = None,
        language: str | None = None,
        connect_timeout: float | None = None,
    ) -> None:
        self.settings = settings_of(base_url, timeout, max_connections)
        self._url = self.settings.ollama_base_url
        self._retries = retries or Retries()
        self._http = httpx2.AsyncClient(**client_arguments(self.settings, key, language, connect_timeout))

    async def __aenter__(self) -> OllamaService:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. May be called more than once."""
        await self._http.aclose()

    # Text.

    @overload
    async def generate(
        self, model: str | None = None, prompt: str | None = None, stream: Literal[False] = False, **options: Any
    ) -> str: ...
    @overload
    async def generate(
        self, model: str | None = None, prompt: str | None = None, *, stream: Literal[True], **options: Any
    ) -> OllamaStream[str]: ...
    @overload
    async def generate(
        self, model: str | None, prompt: str | None, stream: Literal[True], **options: Any
    ) -> OllamaStream[str]: ...
    @overload
    async def generate(
        self, model: str | None = None, prompt: str | None = None, stream: bool = False, **options: Any
    ) -> str | OllamaStream[str]: ...
    async def generate(
        self, model: str | None = None, prompt: str | None = None, stream: bool = False, **options: Any
    ) -> str | OllamaStream[str]:
        """Continue a prompt. `temperature`, `top_k` and their like are sampling options; `system`, `format`,
        `keep_alive`, `think`, `images`, `template` stand beside them.
        """
        question = questions.generate(self._model(model), prompt, stream=stream, options=options)
        if stream:
            return OllamaStream(await self._begun(question, partial(text_piece, self._url)))
        return member(await self._ask(question), "response", str, self._url)

    @overload
    async def chat(
        self,
        model: str | None,
        messages: Sequence[Mapping[str, Any]],
        stream: Literal[False] = False,
        **options: Any,
    ) -> dict[str, Any]: ...
    @overload
    async def chat(
        self, model: str | None, messages: Sequence[Mapping[str, Any]], stream: Literal[True], **options: Any
    ) -> OllamaStream[dict[str, Any]]: ...
    @overload
    async def chat(
        self, model: str | None, messages: Sequence[Mapping[str, Any]], stream: bool = False, **options: Any
    ) -> dict[str, Any] | OllamaStream[dict[str, Any]]: ...
    async def chat(
        self, model: str | None, messages: Sequence[Mapping[str, Any]], stream: bool = False, **options: Any
    ) -> dict[str, Any] | OllamaStream[dict[str, Any]]:
        """Answer a conversation: the answer as Ollama writes it, with `message`, counts and times; or its chunks."""
        question = questions.chat(self._model(model), messages, stream=stream, options=options)
        if stream:
            return OllamaStream(await self._begun(question, partial(chat_piece, self._url)))
        return chat_answer(self._url, await self._ask(question))

    async def embed(self, model: str | None, texts: str | Sequence[str], **options: Any) -> list[list[float]]:
        """One vector for each text."""
        answer = await self._ask(questions.embed(self._model(model), texts, options))
        return member(answer, "embeddings", list[list[float]], self._url)

    # Models.

    async def list_models(self) -> list[dict[str, Any]]:
        """Every model the server has: `name`, `size`, `modified_at`, `digest`, `details`."""
        return member(await self._ask(questions.TAGS), "models", list[dict[str, Any]], self._url)

    async def show_model(self, model: str | None = None) -> dict[str, Any]:
        """All about one model: `modelfile`, `parameters`, `template`, `details`, `capabilities`."""
        return await self._ask(questions.show(self._model(model)))

    async def ps(self) -> list[dict[str, Any]]:
        """The models in memory: `name`, `size`, `size_vram`, `expires_at`."""
        return member(await self._ask(questions.PS), "models", list[dict[str, Any]], self._url)

    async def load(self, model: str | None = None, keep_alive: float | str | None = None) -> None:
        """Bring a model into memory. Leaving early makes an Ollama server give the load up."""
        name = self._model(model)
        try:
            await self._ask(questions.load(name, keep_alive))
        except OllamaServiceError as error:
            if not questions.makes_embeddings_only(error):
                raise
            await self._ask(questions.load_embedder(name, keep_alive))

    async def unload(self, model: str | None = None) -> None:
        """Ask for a model to be let go of. It leaves when its requests have ended; `ps` tells when it has."""
        await self._ask(questions.unload(self._model(model)))

    async def pull_model(self, model: str | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """Fetch a model: progress with `status`, and `digest`, `total`, `completed` where they are known."""
        question, progress = questions.pull(self._model(model)), Progress()
        async for attempt in self._retries.attempts(question):
            with attempt:
                async with aclosing(self._stream(question, progress.put_right)) as lines:
                    await anext(lines)
                    async for line in lines:
                        yield line

    # The server.

    async def version(self) -> str:
        """The server's version."""
        return member(await self._ask(questions.VERSION), "version", str, self._url)

    async def health_check(self) -> bool:
        """Whether the server answers. Never raises, and takes the server's slowness for an answer."""
        try:
            answer = await self._ask(questions.VERSION, health_times(self.settings))
            return bool(member(answer, "version", str, self._url))
        except Exception:  # whatever it is: that is what "never" means
            return False

    # Asking.

    def _model(self, model: str | None) -> str:
        return model or self.settings.ollama_default_model

    async def _ask(self, question: Question, timeout: httpx2.Timeout | None = None) -> dict[str, Any]:
        """A whole answer."""
        async for attempt in self._retries.attempts(question):
            with attempt, asking(question, self._url) as reply:
                async with self._sent(question, timeout) as response:
                    is_answer = reply.begin(response.status_code, response.headers)
                    async for piece in response.aiter_raw():
                        reply.keep(piece)
                    if not is_answer:
                        raise reply.refusal()
                    return reply.whole()
        raise AssertionError("the last attempt answers or fails")

    async def _begun(self, question: Question, take: Callable[[dict[str, Any]], Piece]) -> AsyncGenerator[Piece, None]:
        """A stream whose answer has begun. Until then it may be asked again, and never after."""
        async for attempt in self._retries.attempts(question):
            with attempt:
                pieces = self._stream(question, take)
                await anext(pieces)
                return pieces
        raise AssertionError("the last attempt answers or fails")

    async def _stream(self, question: Question, take: Callable[[dict[str, Any]], Any]) -> AsyncGenerator[Any, None]:
        """First None, when the answer has begun; then what `take` makes of each object, if it makes anything."""
        with asking(question, self._url) as reply:
            async with self._sent(question) as response:
                pieces = response.aiter_raw()
                if not reply.begin(response.status_code, response.headers):
                    async for piece in pieces:
                        reply.keep(piece)
                    raise reply.refusal()
                yield None
                async for piece in pieces:
                    for found in reply.feed(piece):
                        if taken := take(found):
                            yield taken
                    if reply.is_done:
                        break
                for found in reply.end():
                    if taken := take(found):
                        yield taken
                with suppress(TimeoutError, httpx2.HTTPError):  # the answer is complete, whatever comes now
                    async with asyncio.timeout(END_S):
                        async for _rest in pieces:
                            pass

    def _sent(
        self, question: Question, timeout: httpx2.Timeout | None = None
    ) -> AbstractAsyncContextManager[httpx2.Response]:
        if self._http.is_closed:
            raise closed(self._url)
        return self._http.stream(question.method, question.path, **request_arguments(question, timeout))
