"""Bytes and durations: parse what people write, print what people read. Pure."""

from __future__ import annotations

import re

from modelyard.errors import said

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_BYTE_FACTORS = {
    "": 1, "b": 1,
    "k": 1000, "kb": 1000, "m": 1000**2, "mb": 1000**2, "g": 1000**3, "gb": 1000**3, "t": 1000**4, "tb": 1000**4,
    "kib": KIB, "mib": MIB, "gib": GIB, "tib": 1024**4,
}  # fmt: skip
_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_bytes(text: str | int | float) -> int:
    """Read a size; decimal and binary units mean what they say.

    >>> parse_bytes("1.5 GiB"), parse_bytes("2GB"), parse_bytes(512)
    (1610612736, 2000000000, 512)
    """
    if isinstance(text, int | float):
        value, unit = float(text), ""
    else:
        match = _BYTES.fullmatch(text)
        if match is None or match[2].lower() not in _BYTE_FACTORS:
            raise ValueError(
                said("not a size: {text}; write a number of bytes, or 4GiB, 512MiB, 8GB", text=f"{text!r}")
            )
        value, unit = float(match[1]), match[2].lower()
    if not 0 <= value < 2**63:
        raise ValueError(said("not a size: {text}; it must be between 0 and 8 EiB", text=f"{text!r}"))
    return int(value * _BYTE_FACTORS[unit])


def format_bytes(count: int) -> str:
    """Print a size in binary units, labelled as such.

    >>> format_bytes(1536), format_bytes(0), format_bytes(-3 * 1024**3)
    ('1.5 KiB', '0 B', '-3.0 GiB')
    """
    sign, size = ("-", -count) if count < 0 else ("", count)
    if size < KIB:
        return f"{sign}{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024 or unit == "TiB":
            return f"{sign}{value:.1f} {unit}"
    raise AssertionError("unreachable")


def format_size(count: int, decimals: int = 1) -> str:
    """Print a size as tools around Ollama do: steps of 1024, named B to PB.

    >>> format_size(43_916_040_602), format_size(512 * 1024**2), format_size(2_673_000_000, 2)
    ('40.9 GB', '512.0 MB', '2.49 GB')
    """
    value = float(count)
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if abs(value) < KIB:
            return f"{value:.{decimals}f} {unit}"
        value /= KIB
    return f"{value:.{decimals}f} PB"


def parse_duration(text: str | int | float) -> float:
    """Read a duration in seconds: a number, or a Go-style text. Negative means for ever.

    >>> parse_duration("1h30m"), parse_duration("250ms"), parse_duration(5), parse_duration("-1")
    (5400.0, 0.25, 5.0, -1.0)
    """
    if isinstance(text, int | float):
        value = float(text)
    else:
        body = text.strip()
        sign = -1.0 if body.startswith("-") else 1.0
        body = body.removeprefix("-")
        if re.fullmatch(r"\d+(\.\d+)?", body):
            value = sign * float(body)
        elif body and _DURATION_PART.sub("", body) == "":
            value = sign * sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(body))
        else:
            raise ValueError(said("not a duration: {text}; write seconds, or 90s, 5m, 1h30m", text=f"{text!r}"))
    if not -1e10 < value < 1e10:
        raise ValueError(said("not a duration: {text}; it must be under 300 years", text=f"{text!r}"))
    return value


def format_duration(seconds: float) -> str:
    """Print a duration with at most two units.

    >>> format_duration(0.034), format_duration(75), format_duration(7260), format_duration(2.5)
    ('34 ms', '1m15s', '2h1m', '2.5 s')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}h{minutes}m" if minutes else f"{hours}h"
