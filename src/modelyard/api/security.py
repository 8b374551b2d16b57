"""Every request's way in: one pass over its headers, Host and Origin, who is calling, and what a route asks for.

Authorisation is attached to each route (`Guard.secured`); a route without it cannot be built. It happens before the
body is read, and never looks at a reconstructed URL: only at the route that matched.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from modelyard.errors import N_, BadRequest, ConfigError, MethodNotAllowed, NotAuthenticated, PermissionDenied, said
from modelyard.gateway.keys import ALL_RIGHTS, ANONYMOUS, Caller, KeyRing, Right
from modelyard.gateway.limits import Limits
from modelyard.loopback import is_loopback

from .hosts import IN_PROCESS, HostPolicy, OriginPolicy
from .problems import Dialect

log = structlog.get_logger()

Endpoint = Callable[[Request, Caller], Awaitable[Response]]
OPEN_RIGHTS = frozenset((Right.INFER, Right.READ, Right.METRICS))  # of strangers where an open bind was asked for
REQUEST_ID_CHARS_MAX = 512
LOCAL_CALLERS_MAX = 64
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"x-forwarded-host")
_CREDENTIALS = (b"authorization", b"x-api-key", b"api-key")
_WANTED = frozenset(
    (b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"x-request-id", b"x-client-request-id",
     b"accept-language", b"access-control-request-method", *_CREDENTIALS, *_FORWARDED)
)  # fmt: skip
_ONCE = frozenset((b"host", b"origin"))  # two of them are a trick
_AGREEING = frozenset(_CREDENTIALS)

Headers = dict[bytes, bytes]


def read_headers(scope: Scope) -> Headers:
    """The headers that decide something, in one pass. Raise for those that contradict each other."""
    found: Headers = {}
    for name, value in scope["headers"]:
        if name in _WANTED:
            if name in found:
                if name in _ONCE:
                    raise BadRequest(N_("The request has more than one {header} header."), header=name.decode())
                if name in _AGREEING and found[name] != value:
                    raise BadRequest(N_("The request carries two different keys."), param=name.decode())
                if name == b"x-forwarded-for":
                    found[name] += b"," + value
                continue
            found[name] = value
    return found


def request_id_of(headers: Headers) -> str:
    """The caller's own id if it is short and printable, else a new one."""
    given = headers.get(b"x-request-id") or headers.get(b"x-client-request-id")
    if given and len(given) <= REQUEST_ID_CHARS_MAX and given.isascii():
        text = given.decode("ascii")
        if text.isprintable():
            return text
    return new_request_id()


def new_request_id() -> str:
    """An id that nobody can guess."""
    return "req-" + os.urandom(12).hex()


def check_bind(host: str, keys: KeyRing, *, allow_open: bool = False, where: str = "server.host") -> tuple[str, ...]:
    """Refuse to listen off loopback without a key. Returns warnings to print at every start."""
    if keys or is_loopback(host):
        return ()
    if not allow_open:
        raise ConfigError(
            where=where, problem=said("{host} is reachable from other machines and no key is configured", host=host),
            hints=(N_("Add a key under [[keys]], or listen on 127.0.0.1."),
                   N_("server.allow_open_bind = true starts anyway: everybody who reaches the port can use it.")),
        )  # fmt: skip
    return (f"Listening on {host} without any key: everybody who reaches the port can use the models.",)


@dataclass(frozen=True, slots=True)
class Secured:
    """One path of the route table: an ASGI app that lets in whoever holds one of `rights`, then runs the endpoint."""

    guard: Guard
    methods: tuple[str, ...]
    endpoint: Endpoint | None  # either this
    app: ASGIApp | None  # or that
    rights: frozenset[Right]
    public: bool
    dialect: Dialect
    limited: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        state["dialect"] = self.dialect
        guard = self.guard
        caller = guard.identify(scope, state["headers"], is_optional=self.public)
        if not self.public and not (self.rights & caller.rights):
            raise PermissionDenied(right=min(self.rights, default=Right.ADMIN).value)
        method = scope["method"]
        if method not in self.methods:
            raise MethodNotAllowed(method=method[:20], allow=", ".join(self.methods))
        if not self.limited:
            await self._run(caller, scope, receive, send)
            return
        state["limit"] = guard.limits.admit(caller)
        with guard.limits.slot(caller):
            await self._run(caller, scope, receive, send)

    async def _run(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["caller"] = caller
        if self.endpoint is not None:
            response = await self.endpoint(Request(scope, receive, send), caller)
            await response(scope, receive, send)
        elif self.app is not None:
            await self.app(scope, receive, send)


class Guard:
    """Who may come in. Built once; everything it needs is handed in."""

    def __init__(
        self,
        *,
        keys: KeyRing,
        limits: Limits,
        hosts: HostPolicy,
        origins: OriginPolicy,
        trusted_proxies: Iterable[str] = (),
        allow_open: bool = False,
    ) -> None:
        self.keys = keys
        self.limits = limits
        self.hosts = hosts
        self.origins = origins
        self._allow_open = allow_open
        self._proxies: tuple[IPv4Network | IPv6Network, ...] = tuple(
            ip_network(proxy, strict=False) for proxy in trusted_proxies
        )
        self._local_callers: dict[str, Caller] = {}

    def become(self, other: Guard) -> None:
        """Take over what another one says of keys, limits and sources. What is counted goes on."""
        self.keys, self.hosts, self.origins = other.keys, other.hosts, other.origins
        self.limits.become(other.limits)
        self._allow_open, self._proxies = other._allow_open, other._proxies
        self._local_callers = {}

    def secured(
        self,
        path: str,
        endpoint: Endpoint | None,
        methods: tuple[str, ...],
        right: Right | Iterable[Right] = (),
        *,
        public: bool = False,
        limited: bool = False,
        dialect: Dialect = Dialect.OPENAI,
        app: ASGIApp | None = None,
    ) -> Route:
        """A route that asks for a right (any of several). The methods it lacks are refused after the right.

        `limited` routes count against the caller's limits. `app` is an ASGI app that answers instead of an endpoint.
        """
        rights = frozenset((right,)) if isinstance(right, Right) else frozenset(right)
        if public == bool(rights) or (endpoint is None) == (app is None):
            raise AssertionError(f"{path}: a route is public or asks for a right, and has one endpoint")
        known = tuple(dict.fromkeys((*methods, "HEAD") if "GET" in methods else methods))
        return Route(path, Secured(self, known, endpoint, app, rights, public, dialect, limited))

    def check_source(self, scope: Scope, headers: Headers) -> bool:
        """Host and Origin, on every route and every bind. True if the answer needs CORS headers."""
        server, client = scope.get("server"), scope.get("client")
        host = headers.get(b"host")
        self.hosts.check(host, accepted_on=server[0] if server else "", peer=client[0] if client else "")
        if b"origin" not in headers and b"sec-fetch-site" not in headers:
            return False
        return self.origins.check(
            headers.get(b"origin"), headers.get(b"sec-fetch-site"), headers.get(b"sec-fetch-mode"), host or b""
        )

    def identify(self, scope: Scope, headers: Headers, *, is_optional: bool = False) -> Caller:
        """Who is calling. Raise `NotAuthenticated` for nobody we know, unless that is fine."""
        if not self.keys:
            caller = self._keyless(scope, headers)
        else:
            secret = credential_of(headers)
            caller = self.keys.find(secret) if secret is not None else None
            if caller is None and secret is not None and not is_optional:
                self.limits.count_failed_login(self.address_of(scope, headers))
                log.warning("auth.failed", request_id=scope["state"]["request_id"])
        if caller is None:
            if is_optional:
                return ANONYMOUS
            raise NotAuthenticated()
        return caller

    def _keyless(self, scope: Scope, headers: Headers) -> Caller | None:
        """Without keys the local caller may do everything; what a proxy passed on is not local."""
        client = scope.get("client")
        address = client[0] if client else "unix"
        known = self._local_callers.get(address)
        if known is None or any(name in headers for name in _FORWARDED):
            address = self.address_of(scope, headers)
            is_direct = not any(name in headers for name in _FORWARDED)
            is_local = is_direct and (address in ("unix", IN_PROCESS) or is_loopback(address))
            if not is_local:
                return Caller(f"address:{address}", OPEN_RIGHTS) if self._allow_open else None
            known = Caller(f"local:{address}", ALL_RIGHTS, is_local=True)
            if len(self._local_callers) < LOCAL_CALLERS_MAX:
                self._local_callers[address] = known
        return known

    def address_of(self, scope: Scope, headers: Headers) -> str:
        """Where a request came from; X-Forwarded-For is believed only from listed proxies, from the right."""
        client = scope.get("client")
        address = client[0] if client else "unix"
        if not self._proxies or b"x-forwarded-for" not in headers:
            return address
        hops = [hop.strip() for hop in headers[b"x-forwarded-for"].decode("latin-1").split(",")]
        while hops and self._is_proxy(address):
            address = hops.pop()
        return address if _is_ip(address) else "unknown"

    def _is_proxy(self, address: str) -> bool:
        if not _is_ip(address):
            return False
        parsed = ip_address(address)
        return any(parsed in network for network in self._proxies)


def credential_of(headers: Headers) -> str | None:
    """The key a request carries. Raise if it carries two that differ."""
    found: str | None = None
    for name in _CREDENTIALS:
        value = headers.get(name)
        if value is None:
            continue
        text = value.decode("latin-1").strip()
        if name == b"authorization":
            scheme, _space, text = text.partition(" ")
            if scheme.lower() != "bearer":
                continue
            text = text.strip()
        if found is not None and text != found:
            raise BadRequest(N_("The request carries two different keys."), param=name.decode())
        found = text
    return found or None


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
