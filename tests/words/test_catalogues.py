"""The catalogues in the repository and what people write in them."""

from __future__ import annotations

import gettext
import io

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
