"""Every leaf of the tree that a timeout's evidence can reach."""

from __future__ import annotations

import pytest

from modelyard.diagnosis.timeouts import Resident, TimeoutEvidence, diagnose_timeout
from modelyard.words import joined

GB = 1024**3
OTHER = Resident("llama3.3:70b", int(40.9 * GB), 0)


def evidence(*residents: Resident, **known: object) -> TimeoutEvidence:
    given: dict[str, object] = {"phase": "load", "budget_s": 30, "is_alive": True, "residents": residents, **known}
    return TimeoutEvidence("m:8b", **given)  # type: ignore[arg-type]


CASES = {
    "slow": (evidence(Resident("m:8b", GB, GB), tokens=3, phase="between_tokens"), "too_slow", ["began to answer"]),
    "slow, partly in RAM": (
        evidence(Resident("m:8b", GB, GB // 2), tokens=3), "too_slow", ["began to answer", "not wholly in VRAM"],
    ),
    "partly in RAM": (evidence(Resident("m:8b", GB, GB // 2)), "partly_in_ram", ["no token", "not wholly in VRAM"]),
    "whole": (evidence(Resident("m:8b", GB, GB)), "load_timeout", ["no token", "is loaded"]),
    "on the CPU": (evidence(Resident("m:8b", GB, 0)), "load_timeout", ["is loaded", "on the CPU"]),
    "not there": (evidence(), "out_of_memory", ["no token", "not among those in memory"]),
    "not there, another is": (evidence(OTHER), "out_of_memory", ["llama3.3:70b (40.9 GB)"]),
    "memory not told": (evidence(residents=None), "still_loading", ["still loading"]),
    "nobody answers": (evidence(residents=None, is_alive=False), "unreachable", ["does not answer at all"]),
    "never tells": (evidence(residents=None, tells_memory=False), "unknown", ["does not tell what is in its memory"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_evidence_reaches_its_leaf(name: str) -> None:
    seen, code, words = CASES[name]

    found = diagnose_timeout(seen)

    text = str(found.error())
    assert found.verdict.code == code
    assert all(word in text for word in words), text
    assert found.verdict.evidence["budget_s"] == 30
    assert 0 < found.verdict.confidence <= 1


def test_leaving_a_load_is_said_to_have_ended_it_where_it_does() -> None:
    assert "give the load up" in str(diagnose_timeout(evidence(loads_abort=True)).error())
    assert "give the load up" not in str(diagnose_timeout(evidence(loads_abort=False)).error())
    assert "give the load up" not in str(diagnose_timeout(evidence(loads_abort=True, phase="first_token")).error())


def test_only_what_is_near_memory_is_treated_as_a_lack_of_it() -> None:
    assert diagnose_timeout(evidence()).verdict.is_memory
    assert not diagnose_timeout(evidence(Resident("m:8b", GB, GB))).verdict.is_memory


def test_a_name_without_a_tag_is_the_latest() -> None:
    seen = TimeoutEvidence("m", "load", 30, residents=(Resident("m:latest", GB, GB),), is_alive=True)

    assert diagnose_timeout(seen).verdict.code == "load_timeout"


WORDS = {
    "whole": "模型在載入階段即逾時（尚未產生任何 token）；模型已載入但載入階段逾時",
    "partly in RAM": "模型在載入階段即逾時（尚未產生任何 token）；模型未完全載入 VRAM，部分使用系統記憶體",
    "not there, another is": (
        "模型在載入階段即逾時（尚未產生任何 token）；⚠️  模型未出現在執行清單中，很可能因記憶體不足 (OOM) 無法載入；"
        "目前已載入的模型：llama3.3:70b (40.9 GB)"
    ),
    "slow": "模型已開始生成但回應過慢",
}


@pytest.mark.parametrize("name", WORDS)
def test_the_diagnosis_has_these_words_in_traditional_chinese(name: str) -> None:
    assert joined(diagnose_timeout(CASES[name][0]).sentences, "zh_TW") == WORDS[name]
