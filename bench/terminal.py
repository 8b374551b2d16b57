"""What the command line costs: the time to its first words, and its work while an answer streams. At a real terminal.

Beside Python starting and doing nothing, and beside the same stream read by a client that only counts.
"""

from __future__ import annotations

import asyncio
import os
import pty
import select
import sys
import time
from collections.abc import Sequence

from modelyard.testing import FakeOpenAI, Script

from .client import Answer, ask, chat
from .machine import Row, middle

HELP_S_MAX, PROMPT_S_MAX, SHARE_MAX = 0.200, 0.400, 0.15
TOKENS_PER_S = 100  # of a fast model
LINES = 2000
REPEATS = 9
DEADLINE_S = 120.0
PROGRAM = ("-c", "from modelyard.cli.main import main; main()")
_LINE = ("- **item** ", "one: ", "some ", "`code` ", "and ", "words ", "in a ", "list", "\n")
_TABLE = ("| 模型 ", "| size |\n", "|:--|--:|\n", "| a ", "| 4.9 GB |\n", "\n")


async def terminal() -> list[Row]:
    """All of them."""
    nothing = [await _seen(("-c", "print('x')"), "x") for _n in range(REPEATS)]
    helped = [await _seen((*PROGRAM, "--help"), "Commands") for _n in range(REPEATS)]
    async with FakeOpenAI(["m"]) as node:
        words = (*PROGRAM, "chat", "--no-history", "--url", node.url)
        _compiling, *prompts = [await _seen(words, ">>>") for _n in range(1 + REPEATS)]
        return [
            _start("help", helped, nothing, HELP_S_MAX),
            _start("first prompt of chat", prompts, nothing, PROMPT_S_MAX),
            await _stream(node),
        ]


def _start(name: str, ours: Sequence[float], nothing: Sequence[float], bound_s: float) -> Row:
    return Row(
        f"terminal: {name}", f"{middle(ours) * 1000:.0f} ms", f"{middle(nothing) * 1000:.0f} ms (Python alone)", "",
        f"<= {bound_s * 1000:.0f} ms", middle(ours) <= bound_s,
    )  # fmt: skip


async def _stream(node: FakeOpenAI) -> Row:
    """What share of a core a long answer takes that comes as fast as a fast model writes."""
    tokens = (_LINE * 20 + _TABLE) * (LINES // 24)
    node.play(Script(tokens=tokens, between_s=1 / TOKENS_PER_S))
    words = (*PROGRAM, "ask", "-m", "m", "--url", node.url, "hi")
    ours_s = await asyncio.to_thread(_cpu_s, words)
    some = tokens[: len(tokens) // 10]
    node.play(Script(tokens=some, between_s=1 / TOKENS_PER_S))
    began, answer = time.process_time(), Answer()
    await ask(int(node.url.rpartition(":")[2]), chat("m", "hi", 1), answer)
    with_server_s = time.process_time() - began  # the fake server is in this process, too
    share = ours_s / len(tokens) * TOKENS_PER_S
    return Row(
        f"terminal: CPU of {LINES} lines of Markdown at {TOKENS_PER_S} tokens/s", f"{share:.1%} of a core",
        f"<= {with_server_s / len(some) * TOKENS_PER_S:.1%} (server and a client that counts)", "",
        f"<= {SHARE_MAX:.0%}", share <= SHARE_MAX,
    )  # fmt: skip


async def _seen(words: Sequence[str], text: str) -> float:
    """Seconds from the start of a program until its terminal shows a text."""
    return await asyncio.to_thread(_until, words, text)


def _until(words: Sequence[str], text: str) -> float:
    began = time.monotonic()
    pid, terminal = _started(words)
    try:
        shown = b""
        while text.encode() not in shown:
            if time.monotonic() - began > DEADLINE_S or not (piece := _read(terminal)):
                raise RuntimeError(f"never saw {text!r}: {shown!r}")
            shown += piece
        return time.monotonic() - began
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)


def _cpu_s(words: Sequence[str]) -> float:
    """Seconds of CPU of a program until it ends."""
    pid, terminal = _started(words)
    while _read(terminal):
        pass
    _pid, status, used = os.wait4(pid, 0)
    os.close(terminal)
    if status:
        raise RuntimeError(f"it ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime


def _started(words: Sequence[str]) -> tuple[int, int]:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has been compiled
        os.environ.update(TERM="xterm-256color", PROMPT_TOOLKIT_NO_CPR="1", LANG="C.UTF-8")
        os.execv(sys.executable, [sys.executable, *words])
    return pid, terminal


def _read(terminal: int) -> bytes:
    select.select([terminal], [], [], DEADLINE_S)
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that nobody holds the other end
        return b""
