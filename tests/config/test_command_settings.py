"""Commands come from a file, say where they listen, and keep their secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from modelyard.config.changes import changes
from modelyard.config.explain import MASK, setting_rows
from modelyard.config.load import Flag, parts_of
from modelyard.errors import ConfigError
from modelyard.wiring.commands import commands
from tests.config.test_load import load, refusal

GOOD = '[models.command.mine]\ncommand = "server --port {port}"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "modelyard.toml"
    path.write_text(text)
    return path


def test_a_command_is_a_list_or_a_text_split_as_a_shell_would(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
[models.command."Qwen3"]
command = '''llama-server --port {port} -m {model_path} --alias 'a b' --json '{"a": 1}' {{port}} $HOME ; rm'''
model_path = "./m.gguf"

[models.command.list]
command = ["./serve.py", "--uds", "{socket}", "~/x", "a b"]
stop_command = "../stop {socket}"
model_path = "org/name"
""",
    )
    (tmp_path / "home").mkdir()

    found = load(tmp_path).settings.models.command

    assert found["Qwen3"].command == (
        "llama-server", "--port", "{port}", "-m", "{model_path}", "--alias", "a b", "--json", '{"a": 1}', "{{port}}",
        "$HOME", ";", "rm",
    )  # fmt: skip
    assert found["Qwen3"].model_path == str(tmp_path / "m.gguf")
    assert found["list"].command == (str(tmp_path / "serve.py"), "--uds", "{socket}", str(Path.home() / "x"), "a b")
    assert found["list"].stop_command == (str(tmp_path.parent / "stop"), "{socket}")
    assert found["list"].model_path == "org/name"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('command = "server --port {prot}"', "there is no placeholder {prot}, only {port}, {socket}, {model_path}"),
        ('command = "server"', "nothing tells it where to listen"),
        ('command = "server {port} {socket}"', "on {port} or on {socket}, not on both"),
        ('command = "server {port} {model_path}"', "model_path is not given"),
        ('command = "server --uds {socket} --key {token}"', "it needs no {token}"),
        ('command = "server \'--port {port}"', "its quotes do not match"),
        ("command = []", "it names no program"),
        ('command = "{model_path} {port}"', "the program itself is no placeholder"),
        ('command = ["a\\u0000b", "{port}"]', "a command holds no NUL"),
        ('command = "server {port}"\nready_path = "health"', "ready_path"),
        ('command = "server {port}"\nready_path = "/a b"', "ready_path"),
        ('command = "server {port}"\nenvironment = { "A B" = "1" }', "environment"),
        ('command = "server {port}"\nenvironment = { MODELYARD_RUN = "1" }', "are ours"),
        ('command = "server {port}"\nenvironment = { A = "{prot}" }', "there is no placeholder {prot}"),
        ('command = "server {port}"\nslots = 0', "slots"),
        ('command = "server {port}"\ncapabilities = ["fly"]', "capabilities"),
        ('command = "server {port}"\nfootprint = "much"', "footprint"),
        ('command = "server {port}"\nfootprint = { disk0 = "1GiB" }', "footprint"),
        ('command = "server {port}"\nstop_command = "stop {token}"', "only stop_command holds {token}"),
        ('command = "server ${HOME} {port}"', "${HOME} stands in a command"),
        ('command = ["server", "${X:-y}", "{port}"]', "${X} stands in a command"),
        ('command = "server {port}"\nmodel_path = "${HOME}/m"', "${HOME} stands in a command"),
        ('command = "server {port}"\nstop_command = "stop ${HOME}"', "${HOME} stands in a command"),
        ('comand = "server {port}"', "did you mean models.command.mine.command?"),
    ],
)
def test_a_command_that_cannot_work_is_refused_with_file_and_line(tmp_path: Path, line: str, says: str) -> None:
    path = write(tmp_path, f"\n[models.command.mine]\n{line}\n")

    error = refusal(tmp_path)

    assert says in str(error)
    assert f"{path}:" in str(error)


@pytest.mark.parametrize("name", ['"-x"', '"a@node"', '"../up"', '"a b"'])
def test_a_name_that_no_model_can_have_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, f'[models.command.{name}]\ncommand = "server {{port}}"\n')

    assert "models.command" in str(refusal(tmp_path))


@pytest.mark.parametrize(
    "variable",
    [
        {"MODELYARD_MODELS__COMMAND__MINE__COMMAND": "touch {port}"},
        {"MODELYARD_MODELS__COMMAND__EVIL__COMMAND": '["touch", "{port}"]'},
        {"MODELYARD_MODELS__COMMAND": '{"evil": {"command": "touch {port}"}}'},
        {"MODELYARD_MODELS": '{"command": {"evil": {"command": "touch {port}"}}}'},
        {"MODELYARD_MODELS__COMMAND__MINE__MODEL_PATH": "/etc/passwd"},
        {"MODELYARD_MODELS__COMMAND__MINE__ENVIRONMENT__LD_PRELOAD": "/tmp/evil.so"},
        {"MODELYARD_MODELS__COMMAND__MINE__STOP_COMMAND": "rm"},
        {"MODELYARD_MODELS__COMMAND__MINE__SLOTS": "9"},
    ],
    ids=lambda variable: next(iter(variable)),
)
def test_nothing_about_a_command_comes_from_the_environment(tmp_path: Path, variable: dict[str, str]) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(ConfigError, match="commands are read from a configuration file only") as refused:
        load(tmp_path, environment=variable)
    assert next(iter(variable)) in str(refused.value)

    (tmp_path / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in variable.items()))
    with pytest.raises(ConfigError, match="commands are read from a configuration file only"):
        load(tmp_path)


def test_nothing_about_a_command_comes_from_a_flag(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    flag = Flag(parts_of("models.command.mine.command"), "touch {port}", "--set")

    with pytest.raises(ConfigError, match="--set: commands are read from a configuration file only"):
        load(tmp_path, None, flag)


def test_a_file_that_everybody_may_write_holds_no_commands(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    path.chmod(0o666)
    assert "everybody may write this file" in str(refusal(tmp_path))

    path.write_text("[server]\nport = 1\n")
    assert load(tmp_path).settings.server.port == 1


def test_secrets_of_a_command_are_references_and_shown_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-a-file-1234\n")
    (tmp_path / "key").chmod(0o600)
    write(tmp_path, GOOD + 'environment = { A = "env:MINE", B = "file:key", C = "${PLAIN}", D = 1 }\n')

    loaded = load(tmp_path, environment={"MINE": "from-the-environment ${X}", "PLAIN": "plain"})
    recipe = commands(loaded.settings)["mine"]
    shown = json.dumps([row.value for row in setting_rows(loaded)])

    assert recipe.environment == {"A": "from-the-environment ${X}", "B": "from-a-file-1234", "C": "plain", "D": "1"}
    assert recipe.secrets == {"A", "B"}
    assert isinstance(loaded.settings.models.command["mine"].environment["A"], SecretStr)
    assert "from-" not in repr(recipe) + repr(loaded) + shown
    assert shown.count(MASK) == 2


def test_options_that_mean_nothing_to_a_command_are_refused_and_the_others_hold(tmp_path: Path) -> None:
    write(tmp_path, GOOD + "[models.options.MINE]\nidle_ttl_s = 5\npinned = true\n")
    assert load(tmp_path).settings.models.options_for("mine").idle_ttl_s == 5

    write(tmp_path, GOOD + "[models.options.mine]\nslots = 2\n")
    assert 'options."mine".slots has no effect on a command' in str(refusal(tmp_path))


def test_a_size_alone_is_of_main_memory(tmp_path: Path) -> None:
    write(tmp_path, GOOD + 'footprint = "2GiB"\n')
    assert load(tmp_path).settings.models.command["mine"].footprint == {"ram": 2 * 1024**3}

    write(tmp_path, GOOD + 'footprint = { gpu0 = "20GiB", ram = "1GiB" }\n')
    assert load(tmp_path).settings.models.command["mine"].footprint == {"gpu0": 20 * 1024**3, "ram": 1024**3}


def test_a_change_is_told_by_name_and_a_secret_by_its_name_alone(tmp_path: Path) -> None:
    write(tmp_path, GOOD + 'environment = { A = "env:MINE" }\n')
    old = load(tmp_path, environment={"MINE": "secret-one"}).settings
    new = load(tmp_path, environment={"MINE": "secret-two"}).settings

    assert changes(old, new).names == ("models.command.mine.environment.A",)
    assert "secret" not in repr(changes(old, new))


@pytest.mark.parametrize("page", ["engines.md", "coming-from.md"])
def test_the_examples_of_the_documentation_are_good(tmp_path: Path, page: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    examples = [block for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "models.command" in block]
    write(tmp_path, "\n".join(examples))

    found = commands(load(tmp_path, {"HF_TOKEN": "hf-secret"}).settings)

    assert len(found) == sum(block.count("[models.command.") for block in examples) > 0
