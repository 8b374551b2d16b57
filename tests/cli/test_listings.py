"""Listings for people and for machines."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import yaml

import modelyard
from modelyard.cli.main import COMMANDS, cli
from modelyard.cli.output import table
from modelyard.cli.terminal import Terminal
from modelyard.cli.widths import width
from modelyard.config.settings import LoadedSettings
from tests.cli.conftest import run, typed_terminal
from tests.client.yard_server import YardServer

# What stands beside a listing, on stderr: sentences, which the window may break.
SAID = re.compile(r"ram: |request |\d+ request|full: |Worth")


def test_a_table_is_aligned_whatever_the_script() -> None:
    lines = table(Terminal("en", {}), ("NAME", "X"), [("模型", "1"), ("a", "2"), ("e\u0301", "3")]).splitlines()

    assert lines == ["NAME  X", "模型  1", "a     2", "e\u0301     3"]


def test_text_from_a_server_moves_no_cursor() -> None:
    assert "\x1b" not in table(Terminal("en", {}), ("N",), [("\x1b[2J\x9b1A\r",)])


@pytest.mark.usefixtures("server")
def test_models_are_listed_with_their_problems() -> None:
    out = run("list").stdout.splitlines()

    assert out[0].split() == ["NAME", "SIZE", "MODIFIED", "CONTEXT", "ENGINE", "STATE"]
    assert out[1].startswith("good")
    assert "512.0 MiB" in out[1]
    assert out[2].endswith("problem: the file is cut")
    assert [line.split("\t")[0] for line in run("list", "-o", "plain", "GO").stdout.splitlines()] == ["good"]
    assert "No model's name begins with zzz" in run("list", "zzz").stderr


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("command", ["list", "ps", "config", "paths"])
def test_machine_forms_agree(command: str) -> None:
    as_json = json.loads(run(command, "-o", "json").stdout)
    as_yaml = yaml.safe_load(run(command, "-o", "yaml").stdout)
    as_lines = [json.loads(line) for line in run(command, "-o", "jsonl").stdout.splitlines()]
    name = {"list": "models", "ps": "residents", "config": "settings", "paths": "paths"}[command]

    assert as_json["schema_version"] == 1
    assert [{"schema_version": 1, **one} for one in as_json[name]] == as_lines
    assert [list(one) for one in as_yaml[name]] == [list(one) for one in as_json[name]]


@pytest.mark.usefixtures("server")
def test_a_device_is_shown_as_a_sum_with_who_holds_what_is_not_ours() -> None:
    said = run("ps").stderr

    assert "ram: 2.0 GiB of 15.0 GiB given to models, 5.0 GiB used by others, 8.0 GiB free, 1.0 GiB kept" in said
    assert "ram: others are game 3.0 GiB, browser 1.0 GiB" in said


@pytest.mark.usefixtures("server")
def test_residents_are_shown_as_people_know_them() -> None:
    result = run("ps")

    good, mixed = result.stdout.splitlines()[1:]
    assert good.split() == ["good", "2.0", "GiB", "100%", "CPU", "4096", "in", "use", "resident", "1/4"]
    assert "25%/75% CPU/GPU" in mixed
    assert "forever" in mixed
    for words in (
        "ram: 2.0 GiB of 15.0 GiB",
        "request r-1: good, generating",
        "1 request waits",
        "out of memory",
    ):
        assert words in result.stderr


@pytest.mark.usefixtures("server")
def test_machines_get_bytes_seconds_and_utc() -> None:
    told = json.loads(run("ps", "-o", "json").stdout)

    assert told["residents"][0]["measured_bytes"] == {"ram": 2 * 1024**3}
    assert told["residents"][0]["loaded_at"].endswith("Z")
    assert told["failures"] == {"full": "out of memory"}


@pytest.mark.usefixtures("server")
def test_one_model_is_shown_in_sections() -> None:
    out = run("show", "good").stdout

    for words in ("Model", "Capabilities", "chat", "Launch options", "2  (2 physical cores)", "State", "1 of 4 slots"):
        assert words in out
    assert json.loads(run("show", "good", "-o", "json").stdout)["resident"]["slots"] == 4


def test_loading_and_unloading_say_what_memory_did(server: YardServer) -> None:
    loaded, unloaded = run("load", "good"), run("unload", "good", "-o", "json")

    assert loaded.stdout == ""
    assert "it holds: ram " in loaded.stderr
    assert json.loads(unloaded.stdout)["receipt"]["took_s"] == 1.5
    assert run("pin", "good", "--off").exit_code == 0
    assert server.seen[-1] == ("POST", "/admin/models/good/pin", {"pinned": False})


def test_configuration_shows_origins_and_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modelyard.toml").write_text('[server]\nport = 1\n[[keys]]\nid = "a"\nsecret = "env:THE_KEY"\n')
    monkeypatch.setenv("THE_KEY", "canary-0123456789")

    result = run("config", "--changed")

    assert "modelyard.toml:2" in result.stdout
    assert "canary" not in result.output
    assert run("config", "check").exit_code == 0


def test_the_help_of_the_root_names_every_command_there_is() -> None:
    context = click.Context(cli)

    for name, (_target, line) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert isinstance(command, click.Command)
        assert command.name == name
        assert command.help
        assert line in run("--help").stdout


def test_flags_of_serve_become_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[LoadedSettings] = []

    def serve(loaded: LoadedSettings, _wiring: object) -> int:
        seen.append(loaded)
        return 7

    stub = SimpleNamespace(serve=serve)
    monkeypatch.setitem(sys.modules, "modelyard.serving", stub)
    monkeypatch.setattr(modelyard, "serving", stub, raising=False)
    flags = ["--port", "1", "--models", "a", "--models", "b", "--ram-limit", "2GiB", "--log-level", "debug"]

    result = run("serve", *flags, "--set", 'models.options."q2.5".slots=3')

    assert result.exit_code == 7
    settings = seen[0].settings
    assert (settings.server.port, settings.memory.ram_limit_bytes, settings.log.level) == (1, 2 * 1024**3, "debug")
    assert settings.models.folders == (tmp_path / "a", tmp_path / "b")
    assert settings.models.options_for("q2.5").slots == 3
    assert seen[0].origin(("server", "port")).detail == "--port"


@pytest.mark.parametrize("given", ["keys.0.secret=x", "keys=[]", "server.port", "=1"])
def test_secrets_and_nonsense_are_no_flags(given: str) -> None:
    assert run("serve", "--set", given).exit_code == 3


class _Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "on_terminal", "on_pipe"),
    [
        ({}, True, False),
        ({"NO_COLOR": "", "FORCE_COLOR": "1"}, False, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"CLICOLOR": "0"}, False, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_colour_is_for_terminals_unless_said_otherwise(
    environment: dict[str, str], on_terminal: bool, on_pipe: bool
) -> None:
    terminal = Terminal("en", environment)

    assert terminal.has_colour(_Tty()) == on_terminal
    assert terminal.has_colour(io.StringIO()) == on_pipe


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("environment", [{"COLUMNS": "40"}, {"COLUMNS": "40", "TERM": "dumb"}, {"COLUMNS": "9"}])
@pytest.mark.parametrize("command", ["list", "ps", "config", "paths", "top --once"])
def test_no_line_of_a_listing_is_wider_than_the_window(command: str, environment: dict[str, str]) -> None:
    with typed_terminal(
        *command.split(), environment={"NO_COLOR": "1", "TTY_INTERACTIVE": "0", **environment}
    ) as typed:
        assert typed.exit_code() == 0
    lines = [line for line in typed.seen.splitlines() if line.strip()]
    listed = [line for line in lines if not SAID.match(line)]

    assert len(listed) > 1
    assert all(width(line) <= int(environment["COLUMNS"]) for line in listed), listed


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("form", ["json", "jsonl", "yaml", "plain"])
def test_machine_forms_are_never_cut(form: str) -> None:
    with typed_terminal("list", "-o", form, environment={"COLUMNS": "20"}) as typed:
        assert typed.exit_code() == 0

    assert "the file is cut" in typed.seen
    assert "…" not in typed.seen


def test_sizes_keep_their_units_in_a_narrow_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", _Tty())
    lines = table(
        Terminal("en", {"COLUMNS": "30", "NO_COLOR": ""}),
        ("NAME", "SIZE", "MODIFIED", "STATE"),
        [("a-model-with-a-long-name:70b-instruct", "900.0 GiB", "3 weeks ago", "resident")],
    ).splitlines()

    assert lines == ["NAME        SIZE       MODIFI…", "a-model-w…  900.0 GiB  3 week…"]
