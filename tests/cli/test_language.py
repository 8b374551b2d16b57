"""Which language a command speaks, said by real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest


def said(*words: str, **variables: str) -> str:
    """All that a command prints, in an environment with only these locale variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    ended = subprocess.run(
        [sys.executable, "-m", "modelyard.cli", *words],
        capture_output=True, text=True, encoding="utf-8", check=False, timeout=60,
        env=environment | {"PYTHONIOENCODING": "utf-8"} | variables,
    )  # fmt: skip
    return ended.stdout + ended.stderr


def english(text: str) -> list[str]:
    """Runs of three English words and more, but for commands to type and what the system says."""
    shown = re.sub(r"`[^`]*`|^ {4}modelyard .*$|Connection refused", "", text, flags=re.MULTILINE)
    return re.findall(r"[A-Za-z]+(?: [A-Za-z]+){2,}", shown)


@pytest.mark.parametrize(
    ("words", "variables", "expected"),
    [
        (["--lang", "zh_TW", "lode"], {"LC_ALL": "zh_CN.UTF-8"}, "沒有命令 lode。您是不是要用 load？"),
        (["lode", "--lang", "zh_TW"], {}, "沒有命令 lode。您是不是要用 load？"),
        (["lode"], {"LC_ALL": "zh_TW.UTF-8", "LC_MESSAGES": "en_US", "LANG": "C"}, "沒有命令 lode"),
        (["lode"], {"LC_MESSAGES": "zh_TW", "LANG": "C"}, "沒有命令 lode"),
        (["lode"], {"LANG": "zh_TW.UTF-8"}, "沒有命令 lode"),
        (["lode"], {"LANG": "de_DE.UTF-8"}, "There is no command lode. Did you mean load?"),
        (["lode", "--lang=en"], {"LANG": "zh_TW"}, "There is no command lode"),
    ],
)
def test_the_flag_decides_wherever_it_stands_then_the_locale_variables_in_their_order(
    words: list[str], variables: dict[str, str], expected: str
) -> None:
    assert expected in said(*words, **variables)


def test_what_click_says_is_in_the_language_too() -> None:
    wrong = said("--lang", "zh_TW", "chat", "--qqqqq")

    assert wrong.splitlines() == [
        "用法: modelyard chat [OPTIONS] [MODEL]",
        "說明請見 'modelyard chat --help'。",
        "",
        "錯誤：沒有選項 '--qqqqq'。",
    ]


def test_the_help_of_a_command_has_no_english_line_in_another_language() -> None:
    text = said("show", "--help", "--lang", "zh_TW")

    assert "顯示一個模型" in text
    assert "顯示這個說明後結束。" in text
    assert "Options" not in text
    assert "Show" not in text


def test_a_language_that_is_none_of_ours_is_refused() -> None:
    assert "'fr' is not one of 'en', 'zh_TW', 'zh_CN'" in said("list", "--lang", "fr")


def test_an_error_of_a_command_comes_with_its_suggestions_in_the_language() -> None:
    text = said("list", "--url", "http://127.0.0.1:9", "--lang", "zh_TW")

    assert "http://127.0.0.1:9 沒有伺服器回應" in text
    assert "請用 `modelyard serve` 啟動伺服器。" in text


@pytest.mark.parametrize(
    ("chosen", "variables", "help_words", "refused", "reason"),
    [
        (["--lang", "zh_CN"], {}, ["加载模型。", "卸载模型。"], ["没有服务器响应", "启动服务器。"], "精确"),
        ([], {"LANG": "zh_TW.UTF-8"}, ["載入模型。", "卸載模型。"], ["沒有伺服器回應", "啟動伺服器。"], "精確"),
    ],
)  # fmt: skip
def test_help_errors_and_listings_have_no_english_sentence(
    chosen: list[str], variables: dict[str, str], help_words: list[str], refused: list[str], reason: str
) -> None:
    for words, expected in (
        (["--help"], help_words),
        (["list", "--url", "http://127.0.0.1:9"], refused),
        (["config"], [f"automatic: {reason}"]),
    ):
        text = said(*chosen, *words, **variables)

        assert [word for word in expected if word not in text] == [], words
        assert english(text) == [], words
