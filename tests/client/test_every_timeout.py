"""Every leaf of the tree of timeouts, reached over real sockets by a server that behaves so, in three languages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from modelyard.client import OllamaService, Retries, TimeoutWithDiagnosis, diagnose_timeout
from modelyard.client.ollama_budgets import paced, within
from modelyard.diagnosis.timeouts import Phase, TimeoutDiagnosis
from modelyard.testing import FakeOllama, Script
from modelyard.testing.fake_ollama import FakeModel
from modelyard.words import render

GB = 1024**3
MODEL, OTHER = "m:8b", "llama3.3:70b"
BUDGET_S, EVIDENCE_S = 0.3, 5.0
HUNG, SLOW_FIRST, STALLS = Script(header_after_s=1e6), Script(first_after_s=1e6), Script(stall_after=2)
ONCE = Retries(attempts_max=1)
Behave = Callable[[FakeOllama], Awaitable[None]]

LATE = (
    "The model's load phase ran out of time (no token had come)", "模型在載入階段即逾時（尚未產生任何 token）",
    "模型在加载阶段即超时（尚未产生任何 token）",
)  # fmt: skip
SLOW = ("The model began to answer, but too slowly", "模型已開始生成但回應過慢", "模型已开始生成但回复过慢")
PARTLY = (
    "The model is not wholly in VRAM: a part of it is in system memory", "模型未完全載入 VRAM，部分使用系統記憶體",
    "模型未完全加载到 VRAM，部分使用系统内存",
)  # fmt: skip
WHOLE = (
    "The model is loaded, but its load phase ran out of time", "模型已載入但載入階段逾時", "模型已加载但加载阶段超时",
)  # fmt: skip
ABSENT = (
    "⚠️  The model is not among those in memory: most likely it could not be loaded for lack of memory (OOM)",
    "⚠️  模型未出現在執行清單中，很可能因記憶體不足 (OOM) 無法載入",
    "⚠️  模型未出现在运行列表中，很可能因内存不足 (OOM) 无法加载",
)
OTHERS = (
    "Models in memory now: llama3.3:70b (40.9 GB)", "目前已載入的模型：llama3.3:70b (40.9 GB)",
    "目前已加载的模型：llama3.3:70b (40.9 GB)",
)  # fmt: skip


async def nothing(fake: FakeOllama) -> None:
    """It is as it is."""


async def has_another(fake: FakeOllama) -> None:
    fake.bring_in(OTHER)


async def lists_it(fake: FakeOllama) -> None:
    fake.bring_in(MODEL)


async def ps_hangs(fake: FakeOllama) -> None:
    fake.ps_after_s = 1e6


async def stops(fake: FakeOllama) -> None:
    await fake.stop()


# What is asked, the model's share in VRAM, how the server answers, how it is when it is looked at; and what it means.
LEAVES: dict[str, tuple[Phase, float, Script, Behave, str, tuple[tuple[str, str, str], ...]]] = {
    "no room": ("load", 1.0, HUNG, nothing, "out_of_memory", (LATE, ABSENT)),
    "no room beside another": ("load", 1.0, HUNG, has_another, "out_of_memory", (LATE, ABSENT, OTHERS)),
    "partly in system memory": ("load", 0.5, HUNG, lists_it, "partly_in_ram", (LATE, PARTLY)),
    "loaded too late": ("load", 1.0, HUNG, lists_it, "load_timeout", (LATE, WHOLE)),
    "loaded on the CPU": ("first_token", 0.0, SLOW_FIRST, nothing, "load_timeout", (LATE, WHOLE)),
    "still loading": ("load", 1.0, HUNG, ps_hangs, "still_loading", (LATE,)),
    "gone": ("first_token", 1.0, SLOW_FIRST, stops, "unreachable", ()),
    "slow": ("between_tokens", 1.0, STALLS, nothing, "too_slow", (SLOW,)),
    "slow and partly in system memory": ("between_tokens", 0.5, STALLS, nothing, "too_slow", (SLOW, PARTLY)),
    "slow, and memory not told": ("between_tokens", 0.5, STALLS, ps_hangs, "too_slow", (SLOW,)),
}


async def timed_out(phase: Phase, vram: float, script: Script, behave: Behave) -> TimeoutWithDiagnosis:
    """The error of a question to a server that behaves so."""
    models = [FakeModel(MODEL, 8 * GB, vram_ratio=vram), FakeModel(OTHER, int(40.9 * GB))]
    async with FakeOllama(models) as fake, OllamaService(fake.url, retries=ONCE) as service:
        fake.play(script)
        evidence_s = 0.3 if behave is ps_hangs else EVIDENCE_S

        async def diagnose(phase: Phase = "load", budget_s: float = BUDGET_S, tokens: int = 0) -> TimeoutDiagnosis:
            await behave(fake)
            return await diagnose_timeout(service, MODEL, phase, budget_s, tokens=tokens, evidence_s=evidence_s)

        async def asked() -> None:
            stream = await service.chat(MODEL, [{"role": "user", "content": "Hi"}], stream=True)
            async for _piece in paced(stream, BUDGET_S, BUDGET_S, lambda one: bool(one["message"]), diagnose):
                pass

        with pytest.raises(TimeoutWithDiagnosis) as caught:
            await (within(service.load(MODEL), BUDGET_S, diagnose) if phase == "load" else asked())
        if behave is not stops:
            await asyncio.wait_for(fake.questions[-1].left.wait(), 10)  # whoever gives up ends the work
    return caught.value


@pytest.mark.parametrize("name", LEAVES)
async def test_a_server_that_behaves_so_is_told_so_in_every_language(name: str) -> None:
    phase, vram, script, behave, code, words = LEAVES[name]

    error = await timed_out(phase, vram, script, behave)

    verdict = error.fields["verdict"]
    assert isinstance(verdict, dict)
    assert verdict["code"] == code
    assert 0 < verdict["confidence"] < 1
    assert (verdict["evidence"]["phase"], verdict["evidence"]["budget_s"]) == (phase, BUDGET_S)
    for column, language in enumerate(("en", "zh_TW", "zh_CN")):
        text, hints = render(error, language)
        mark = "; " if language == "en" else "；"
        assert text.startswith(mark.join(one[column] for one in words)), text
        assert hints
        if language != "en":
            english = {sentence for sentence, _values in error.sentences} | set(error.hints)
            assert not [one for one in english if one in text or one in hints]
    assert str(error) == render(error, "en")[0]
