"""Conversations that are kept: what a killed chat leaves, what two at once do, what is exported and forgotten."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelyard.cli.chat.export import as_text, write
from modelyard.cli.chat.store import FILE, TURN_CHARS_MAX, Changed, Store, StoreUnusable, Turn
from modelyard.errors import BadRequest, NotFound
from tests.cli.conftest import run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


def begun(store: Store, *questions: str) -> str:
    """A conversation of these questions, made at the times 1, 2, …"""
    return store.begin(made(*questions), "m", "Be brief.")


def made(*questions: str) -> list[Turn]:
    return [
        Turn(question, question.upper(), model="m", at=float(number), statistics={"took_s": 1.5})
        for number, question in enumerate(questions, 1)
    ]


def test_turns_come_back_as_they_were(store: Store) -> None:
    one = begun(store, "hello", "模型 🤖")
    half = Turn("and", "half", is_complete=False, model="n", at=3.0)
    store.write(one, [1.0, 2.0], [*made("hello", "模型 🤖"), half], "n", "Be long.")

    kept = store.get("last")

    assert (kept.id, kept.title, kept.model, kept.system) == (one, "hello", "n", "Be long.")
    assert [turn.answer for turn in kept.turns] == ["HELLO", "模型 🤖", "half"]
    assert [turn.is_complete for turn in kept.turns] == [True, True, False]
    assert kept.turns[0].statistics == {"took_s": 1.5}


def test_the_file_is_its_owners_alone(store: Store) -> None:
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_a_turn_that_is_asked_again_takes_the_place_of_the_old_one(store: Store) -> None:
    one = begun(store, "a", "b", "c")

    store.write(one, [1.0, 2.0, 3.0], [*made("a"), Turn("b2", "B2", at=4.0)])

    assert [turn.question for turn in store.get(one).turns] == ["a", "b2"]


def test_the_beginning_of_an_id_is_enough_and_nothing_else_is_found(store: Store) -> None:
    one = begun(store, "a")

    assert store.get(one[:4]).id == one
    for unknown in ("", "zzzz", "%"):
        with pytest.raises(NotFound):
            store.get(unknown)


def test_a_title_is_one_short_line_that_moves_no_cursor(store: Store) -> None:
    one = begun(store, "a\x1b[2J\nb" + "x" * 300)

    title = store.get(one).title
    assert title.isprintable()
    assert len(title) <= 60


def test_a_huge_answer_is_cut_and_marked(store: Store) -> None:
    one = store.begin([Turn("q", "x" * (TURN_CHARS_MAX + 5))], "m", "")

    assert store.get(one).turns[0].answer.endswith("[…]")


def test_what_is_forgotten_is_not_left_in_the_file(store: Store) -> None:
    one = begun(store, "a very secret question")
    begun(store, "another")

    assert store.delete(one) == 1
    assert [kept.title for kept in store.all()] == ["another"]
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"very secret" not in store.path.read_bytes()
    assert store.delete("all") == 1
    assert store.all() == []


def test_two_chats_write_at_once(store: Store) -> None:
    def talk(name: str) -> None:
        mine = Store(store.path.parent)
        one, turns = begun(mine, f"{name}1"), made(*(f"{name}{number}" for number in range(1, 31)))
        for count in range(1, 30):
            mine.write(one, [turn.at for turn in turns[:count]], turns[: count + 1])

    threads = [threading.Thread(target=talk, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(kept.turn_count for kept in store.all()) == [30, 30]


def test_a_killed_chat_keeps_every_turn_it_had_finished(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal, sys\n"
        "from modelyard.cli.chat.store import Store, Turn\n"
        "store = Store(pathlib.Path(sys.argv[1]))\n"
        "turns = [Turn(str(number), 'x' * 10000, at=float(number)) for number in range(10)]\n"
        "one = store.begin(turns[:1], 'm', '')\n"
        "for count in range(1, 10):\n"
        "    store.write(one, [turn.at for turn in turns[:count]], turns[:count + 1])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)

    assert len(Store(tmp_path).get("last").turns) == 10


def test_chats_that_are_the_first_ever_begin_at_once(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from modelyard.cli.chat.store import Store, Turn\n"
        "print(flush=True)\n"
        "sys.stdin.read(1)\n"
        "Store(pathlib.Path(sys.argv[1])).begin([Turn('q', 'a')], 'm', '')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(6)]
    for one in running:
        assert one.stdout is not None
        one.stdout.readline()
    for one in running:
        one.communicate(b"x")

    assert [one.returncode for one in running] == [0] * 6
    assert len(Store(tmp_path).all()) == 6


def test_what_another_chat_wrote_is_not_overwritten(store: Store) -> None:
    one = begun(store, "a")
    other = Store(store.path.parent)
    other.write(one, [1.0], made("a", "theirs"))

    with pytest.raises(Changed) as told:
        store.write(one, [1.0], [*made("a"), Turn("mine", "MINE", at=7.0)])

    assert not told.value.is_gone
    assert [turn.question for turn in store.get(one).turns] == ["a", "theirs"]


def test_a_deleted_conversation_is_not_begun_again(store: Store) -> None:
    one = begun(store, "a")
    store.delete(one)

    with pytest.raises(Changed) as told:
        store.write(one, [1.0], made("a", "b"))

    assert told.value.is_gone
    assert store.all() == []


def test_a_row_that_is_damaged_is_an_error_with_the_files_name(store: Store) -> None:
    one = begun(store, "a")
    with sqlite3.connect(store.path) as db:
        db.execute("UPDATE turns SET statistics = '{'")

    with pytest.raises(StoreUnusable, match=FILE):
        store.get(one)


@pytest.mark.parametrize("broken", [b"this is no database at all, and long enough to be read", "newer"])
def test_a_file_that_cannot_be_used_is_named_and_left_alone(tmp_path: Path, broken: bytes | str) -> None:
    path = tmp_path / FILE
    if isinstance(broken, bytes):
        path.write_bytes(broken)
    else:
        Store(tmp_path)
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 99")
    before = path.read_bytes()

    with pytest.raises(StoreUnusable, match=FILE):
        Store(tmp_path)

    assert path.read_bytes() == before


def test_exports_hold_everything_in_both_forms(store: Store) -> None:
    one = begun(store, "hello")
    store.write(one, [1.0], [*made("hello"), Turn("and", "half", is_complete=False, model="m", at=2.0)])
    kept = store.get(one)

    text, told = as_text(kept, "md"), json.loads(as_text(kept, "json"))

    assert text.startswith("# hello\n")
    assert "(interrupted)" in text
    assert [turn["answer"] for turn in told["turns"]] == ["HELLO", "half"]
    assert told["turns"][0]["at"] == "1970-01-01T00:00:01Z"


def test_an_export_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("mine")

    with pytest.raises(BadRequest, match="there already"):
        write(tmp_path / "a.md", "yours")

    assert (tmp_path / "a.md").read_text() == "mine"


def test_an_export_that_cannot_be_written_says_why_in_words(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"cannot be written: No such file or directory$"):
        write(tmp_path / "nowhere" / "a.md", "text")


def test_kept_conversations_are_listed_exported_and_deleted_by_flags(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    one = begun(Store(tmp_path / "share" / "modelyard"), "hello")

    assert one in run("chat", "--list").stdout
    assert "HELLO" in run("chat", "--export", "last").stdout
    assert json.loads(run("chat", "--export", one, "-o", "json").stdout)["id"] == one
    listed = json.loads(run("chat", "--list", "-o", "json").stdout)["conversations"]
    assert datetime.fromisoformat(listed[0]["updated_at"]).tzinfo is UTC
    assert run("chat", "--delete", "zzzz").exit_code == 5
    assert run("chat", "--delete", one).exit_code == 0
    assert one not in run("chat", "--list").stdout
