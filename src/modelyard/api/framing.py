"""What about a request's head could be read in two ways, by us and by a proxy in front of us. Pure."""

from __future__ import annotations

import re

from modelyard.errors import N_

_DIGITS = re.compile(rb"[0-9]{1,18}")
_TARGET = re.compile(rb"/[\x21-\x7e]*")


def framing_problem(version: str, url: bytes, headers: list[tuple[bytes, bytes]]) -> str | None:
    """What about a head could be read in two ways; None if nothing."""
    if version not in ("1.1", "1.0"):
        return N_("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if not _TARGET.fullmatch(url):
        return N_("The request target must be a path.")
    hosts = lengths = encodings = upgrades = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            lengths += 1
            if not _DIGITS.fullmatch(value):
                return N_("Content-Length must be a number.")
        elif name == b"transfer-encoding":
            encodings += 1
            if value.lower() != b"chunked" or version == "1.0":
                return N_("The only transfer encoding is chunked, in HTTP/1.1.")
        elif name == b"upgrade":
            upgrades = 1
    if hosts != 1:
        return N_("The request needs exactly one Host header.")
    if lengths + encodings > 1 or encodings + upgrades > 1:
        return N_("The length of the body must be told once, in one way.")
    return None
