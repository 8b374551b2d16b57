"""Keys are given by reference, and shown nowhere."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from modelyard.config.explain import MASK, effective_lines, setting_rows, variable_lines
from modelyard.config.settings import LoadedSettings, load_settings
from modelyard.errors import ConfigError

KEY = "canary-0123456789-abcdef"


def load(folder: Path, text: str, **environment: str) -> LoadedSettings:
    (folder / "modelyard.toml").write_text(text)
    return load_settings(environment=environment, folder=folder)


def entry(secret: str) -> str:
    return f'[[keys]]\nid = "a"\nsecret = "{secret}"\n'


@pytest.mark.parametrize(
    "secret", ["env:THE_KEY", "file:key", "${THE_KEY}", f"sha256:{sha256(KEY.encode()).hexdigest()}"]
)
def test_every_reference_ends_in_the_same_hash(tmp_path: Path, secret: str) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    (tmp_path / "key").chmod(0o600)

    loaded = load(tmp_path, entry(secret), THE_KEY=KEY)

    assert loaded.settings.keys[0].secret_sha256 == sha256(KEY.encode()).hexdigest()
    assert loaded.notices == ()


def test_a_key_in_plain_text_in_a_file_is_refused_without_repeating_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, entry(KEY))

    assert KEY not in str(caught.value)
    assert any("env:NAME" in hint for hint in caught.value.suggestions)


def test_nothing_that_explains_settings_shows_a_key(tmp_path: Path) -> None:
    variables = {"MODELYARD_KEYS": f'[{{"id": "a", "secret": "{KEY}", "rights": ["admin"]}}]'}

    loaded = load(tmp_path, "", **variables)
    everything = [repr(loaded), *effective_lines(loaded, everything=True), *variable_lines(loaded, variables)]
    everything += [repr(row) for row in setting_rows(loaded)]

    assert KEY not in "\n".join(everything)
    assert f"MODELYARD_KEYS={MASK}" in everything
    assert loaded.settings.keys[0].secret.get_secret_value() == KEY


@pytest.mark.parametrize("secret", ["env:ABSENT", "file:absent", "file:binary", "sha256:12", "env:SHORT"])
def test_a_bad_reference_is_refused_without_showing_contents(tmp_path: Path, secret: str) -> None:
    (tmp_path / "binary").write_bytes(KEY.encode() + b"\xff")

    with pytest.raises(ConfigError) as caught:
        load(tmp_path, entry(secret), SHORT="canary")

    assert "canary" not in str(caught.value)


def test_a_complaint_about_a_key_never_repeats_it(tmp_path: Path) -> None:
    variables = {"MODELYARD_KEYS": f'[{{"id": "a b", "secret": "{KEY}", "rigths": 1}}]'}

    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "", **variables)

    assert KEY not in str(caught.value) + repr(caught.value.fields)


def test_a_secret_that_others_may_read_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o644)

    assert [notice.code for notice in load(tmp_path, entry("file:key")).notices] == ["secret_readable"]


def test_two_keys_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two keys have the id a"):
        load(tmp_path, entry("env:K") * 2, K=KEY)
