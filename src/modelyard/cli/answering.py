"""One question, one streamed answer: for `ask` and `chat`. Whatever ends it early also ends the work on the server."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelyard.cli.phase import PhaseLine
from modelyard.cli.session import Session
from modelyard.errors import N_, CapabilityMissing, ModelNotFound, YardError
from modelyard.types.chat import Delta, Message, Usage

if TYPE_CHECKING:
    from modelyard.client.http import YardClient
    from modelyard.client.replies import ModelEntry

BUILTIN = "yardling"


@dataclass(slots=True)
class Answer:
    """What came. `failure` and `is_interrupted` say why it may not be all."""

    text: str = ""
    finish: str | None = None
    usage: Usage | None = None
    is_interrupted: bool = False
    failure: YardError | None = None


def stream_answer(
    session: Session,
    client: YardClient,
    model: str,
    messages: Sequence[Message],
    options: Mapping[str, object],
    *,
    is_shown: bool = True,
) -> Answer:
    """Ask, and print the pieces as they come. Ctrl-C closes the connection and returns what has come so far."""
    answer = Answer()
    request_id = f"cli-{secrets.token_hex(8)}"
    try:
        with (
            PhaseLine(session, client.url, request_id) as phase,
            client.chat(model, messages, request_id=request_id, options=options) as stream,
        ):
            for piece in stream:
                match piece:
                    case Delta():
                        if piece.text:
                            phase.close()
                        elif piece.reasoning:
                            phase.tell(N_("thinking"))
                        _take(session, answer, piece, is_shown=is_shown)
                    case Usage():
                        answer.usage = piece
    except KeyboardInterrupt:
        answer.is_interrupted = True
    except YardError as error:
        answer.failure = error
    session.terminal.clear_status()
    session.terminal.end_answer()
    return answer


def _take(session: Session, answer: Answer, piece: Delta, *, is_shown: bool) -> None:
    if piece.text:
        answer.text += piece.text
        if is_shown:
            session.terminal.answer(piece.text)
    answer.finish = piece.finish or answer.finish


def pick_model(client: YardClient) -> str:
    """The model to use when none is named: one in memory, else the first that can chat, the built-in one last."""
    usable = [entry for entry in client.models() if _can_chat(entry)]
    if not usable:
        raise ModelNotFound(
            N_("The server at {url} has no model that can chat."),
            hints=(N_("`modelyard list` shows what it has."),),
            url=client.url,
        )
    return min(usable, key=lambda entry: (entry.state != "resident", entry.name == BUILTIN)).name


def require_chat(client: YardClient, model: str) -> None:
    """Raise now, and not after the first question, if there is no such model or it cannot chat."""
    entry = client.show(model)
    if entry.problem or not _can_chat(entry):
        raise CapabilityMissing(model=model, capability=entry.problem or "chat")


def _can_chat(entry: ModelEntry) -> bool:
    return not entry.problem and (not entry.capabilities or "chat" in entry.capabilities)
