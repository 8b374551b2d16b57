"""Where values come from, and which of several wins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from modelyard.config.load import DEFAULT_URL, Flag, Origin, client_target, dotted, parts_of
from modelyard.config.paths import Paths
from modelyard.config.settings import LoadedSettings, load_settings
from modelyard.errors import ConfigError

KEY = "a-long-enough-key-0123456789"


def load(
    folder: Path, environment: Mapping[str, str] | None = None, *flags: Flag, config: Path | None = None
) -> LoadedSettings:
    user = folder / "user"
    paths = Paths(user, user, user / "models", user / "store", user, user, None)
    return load_settings(flags, config_file=config, environment=environment or {}, folder=folder, paths=paths)


def refusal(folder: Path, environment: Mapping[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, environment)
    return caught.value


def test_the_nearer_source_wins_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "modelyard.toml").write_text("[server]\nport = 1\n[log]\nlevel = 'error'\n[limits]\nwindow_s = '2m'\n")
    (tmp_path / ".env").write_text("MODELYARD_SERVER__PORT=2\nMODELYARD_LOG__LEVEL='debug' # loud\n")
    environment = {"MODELYARD_SERVER__PORT": "3"}

    by_default = load(tmp_path / "nowhere")
    by_variable = load(tmp_path, environment)
    by_flag = load(tmp_path, environment, Flag(("server", "port"), 4, "--port"))

    assert by_default.settings.server.port == 11435
    assert by_default.origin(("server", "port")) == Origin("default")
    assert by_variable.settings.server.port == 3
    assert by_variable.origin(("server", "port")) == Origin("environment", "MODELYARD_SERVER__PORT")
    assert by_variable.settings.log.level == "debug"
    assert by_variable.origin(("log", "level")) == Origin(".env", "MODELYARD_LOG__LEVEL")
    assert by_variable.settings.limits.window_s == 120
    assert by_variable.origin(("limits", "window_s")) == Origin("file", f"{tmp_path / 'modelyard.toml'}:6")
    assert by_flag.settings.server.port == 4
    assert by_flag.origin(("server", "port")) == Origin("flag", "--port")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("modelyard.toml", '[models.options."a.b"]\nslots = 2\n'),
        ("modelyard.yaml", 'models:\n  options:\n    "a.b":\n      slots: 2\n'),
        ("modelyard.json", '{"models": {"options": {"a.b": {"slots": 2}}}}'),
    ],
)
def test_a_file_may_be_toml_yaml_or_json(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)

    loaded = load(tmp_path)

    assert loaded.settings.models.options_for("A.B").slots == 2
    assert loaded.file == tmp_path / name


def test_the_users_own_file_serves_where_the_folder_has_none(tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "modelyard.toml").write_text("[server]\nport = 7\n")

    assert load(tmp_path).settings.server.port == 7


def test_the_second_of_two_files_is_reported_and_not_used(tmp_path: Path) -> None:
    (tmp_path / "modelyard.toml").write_text("[server]\nport = 1\n")
    (tmp_path / "modelyard.json").write_text('{"server": {"port": 2}}')

    loaded = load(tmp_path)

    assert loaded.settings.server.port == 1
    assert [notice.code for notice in loaded.notices] == ["config_ambiguous"]


def test_folders_are_relative_to_where_they_were_written(tmp_path: Path) -> None:
    other = tmp_path / "etc"
    other.mkdir()
    (other / "my.toml").write_text('[models]\nfolders = ["here", "/there"]\n')

    from_file = load(tmp_path, config=other / "my.toml")
    from_variable = load(tmp_path, {"MODELYARD_MODELS__FOLDERS": "a, b"})

    assert from_file.settings.models.folders == (other / "here", Path("/there"))
    assert from_variable.settings.models.folders == (tmp_path / "a", tmp_path / "b")


def test_names_of_other_tools_are_honoured_below_ours(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    foreign = {"MODEL_PATH": "model.gguf", "MODEL_BACKEND": "llama.cpp", "MODEL_UNLOAD_ENABLED": "0"}

    foreign |= {"MAX_INPUT_TOKENS": "3500"}
    theirs = load(tmp_path, foreign)
    ours = load(tmp_path, {**foreign, "MODELYARD_MODELS__PATH": str(tmp_path), "MODELYARD_MODELS__FOLDERS": "/ours"})

    assert theirs.settings.models.path == tmp_path / "model.gguf"
    assert theirs.settings.models.engine == "llamacpp"
    assert theirs.settings.residency.unload_enabled is False
    assert theirs.settings.prompts.max_input_tokens == 3500
    assert theirs.origin(("models", "engine")) == Origin("environment", "MODEL_BACKEND")
    assert theirs.origin(("prompts", "max_input_tokens")) == Origin("environment", "MAX_INPUT_TOKENS")
    assert (ours.settings.models.path, ours.settings.models.folders) == (tmp_path, (Path("/ours"),))


def test_the_default_folder_of_models_is_used_once_it_exists(tmp_path: Path) -> None:
    before = load(tmp_path).settings.models.folders
    (tmp_path / "user" / "models").mkdir(parents=True)
    after = load(tmp_path)

    assert before == ()
    assert after.settings.models.folders == (tmp_path / "user" / "models",)
    assert after.origin(("models", "folders")).source == "default"


def test_variables_stand_in_files(tmp_path: Path) -> None:
    (tmp_path / "modelyard.toml").write_text('[server]\nhost = "${WHERE}"\nport = "${PORT:-9}"\n')

    loaded = load(tmp_path, {"WHERE": "127.0.0.2"})
    missing = refusal(tmp_path)

    assert (loaded.settings.server.host, loaded.settings.server.port) == ("127.0.0.2", 9)
    assert "WHERE" in str(missing)


def test_none_takes_back_what_a_file_has_set(tmp_path: Path) -> None:
    (tmp_path / "modelyard.toml").write_text('[memory]\nram_limit_bytes = "4GiB"\n')

    assert load(tmp_path).settings.memory.ram_limit_bytes == 4 * 1024**3
    assert load(tmp_path, {"MODELYARD_MEMORY__RAM_LIMIT_BYTES": "none"}).settings.memory.ram_limit_bytes is None


@pytest.mark.parametrize(
    ("name", "text", "line", "near"),
    [
        ("modelyard.toml", "[server]\nport = 1\n[memory]\nheadrom_bytes = 1\n", 4, "memory.headroom_bytes"),
        ("modelyard.yaml", "server:\n  port: 1\n  prot: 2\n", 3, "server.port"),
        ("modelyard.json", '{\n "sever": {}\n}', 2, "server"),
        ("modelyard.toml", '[models.options."x"]\nslotz = 1\n', 2, "models.options.x.slots"),
    ],
)
def test_a_misspelt_name_is_refused_with_its_line_and_the_nearest_name(
    tmp_path: Path, name: str, text: str, line: int, near: str
) -> None:
    (tmp_path / name).write_text(text)

    error = str(refusal(tmp_path))

    assert f"{tmp_path / name}:{line}:" in error
    assert f"did you mean {near}?" in error


def test_a_misspelt_variable_is_refused_by_name(tmp_path: Path) -> None:
    error = str(refusal(tmp_path, {"MODELYARD_SERVER__PROT": "1"}))

    assert error.startswith("MODELYARD_SERVER__PROT: ")
    assert "server.port" in error


def test_variables_that_a_container_platform_adds_do_no_harm(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"MODELYARD_PORT": "tcp://10.0.0.1:80", "MODELYARD_SERVICE_HOST": "10.0.0.1"})

    assert loaded.settings.server.port == 11435
    assert [notice.code for notice in loaded.notices] == ["variable_ignored", "variable_ignored"]


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    error = refusal(tmp_path, {"MODELYARD_SERVER__PORT": "70000", "MODELYARD_LOG__LEVEL": "loud"})

    assert "server.port" in str(error)
    assert "log.level" in str(error)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("modelyard.toml", "[server\n"),
        ("modelyard.yaml", "a: [1\n"),
        ("modelyard.json", "{"),
        ("modelyard.json", "[]"),
        ("modelyard.json", "[" * 100_000),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)

    assert str(tmp_path / name) in str(refusal(tmp_path))


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")

    for path in (tmp_path / "absent.toml", tmp_path / "bytes.toml", tmp_path):
        with pytest.raises(ConfigError, match=str(path)):
            load(tmp_path, config=path)


def test_off_loopback_a_key_is_required(tmp_path: Path) -> None:
    error = refusal(tmp_path, {"MODELYARD_SERVER__HOST": "0.0.0.0"})
    opened = load(tmp_path, {"MODELYARD_SERVER__HOST": "0.0.0.0", "MODELYARD_SERVER__ALLOW_OPEN_BIND": "true"})
    keyed = load(
        tmp_path,
        {"MODELYARD_SERVER__HOST": "0.0.0.0", "MODELYARD_KEYS": f'[{{"id": "a", "secret": "{KEY}"}}]'},
    )

    assert "MODELYARD_SERVER__HOST" in str(error)
    assert any("keys" in hint for hint in error.suggestions)
    assert opened.settings.server.allow_open_bind
    assert keyed.settings.keys[0].id == "a"


def test_the_clients_server_comes_from_flag_then_variable(tmp_path: Path) -> None:
    named = {"MODELYARD_URL": "box:1"}

    assert client_target(environment={}, folder=tmp_path).url == DEFAULT_URL
    assert client_target(environment=named, folder=tmp_path).url == "http://box:1"
    assert client_target("https://x", environment=named, folder=tmp_path).url == "https://x"


def test_the_clients_key_comes_from_a_variable_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY + "\n")

    from_file = client_target(environment={"MODELYARD_KEY_FILE": str(tmp_path / "key")}, folder=tmp_path)
    from_variable = client_target(environment={"MODELYARD_KEY": "direct"}, folder=tmp_path)

    assert from_file.key == KEY
    assert from_variable.key == "direct"
    assert KEY not in repr(from_file)


def test_a_dotted_name_survives_the_way_there_and_back() -> None:
    parts = ("models", "options", "qwen2.5-0.5b:latest", "slots")

    assert parts_of(dotted(parts)) == parts


def test_the_process_environment_is_read_when_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MODELYARD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MODELYARD_SERVER__PORT", "5")

    assert load_settings(folder=tmp_path).settings.server.port == 5
