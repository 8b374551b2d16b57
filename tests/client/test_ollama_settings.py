"""Where the Ollama client's settings come from, and what it says of those that make no sense."""

from __future__ import annotations

import re

import pytest

from modelyard import client, errors
from modelyard.client import OllamaService, OllamaSettings, SyncOllamaService, get_settings
from modelyard.errors import ConfigError, YardError
from tests.support.pages import read, rows


def test_the_defaults_are_ollamas() -> None:
    assert get_settings({}) == OllamaSettings(
        ollama_base_url="http://localhost:11434", ollama_default_model="llama2", ollama_timeout=300.0,
        ollama_max_connections=5,
    )  # fmt: skip


def test_the_environment_gives_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"BASE_URL": "https://gpu:8443/ollama/", "DEFAULT_MODEL": "m", "TIMEOUT": "2.5", "MAX_CONNECTIONS": "7"}
    for name, value in given.items():
        monkeypatch.setenv(f"OLLAMA_{name}", value)

    assert get_settings().model_dump() == {
        "ollama_base_url": "https://gpu:8443/ollama", "ollama_default_model": "m", "ollama_timeout": 2.5,
        "ollama_max_connections": 7,
    }  # fmt: skip


def test_an_empty_variable_is_none() -> None:
    assert get_settings({"OLLAMA_BASE_URL": "", "OLLAMA_TIMEOUT": ""}) == get_settings({})


async def test_what_the_program_says_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_BASE_URL", "not an address")
    monkeypatch.setenv("OLLAMA_TIMEOUT", "9")

    async with OllamaService("gpu:1", max_connections=2) as service:
        found = service.settings

    assert (found.ollama_base_url, found.ollama_timeout, found.ollama_max_connections) == ("http://gpu:1", 9.0, 2)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("gpu", "http://gpu"), ("gpu:11434", "http://gpu:11434"), ("http://gpu:1/", "http://gpu:1"),
     ("http://gpu:1/v1", "http://gpu:1"), ("http://gpu:1/api/", "http://gpu:1"), ("[::1]:11434", "http://[::1]:11434"),
     (" http://gpu ", "http://gpu")],
)  # fmt: skip
def test_an_address_is_read_as_people_write_it(written: str, meant: str) -> None:
    assert get_settings({"OLLAMA_BASE_URL": written}).ollama_base_url == meant


@pytest.mark.parametrize(
    ("name", "value"),
    [("BASE_URL", "ftp://gpu"), ("BASE_URL", "http://"), ("BASE_URL", "http://gpu:99999"), ("BASE_URL", "http://gpu:0"),
     ("BASE_URL", "http://a b"), ("BASE_URL", "http://me:secret@gpu"), ("BASE_URL", "http://gpu?x=1"),
     ("BASE_URL", "http://[::1"), ("BASE_URL", "http://gpu\x00"), ("BASE_URL", "http://" + "a" * 300),
     ("TIMEOUT", "soon"), ("TIMEOUT", "0"), ("TIMEOUT", "-1"), ("TIMEOUT", "nan"), ("TIMEOUT", "inf"),
     ("MAX_CONNECTIONS", "0"), ("MAX_CONNECTIONS", "2.5"), ("MAX_CONNECTIONS", "1e9")],
)  # fmt: skip
def test_a_variable_that_makes_no_sense_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=f"^OLLAMA_{name}: ") as caught:
        get_settings({f"OLLAMA_{name}": value})

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", [OllamaService, SyncOllamaService])
@pytest.mark.parametrize("wrong", [{"base_url": "ftp://x"}, {"timeout": 0}, {"max_connections": -1}])
def test_an_argument_that_makes_no_sense_is_named(kind: type[OllamaService], wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))}: "):
        kind(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["secret\nx: y", "sécret", "secret\x00"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigError, match=r"^key: ") as caught:
        SyncOllamaService("gpu", key=key)

    assert "cret" not in str(caught.value)


def test_the_page_says_what_the_settings_are() -> None:
    page = read("docs/ollama-client.md")
    told = {cells[1].strip("`"): (cells[2].strip("`"), cells[3]) for cells in rows(page) if "OLLAMA_" in cells[1]}

    known = {}
    for name, setting in OllamaSettings.model_fields.items():
        default = setting.default
        known[name.upper()] = (f"{default:g}" if isinstance(default, float) else str(default), setting.description)
    assert told == known


def test_the_page_names_every_method_of_both_twins() -> None:
    page = read("docs/ollama-client.md")
    methods = [name for name in vars(OllamaService) if not name.startswith("_")]

    assert set(methods) == {name for name in vars(SyncOllamaService) if not name.startswith("_")}
    for name in set(methods) - {"close"}:
        assert re.search(rf"`{name}\(", page), name


def test_the_errors_are_one_tree() -> None:
    for kind in (client.OllamaConnectionError, client.OllamaModelNotFoundError, client.OllamaError):
        assert kind.__bases__ == (client.OllamaServiceError,)
    assert client.OllamaServiceError.__bases__ == (YardError,)
    assert client.OllamaError is errors.OllamaError


def test_every_public_name_is_there_and_no_other() -> None:
    for name in client.__all__:
        assert getattr(client, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = client.NoSuchName
