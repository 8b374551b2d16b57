"""Numbers, sizes and times for people, as each language writes them. Babel knows how; this file knows which.

Sizes are binary and say so (GiB). Machine output never comes through here: it has bytes, seconds and RFC 3339.
"""

from __future__ import annotations

from babel.dates import format_timedelta
from babel.numbers import format_decimal
from babel.units import format_unit

from modelyard.units import format_bytes, format_duration


def number(value: float, language: str, decimals: int = 0) -> str:
    """A number with its thousands grouped.

    >>> number(1234567, "zh_TW"), number(12.345, "en", 1)
    ('1,234,567', '12.3')
    """
    return format_decimal(value, "#,##0." + "0" * decimals if decimals else "#,##0", locale=language)


def size(count: int, language: str) -> str:
    """A size in binary units, labelled as such.

    >>> size(1536, "zh_TW"), size(0, "en"), size(2000 * 1024**4, "en")
    ('1.5 KiB', '0 B', '2,000.0 TiB')
    """
    value, unit = format_bytes(count).split(" ")
    return f"{number(float(value), language, 1 if '.' in value else 0)} {unit}"


def duration(seconds: float, language: str) -> str:
    """A duration with at most two units.

    >>> duration(75, "en"), duration(75, "zh_TW"), duration(7260, "zh_CN"), duration(0.034, "zh_TW")
    ('1m15s', '1 分鐘 15 秒', '2小时1分钟', '34 毫秒')
    """
    if language == "en":
        return format_duration(seconds)
    if seconds < 1:
        return _unit(round(seconds * 1000), "millisecond", language)
    if seconds < 60:
        return _unit(round(seconds, 1), "second", language)
    minutes, rest = divmod(round(seconds), 60)
    parts = [(minutes, "minute"), (rest, "second")]
    if minutes >= 60:
        parts = list(zip(divmod(round(seconds / 60), 60), ("hour", "minute"), strict=True))
    texts = [_unit(value, unit, language) for value, unit in parts if value]
    return ("" if language == "zh_CN" else " ").join(texts)


def ago(seconds: float, language: str) -> str:
    """How long ago something was; negative for what is to come.

    >>> ago(10800, "en"), ago(10800, "zh_TW"), ago(-240, "zh_CN"), ago(3, "en")
    ('3 hours ago', '3 小時前', '4分钟后', '3 seconds ago')
    """
    return format_timedelta(-round(seconds), threshold=1, add_direction=True, locale=language)


def _unit(value: float, unit: str, language: str) -> str:
    return format_unit(value, f"duration-{unit}", "short", locale=language)
