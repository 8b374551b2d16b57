"""What the settings are, why, and what is risky about them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from modelyard.config.echo import EchoSettings
from modelyard.config.explain import MachineFacts, effective_lines, risks, setting_rows
from modelyard.config.reference import settings_markdown
from modelyard.config.schema import Settings
from modelyard.config.settings import load_settings
from modelyard.engines import echo_settings as engine
from modelyard.loopback import is_loopback
from modelyard.units import GIB

ROOT = Path(__file__).parent.parent.parent
WELL = MachineFacts(ram_total_bytes=64 * GIB, gpu_count=1, commit_limit_bytes=64 * GIB, disk_free_bytes=100 * GIB)


def codes(facts: MachineFacts, settings: Settings | None = None) -> list[str]:
    return [finding.code for finding in risks(settings or Settings(), facts)]


def test_a_good_machine_has_no_risks() -> None:
    assert codes(WELL) == []


def test_each_risk_is_named_by_itself() -> None:
    low = MachineFacts(ram_total_bytes=8 * GIB, gpu_count=0, commit_limit_bytes=8 * GIB, disk_free_bytes=GIB)

    assert codes(low) == ["commit_limit_low", "disk_low", "no_gpu"]


def test_an_unknown_fact_is_no_risk() -> None:
    assert codes(MachineFacts(ram_total_bytes=8 * GIB, gpu_count=1)) == []


def test_an_open_bind_is_the_first_risk() -> None:
    settings = Settings.model_validate({"server": {"host": "0.0.0.0", "allow_open_bind": True}})

    assert codes(WELL, settings) == ["open_bind"]


def test_more_memory_than_there_is_is_a_risk() -> None:
    settings = Settings.model_validate({"memory": {"ram_limit_bytes": "128GiB"}})

    assert codes(WELL, settings) == ["ram_limit_high"]


def test_a_limit_that_leaves_no_room_is_a_risk() -> None:
    settings = Settings.model_validate({"memory": {"ram_limit_bytes": 8}})  # meant as gigabytes

    assert codes(WELL, settings) == ["ram_limit_low"]


def test_a_risk_can_be_filled_in() -> None:
    for finding in risks(Settings(), MachineFacts(8 * GIB, 0, 8 * GIB, GIB)):
        assert "{" not in finding.text.format(**finding.fields)


def test_every_setting_has_a_row_and_only_given_ones_a_line(tmp_path: Path) -> None:
    loaded = load_settings(environment={"MODELYARD_MODELS__OPTIONS": '{"a": {"slots": 2}}'}, folder=tmp_path)

    names = [row.name for row in setting_rows(loaded)]

    assert "models.options.a.slots" in names
    assert "deadlines.first_token_s" in names
    assert "models.options.a.slots = 2  (environment MODELYARD_MODELS__OPTIONS)" in effective_lines(loaded)
    assert len(effective_lines(loaded, everything=True)) == len(names)


def test_the_settings_page_is_the_schema() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")

    assert page == settings_markdown(), "run: python -m modelyard.config.reference > docs/settings.md"


def test_every_setting_has_a_description_and_its_unit() -> None:
    page = settings_markdown()

    for name, section in Settings.model_fields.items():
        assert section.description, name
        for field, info in getattr(section.annotation, "model_fields", {}).items():
            assert info.description, f"{name}.{field}"
            assert f"{name}.{field}" in page


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST."])
def test_loopback_hosts(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "localhost.evil.tld", "127.0.0.1.evil.tld", "10.0.0.1", "127.1"])
def test_hosts_that_others_reach(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "tree",
    [
        {"memory": {"headroom_bytes": True}},
        {"memory": {"headroom_bytes": -1}},
        {"limits": {"requests_max": 0}},
        {"deadlines": {"first_token_s": "nan"}},
        {"deadlines": {"first_token_s": float("inf")}},
        {"server": {"trusted_proxies": ["everyone"]}},
        {"models": {"engine": "vllm"}},
    ],
)
def test_impossible_values_are_refused(tree: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Settings.model_validate(tree)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().server.port = 1


def test_options_of_a_model_fall_back_to_those_of_every_worker() -> None:
    settings = Settings.model_validate(
        {"models": {"launch": {"threads": 3, "slots": 1}, "options": {"Big": {"slots": 2, "pinned": True}}}}
    )

    own, other = settings.models.options_for("big"), settings.models.options_for("small")

    assert (own.threads, own.slots, own.pinned) == (3, 2, True)
    assert (other.threads, other.slots, other.pinned) == (3, 1, False)


def test_the_settings_of_a_scripted_model_are_those_its_engine_reads() -> None:
    ours = {name: field.default for name, field in EchoSettings.model_fields.items()}

    assert ours == {field.name: field.default for field in dataclasses.fields(engine.EchoSettings)}
