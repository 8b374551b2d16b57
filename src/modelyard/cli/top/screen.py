"""The screen of `modelyard top`: asks once a second over one connection, draws, and carries out what is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.styles import Style

from modelyard.cli.session import Session
from modelyard.cli.top.picture import Row, moved, picture, rows_of
from modelyard.client.http import YardClient
from modelyard.errors import N_, YardError
from modelyard.types.status import NodeStatus
from modelyard.words import render

EVERY_S = 1.0
STYLES = {"title": "bold", "chosen": "reverse", "faint": "fg:ansibrightblack", "warning": "fg:ansired"}
KEYS = N_("↑↓ choose · x cancel a request · u unload a model · p pin it · q leave")
CANCEL, UNLOAD = N_("Cancel request {name}? y/n"), N_("Unload {name}? y/n")


class Screen:
    """One window. Everything here happens in one event loop; only the client's calls run in a thread, one at a time."""

    def __init__(self, session: Session, client: YardClient, first: NodeStatus) -> None:
        self._session, self._client = session, client
        self._status = first
        self._chosen: Row | None = None
        self._said = ""
        self._question: tuple[str, Callable[[], object]] | None = None
        self._asking = asyncio.Lock()
        body = Window(FormattedTextControl(self._drawn), wrap_lines=False)
        foot = Window(FormattedTextControl(self._foot), height=1)
        self._app: Application[None] = Application(
            layout=Layout(HSplit([body, foot])), key_bindings=self._keys(), full_screen=True,
            style=Style.from_dict(STYLES if session.terminal.shows_markdown else {"chosen": "reverse"}),
        )  # fmt: skip

    async def run(self) -> None:
        """Until somebody leaves."""
        watching = asyncio.create_task(self._watch())
        try:
            await self._app.run_async()
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._refresh()

    async def _refresh(self) -> None:
        try:
            async with self._asking:
                self._status = await asyncio.to_thread(self._client.status)
        except YardError as error:
            self._said = self._words(error)
        else:
            self._said = "" if self._question is None and self._said.startswith("⚠") else self._said
        if self._chosen not in rows_of(self._status):
            self._chosen = None
        self._app.invalidate()

    async def _do(self, act: Callable[[], object]) -> None:
        try:
            async with self._asking:
                await asyncio.to_thread(act)
        except YardError as error:
            self._said = self._words(error)
        await self._refresh()

    def _words(self, error: YardError) -> str:
        return f"⚠ {render(error, self._session.terminal.language)[0]}"

    def _drawn(self) -> StyleAndTextTuples:
        size = self._app.output.get_size()
        lines = picture(self._session, self._status, size.columns, self._chosen)[: max(1, size.rows - 1)]
        return [(f"class:{one.style}" if one.style else "", f"{one.text}\n") for one in lines]

    def _foot(self) -> StyleAndTextTuples:
        text = self._question[0] if self._question else self._said or self._session.terminal._(KEYS)
        return [("class:faint" if not self._question and not self._said else "", text)]

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
            self._chosen = moved(rows_of(self._status), self._chosen, -1)

        @keys.add("down")
        @keys.add("j")
        def _down(_event: object) -> None:
            self._chosen = moved(rows_of(self._status), self._chosen, 1)

        @keys.add("x")
        def _cancel(_event: object) -> None:
            if (row := self._chosen) is not None and row.kind == "request":
                self._ask(CANCEL, row, lambda: self._client.cancel(row.name))

        @keys.add("u")
        def _unload(_event: object) -> None:
            if (row := self._chosen) is not None and row.kind == "model":
                self._ask(UNLOAD, row, lambda: self._client.unload(row.name))

        @keys.add("p")
        def _pin(_event: object) -> None:
            if (row := self._chosen) is not None and row.kind == "model":
                self._begin(lambda: self._client.pin(row.name, pinned=not row.pinned))

        @keys.add("y")
        def _yes(_event: object) -> None:
            if self._question is not None:
                act, self._question = self._question[1], None
                self._begin(act)

        @keys.add("n")
        @keys.add("escape")
        def _no(_event: object) -> None:
            self._question, self._said = None, ""

        return keys

    def _ask(self, text: str, row: Row, act: Callable[[], object]) -> None:
        self._question = (self._session.terminal._(text, name=row.name), act)

    def _begin(self, act: Callable[[], object]) -> None:
        self._said = ""
        self._app.create_background_task(self._do(act))
