"""Words that people gave us, in the language they gave them in: they are said exactly so."""

from __future__ import annotations

import pytest
from tools import catalogues

from modelyard.client.ollama_replies import OUT_OF_MEMORY
from modelyard.diagnosis.verdict import SURE, verdict
from modelyard.words import _
from modelyard.words.receipts import lines
from modelyard.workers.ready import NO_COMMIT

TAIWAN = (
    "⏳ 正在取得…", "🧹 正在卸載 {count} 個已載入的模型以釋放記憶體（共 {size}）…", "略過此模型",
    "模型在載入階段即逾時（尚未產生任何 token）", "模型未完全載入 VRAM，部分使用系統記憶體", "模型已載入但載入階段逾時",
    "⚠️  模型未出現在執行清單中，很可能因記憶體不足 (OOM) 無法載入", "目前已載入的模型：{models}",
    "模型已開始生成但回應過慢",
    "⏱️  超過 {budget} 秒未完成回應，跳過此模型。", "💥 記憶體不足 (OOM)，無法載入或執行此模型：{problem}",
    "❌ {server} 錯誤：{problem}", "❌ 取得回覆失敗：{problem}", "✅ 所有模型測試完成",
    "模型/後端載入失敗 (內存或分頁檔不足)", "增大 Pagefile 至 >=16GB",
    "📊 資源佔用：模型大小 {size}，VRAM {vram} ({percent}%)", "📊 資源佔用：模型資訊無法取得",
)  # fmt: skip
GPU = {"gpu0": round(2.49 * 1024**3)}
UNLOADED = {
    "before_bytes": GPU, "after_bytes": {"gpu0": round(0.12 * 1024**3)}, "freed_bytes": {"gpu0": round(2.37 * 1024**3)},
    "worker": {"gpu_bytes": GPU}, "engine": "llamacpp",
}  # fmt: skip


@pytest.mark.parametrize("text", TAIWAN)
def test_what_was_given_for_taiwan_is_in_its_catalogue(text: str) -> None:
    assert text in {form for message in catalogues.written("zh_TW") for form in catalogues.forms(message)}


def test_want_of_commit_memory_is_said_as_the_server_always_said_it() -> None:
    hints = verdict("out_of_memory", SURE, "page_file").suggestions

    assert _(NO_COMMIT, "zh_TW") == "模型/後端載入失敗 (內存或分頁檔不足)"
    assert _(hints[0], "zh_TW") == "增大 Pagefile 至 >=16GB"


@pytest.mark.parametrize("language", catalogues.TRANSLATED)
def test_what_programs_look_for_in_the_library_is_the_same_in_every_language(language: str) -> None:
    assert _(OUT_OF_MEMORY, language) == OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("event", "fields", "words"),
    [
        ("model.switched", {"switched_from": "local", "switched_to": "ollama"}, ["模型切换: local -> ollama"]),
        (
            "model.switched",
            {"switched_from": "ollama", "switched_to": "local"},
            ["模型切换: ollama -> local", "重新加载本地LLM模型"],
        ),
        ("model.evicted", {}, ["卸载本地LLM模型以释放GPU资源"]),
        ("model.unloading", {}, ["开始卸载本地LLM模型..."]),
        (
            "model.unloaded",
            UNLOADED,
            [
                "本地LLM模型卸载完成", "卸载前显存占用: 2.49 GB", "卸载后显存占用: 0.12 GB", "释放显存: 2.37 GB",
                "GPU缓存已清理",
            ],
        ),
        ("model.unloaded", {**UNLOADED, "worker": {"gpu_bytes": {}}}, ["本地LLM模型卸载完成"]),
        ("model.loading", {}, ["开始重新加载本地LLM模型..."]),
        ("model.loaded", {}, ["本地LLM模型重新加载成功"]),
        ("model.loaded", {"engine": "ollama"}, []),
        ("model.load_failed", {}, ["重新加载本地模型失败"]),
        ("there", {}, ["本地模型已经加载，无需重新加载"]),
        ("node.health", {}, []),
    ],
)  # fmt: skip
def test_what_memory_did_is_said_in_the_words_given_for_the_mainland(
    event: str, fields: dict[str, object], words: list[str]
) -> None:
    assert lines(event, fields, "zh_CN") == words


@pytest.mark.parametrize(
    ("template", "begins"),
    [
        ("{url} has no model named {model}.", "模型不存在: "),
        ("{url} cannot be reached: {problem}", "连接失败: "),
        ("{url} answered with status {status}: {problem}", "服务错误: "),
    ],
)
def test_errors_of_the_client_library_begin_with_the_words_given_for_the_mainland(template: str, begins: str) -> None:
    assert _(template, "zh_CN").startswith(begins)
