"""The catalogues in the repository and what people write in them."""

from __future__ import annotations

import gettext
import io
from pathlib import Path

import pytest
from tools import catalogues


@pytest.mark.parametrize("language", catalogues.TRANSLATED)
def test_what_the_program_reads_is_what_people_wrote(language: str) -> None:
    """If this fails, run `make catalogues`."""
    assert catalogues.po_path(language).with_suffix(".mo").read_bytes() == catalogues.compiled(language)


@pytest.mark.parametrize("language", catalogues.TRANSLATED)
def test_a_compiled_catalogue_says_what_its_source_says(language: str) -> None:
    read = gettext.GNUTranslations(io.BytesIO(catalogues.compiled(language)))

    for message in catalogues.written(language):
        if isinstance(message.id, str) and message.id and message.string:
            assert read.gettext(message.id) == message.string


@pytest.mark.parametrize("language", catalogues.TRANSLATED)
def test_every_text_is_translated_with_its_values(language: str) -> None:
    """If this fails, it says what is missing and where it goes; after that run `make catalogues`."""
    missing = list(catalogues.problems(language))

    assert not missing, "\n".join(missing)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ('msgstr "{model} 已釘選。"', 'msgstr ""', ),
        ('msgstr "{model} 已釘選。"', 'msgstr "{modle} 已釘選。"'),
        ('msgid "{model} is pinned."', 'msgid "{model} is nailed."'),
    ],
)  # fmt: skip
def test_a_missing_text_other_values_and_a_text_that_nobody_says_are_found(
    wrong: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    po, copy = catalogues.po_path("zh_TW"), tmp_path / "zh_TW" / "LC_MESSAGES" / "modelyard.po"
    copy.parent.mkdir(parents=True)
    assert wrong in po.read_text(encoding="utf-8")
    copy.write_text(po.read_text(encoding="utf-8").replace(wrong, told), encoding="utf-8")
    monkeypatch.setattr(catalogues, "LOCALES", tmp_path)
    copy.with_suffix(".mo").write_bytes(catalogues.compiled("zh_TW"))

    found = list(catalogues.problems("zh_TW"))

    assert any("pinned" in line or "nailed" in line for line in found)
    assert all("catalogues" in line or "fields" in line for line in found)


def test_both_sides_of_a_conflict_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "zh_TW" / "LC_MESSAGES" / "modelyard.po"
    path.parent.mkdir(parents=True)
    path.write_text(
        'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n\n'
        '<<<<<<< HEAD\nmsgid "Start the server."\nmsgstr ""\n\nmsgid "State"\nmsgstr "狀態"\n=======\n'
        'msgid "Start the server."\nmsgstr "啟動伺服器。"\n>>>>>>> words\n',
        encoding="utf-8",
    )
    monkeypatch.setattr(catalogues, "LOCALES", tmp_path)

    catalogue = catalogues.written("zh_TW")

    assert {message.id: message.string for message in catalogue if message.id} == {
        "Start the server.": "啟動伺服器。",
        "State": "狀態",
    }


def test_a_text_with_two_forms_and_no_translation_stays_english_in_the_right_form() -> None:
    read = gettext.GNUTranslations(io.BytesIO(catalogues.compiled("zh_TW")))

    assert read.ngettext("{count} thing", "{count} things", 2) == "{count} things"
    assert read.ngettext("{count} model:", "{count} models:", 2) == "{count} 個模型："
