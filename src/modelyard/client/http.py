"""A small client of a Modelyard server, for the command line: one method per thing a person asks for.

Every failure is an error of our tree. Leaving a chat's `with` block closes the connection, which ends the work on
the server. Follows no redirects: a key goes to the server it was meant for.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx2

from modelyard.client.addresses import model_path, node_path
from modelyard.client.event_lines import EventTooLarge, event_data
from modelyard.client.ollama_lines import Lines
from modelyard.client.replies import ModelEntry, chunks_of, content_of, convert, decode, error_of, model_entry
from modelyard.errors import (
    N_,
    ConfigError,
    ModelNotFound,
    NotAuthenticated,
    NotFound,
    RateLimited,
    UpstreamInvalid,
    UpstreamTimeout,
    UpstreamUnreachable,
    YardError,
)
from modelyard.loopback import is_loopback
from modelyard.types.chat import Delta, Message, Usage
from modelyard.types.fleet import FleetNodeStatus
from modelyard.types.memory import Receipt
from modelyard.types.status import NodeStatus

CONNECT_S = 10.0
ANSWER_S = 30.0  # for what a server knows without working
LOAD_S = 3600.0  # a load has its deadlines on the server
SILENCE_S = 60.0  # in a stream; a server gives a sign of life every 10 s
OURS = "x-modelyard-"  # headers that say who answered, and what it took
BODY_BYTES_MAX = 64 * 1024**2
_ERRNO = re.compile(r"^\[Errno -?\d+\] ")


class ChatStream:
    """The pieces of one answer as they come. Ends normally only if the server said that the answer is complete."""

    def __init__(self, response: httpx2.Response, url: str) -> None:
        self._response = response
        self._url = url
        self.request_id = response.headers.get("x-request-id", "")
        names = (name for name in response.headers if name.startswith(OURS))
        self.receipt = {name.removeprefix(OURS): str(response.headers[name]) for name in names}

    def __iter__(self) -> Iterator[Delta | Usage | None]:
        """Pieces; None for a sign of life without one."""
        with transport_errors(self._url):
            for data in event_data(self._response.iter_raw()):
                if data == b"[DONE]":
                    return
                if not data:
                    yield None
                    continue
                body = decode(data, self._url)
                if "error" in body:
                    raise error_of(self._response.status_code, body, self.request_id)
                yield from chunks_of(body)
        raise UpstreamInvalid(N_("{provider} cut off the answer before its end."), provider=self._url)


class YardClient:
    """Talks to one server. A context manager; not for use from several threads."""

    def __init__(self, url: str, key: str | None = None, *, language: str = "en") -> None:
        self.url = url.rstrip("/").removesuffix("/v1")  # what other clients call the base URL is understood too
        headers = {"accept-language": language.replace("_", "-"), "accept-encoding": "identity"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        try:
            parsed = httpx2.URL(self.url)
            if parsed.scheme not in ("http", "https") or not parsed.host:
                raise httpx2.InvalidURL("expected http://HOST:PORT")
            if parsed.port is not None and not 0 < parsed.port < 65536:
                raise httpx2.InvalidURL("a port is a number up to 65535")
            is_here = is_loopback(parsed.host)
            self._http = httpx2.Client(
                base_url=self.url,
                headers=headers,
                timeout=httpx2.Timeout(ANSWER_S, connect=CONNECT_S),
                follow_redirects=False,
                trust_env=not is_here,  # no proxy stands between us and ourselves
                # Where no TLS is spoken nobody is trusted: to read a hundred certificates takes 30 ms.
                verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_here and parsed.scheme == "http" else True,
            )
        except (httpx2.InvalidURL, ValueError) as problem:
            raise ConfigError(
                where=f"{url} (--url, MODELYARD_URL)",
                problem=str(problem),
                hints=(N_("Write it as http://127.0.0.1:11435."),),
            ) from problem

    def __enter__(self) -> YardClient:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def check(self) -> None:
        """Raise `UpstreamUnreachable` unless a server answers."""
        self._ask("GET", "/health")

    def models(self) -> list[ModelEntry]:
        """Every model the server offers."""
        body = self._ask("GET", "/v1/models")
        return [model_entry(entry, self.url) for entry in convert(body.get("data"), list[dict[str, Any]], self.url)]

    def show(self, model: str) -> ModelEntry:
        """One model, with all the server says about it."""
        return model_entry(self._ask("GET", f"/v1/models/{model_path(model)}"), self.url)

    def describe(self, model: str) -> dict[str, Any]:
        """One model as Ollama's `show` tells of it: licence, parameters, template."""
        return self._ask("POST", "/api/show", {"model": model})

    def cancel(self, request_id: str) -> None:
        """End a request that is being answered, or waits."""
        self._ask("DELETE", f"/admin/requests/{quote(request_id, safe='')}")

    def status(self) -> NodeStatus:
        """What is in memory, who waits, what runs."""
        return convert(self._ask("GET", "/admin/status"), NodeStatus, self.url)

    def rescan(self) -> dict[str, str]:
        """Have the model folders read again. Every model's name, and what is wrong with it."""
        found = convert(
            self._ask("POST", "/admin/models/rescan", timeout_s=LOAD_S).get("models"), list[dict[str, Any]], self.url
        )
        return {str(one.get("id", "")): str(one.get("problem") or "") for one in found}

    def load(self, model: str) -> Receipt | None:
        """Bring a model into memory. None: it was there already."""
        return self._receipt(self._ask("POST", f"/admin/models/{model_path(model)}/load", {}, timeout_s=LOAD_S))

    def unload(self, model: str, *, force: bool = False) -> Receipt | None:
        """Take a model out of memory, at the latest when its running requests have ended. None: it was not there."""
        body = {"force": force}
        return self._receipt(self._ask("POST", f"/admin/models/{model_path(model)}/unload", body, timeout_s=LOAD_S))

    def pin(self, model: str, *, pinned: bool) -> None:
        """Keep a model in memory, or no longer."""
        self._ask("POST", f"/admin/models/{model_path(model)}/pin", {"pinned": pinned}, timeout_s=LOAD_S)

    def nodes(self) -> list[FleetNodeStatus]:
        """Every other node, as the server last saw it."""
        return convert(self._ask("GET", "/admin/nodes").get("nodes"), list[FleetNodeStatus], self.url)

    def edit_node(self, name: str, *, weight: float | None = None, draining: bool | None = None) -> FleetNodeStatus:
        """Change what a node should do; it counts from the next request on."""
        changed = {"weight": weight, "draining": draining}
        body = {key: value for key, value in changed.items() if value is not None}
        return convert(self._ask("POST", f"/admin/nodes/{node_path(name)}/edit", body), FleetNodeStatus, self.url)

    def check_node(self, name: str) -> FleetNodeStatus:
        """Have a node looked at now, and tell how it is."""
        return convert(self._ask("POST", f"/admin/nodes/{node_path(name)}/check", {}), FleetNodeStatus, self.url)

    def pull(self, model: str) -> Iterator[dict[str, Any]]:
        """Have a model fetched; its progress as it comes. Ends normally only if the server says that it is done."""
        timeout, last = httpx2.Timeout(SILENCE_S, connect=CONNECT_S), ""
        with (
            transport_errors(self.url),
            self._http.stream("POST", "/api/pull", json={"model": model}, timeout=timeout) as response,
        ):
            if response.status_code != 200:
                raise self._refusal(response)
            lines = Lines(BODY_BYTES_MAX)
            for line in (line for piece in response.iter_raw() for line in lines.feed(piece)):
                step = decode(line, self.url)
                if "error" in step:
                    raise error_of(response.status_code, step)
                last = str(step.get("status"))
                yield step
        if last != "success":
            raise UpstreamInvalid(N_("{provider} cut off the answer before its end."), provider=self.url)

    def delete(self, model: str) -> None:
        """Take a model off the disk of the server, or of its node."""
        asked = self._http.stream("DELETE", "/api/delete", json={"model": model}, timeout=LOAD_S)
        with transport_errors(self.url), asked as response:
            if response.status_code != 200:
                raise self._refusal(response)

    @contextmanager
    def chat(
        self,
        model: str,
        messages: Sequence[Message],
        *,
        request_id: str | None = None,
        options: Mapping[str, object] | None = None,
    ) -> Iterator[ChatStream]:
        """Ask for an answer. `options` are OpenAI's members: `max_tokens`, `temperature`, `seed`, ..."""
        body = {
            **(options or {}),
            "model": model,
            "messages": [{"role": message.role, "content": content_of(message)} for message in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"x-request-id": request_id} if request_id else {}
        timeout = httpx2.Timeout(SILENCE_S, connect=CONNECT_S)
        with (
            transport_errors(self.url),
            self._http.stream("POST", "/v1/chat/completions", json=body, headers=headers, timeout=timeout) as response,
        ):
            if response.status_code != 200:
                raise self._refusal(response)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise UpstreamInvalid(N_("{provider} answered with no event stream."), provider=self.url)
            yield ChatStream(response, self.url)

    def _ask(
        self, method: str, path: str, body: Mapping[str, object] | None = None, *, timeout_s: float = ANSWER_S
    ) -> dict[str, Any]:
        timeout = httpx2.Timeout(timeout_s, connect=CONNECT_S)
        with transport_errors(self.url), self._http.stream(method, path, json=body, timeout=timeout) as response:
            if not 200 <= response.status_code < 300:
                raise self._refusal(response)
            return decode(_body(response, self.url), self.url)

    def _refusal(self, response: httpx2.Response) -> YardError:
        try:
            body: object = decode(_body(response, self.url), self.url)
        except UpstreamInvalid:
            body = None
        error = error_of(response.status_code, body, response.headers.get("x-request-id", ""))
        if isinstance(error, NotAuthenticated):
            error.hints = (N_("Put the key into MODELYARD_KEY, or its file's name into MODELYARD_KEY_FILE."),)
        wait = response.headers.get("retry-after", "")
        if isinstance(error, RateLimited) and wait.isdigit():
            error.hints = (N_("Try again in {wait} s."),)
            error.fields["wait"] = wait
        if isinstance(error, NotFound) and not isinstance(error, ModelNotFound) and body is None:
            return NotFound(
                N_("{url} does not know {path}: is it a Modelyard server?"),
                url=self.url,
                path=response.request.url.path,
            )
        return error

    def _receipt(self, body: Mapping[str, Any]) -> Receipt | None:
        return convert(body.get("receipt"), Receipt | None, self.url)  # type: ignore[arg-type]


@contextmanager
def transport_errors(url: str) -> Iterator[None]:
    """The only place where the transport's exceptions become ours."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as problem:
        raise UpstreamUnreachable(
            N_("No server answers at {url}: {problem}"),
            hints=(
                N_("Start one with `modelyard serve`."),
                N_("Or name another with --url or the environment variable MODELYARD_URL."),
            ),
            url=url,
            problem=_ERRNO.sub("", str(problem)) or type(problem).__name__,
            is_silence=isinstance(problem, httpx2.ConnectTimeout),
        ) from problem
    except httpx2.TimeoutException as problem:
        raise UpstreamTimeout(
            N_("{url} gave no sign of life in time."),
            hints=(N_("`modelyard ps` shows what it is doing."),),
            url=url,
        ) from problem
    except EventTooLarge as problem:
        raise UpstreamInvalid(N_("{provider} sent an event without an end."), provider=url) from problem
    except httpx2.RemoteProtocolError as problem:
        raise UpstreamInvalid(provider=url, problem=str(problem)) from problem
    except httpx2.TransportError as problem:
        raise UpstreamUnreachable(provider=url, problem=str(problem) or type(problem).__name__) from problem


def _body(response: httpx2.Response, url: str) -> bytes:
    pieces = bytearray()
    for piece in response.iter_raw():
        pieces += piece
        if len(pieces) > BODY_BYTES_MAX:
            raise UpstreamInvalid(N_("{provider} sent more than we read."), provider=url)
    return bytes(pieces)
