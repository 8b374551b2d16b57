"""What a request is doing until its first token: a line on stderr for whoever watches, at once and then once a second.

The phase is the server's own word for our request. Where the server will not tell, the line only counts seconds.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from modelyard.cli.models import wait_text
from modelyard.cli.session import Session
from modelyard.errors import N_, YardError

if TYPE_CHECKING:
    from modelyard.client.http import YardClient
    from modelyard.types.status import NodeStatus

REFRESH_S = 0.1
ASK_AFTER_S = 0.3  # most answers begin before, and cost no question
ASK_EVERY_S = 1.0

_PHASES = {
    "queued": N_("queued, {waiting} waiting"),
    "reading": N_("reading the prompt {percent} %"),
    "loading": N_("loading the model"),
    "prefill": N_("reading the prompt"),
    "generating": N_("generating"),
}


class PhaseLine:
    """Shows the phase while it is open. The main thread may be blocked in a socket, so a thread of its own draws."""

    def __init__(self, session: Session, url: str, request_id: str = "", text: str = N_("waiting")) -> None:
        self._session = session
        self._url = url
        self._request_id = request_id
        self._text = session.terminal._(text)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._began = time.monotonic()

    def __enter__(self) -> PhaseLine:
        if self._session.terminal.is_watched:
            self._draw()
            threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def tell(self, text: str, **fields: object) -> None:
        """Show something that we know ourselves, and ask the server no more."""
        self._request_id = ""
        self._text = self._session.terminal._(text, **fields)

    def close(self) -> None:
        """Take the line away. After this nothing is drawn."""
        self._closed.set()
        with self._lock:
            self._session.terminal.clear_status()

    def _run(self) -> None:
        ask_at = self._began + ASK_AFTER_S
        with ExitStack() as opened:
            client: YardClient | None = None  # one for all questions: a new one costs more than a question
            while not self._closed.wait(REFRESH_S):
                if self._request_id and time.monotonic() >= ask_at:
                    client = client or opened.enter_context(self._session.client(self._url))
                    self._ask(client)
                    ask_at = time.monotonic() + ASK_EVERY_S
                self._draw()

    def _ask(self, client: YardClient) -> None:
        try:
            text = phase_text(self._session, client.status(), self._request_id)
            if self._request_id:
                self._text = text or self._text
        except YardError:
            self._request_id = ""  # no right to know, or an older server: stop asking

    def _draw(self) -> None:
        with self._lock:
            if not self._closed.is_set():
                self._session.terminal.status(f"{self._text} · {time.monotonic() - self._began:.0f} s")


def phase_text(session: Session, status: NodeStatus, request_id: str) -> str:
    """The phase of one request in words; empty if the server does not know the request."""
    request = next((request for request in status.requests if request.id == request_id), None)
    if request is None:
        return ""
    phase, ratio = request.phase, request.prompt_ratio
    template = _PHASES["reading"] if phase == "prefill" and ratio is not None else _PHASES.get(phase, "")
    if request.wait is not None:
        return wait_text(session, request.wait)
    percent = round(100 * (ratio or 0.0))
    return session.terminal._(template, waiting=status.queue, percent=percent) if template else phase
