"""The screen of `modelyard top`: asks once a second over one connection, draws, and carries out what is asked for.

Leaving waits for nobody: what is asked of a server runs in threads that end with the process, and a wish that takes
long (a model is unloaded when its requests have ended) has a connection of its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.styles import Style

from modelyard.cli.session import Session
from modelyard.cli.terminal import plain
from modelyard.cli.top.picture import Row, moved, picture, rows_of, seen
from modelyard.client.http import YardClient
from modelyard.errors import N_, YardError
from modelyard.types.status import NodeStatus
from modelyard.words import render

Found = TypeVar("Found")
Act = Callable[[YardClient], object]

EVERY_S = 1.0
SILENT_S = 3.0  # longer than this without an answer is said
STYLES = {"title": "bold", "chosen": "reverse", "faint": "fg:ansibrightblack", "warning": "fg:ansired"}
KEYS = N_("↑↓ choose · x cancel a request · u unload a model · p pin it · q leave")
CANCEL, UNLOAD = N_("Cancel request {name}? y/n"), N_("Unload {name} and free {size}? y/n")


class Screen:
    """One window. Everything here happens in one event loop; only the client's calls run in threads."""

    def __init__(self, session: Session, client: YardClient, first: NodeStatus) -> None:
        self._session, self._client = session, client
        self._status, self._seen_at = first, time.monotonic()
        self._chosen: Row | None = None
        self._trouble = ""  # the server's: gone when it answers
        self._said = ""  # of the last wish: gone with the next key
        self._question: tuple[str, Act] | None = None
        body = Window(FormattedTextControl(self._drawn), wrap_lines=False)
        foot = Window(FormattedTextControl(self._foot), height=1)
        self._app: Application[None] = Application(
            layout=Layout(HSplit([body, foot])), key_bindings=self._keys(), full_screen=True, refresh_interval=EVERY_S,
            style=Style.from_dict(STYLES if session.terminal.shows_markdown else {"chosen": "reverse"}),
        )  # fmt: skip

    async def run(self) -> None:
        """Until somebody leaves."""
        watching = asyncio.create_task(self._watch())
        watching.add_done_callback(self._watched)
        try:
            await self._app.run_async()
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    def _watched(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and self._app.is_running:  # it failed: what is shown would never change again
            self._app.exit()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._refresh()

    async def _refresh(self) -> None:
        try:
            self._status = await _apart(self._client.status)
        except YardError as error:
            self._trouble = self._words(error)
        else:
            self._trouble, self._seen_at = "", time.monotonic()
        self._chosen = next((row for row in rows_of(self._status) if row == self._chosen), None)
        self._app.invalidate()

    async def _do(self, act: Act) -> None:
        def asked() -> None:
            with self._session.client(self._client.url) as client:
                act(client)

        try:
            await _apart(asked)
        except YardError as error:
            self._said = self._words(error)
        self._app.invalidate()

    def _words(self, error: YardError) -> str:
        return f"⚠ {plain(render(error, self._session.terminal.language)[0])}".replace("\n", " ")

    def _drawn(self) -> StyleAndTextTuples:
        size = self._app.output.get_size()
        lines = seen(picture(self._session, self._status, size.columns, self._chosen), max(1, size.rows - 1))
        return [(f"class:{one.style}" if one.style else "", f"{one.text}\n") for one in lines]

    def _foot(self) -> StyleAndTextTuples:
        terminal, silent_s = self._session.terminal, time.monotonic() - self._seen_at
        if self._question:
            return [("", self._question[0])]
        trouble = self._trouble
        if not trouble and silent_s > EVERY_S + SILENT_S:
            trouble = terminal._(N_("⚠ no answer for {time}"), time=terminal.duration(silent_s))
        told = self._said or trouble
        return [("", told)] if told else [("class:faint", terminal._(KEYS))]

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("q")
        @keys.add("c-c")
        @keys.add("c-d")
        def _leave(_event: object) -> None:
            self._app.exit()

        @keys.add("up")
        @keys.add("k")
        def _up(_event: object) -> None:
            self._move(-1)

        @keys.add("down")
        @keys.add("j")
        def _down(_event: object) -> None:
            self._move(1)

        @keys.add("x")
        def _cancel(_event: object) -> None:
            if (row := self._chosen) is not None and row.kind == "request":
                self._ask(CANCEL, row, lambda client: client.cancel(row.name))

        @keys.add("u")
        def _unload(_event: object) -> None:
            if (row := self._chosen) is not None and row.kind == "model":
                self._ask(UNLOAD, row, lambda client: client.unload(row.name))

        @keys.add("p")
        def _pin(_event: object) -> None:
            if (row := self._chosen) is not None and row.kind == "model":
                self._begin(lambda client: client.pin(row.name, pinned=not row.pinned))

        @keys.add("y")
        def _yes(_event: object) -> None:
            if self._question is not None:
                self._begin(self._question[1])

        @keys.add("n")
        @keys.add("escape")
        def _no(_event: object) -> None:
            self._question, self._said = None, ""

        return keys

    def _move(self, by: int) -> None:
        self._question, self._said = None, ""  # a question is about the row it was asked for
        self._chosen = moved(rows_of(self._status), self._chosen, by)

    def _ask(self, text: str, row: Row, act: Act) -> None:
        terminal = self._session.terminal
        self._question = (terminal._(text, name=plain(row.name), size=terminal.size(row.held_bytes)), act)

    def _begin(self, act: Act) -> None:
        self._question, self._said = None, ""
        self._app.create_background_task(self._do(act))


async def _apart(call: Callable[[], Found]) -> Found:
    """What a call gives, from a thread that nobody waits for once the loop has ended."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Found] = loop.create_future()

    def settle(found: Found | None, problem: Exception | None) -> None:
        if answer.done():
            return
        if problem is not None:
            answer.set_exception(problem)
        else:
            answer.set_result(found)  # type: ignore[arg-type]

    def run() -> None:
        found, problem = None, None
        try:
            found = call()
        except Exception as raised:
            problem = raised
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, found, problem)

    threading.Thread(target=run, daemon=True).start()
    return await answer
