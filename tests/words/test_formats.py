from __future__ import annotations

import subprocess
import sys

import pytest

from modelyard.cli.terminal import Terminal


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", ["1,234", "2.5 GiB", "2.5 s", "1m15s", "2h1m", "3 hours ago", "in 4 minutes"]),
        ("zh_TW", ["1,234", "2.5 GiB", "2.5 秒", "1 分鐘 15 秒", "2 小時 1 分鐘", "3 小時前", "4 分鐘後"]),
        ("zh_CN", ["1,234", "2.5 GiB", "2.5秒", "1分钟15秒", "2小时1分钟", "3小时前", "4分钟后"]),
    ],
)
def test_numbers_sizes_and_times_are_written_as_the_language_writes_them(language: str, said: list[str]) -> None:
    terminal = Terminal(language, {})

    written = [terminal.number(1234), terminal.size(5 * 1024**3 // 2)]
    written += [terminal.duration(seconds) for seconds in (2.5, 75, 7260)]
    written += [terminal.ago(seconds) for seconds in (10800, -240)]

    assert written == said


def test_a_count_decides_the_form_of_a_text() -> None:
    terminal = Terminal("en", {})

    said = [terminal.counted(count, "{count} model of {who}", "{count} models of {who}", who="x") for count in (1, 2)]

    assert said == ["1 model of x", "2 models of x"]


def test_the_command_line_loads_babel_only_for_a_command_that_prints_numbers() -> None:
    program = "import sys, modelyard.cli.main, modelyard.cli.chat, modelyard.cli.models; print('babel' in sys.modules)"

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert printed.stdout.strip() == "False"
