"""Texts for people, from the source to the catalogues: `python -m tools.catalogues extract|compile|check`.

`extract` finds every marked text in src/ and brings each `.po` file up to date; `compile` makes the `.mo` files that
the program reads; `check` says what is missing. A translation is kept as long as its English text is in the source.
Files are sorted, with no dates, guesses or places in them, so that two people's work merges; where git sees a conflict,
both sides are read, and what is translated stays. `make catalogues` does all three.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

SOURCE = Path(__file__).parent.parent / "src"
LOCALES = SOURCE / "modelyard" / "words" / "locales"
TRANSLATED = ("zh_TW", "zh_CN")
MARKS = {"N_": None, "said": None, "NN_": (1, 2), "counted": (2, 3)}
_HEADERS = [("Content-Type", "text/plain; charset=utf-8"), ("Plural-Forms", "nplurals=1; plural=0;")]
_CONFLICT = re.compile(r"^<{7} .*\n((?:.*\n)*?)(?:\|{7} .*\n(?:.*\n)*?)?={7}\n((?:.*\n)*?)>{7} .*\n", re.MULTILINE)
_FIELD = re.compile(r"\{(\w+)[^{}]*\}")
_BACKSPACE = ("\b", "\\b")  # click's mark for a paragraph that is not wrapped; Babel writes it as the bare character
_HOW = "Put the text into src/modelyard/words/{path} and run `make catalogues`."


class _Plain(Catalog):
    """A catalogue whose header says nothing that changes from run to run."""

    mime_headers = property(lambda _self: _HEADERS, lambda _self, _value: None)


def po_path(language: str) -> Path:
    """Where people write the translations into a language."""
    return LOCALES / language / "LC_MESSAGES" / "modelyard.po"


def marked() -> list[str | tuple[str, str]]:
    """Every text in the source that is marked for translation; a pair where its count decides its form."""
    found: set[str | tuple[str, str]] = set()
    for _file, _line, text, _comments, _context in extract_from_dir(SOURCE, [("**.py", "python")], {}, MARKS):
        found.add(text if isinstance(text, str) else (text[0], text[1]))
    return sorted(found - {""}, key=lambda one: one if isinstance(one, str) else one[0])


def written(language: str) -> Catalog:
    """The catalogue as it is in its file."""
    path = po_path(language)
    if not path.exists():
        return _Plain(locale=language)
    bare, escaped = _BACKSPACE
    content = path.read_text(encoding="utf-8").replace(escaped, bare)
    sides = [_CONFLICT.sub(side, content) for side in (r"\1", r"\2")] if _CONFLICT.search(content) else [content]
    found: dict[str, Message] = {}
    for side in sides:
        for message in read_po(io.StringIO(side), locale=language, abort_invalid=True):
            name = message.id if isinstance(message.id, str) else message.id[0]
            if name not in found or all(forms(message)):
                found[name] = message
    whole = _Plain(locale=language)
    for message in found.values():
        if message.id:
            whole[message.id] = message
    return whole


def updated(language: str) -> bytes:
    """The file of a language with exactly the texts of the source, keeping translations."""
    old, new = written(language), _Plain(locale=language)
    for text in marked():
        kept = old.get(text if isinstance(text, str) else text[0])
        new.add(text, kept.string if kept is not None and not isinstance(kept.string, tuple) else "")
        if not isinstance(text, str):
            new[text[0]].string = _forms(kept)
    out = io.BytesIO()
    write_po(out, new, sort_output=True, no_location=True, width=0, omit_header=True)
    head = f'# {language}: what `python -m tools.catalogues` keeps up to date.\nmsgid ""\nmsgstr ""\n'
    head += "".join(f'"{name}: {value}\\n"\n' for name, value in _HEADERS) + "\n"
    return (head + out.getvalue().decode().replace(*_BACKSPACE)).encode()


def compiled(language: str) -> bytes:
    """What the program reads."""
    catalogue, out = _Plain(locale=language), io.BytesIO()
    for message in written(language):
        if message.id and all(forms(message)):  # Babel would write English forms where there are none
            catalogue[message.id] = message
    write_mo(out, catalogue)
    return out.getvalue()


def problems(language: str) -> Iterator[str]:
    """What keeps a language from being complete, each with what to do."""
    catalogue, how = written(language), _HOW.format(path=po_path(language).relative_to(LOCALES.parent))
    texts = marked()
    for text in texts:
        message = catalogue.get(text if isinstance(text, str) else text[0])
        if message is None or not forms(message)[0]:
            yield f"{language} has no translation of {text!r}. {how}"
        elif not _has_its_fields(message):
            yield f"{language} has other {{fields}} than {text!r}: {message.string!r}"
    for message in catalogue:
        if message.id and (message.id if isinstance(message.id, str) else tuple(message.id)) not in texts:
            yield f"{language} translates what no source file says: {message.id!r}. Run `make catalogues`."
    binary = po_path(language).with_suffix(".mo")
    if not binary.exists() or binary.read_bytes() != compiled(language):
        yield f"{binary.name} of {language} is not what its .po file compiles to. Run `make catalogues`."


def _has_its_fields(message: Message) -> bool:
    """Whether a translation has the values of its text: of two forms those of both, and none that neither has."""
    texts = [message.id] if isinstance(message.id, str) else message.id
    named = [set(_FIELD.findall(text)) for text in texts]
    used = set(_FIELD.findall(forms(message)[0]))
    return set.intersection(*named) <= used <= set.union(*named)


def forms(message: Message) -> tuple[str, ...]:
    """What a text is translated as: one form, or as many as its count has in that language."""
    return (message.string,) if isinstance(message.string, str) else tuple(message.string or ("",))


def _forms(kept: Message | None) -> tuple[str, ...]:
    return forms(kept)[:1] if kept is not None else ("",)


def main(arguments: list[str]) -> int:
    """Do what the arguments name, in this order."""
    if not arguments or set(arguments) - {"extract", "compile", "check"}:
        print(__doc__)
        return 2
    if "extract" in arguments:
        for language in TRANSLATED:
            text = updated(language)
            po_path(language).parent.mkdir(parents=True, exist_ok=True)
            po_path(language).write_bytes(text)
    if "compile" in arguments:
        for language in TRANSLATED:
            po_path(language).with_suffix(".mo").write_bytes(compiled(language))
    found = [line for language in TRANSLATED for line in problems(language)] if "check" in arguments else []
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
