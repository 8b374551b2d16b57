from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from modelyard.config.banner import start_lines
from modelyard.config.explain import MachineFacts
from modelyard.config.load import Flag
from modelyard.config.settings import load_settings
from modelyard.units import GIB

FACTS = MachineFacts(ram_total_bytes=64 * GIB, gpu_count=1, disk_free_bytes=500 * GIB)
KEY = "canary-key-0123456789"


def told(
    folder: Path, *flags: Flag, environment: dict[str, str] | None = None, facts: MachineFacts = FACTS, **values: Any
) -> str:
    variables = {"HOME": str(folder), **(environment or {})}
    loaded = load_settings(list(flags), environment=variables, folder=folder)
    given = {"version": "1.2", "url": "http://127.0.0.1:11435", "model": "qwen", **values}
    return "\n".join(start_lines(loaded, facts=facts, environment=variables, **given))


def with_key(folder: Path) -> dict[str, str]:
    (folder / "modelyard.toml").write_text('[[keys]]\nid = "me"\nsecret = "env:MY_KEY"\n')
    return {"MY_KEY": KEY}


def test_the_first_lines_say_where_it_is_and_how_to_talk_to_it(tmp_path: Path) -> None:
    text = told(tmp_path)

    assert "Modelyard 1.2 is ready at http://127.0.0.1:11435" in text
    assert "curl http://127.0.0.1:11435/v1/chat/completions" in text
    assert 'openai.OpenAI(base_url="http://127.0.0.1:11435/v1"' in text
    assert "\nIn a second terminal: modelyard chat\n" in text
    assert "Every setting has its default value" in text


def test_python_lines_are_python_and_shell_lines_are_shell(tmp_path: Path) -> None:
    name = "it's $(odd)"
    lines = told(tmp_path, model=name).splitlines()

    first = lines.index("From Python, with the openai package:") + 1
    compile("\n".join(line[2:] for line in lines[first : first + 4]), "lines", "exec")
    curl = next(n for n, line in enumerate(lines) if line.startswith("  curl"))
    words = shlex.split(lines[curl].removesuffix("\\") + lines[curl + 1])
    assert name in words[-1]


def test_on_another_port_the_chat_is_told_where_to_go(tmp_path: Path) -> None:
    text = told(tmp_path, url="http://127.0.0.1:8000", program="bin/modelyard")

    assert "bin/modelyard chat --url http://127.0.0.1:8000" in text


def test_files_that_cannot_be_served_are_named_at_the_start(tmp_path: Path) -> None:
    text = told(tmp_path, unservable=["a", "b", "c", "d", "e", "f"])

    assert "Model files that cannot be served: 6 (a, b, c, d, e, …). `modelyard list` says why." in text
    assert "cannot be served" not in told(tmp_path)


def test_with_keys_the_examples_name_one_and_show_none(tmp_path: Path) -> None:
    text = told(tmp_path, environment=with_key(tmp_path))

    assert '-H "Authorization: Bearer $MODELYARD_KEY"' in text
    assert 'api_key=os.environ["MODELYARD_KEY"]' in text
    assert KEY not in text


def test_settings_and_variables_in_effect_are_shown_with_their_origin(tmp_path: Path) -> None:
    text = told(
        tmp_path, Flag(("server", "port"), "8000", "--port"), environment={"MODELYARD_SERVER__DRAIN_S": "5s"}
    )  # fmt: skip

    assert "  server.port = 8000  (" in text
    assert "--port" in text
    assert "  server.drain_s = 5  (" in text
    assert "  MODELYARD_SERVER__DRAIN_S=5s" in text


def test_what_is_risky_is_told_with_what_to_do(tmp_path: Path) -> None:
    poor = MachineFacts(ram_total_bytes=8 * GIB, gpu_count=0, commit_limit_bytes=9 * GIB, disk_free_bytes=GIB)
    text = told(
        tmp_path, Flag(("server", "host"), "0.0.0.0", "--host"), Flag(("server", "allow_open_bind"), "true", "--set"),
        facts=poor,
    )  # fmt: skip

    risks = text.partition("Worth knowing:")[2]
    for part in ("Everybody who reaches 0.0.0.0", "promises programs", "Only 1", "No GPU", "Add a key"):
        assert part in risks


def test_without_a_model_it_says_how_to_give_one(tmp_path: Path) -> None:
    text = told(tmp_path, model=None)

    assert "--models FOLDER" in text
    assert "curl" not in text


def test_idle_models_that_stay_are_told_of(tmp_path: Path) -> None:
    text = told(tmp_path, environment={"MODEL_UNLOAD_ENABLED": "0"})

    assert "MODEL_UNLOAD_ENABLED=1" in text.partition("Worth knowing:")[2]
    assert "MODEL_UNLOAD_ENABLED=1" not in told(tmp_path)


def test_variables_of_others_that_count_are_shown_and_their_secrets_are_not(tmp_path: Path) -> None:
    given = {"HF_TOKEN": KEY, "HF_ENDPOINT": f"https://me:{KEY}@hub.example", "OLLAMA_MODELS": "/srv/ollama"}
    text = told(tmp_path, environment=given).partition("From the environment:")[2]

    assert "  OLLAMA_MODELS=/srv/ollama" in text
    assert "  HF_TOKEN=" in text
    assert "  HF_ENDPOINT=" in text
    assert KEY not in text


def test_keys_of_nodes_are_not_shown(tmp_path: Path) -> None:
    nodes = f'[{{"name": "far", "kind": "openai", "url": "https://far.example/v1", "key": "{KEY}"}}]'

    text = told(tmp_path, environment={"MODELYARD_NODES": nodes})

    assert "MODELYARD_NODES=" in text
    assert KEY not in text
