"""`SyncOllamaService`: the twin of `OllamaService` for scripts. The same methods, settings, errors and retries.

What is asked, how answers are read and when to ask again is one code for both; here is only the waiting. Not for use
from several threads at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
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


class SyncOllamaStream(Generic[Piece]):
    """The pieces of one answer as they come. As a context manager it closes its connection for certain and at once."""

    def __init__(self, pieces: Generator[Piece, None, None]) -> None:
        self._pieces = pieces

    def __iter__(self) -> SyncOllamaStream[Piece]:
        return self

    def __next__(self) -> Piece:
        return next(self._pieces)

    def __enter__(self) -> SyncOllamaStream[Piece]:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the server stops working on this answer."""
        self._pieces.close()


class SyncOllamaService:
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
        self._http = httpx2.Client(**client_arguments(self.settings, key, language, connect_timeout))

    def __enter__(self) -> SyncOllamaService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection. May be called more than once."""
        self._http.close()

    # Text.

    @overload
    def generate(
        self, model: str | None = None, prompt: str | None = None, stream: Literal[False] = False, **options: Any
    ) -> str: ...
    @overload
    def generate(
        self, model: str | None = None, prompt: str | None = None, *, stream: Literal[True], **options: Any
    ) -> SyncOllamaStream[str]: ...
    @overload
    def generate(
        self, model: str | None, prompt: str | None, stream: Literal[True], **options: Any
    ) -> SyncOllamaStream[str]: ...
    @overload
    def generate(
        self, model: str | None = None, prompt: str | None = None, stream: bool = False, **options: Any
    ) -> str | SyncOllamaStream[str]: ...
    def generate(
        self, model: str | None = None, prompt: str | None = None, stream: bool = False, **options: Any
    ) -> str | SyncOllamaStream[str]:
        """Continue a prompt. `temperature`, `top_k` and their like are sampling options; `system`, `format`,
        `keep_alive`, `think`, `images`, `template` stand beside them.
        """
        question = questions.generate(self._model(model), prompt, stream=stream, options=options)
        if stream:
            return SyncOllamaStream(self._begun(question, partial(text_piece, self._url)))
        return member(self._ask(question), "response", str, self._url)

    @overload
    def chat(
        self,
        model: str | None,
        messages: Sequence[Mapping[str, Any]],
        stream: Literal[False] = False,
        **options: Any,
    ) -> dict[str, Any]: ...
    @overload
    def chat(
        self, model: str | None, messages: Sequence[Mapping[str, Any]], stream: Literal[True], **options: Any
    ) -> SyncOllamaStream[dict[str, Any]]: ...
    @overload
    def chat(
        self, model: str | None, messages: Sequence[Mapping[str, Any]], stream: bool = False, **options: Any
    ) -> dict[str, Any] | SyncOllamaStream[dict[str, Any]]: ...
    def chat(
        self, model: str | None, messages: Sequence[Mapping[str, Any]], stream: bool = False, **options: Any
    ) -> dict[str, Any] | SyncOllamaStream[dict[str, Any]]:
        """Answer a conversation: the answer as Ollama writes it, with `message`, counts and times; or its chunks."""
        question = questions.chat(self._model(model), messages, stream=stream, options=options)
        if stream:
            return SyncOllamaStream(self._begun(question, partial(chat_piece, self._url)))
        return chat_answer(self._url, self._ask(question))

    def embed(self, model: str | None, texts: str | Sequence[str], **options: Any) -> list[list[float]]:
        """One vector for each text."""
        answer = self._ask(questions.embed(self._model(model), texts, options))
        return member(answer, "embeddings", list[list[float]], self._url)

    # Models.

    def list_models(self) -> list[dict[str, Any]]:
        """Every model the server has: `name`, `size`, `modified_at`, `digest`, `details`."""
        return member(self._ask(questions.TAGS), "models", list[dict[str, Any]], self._url)

    def show_model(self, model: str | None = None) -> dict[str, Any]:
        """All about one model: `modelfile`, `parameters`, `template`, `details`, `capabilities`."""
        return self._ask(questions.show(self._model(model)))

    def ps(self) -> list[dict[str, Any]]:
        """The models in memory: `name`, `size`, `size_vram`, `expires_at`."""
        return member(self._ask(questions.PS), "models", list[dict[str, Any]], self._url)

    def load(self, model: str | None = None, keep_alive: float | str | None = None) -> None:
        """Bring a model into memory. Leaving early makes an Ollama server give the load up."""
        name = self._model(model)
        try:
            self._ask(questions.load(name, keep_alive))
        except OllamaServiceError as error:
            if not questions.makes_embeddings_only(error):
                raise
            self._ask(questions.load_embedder(name, keep_alive))

    def unload(self, model: str | None = None) -> None:
        """Ask for a model to be let go of. It leaves when its requests have ended; `ps` tells when it has."""
        self._ask(questions.unload(self._model(model)))

    def pull_model(self, model: str | None = None) -> Generator[dict[str, Any], None, None]:
        """Fetch a model: progress with `status`, and `digest`, `total`, `completed` where they are known."""
        question, progress = questions.pull(self._model(model)), Progress()
        for attempt in self._retries.attempts(question):
            with attempt, closing(self._stream(question, progress.put_right)) as lines:
                next(lines)
                yield from lines

    # The server.

    def version(self) -> str:
        """The server's version."""
        return member(self._ask(questions.VERSION), "version", str, self._url)

    def health_check(self) -> bool:
        """Whether the server answers. Never raises, and takes the server's slowness for an answer."""
        try:
            answer = self._ask(questions.VERSION, health_times(self.settings))
            return bool(member(answer, "version", str, self._url))
        except Exception:  # whatever it is: that is what "never" means
            return False

    # Asking.

    def _model(self, model: str | None) -> str:
        return model or self.settings.ollama_default_model

    def _ask(self, question: Question, timeout: httpx2.Timeout | None = None) -> dict[str, Any]:
        """A whole answer."""
        for attempt in self._retries.attempts(question):
            with attempt, asking(question, self._url) as reply, self._sent(question, timeout) as response:
                is_answer = reply.begin(response.status_code, response.headers)
                for piece in response.iter_raw():
                    reply.keep(piece)
                if not is_answer:
                    raise reply.refusal()
                return reply.whole()
        raise AssertionError("the last attempt answers or fails")

    def _begun(self, question: Question, take: Callable[[dict[str, Any]], Piece]) -> Generator[Piece, None, None]:
        """A stream whose answer has begun. Until then it may be asked again, and never after."""
        for attempt in self._retries.attempts(question):
            with attempt:
                pieces = self._stream(question, take)
                next(pieces)
                return pieces
        raise AssertionError("the last attempt answers or fails")

    def _stream(self, question: Question, take: Callable[[dict[str, Any]], Any]) -> Generator[Any, None, None]:
        """First None, when the answer has begun; then what `take` makes of each object, if it makes anything."""
        with asking(question, self._url) as reply, self._sent(question) as response:
            pieces = response.iter_raw()
            if not reply.begin(response.status_code, response.headers):
                for piece in pieces:
                    reply.keep(piece)
                raise reply.refusal()
            yield None
            for piece in pieces:
                for found in reply.feed(piece):
                    if taken := take(found):
                        yield taken
                if reply.is_done:
                    break
            for found in reply.end():
                if taken := take(found):
                    yield taken
                # The answer is complete. To wait for the end of the stream, too, would have no bound of its own here.

    def _sent(
        self, question: Question, timeout: httpx2.Timeout | None = None
    ) -> AbstractContextManager[httpx2.Response]:
        if self._http.is_closed:
            raise closed(self._url)
        return self._http.stream(question.method, question.path, **request_arguments(question, timeout))
