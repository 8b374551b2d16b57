"""What a person sees while the tour waits: what for, how far, how long. Nothing in the first tenth of a second."""

from __future__ import annotations

import asyncio

from modelyard.cli.terminal import Terminal
from modelyard.errors import N_

SHOW_AFTER_S = 0.1
REFRESH_S = 0.2
FETCHING = N_("⏳ Fetching…")
LOADING = N_("⏳ Loading the model…")


class WaitingLine:
    """Shown while its block runs, or until it is closed. `reached` is how far the work is, from 0 to 1."""

    def __init__(self, terminal: Terminal, text: str) -> None:
        self._terminal, self._text = terminal, text
        self.reached: float | None = None
        self._drawing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> WaitingLine:
        self._drawing = asyncio.create_task(self._draw())
        return self

    async def __aexit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the line away; nothing is drawn after this."""
        if self._drawing is not None:
            self._drawing.cancel()
            self._drawing = None
            self._terminal.clear_status()

    async def _draw(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(SHOW_AFTER_S)
        while True:
            share = "" if self.reached is None else f" {round(100 * self.reached)} %"
            self._terminal.status(f"{self._terminal._(self._text)}{share} · {loop.time() - began:.0f} s")
            await asyncio.sleep(REFRESH_S)
