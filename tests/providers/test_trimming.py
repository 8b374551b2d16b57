"""What stays of a conversation that is too long, and how much of a text."""

from __future__ import annotations

import random

import pytest

from modelyard.providers.trimming import cut_text, kept_places
from modelyard.types.chat import Message, Role, ToolCall


def said(*roles: str) -> list[Message]:
    """One letter per message: s, u, a; `a1` calls 1, `t1` is its result."""
    names: dict[str, Role] = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [
        Message(
            names[role[0]],
            "x",
            tool_calls=tuple(ToolCall(id, "f", "{}") for id in role[1:]) if role[0] == "a" else (),
            tool_call_id=role[1:] if role[0] == "t" else None,
        )
        for role in roles
    ]


def kept(text: str, room: int) -> str:
    messages = text.split()
    return " ".join(messages[place] for place in kept_places(said(*messages), [1] * len(messages), room))


@pytest.mark.parametrize(
    ("talk", "room", "stays"),
    [
        ("s u a u a u", 6, "s u a u a u"),
        ("s u a u a u", 5, "s u a u"),  # the oldest turn goes whole, though one message would do
        ("s u a u a u", 1, "s u"),  # these stay, whatever the room
        ("a u a u", 3, "u a u"),  # a greeting is older than the first turn
        ("u s a u", 2, "s u"),  # a system message stays wherever it is
        ("u a1 t1 a u a", 4, "u a"),
        ("u u a u", 2, "u"),  # two messages of a user in a row are one turn
        ("u a u u", 1, "u u"),
        ("u a1 t1 a2 t2 a3 t3", 5, "u a2 t2 a3 t3"),  # steps of the last turn: a call goes with its result
        ("u a1 t1 a2 t2 a3 t3", 1, "u a3 t3"),  # and the last step stays, for it is what is to be answered
        ("u a12 t1 t2 a3 t3", 3, "u a3 t3"),
        ("u a12 t1 a t2 a", 4, "u a"),  # a late result takes all between it and its call along
        ("u a1 u t1", 1, "a1 u t1"),  # a call whose result is in the last turn stays with it
        ("s", 0, "s"),
        ("a", 0, "a"),
        ("t9 u", 1, "u"),
    ],
)
def test_roles_decide_what_stays(talk: str, room: int, stays: str) -> None:
    assert kept(talk, room) == stays


def test_whatever_the_conversation_what_must_stay_stays_and_no_pair_is_torn() -> None:
    chance = random.Random(5)
    for _round in range(3000):
        talk = ["s"] * chance.randrange(2)
        number = 0
        for _turn in range(chance.randrange(6)):
            talk += ["u"] * chance.randrange(1, 3)
            for _step in range(chance.randrange(4)):
                calls = [chr(65 + number + at) for at in range(chance.randrange(3))]
                number += len(calls)
                talk += ["a" + "".join(calls), *(f"t{call}" for call in calls)]
        if not talk:
            continue
        messages = said(*talk)
        sizes = [chance.randrange(1, 9) for _message in talk]
        room = chance.randrange(sum(sizes) + 2)

        places = kept_places(messages, sizes, room)

        stays = [talk[place] for place in places]
        held = sum(sizes[place] for place in places)
        fewer = kept_places(messages, sizes, -1)
        assert set(fewer) <= set(places)
        assert held <= room or places == fewer
        assert [at for at, one in enumerate(talk) if one == "s"] == [at for at in places if talk[at] == "s"]
        if "u" in talk:
            assert len(talk) - 1 - talk[::-1].index("u") in places
        assert len(talk) - 1 in places
        made = {call for one in stays if one[0] == "a" for call in one[1:]}
        assert made == {one[1:] for one in stays if one[0] == "t"}


@pytest.mark.parametrize("chars", [1, 60, 100, 500, 999])
def test_a_cut_text_keeps_its_beginning_and_its_end_and_says_how_much_is_gone(chars: int) -> None:
    text = "".join(str(number % 10) for number in range(1000))

    cut = cut_text(text, chars)

    before, _, rest = cut.partition("\n[... ")
    count, _, after = rest.partition(" characters left out ...]\n")
    assert text.startswith(before)
    assert text.endswith(after)
    assert len(before) + len(after) + int(count) == 1000
    assert len(cut) <= max(chars, 60)
