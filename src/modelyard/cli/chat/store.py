"""Conversations that are kept: one SQLite file in the user's data folder, readable by its owner only.

A turn is written when it is over, in one transaction: a chat that is killed keeps every turn before. Several chats may
write at once. A file that is damaged, or of a newer version, is an error that names it, and is left as it is.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.errors import N_, NotFound, YardError

VERSION = 1
BUSY_S = 5.0
TITLE_CHARS_MAX = 60
TURN_CHARS_MAX = 4 * 1024**2  # of a question or an answer; more is cut, and marked
CUT = "\n[…]"
FILE = "conversations.db"
_SCHEMA = """
CREATE TABLE conversations (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, model TEXT NOT NULL, system TEXT NOT NULL,
    created_at REAL NOT NULL, updated_at REAL NOT NULL
);
CREATE TABLE turns (
    conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE, number INTEGER NOT NULL,
    question TEXT NOT NULL, answer TEXT NOT NULL, model TEXT NOT NULL, is_complete INTEGER NOT NULL,
    at REAL NOT NULL, statistics TEXT NOT NULL,
    PRIMARY KEY (conversation, number)
);
CREATE INDEX conversations_by_time ON conversations (updated_at);
"""


class StoreUnusable(YardError):
    """The file with the conversations cannot be read or written."""

    code = "conversations_unusable"
    text = N_("The conversations in {path} cannot be used: {problem}")
    hints = (N_("Move the file away to begin a new one, or chat with --no-history."),)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and what came. An interrupted answer stays, so that one can ask on."""

    question: str
    answer: str
    is_complete: bool = True
    model: str = ""
    at: float = 0.0  # seconds since 1970
    statistics: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kept:
    """One conversation, with its turns where they were asked for."""

    id: str
    title: str
    model: str
    system: str
    created_at: float
    updated_at: float
    turn_count: int
    turns: tuple[Turn, ...] = ()


class Store:
    """The file. Every method is one transaction."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        with self._errors():
            folder.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
            self.path.chmod(0o600)
        with self._open() as db:
            self._migrate(db)

    def begin(self, title: str, model: str, system: str) -> str:
        """A new conversation; its id."""
        found, now = secrets.token_hex(4), time.time()
        with self._open() as db:
            db.execute(
                "INSERT INTO conversations VALUES (?, ?, ?, ?, ?, ?)", (found, _title(title), model, system, now, now)
            )
        return found

    def add(self, conversation: str, number: int, turn: Turn) -> None:
        """Write a turn, in place of whatever had its number."""
        question, answer = _bounded(turn.question), _bounded(turn.answer)
        row = (
            conversation,
            number,
            question,
            answer,
            turn.model,
            turn.is_complete,
            turn.at,
            json.dumps(turn.statistics),
        )
        with self._open() as db:
            db.execute("DELETE FROM turns WHERE conversation = ? AND number >= ?", (conversation, number))
            db.execute("INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            db.execute(
                "UPDATE conversations SET updated_at = ?, model = ? WHERE id = ?",
                (time.time(), turn.model, conversation),
            )

    def cut(self, conversation: str, count: int) -> None:
        """Keep only the first so many turns."""
        with self._open() as db:
            db.execute("DELETE FROM turns WHERE conversation = ? AND number >= ?", (conversation, count))

    def rename(self, conversation: str, title: str) -> None:
        with self._open() as db:
            db.execute("UPDATE conversations SET title = ? WHERE id = ?", (_title(title), conversation))

    def all(self) -> list[Kept]:
        """Every conversation without its turns, the newest first."""
        with self._open() as db:
            rows = db.execute(f"{_SELECT} ORDER BY updated_at DESC, rowid DESC").fetchall()
        return [Kept(*row) for row in rows]

    def get(self, id: str) -> Kept:
        """One with its turns; `last` is the newest; the beginning of an id is enough. Raises `NotFound`."""
        found = [one for one in self.all() if id == "last" or (id and one.id.startswith(id.lower()))]
        if not found or (len(found) > 1 and id != "last"):
            raise NotFound(
                N_("There is no one conversation {id}."), hints=(N_("`modelyard chat --list` shows them."),), id=id
            )
        with self._open() as db:
            rows = db.execute(
                "SELECT question, answer, is_complete, model, at, statistics FROM turns"
                " WHERE conversation = ? ORDER BY number",
                (found[0].id,),
            ).fetchall()
        turns = tuple(Turn(row[0], row[1], bool(row[2]), row[3], row[4], json.loads(row[5])) for row in rows)
        one = found[0]
        return Kept(one.id, one.title, one.model, one.system, one.created_at, one.updated_at, len(turns), turns)

    def delete(self, id: str) -> int:
        """Forget one, or `all`. How many are gone."""
        wanted = None if id == "all" else self.get(id).id
        with self._open() as db:
            return db.execute("DELETE FROM conversations WHERE ? IS NULL OR id = ?", (wanted, wanted)).rowcount

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as problem:
            raise StoreUnusable(path=str(self.path), problem=str(problem) or type(problem).__name__) from problem

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._errors(), closing(sqlite3.connect(self.path, timeout=BUSY_S)) as db, db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA secure_delete = ON")  # what is deleted is not left in the file
            yield db

    def _migrate(self, db: sqlite3.Connection) -> None:
        """From no table at all to the version of today; a later one adds its step here."""
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StoreUnusable(path=str(self.path), problem=f"version {version}; this program knows {VERSION}")
        if version == 0:
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")


_SELECT = (
    "SELECT id, title, model, system, created_at, updated_at,"
    " (SELECT count(*) FROM turns WHERE conversation = conversations.id) FROM conversations"
)


def _title(text: str) -> str:
    """The first words of a conversation, on one line and without what moves a cursor."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text[:500]).split())
    return line if len(line) <= TITLE_CHARS_MAX else line[: TITLE_CHARS_MAX - 1] + "…"


def _bounded(text: str) -> str:
    return text if len(text) <= TURN_CHARS_MAX else text[:TURN_CHARS_MAX] + CUT
