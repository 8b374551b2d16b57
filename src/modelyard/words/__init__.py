"""Texts for people, in their language. Templates are English; catalogues are gettext's.

Machine fields (codes, JSON keys, log events, metric names) are never translated.
"""

from __future__ import annotations

import gettext
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from modelyard.errors import Sentence, TimeoutWithDiagnosis, YardError, fill

from .phrases import WORDED, in_language

LANGUAGES = ("en", "zh_TW", "zh_CN")
_LOCALES = Path(__file__).parent / "locales"


@lru_cache(maxsize=len(LANGUAGES))
def _catalogue(language: str) -> gettext.NullTranslations:
    return gettext.translation("modelyard", _LOCALES, [language], fallback=True)


def _(template: str, language: str = "en") -> str:
    """The template in a language, or as it is where no translation exists."""
    return _catalogue(language).gettext(template) if template else ""


def counted(count: int, one: str, many: str, language: str = "en") -> str:
    """The template for a count, in a language: `{count}` is one of its fields.

    >>> counted(1, "{count} model", "{count} models"), counted(0, "{count} model", "{count} models")
    ('{count} model', '{count} models')
    """
    return _catalogue(language).ngettext(one, many, count)


def render(error: YardError, language: str = "en") -> tuple[str, list[str]]:
    """An error's message and suggestions in a language. Suggestions whose values are missing are left out."""
    fields = error.fields if language == "en" else _told(error.fields, language)
    message = fill(_(error.text, language), fields)
    if isinstance(error, TimeoutWithDiagnosis) and error.sentences:
        message = joined(error.sentences, language)
    hints = [fill(_(hint, language), fields) for hint in error.hints]
    return message, [hint for hint in hints if "{" not in hint]


def told(text: str, language: str = "en") -> str:
    """An English text of ours that came as text, with its values in it, in a language."""
    return text if language == "en" else in_language(text, _LOCALES / language / "LC_MESSAGES" / "modelyard.mo")


def _told(fields: Mapping[str, object], language: str) -> dict[str, object]:
    """The values of an error; those that are words in a language."""
    return {
        name: told(str(value), language) if name in WORDED and isinstance(value, str | YardError) else value
        for name, value in fields.items()
    }


def joined(sentences: Sequence[Sentence], language: str = "en") -> str:
    """Several sentences as one, with the language's own mark between them."""
    mark = "；" if language.startswith("zh") else "; "
    return mark.join(fill(_(template, language), values) for template, values in sentences)


def language_of(environment: Mapping[str, str]) -> str:
    """Pick a language from locale variables, in gettext's order.

    >>> language_of({"LC_ALL": "", "LANG": "zh_TW.UTF-8"}), language_of({"LANG": "C"})
    ('zh_TW', 'en')
    """
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if environment.get(name):
            return _nearest(environment[name].split(".")[0])
    return "en"


def language_of_header(accept_language: str) -> str | None:
    """Pick a language from an Accept-Language header; None if it names none of ours.

    >>> language_of_header("zh-Hant-TW,zh;q=0.8,en;q=0.5"), language_of_header("fr")
    ('zh_TW', None)
    """
    weighted: list[tuple[float, int, str]] = []
    for position, item in enumerate(accept_language[:200].split(",")):
        tag, _separator, quality = item.strip().partition(";q=")
        try:
            weighted.append((-float(quality or 1), position, tag))
        except ValueError:
            continue
    for _quality, _position, tag in sorted(weighted):
        language = _nearest(tag.replace("-", "_"))
        if language != "en" or tag.lower().startswith("en"):
            return language
    return None


def _nearest(tag: str) -> str:
    lowered = tag.lower()
    if not lowered.startswith("zh"):
        return "en"
    traditional = ("tw", "hk", "mo", "hant")
    return "zh_TW" if any(part in traditional for part in lowered.split("_")[1:]) else "zh_CN"
