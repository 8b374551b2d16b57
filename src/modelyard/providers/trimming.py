"""What is left out of a conversation that is too long, by the roles of its messages. Pure: values in, values out.

    system messages, the last user turn     always stay
    a tool call and its results             stay together, or go together
    earlier turns                           go whole, the oldest first; a turn begins with a user's message
    steps since the last user turn          go after them, the oldest first; the last step stays

A text that is cut by itself keeps its beginning and its end, with a marker between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from modelyard.types.chat import Message, TextPart

MARKER = "\n[... {count} characters left out ...]\n"
MARKER_CHARS = 60  # no marker is longer


@dataclass(slots=True)
class _Group:
    """Messages that stay together. `turn` counts the user's turns; 0 is what comes before the first."""

    places: list[int]
    turn: int
    has_user: bool = False
    into: _Group | None = None  # which took this one in


def kept_places(messages: Sequence[Message], tokens: Sequence[float], room: float) -> tuple[int, ...]:
    """The places of the messages that stay, so that their `tokens` fit into `room` if they can.

    >>> talk = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    >>> kept_places(talk, [5, 5, 5], 12), kept_places(talk, [5, 5, 5], 15), kept_places(talk, [5, 5, 5], 1)
    ((2,), (0, 1, 2), (2,))
    """
    held = float(sum(tokens))
    gone: set[int] = set()
    for group in _droppable(_groups(messages)):
        if held <= room:
            break
        gone.update(group.places)
        held -= sum(tokens[place] for place in group.places)
    return tuple(place for place in range(len(messages)) if place not in gone)


def _droppable(groups: Sequence[_Group]) -> list[_Group]:
    """What may go, in the order in which it goes: earlier turns, then steps of the last, which keeps its own last."""
    last_turn = groups[-1].turn if groups else 0
    earlier: dict[int, _Group] = {}
    for group in groups:
        if group.turn < last_turn:
            earlier.setdefault(group.turn, _Group([], group.turn)).places.extend(group.places)
    steps = [group for group in groups if group.turn == last_turn and not group.has_user]
    return [*earlier.values(), *steps[:-1]]


def _groups(messages: Sequence[Message]) -> list[_Group]:
    """(1) System messages are in none. (2) A user's message is one. (3) An assistant's begins a step.

    (4) A result joins the step of its call, with all between them; without a known call, what is before it.
    """
    groups: list[_Group] = []
    callers: dict[str, _Group] = {}
    turn, before = 0, ""
    for place, message in enumerate(messages):
        if message.role == "system":  # (1)
            continue
        is_user = message.role == "user"
        turn += is_user and before != "user"
        before = message.role
        if message.role == "tool" and groups:  # (4)
            owner = _owner(callers.get(message.tool_call_id or "")) or groups[-1]
            while groups[-1] is not owner:
                later = groups.pop()
                owner.places += later.places
                owner.has_user |= later.has_user
                later.into = owner
            owner.turn = turn
            owner.places.append(place)
            continue
        groups.append(_Group([place], turn, is_user))  # (2) (3)
        callers.update({call.id: groups[-1] for call in message.tool_calls})
    return groups


def _owner(group: _Group | None) -> _Group | None:
    """Who has taken it in by now."""
    while group is not None and group.into is not None:
        if group.into.into is not None:
            group.into = group.into.into
        group = group.into
    return group


def cut_text(text: str, chars: int) -> str:
    """A text of about so many characters: its beginning, a marker, its end.

    >>> cut_text("a" * 50 + "b" * 50, 80)
    'aaaaaaaaaa\\n[... 80 characters left out ...]\\nbbbbbbbbbb'
    """
    if len(text) <= chars:
        return text
    half = max(0, chars - MARKER_CHARS) // 2
    gone = len(text) - 2 * half
    return text[:half] + MARKER.format(count=gone) + (text[-half:] if half else "")


def text_of(message: Message) -> str:
    """Its text, without what is no text."""
    content = message.content
    if isinstance(content, tuple):
        return "".join(part.text for part in content if isinstance(part, TextPart))
    return content or ""


def with_text(message: Message, text: str) -> Message:
    """The message with another text; what is no text stays where it is, after it."""
    if not isinstance(message.content, tuple):
        return replace(message, content=text)
    others = tuple(part for part in message.content if not isinstance(part, TextPart))
    return replace(message, content=(TextPart(text), *others))
