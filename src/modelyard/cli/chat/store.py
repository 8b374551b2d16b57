"""Conversations that are kept: one SQLite file in the user's data folder, readable by its owner only.

A turn is written when it is over, in one transaction: a chat that is killed keeps every turn before. Several chats may
write at once, and none overwrites what it has not read. A file that is damaged, or of a newer version, is an error that
names it, and is left as it is.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from modelyard.errors import N_, NotFound, YardError
from modelyard.types.chat import ImagePart

VERSION = 1
BUSY_S = 5.0
TITLE_CHARS_MAX = 60
TURN_CHARS_MAX = 4 * 1024**2  # of a question or an answer; more is cut, and marked
CUT = "\n[…]"
FILE = "conversations.db"
_SCHEMA = (
    "CREATE TABLE conversations ("
    " id TEXT PRIMARY KEY, title TEXT NOT NULL, model TEXT NOT NULL, system TEXT NOT NULL,"
    " created_at REAL NOT NULL, updated_at REAL NOT NULL)",
    "CREATE TABLE turns ("
    " conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE, number INTEGER NOT NULL,"
    " question TEXT NOT NULL, answer TEXT NOT NULL, model TEXT NOT NULL, is_complete INTEGER NOT NULL,"
    " at REAL NOT NULL, statistics TEXT NOT NULL,"
    " PRIMARY KEY (conversation, number))",
    "CREATE INDEX conversations_by_time ON conversations (updated_at)",
)


class StoreUnusable(YardError):
    """The file with the conversations cannot be read or written."""

    code = "conversations_unusable"
    text = N_("The conversations in {path} cannot be used: {problem}")
    hints = (N_("Move the file away to begin a new one, or chat with --no-history."),)


class Changed(Exception):
    """Somebody else changed this conversation, or deleted it, since the caller read it. Nothing was written."""

    def __init__(self, *, is_gone: bool) -> None:
        super().__init__()
        self.is_gone = is_gone


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and what came. An interrupted answer stays, so that one can ask on."""

    question: str
    answer: str
    is_complete: bool = True
    model: str = ""
    at: float = 0.0  # seconds since 1970
    statistics: dict[str, object] = field(default_factory=dict)
    images: tuple[ImagePart, ...] = ()  # of the question; not kept in the file


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

    def begin(self, turns: Sequence[Turn], model: str, system: str) -> str:
        """A new conversation; its id. Its title is its first question."""
        found, now = secrets.token_hex(4), time.time()
        title = title_of(turns[0].question) if turns else ""
        with self._open() as db:
            db.execute("INSERT INTO conversations VALUES (?, ?, ?, ?, ?, ?)", (found, title, model, system, now, now))
            _insert(db, found, 0, turns)
        return found

    def write(
        self, conversation: str, known: Sequence[float], turns: Sequence[Turn], model: str = "", system: str = ""
    ) -> None:
        """Make these its turns. `known`: when the turns were made that the caller believes it has. Raises `Changed`."""
        same = 0
        while same < min(len(known), len(turns)) and known[same] == turns[same].at:
            same += 1
        with self._open() as db:
            rows = db.execute("SELECT at FROM turns WHERE conversation = ? ORDER BY number", (conversation,)).fetchall()
            is_there = db.execute("SELECT 1 FROM conversations WHERE id = ?", (conversation,)).fetchone()
            if not is_there or [row[0] for row in rows] != list(known):
                raise Changed(is_gone=not is_there)
            db.execute("DELETE FROM turns WHERE conversation = ? AND number >= ?", (conversation, same))
            _insert(db, conversation, same, turns[same:])
            db.execute(
                "UPDATE conversations SET updated_at = ?, model = ?, system = ? WHERE id = ?",
                (time.time(), model, system, conversation),
            )

    def rename(self, conversation: str, title: str) -> None:
        with self._open() as db:
            db.execute("UPDATE conversations SET title = ? WHERE id = ?", (title_of(title), conversation))

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
        return replace(found[0], turn_count=len(turns), turns=turns)

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
            with suppress(sqlite3.OperationalError):  # somebody else writes: whoever is alone changes the mode
                db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA secure_delete = ON")  # what is deleted is not left in the file
            db.execute("BEGIN IMMEDIATE")  # what is read below is still so when it is written
            yield db

    def _migrate(self, db: sqlite3.Connection) -> None:
        """From no table at all to the version of today; a later one adds its step here."""
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StoreUnusable(path=str(self.path), problem=f"version {version}; this program knows {VERSION}")
        if version == 0:
            for statement in (*_SCHEMA, f"PRAGMA user_version = {VERSION}"):
                db.execute(statement)


_SELECT = (
    "SELECT id, title, model, system, created_at, updated_at,"
    " (SELECT count(*) FROM turns WHERE conversation = conversations.id) FROM conversations"
)


def title_of(text: str) -> str:
    """The first words of a conversation, on one line and without what moves a cursor."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in text[:500]).split())
    return line if len(line) <= TITLE_CHARS_MAX else line[: TITLE_CHARS_MAX - 1] + "…"


def _bounded(text: str) -> str:
    return text if len(text) <= TURN_CHARS_MAX else text[:TURN_CHARS_MAX] + CUT


def _insert(db: sqlite3.Connection, conversation: str, number: int, turns: Sequence[Turn]) -> None:
    db.executemany(
        "INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (conversation, place, _bounded(turn.question), _bounded(turn.answer), turn.model, turn.is_complete, turn.at,
             json.dumps(turn.statistics))
            for place, turn in enumerate(turns, number)
        ],
    )  # fmt: skip
