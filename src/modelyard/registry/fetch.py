"""One file over HTTP, from a place in it onward: the only way by which bytes of models come in from outside.

Promises: a redirect leads only to hosts that are allowed, and over TLS unless it is this machine; a token goes to the
one server it is for, and not along with a redirect to any other; what is no file (an error page, another length than it
must have) is refused before a byte of it is kept. Follows few redirects, and waits for nothing without a limit.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from modelyard.errors import (
    N_,
    NotFound,
    UpstreamInvalid,
    UpstreamLimited,
    UpstreamOverloaded,
    UpstreamRefusedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from modelyard.loopback import is_loopback
from modelyard.providers.node_address import Address
from modelyard.providers.node_http import NodeAnswer, NodeConnections
from modelyard.providers.worker_http import BrokenConnection, NoConnection

REDIRECTS_MAX = 5
URL_CHARS_MAX = 16_384
CONNECT_S = 10.0
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_URL = re.compile(r"[!-~]+")  # nothing that could end a line or a word of a request
_KEPT = frozenset((b"location", b"content-range", b"content-length", b"etag"))


@dataclass(frozen=True, slots=True)
class Hosts:
    """Which servers files may come from: the registry itself, and the names an operator allows.

    >>> hosts = Hosts(("hf.co", "*.hf.co", "cdn.example.org:8443"))
    >>> hosts.allow("https://cdn.hf.co/x"), hosts.allow("https://evilhf.co/x"), hosts.allow("https://cdn.example.org/")
    (True, False, False)
    """

    names: Sequence[str]

    def allow(self, url: str, registry: str = "") -> bool:
        """Whether a file may come from there. The registry allows its own origin."""
        try:
            origin, parts = origin_of(url), urlsplit(url)
        except ValueError:
            return False
        host = (parts.hostname or "").lower()
        if parts.username is not None or parts.password is not None:
            return False
        if registry and origin == origin_of(registry):
            return True
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
            return False
        port = f":{origin[2]}" if origin[2] != 443 else ""
        return any(
            f"{host}{port}" == name or (name.startswith("*.") and f"{host}{port}".endswith(name[1:]))
            for name in (name.lower() for name in self.names)
        )


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port. Raises `ValueError` for what is no address of a server."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(N_("not an address of a server"))
    return parts.scheme, parts.hostname.lower(), parts.port or (443 if parts.scheme == "https" else 80)


class FileAnswer(NodeAnswer):
    """An answer whose headers about files are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: dict[bytes, str] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        lowered = name.lower()
        if lowered in _KEPT and not self._has_head:
            self.headers.setdefault(lowered, value.decode("latin-1").strip())


class Body:
    """The bytes of a file from `start` on, as they come."""

    def __init__(self, answer: FileAnswer, provider: str, silence_s: float, start: int, left: int) -> None:
        self.start, self.etag = start, answer.headers.get(b"etag", "")
        self._answer, self._provider, self._silence_s, self._left = answer, provider, silence_s, left

    async def read(self) -> bytes:
        """The next bytes; empty at the file's end, and only there."""
        if not self._left:
            return b""
        try:
            async with asyncio.timeout(self._silence_s):
                data = await self._answer.read()
        except TimeoutError:
            raise UpstreamTimeout(
                N_("{provider} sent nothing for {silence_s:g} s."), hints=(), provider=self._provider,
                silence_s=self._silence_s,
            ) from None  # fmt: skip
        except BrokenConnection as problem:
            raise UpstreamUnreachable(provider=self._provider, problem=str(problem), hints=()) from problem
        if not data:
            raise UpstreamInvalid(N_("{provider} ended before the file did."), provider=self._provider, hints=())
        if len(data) > self._left:
            raise UpstreamInvalid(N_("{provider} sent more than the file has."), provider=self._provider, hints=())
        self._left -= len(data)
        return data


@dataclass(frozen=True, slots=True)
class FileRequest:
    """What to ask for. `registry` is the server that the URL names; a token is for it alone."""

    url: str
    size_bytes: int
    registry: str
    token: str = ""
    trust: Address | None = None  # how the registry's own certificate is checked, where that is configured


class Fetcher:
    """Makes connections, one for each request."""

    def __init__(self, hosts: Hosts, *, connect_s: float = CONNECT_S, silence_s: float = 30.0) -> None:
        self.hosts, self.connect_s, self.silence_s = hosts, connect_s, silence_s

    @asynccontextmanager
    async def get(self, wanted: FileRequest, start: int = 0, etag: str = "") -> AsyncIterator[Body]:
        """Ask for a file from a place on. The body says where it really begins: there, or at the file's beginning."""
        url, token = wanted.url, wanted.token
        for _hop in range(REDIRECTS_MAX + 1):
            self._check(url, wanted)
            provider = urlsplit(url).hostname or ""
            async with self._asked(url, _headers(start, etag, token), wanted) as answer:
                if answer.status in (301, 302, 303, 307, 308):
                    target = urljoin(url, answer.headers.get(b"location", ""))
                    if not _is_origin(target, url):
                        token = ""
                    url = target
                    continue
                yield self._body(answer, provider, wanted, start)
                return
        raise UpstreamInvalid(N_("{provider} redirects without end."), provider=wanted.registry, hints=())

    def _check(self, url: str, wanted: FileRequest) -> None:
        if len(url) > URL_CHARS_MAX or not _URL.fullmatch(url) or not self.hosts.allow(url, wanted.registry):
            host = ascii(urlsplit(url).hostname or "") if "[" not in url else "'?'"
            raise UpstreamInvalid(
                N_("{provider} sends us to {host}, from where nothing may be fetched."),
                hints=(N_("If you trust that host, add it to pull.hosts."),), provider=wanted.registry, host=host[:100],
            )  # fmt: skip

    @asynccontextmanager
    async def _asked(self, url: str, headers: Mapping[str, str], wanted: FileRequest) -> AsyncIterator[FileAnswer]:
        parts = urlsplit(url)
        trust = wanted.trust if wanted.trust is not None and _is_origin(url, wanted.registry) else None
        address = Address(
            (parts.hostname or "").lower(), origin_of(url)[2], parts.scheme == "https",
            ca_file=trust.ca_file if trust else None, fingerprint=trust.fingerprint if trust else "",
        )  # fmt: skip
        # Reading the system's certificates takes longer than the loop may stand still.
        connections = await asyncio.to_thread(NodeConnections, address, FileAnswer)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            async with asyncio.timeout(self.connect_s + self.silence_s):
                answer = await connections.request("GET", path, b"", headers, connect_s=self.connect_s)
        except TimeoutError:
            raise UpstreamTimeout(N_("{provider} did not answer."), provider=address.host, hints=()) from None
        except (NoConnection, BrokenConnection) as problem:
            raise UpstreamUnreachable(provider=address.host, problem=str(problem), hints=()) from problem
        assert isinstance(answer, FileAnswer), "these connections make no other"
        try:
            yield answer
        finally:
            connections.done(answer, is_complete=False)
            connections.close()

    def _body(self, answer: FileAnswer, provider: str, wanted: FileRequest, start: int) -> Body:
        """What the head of an answer must say for its body to be the file."""
        _check_status(answer, provider)
        if answer.content_type == b"text/html" and not wanted.url.endswith((".html", ".htm")):
            raise UpstreamInvalid(N_("{provider} sent a web page instead of the file."), provider=provider, hints=())
        begins = 0
        if answer.status == 206:
            match = _RANGE.fullmatch(answer.headers.get(b"content-range", ""))
            if not match or int(match[1]) != start or int(match[3]) != wanted.size_bytes:
                raise UpstreamInvalid(N_("{provider} sent another part of the file."), provider=provider, hints=())
            begins = start
        length = answer.headers.get(b"content-length", "")
        left = wanted.size_bytes - begins
        if length and length != str(left):
            raise UpstreamInvalid(
                N_("{provider} sends {length} bytes where the file has {left}."), provider=provider, hints=(),
                length=length[:20], left=left,
            )  # fmt: skip
        return Body(answer, provider, self.silence_s, begins, left)


def _headers(start: int, etag: str, token: str) -> dict[str, str]:
    headers = {"Accept": "*/*", "Connection": "close"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if etag.startswith('"'):  # a weak one promises nothing about bytes
            headers["If-Range"] = etag
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _check_status(answer: FileAnswer, provider: str) -> None:
    match answer.status:
        case 200 | 206:
            return
        case 401 | 403:
            raise UpstreamRefusedKey(
                N_("{provider} does not let us have this file."),
                hints=(N_("Accept the model's terms on the hub's page, and put your token into HF_TOKEN."),),
                provider=provider,
            )
        case 404 | 410:
            raise NotFound(N_("{provider} does not have this file any more."), provider=provider, hints=())
        case 429:
            raise UpstreamLimited(provider=provider, retry_after_s=answer.retry_after_s)
        case status if status >= 500:
            raise UpstreamOverloaded(
                N_("{provider} cannot send the file now: status {status}."), provider=provider, status=status,
                retry_after_s=answer.retry_after_s,
            )  # fmt: skip
        case status:
            raise UpstreamInvalid(
                N_("{provider} answered with status {status}."), provider=provider, status=status, hints=()
            )


def _is_origin(url: str, other: str) -> bool:
    try:
        return origin_of(url) == origin_of(other)
    except ValueError:
        return False
