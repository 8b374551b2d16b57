"""Whatever stands in a configuration file or the environment: settings, or a `ConfigError`; never anything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.config import files
from modelyard.config.schema import Settings
from modelyard.config.settings import LoadedSettings, load_settings
from modelyard.errors import ConfigError

NAMES = [*Settings.model_fields, *Settings().models.model_dump(), "secret", "id", "port", "host", "x.y", "", "é"]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(
    ["${HOME}", "${", "env:NO", "file:/", "file:\0", "sha256:", "none", "1GiB", "-1", "5m", "::", "\0", "~nobody/x"]
)  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def load_or_refuse(folder: Path, environment: dict[str, str]) -> LoadedSettings | None:
    try:
        return load_settings(environment=environment, folder=folder)
    except ConfigError:
        return None


@QUIET
@given(tree=st.dictionaries(st.sampled_from(NAMES), TREES, max_size=4))
def test_any_tree_in_a_file(tmp_path: Path, tree: dict[str, object]) -> None:
    (tmp_path / "modelyard.json").write_text(json.dumps(tree))

    load_or_refuse(tmp_path, {})


@QUIET
@given(path=st.lists(st.sampled_from([name.upper() for name in NAMES]), max_size=4), value=TREES | SCALARS)
def test_any_variable(tmp_path: Path, path: list[str], value: object) -> None:
    text = value if isinstance(value, str) else json.dumps(value)

    load_or_refuse(tmp_path, {"MODELYARD_" + "__".join(path): text, "MODEL_PATH": text, "MODEL_BACKEND": text})


@QUIET
@given(raw=st.binary(max_size=200), name=st.sampled_from([*files.NAMES, ".env"]))
def test_any_bytes(tmp_path: Path, raw: bytes, name: str) -> None:
    for other in (*files.NAMES, ".env"):
        (tmp_path / other).unlink(missing_ok=True)
    (tmp_path / name).write_bytes(raw)

    load_or_refuse(tmp_path, {})


def test_a_file_over_its_limit_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "modelyard.toml").write_text("#" * (files.FILE_BYTES_MAX + 1))

    with pytest.raises(ConfigError, match="over 1048576 bytes"):
        load_settings(environment={}, folder=tmp_path)


def test_aliases_that_explode_in_yaml_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)), "log: *a11"]
    (tmp_path / "modelyard.yaml").write_text("\n".join(lines))

    with pytest.raises(ConfigError, match="too many values"):
        load_settings(environment={}, folder=tmp_path)


def test_an_alias_of_itself_in_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "modelyard.yaml").write_text("log: &a\n  x: *a\n")

    with pytest.raises(ConfigError, match="too deep"):
        load_settings(environment={}, folder=tmp_path)


@pytest.mark.parametrize(
    "secret", ["file:\0", "file:~nobody-here/key", "file:.", "env:", "env:A=B", "sha256:" + "g" * 8]
)
def test_a_reference_that_cannot_be_is_refused(tmp_path: Path, secret: str) -> None:
    (tmp_path / "modelyard.json").write_text(json.dumps({"keys": [{"id": "a", "secret": secret}]}))

    assert load_or_refuse(tmp_path, {}) is None


def test_a_home_that_nobody_has_stays_as_written(tmp_path: Path) -> None:
    loaded = load_or_refuse(tmp_path, {"MODELYARD_MODELS__FOLDERS": "~nobody-here/x"})

    assert loaded is not None
    assert loaded.settings.models.folders == (tmp_path / "~nobody-here/x",)
