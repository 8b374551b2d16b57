"""Which Host and Origin headers are answered: the defence against DNS rebinding and foreign web pages.

Checked on every bind and every route, before authentication. Decisions about hosts are kept in a bounded table, so
that a request costs one look-up. Knows nothing about keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address

from modelyard.errors import N_, BadRequest, ConfigError, HostRefused, OriginRefused, said

HOST_CHARS_MAX = 260
DECISIONS_MAX = 256
LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))
IN_PROCESS = "testclient"  # the peer that in-process test clients report; no socket has such an address
_IN_PROCESS_HOST = "testserver"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?)(?::([0-9]{1,5}))?")
_DECLARED = re.compile(r"(\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")


class HostPolicy:
    """Answers loopback names, the address a connection was accepted on, and declared names; nothing else.

    A declared name may begin with `*.` to stand for every name below it. Ports do not matter: a rebound name is
    foreign whatever its port, and tunnels change ports.
    """

    def __init__(self, *, bind_host: str = "127.0.0.1", declared: Iterable[str] = ()) -> None:
        exact, suffixes = set(LOOPBACK_NAMES), []
        for name in (bind_host, *declared):
            lowered = name.lower()
            if lowered.startswith("*."):
                suffixes.append(lowered[1:])
            exact.add(_bracketed(lowered))
        for name in declared:
            if not (_DECLARED.fullmatch(name) or _is_address(name.strip("[]"))):
                raise ConfigError(
                    where="server.allowed_hosts",
                    problem=said("{name} is not a host name or an address", name=f"{name!r}"),
                )
        self._exact = frozenset(exact) - {"0.0.0.0", "[::]", ""}  # noqa: S104 - excluded: a wildcard names nobody
        self._suffixes = tuple(suffixes)
        self._allowed: set[tuple[bytes, str]] = set()

    def check(self, host: bytes | None, *, accepted_on: str, peer: str) -> None:
        """Raise unless this Host header is answered. `accepted_on` is the connection's own address."""
        if host is None:
            raise BadRequest(N_("The request needs exactly one Host header."), param="Host")
        if (host, accepted_on) in self._allowed:
            return
        if peer == IN_PROCESS and host == _IN_PROCESS_HOST.encode():
            return
        name = parse_host(host)
        if name is None:
            raise BadRequest(N_("The Host header is not a host and a port."), param="Host")
        if not self._answers(name, accepted_on):
            raise HostRefused()
        if len(self._allowed) < DECISIONS_MAX:
            self._allowed.add((host, accepted_on))

    def _answers(self, name: str, accepted_on: str) -> bool:
        if name in self._exact or name.endswith(self._suffixes):
            return True
        # A name cannot be rebound to an address literal: whoever writes our own address means us.
        return _is_address(accepted_on) and name == _bracketed(accepted_on)


class OriginPolicy:
    """Web pages of our own origin and of declared ones may call; `null`, other ports and all others may not."""

    def __init__(self, declared: Iterable[str] = ()) -> None:
        self.declared = frozenset(origin.rstrip("/").lower() for origin in declared)
        for origin in self.declared:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    where="server.allowed_origins",
                    problem=said("{origin} is not an origin such as https://example.org", origin=f"{origin!r}"),
                )

    def check(self, origin: bytes | None, fetch_site: bytes | None, fetch_mode: bytes | None, host: bytes) -> bool:
        """Raise unless the page may call; True if it is a declared page of another origin, which needs CORS."""
        if origin is not None:
            text = origin.decode("latin-1").lower()
            if text in self.declared:
                return True
            own = host.decode("latin-1").lower()
            if text not in (f"http://{own}", f"https://{own}"):
                raise OriginRefused()
        elif fetch_site in (b"cross-site", b"same-site") and fetch_mode != b"navigate":
            raise OriginRefused()  # an <img> or a no-cors fetch of another page carries no Origin
        return False


def parse_host(host: bytes) -> str | None:
    """The name in a Host header, lower-case, IPv6 in its shortest form; None if it is malformed.

    >>> parse_host(b"LocalHost:80"), parse_host(b"[0:0:0:0:0:0:0:1]:80"), parse_host(b"evil.tld@localhost")
    ('localhost', '[::1]', None)
    """
    if len(host) > HOST_CHARS_MAX:
        return None
    match = _HOST.fullmatch(host.decode("latin-1"))
    if match is None or (match[2] is not None and not 0 < int(match[2]) <= 65535):
        return None
    name = match[1].lower()
    if name.startswith("["):
        return _bracketed(name) if _is_address(name[1:-1]) else None
    return None if ".." in name else name


def _bracketed(name: str) -> str:
    try:
        parsed = ip_address(name.strip("[]").partition("%")[0])
    except ValueError:
        return name
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped) if parsed.ipv4_mapped and not name.startswith("[") else f"[{parsed.compressed}]"
    return str(parsed)


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
