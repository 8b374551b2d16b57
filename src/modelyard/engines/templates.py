"""Chat templates, rendered in a process of their own that is killed when it takes too long.

Runs inside worker processes. A template is part of a model's files: it may loop for ever, or ask for all memory there
is. Whoever waits for it gets `TemplateBroken`, and the next request a new process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from modelyard.engines.worker_cell import PARENT_VARIABLE

RENDER_S_MAX = 5.0
START_S_MAX = 30.0
LINE_BYTES_MAX = 128 * 1024**2


class TemplateBroken(Exception):
    """The template gave no text; why, in words."""


class Renderer:
    """One template and the process that renders it. Used on one event loop, by one request at a time."""

    def __init__(self, template: str, environment: Mapping[str, str], *, render_s: float = RENDER_S_MAX) -> None:
        self._template = template
        self._environment = {**environment, PARENT_VARIABLE: str(os.getpid())}
        self._render_s = render_s
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def begin(self) -> None:
        """Start the process before it is needed. A template that is broken tells whoever uses it."""
        async with self._turn:
            if self._process is None:
                try:
                    await self._begun()
                except TemplateBroken:
                    await self.close()

    async def render(self, values: Mapping[str, Any]) -> str:
        """The prompt as text. Raise `TemplateBroken`."""
        async with self._turn:
            try:
                if self._process is None:
                    await self._begun()
                answer = await self._answer(values, self._render_s)
            except BaseException:  # also when nobody waits any more: what it would say belongs to nobody
                await self.close()
                raise
            return self._told(answer)

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def _begun(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "modelyard.engines.template_worker", env=self._environment,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            limit=LINE_BYTES_MAX,
        )  # fmt: skip
        await self._line(START_S_MAX)  # it is there; from here on only the template can take time
        self._told(await self._answer({"template": self._template}, self._render_s))

    async def _answer(self, values: Mapping[str, Any], limit_s: float) -> dict[str, str]:
        assert self._process is not None, "it was started"
        assert self._process.stdin is not None, "it is a pipe"
        self._process.stdin.write(json.dumps(values).encode() + b"\n")
        return await self._line(limit_s)

    async def _line(self, limit_s: float) -> dict[str, str]:
        assert self._process is not None, "it was started"
        assert self._process.stdin is not None, "it is a pipe"
        assert self._process.stdout is not None, "it is a pipe"
        try:
            async with asyncio.timeout(limit_s):
                await self._process.stdin.drain()
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise TemplateBroken(f"it was not rendered within {limit_s:g} s") from None
        except (OSError, ValueError):
            line = b""
        if not line:
            raise TemplateBroken("its process ended: it may take only so much memory")
        answer: dict[str, str] = json.loads(line)
        return answer

    @staticmethod
    def _told(answer: Mapping[str, str]) -> str:
        if "error" in answer:
            raise TemplateBroken(answer["error"])
        return answer["text"]
