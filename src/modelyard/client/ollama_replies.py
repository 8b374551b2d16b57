"""What an Ollama server answers, as values, or as the errors a caller catches. One `Reply` per attempt. Pure.

Promises: an answer that does not say it is done is an error, and never a short answer; a server's own words are kept
to one line of bounded length; a redirect is an error, since prompts and keys go where they were meant to go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_origin

import msgspec

from modelyard.client.ollama_lines import Lines, LineTooLong
from modelyard.client.ollama_questions import Kind, Question
from modelyard.diagnosis import is_oom_error
from modelyard.errors import N_, OllamaConnectionError, OllamaError, OllamaModelNotFoundError, OllamaServiceError, said

Value = TypeVar("Value")
BODY_BYTES_MAX = 64 * 1024**2
TEXT_CHARS_MAX = 2000
ADVICE_COUNT_MAX = 10
# In every language: programs look for these words.
OUT_OF_MEMORY = N_("記憶體不足 (OOM)：{problem}")
_MEMORY_CODES = ("insufficient_memory",)  # and when it is for want of memory
_MODEL_CODES = ("model_not_found", "upstream_model_missing")  # a server of ours says which 404 it is


class Reply:
    """One answer while it arrives."""

    def __init__(self, question: Question, url: str) -> None:
        self.question, self.url = question, url
        self.has_begun = False  # the server has said something: from here on it has worked for us
        self.is_done = False
        self._status = 0
        self._location = ""
        self._lines = Lines()
        self._body = bytearray()

    def begin(self, status: int, headers: Mapping[str, str]) -> bool:
        """The head has come. False: it is a refusal, whose body is needed for `refusal`."""
        self.has_begun = True
        self._status = status
        self._location = headers.get("location", "")
        return status == 200

    def keep(self, piece: bytes) -> None:
        """A part of a whole answer."""
        self._body += piece
        if len(self._body) > BODY_BYTES_MAX:
            raise self.invalid("more than can be an answer")

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """The objects of a stream that end in this part of it. Nothing is read after the last."""
        try:
            for line in self._lines.feed(piece):
                if not self.is_done:
                    yield self._object_in_stream(line)
        except LineTooLong as problem:
            raise self.invalid("a line without an end") from problem

    def end(self) -> Iterator[dict[str, Any]]:
        """Nothing more is read: the answer is complete, or cut."""
        if not self.is_done and (line := self._lines.end()):
            yield self._object_in_stream(line)
        if not self.is_done:
            raise self.cut()

    def whole(self) -> dict[str, Any]:
        """A whole answer, after it has arrived."""
        answer = self._object(bytes(self._body))
        if answer.get("error"):
            raise self._reported(_words(answer["error"]))
        if self.question.is_answer_done and answer.get("done") is not True:
            raise self.cut()
        return answer

    def refusal(self) -> OllamaServiceError:
        """Any status but 200."""
        if 300 <= self._status < 400:
            return OllamaServiceError(
                N_("{url} sends us on to {location}, and redirects are not followed."),
                hints=(N_("If you trust that address, use it as the server's address."),),
                url=self.url, location=_shown(self._location) or "?",
            )  # fmt: skip
        try:
            body = self._object(bytes(self._body))
        except OllamaServiceError:
            body = {}
        problem = _words(body["error"]) if body.get("error") else ""
        names_model = body.get("code") in _MODEL_CODES if "code" in body else "model" in problem.lower()
        if self._status == 404 and self.question.model and names_model:
            return OllamaModelNotFoundError(url=self.url, model=self.question.model, problem=problem)
        advice = _advice(body)
        verdict = {"verdict": body["verdict"]} if isinstance(body.get("verdict"), dict) else {}
        if is_oom_error(problem) or body.get("code") in _MEMORY_CODES:
            return OllamaError(
                OUT_OF_MEMORY, hints=advice or MEMORY_HINTS,
                problem=problem, url=self.url, status=self._status, **verdict,
            )  # fmt: skip
        return OllamaServiceError(
            N_("{url} answered with status {status}: {problem}"),
            hints=advice or _HINTS.get(self._status, () if problem else None),
            url=self.url, status=self._status,
            problem=problem or said("{path} is not served as Ollama does", path=self.question.path),
        )  # fmt: skip

    def invalid(self, what: str) -> OllamaServiceError:
        """It answers, and not as an Ollama server does."""
        return invalid(self.url, what)

    def cut(self) -> OllamaConnectionError:
        """The answer ended before it was complete."""
        return lost(self.url, "the answer ended before it was complete")

    def _reported(self, problem: str) -> OllamaError:
        """An error in an answer that had begun well: in the server's own words."""
        return OllamaError(hints=MEMORY_HINTS if is_oom_error(problem) else None, problem=problem, url=self.url)

    def _object_in_stream(self, line: bytes) -> dict[str, Any]:
        found = self._object(line)
        if found.get("error"):
            raise self._reported(_words(found["error"]))
        if self.question.kind is Kind.PULL:
            self.is_done = found.get("status") == "success"
        else:
            self.is_done = found.get("done") is True
        return found

    def _object(self, raw: bytes) -> dict[str, Any]:
        try:
            found = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise self.invalid("something that is not JSON") from problem
        if not isinstance(found, dict):
            raise self.invalid("JSON that is not an object")
        return found


def member(answer: Mapping[str, Any], name: str, kind: type[Value], url: str) -> Value:
    """One member of an answer, which must be of a known shape. A list of nothing may be null."""
    value = answer.get(name)
    if value is None and name in answer and get_origin(kind) is list:
        value = []
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as problem:
        raise invalid(url, said("no {name} of a known shape", name=name)) from problem


def text_piece(url: str, chunk: dict[str, Any]) -> str:
    """The text in a part of a streamed generation; there are parts without any."""
    return member({"response": "", **chunk}, "response", str, url)


def chat_piece(url: str, chunk: dict[str, Any]) -> dict[str, Any]:
    """A part of a streamed chat, as it came."""
    return chat_answer(url, {"message": {}, **chunk})


def chat_answer(url: str, answer: dict[str, Any]) -> dict[str, Any]:
    """A chat's answer, as it came: it has a message."""
    member(answer, "message", dict[str, Any], url)
    return answer


def invalid(url: str, what: str) -> OllamaServiceError:
    """It answers, and not as an Ollama server does."""
    return OllamaServiceError(N_("{url} sent {what}, which is no answer of Ollama's."), url=url, what=what)


def lost(url: str, problem: str) -> OllamaConnectionError:
    """The connection did not last."""
    return OllamaConnectionError(
        N_("The connection to {url} was lost: {problem}."), url=url, problem=problem, trouble="lost"
    )


MEMORY_HINTS = (N_("Unload what else is in memory (`ps()`, `unload()`), or use a smaller model or context."),)
_HINTS = {
    401: (N_("The server wants a key: OllamaService(..., key=...)."),),
    403: (N_("The server does not serve this address or this key."),),
    503: (N_("The server is busy: try again in a moment."),),
}


def _advice(body: Mapping[str, Any]) -> tuple[str, ...]:
    """What a server of ours suggests. Its words are no templates to fill."""
    told = body.get("suggestions")
    lines = [_shown(str(one)) for one in told[:ADVICE_COUNT_MAX]] if isinstance(told, list) else []
    return tuple(line for line in lines if line and "{" not in line)


def _words(error: object) -> str:
    """What a server says in `error`: Ollama a text, others an object with a message."""
    if isinstance(error, dict):
        error = error.get("message", error)
    return _shown(str(error)) or "?"


def _shown(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text[:TEXT_CHARS_MAX]).strip()
