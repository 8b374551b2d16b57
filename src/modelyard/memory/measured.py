"""What loads really took, kept over restarts: the next prediction of the same load is the last measurement.

One small SQLite file. A file that is damaged or cannot be written costs the memory of past loads and nothing else. Keys
name everything a footprint depends on; whoever asks makes them. Knows neither models nor engines.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import structlog

from modelyard.types.memory import Footprint

SCHEMA = 1
ROWS_MAX = 5_000
LOADS_KEPT = 5
MEASURED_BAND_RATIO = 0.02
ANONYMOUS, MAPPED = "measured_anonymous", "measured_mapped"  # parts that only a measurement has

_log = structlog.get_logger()
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind of load, as it went."""

    bytes: dict[str, int]  # what to reserve for it, per device
    parts: dict[str, int]
    anonymous_bytes: int = 0  # the most it was seen to hold of main memory,
    file_bytes: int = 0  # and of mapped files
    loads_s: tuple[float, ...] = ()  # how long the last ones took, newest first

    @property
    def load_s(self) -> float:
        """What to expect of the next load."""
        return median(self.loads_s) if self.loads_s else 0.0

    @property
    def footprint(self) -> Footprint:
        parts = {**self.parts, ANONYMOUS: self.anonymous_bytes, MAPPED: self.file_bytes}
        known = {name: count for name, count in parts.items() if count}
        return Footprint(self.bytes, "measured", MEASURED_BAND_RATIO, known)


class MeasuredStore:
    """Footprints by key: measured ones, and what engines' own tables said. `None` for a path keeps them in memory."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()  # asked on the loop's thread and written on others
        self._database = self._opened(path)

    def find(self, key: str) -> Measured | None:
        """What a load of this kind took before."""
        row = self._try(lambda base: base.execute("SELECT told FROM measured WHERE key = ?", (key,)).fetchone())
        try:
            told = json.loads(row[0]) if row else None
            return Measured(**{**told, "loads_s": tuple(told["loads_s"])}) if told else None
        except (TypeError, ValueError, KeyError):
            return None

    def keep(self, key: str, measured: Measured) -> None:
        """Remember the newest load; the most it ever held and the last few times stay."""
        old = self.find(key)
        loads_s = measured.loads_s + (old.loads_s if old is not None else ())
        told = {
            "bytes": measured.bytes,
            "parts": measured.parts,
            "anonymous_bytes": max(measured.anonymous_bytes, old.anonymous_bytes if old is not None else 0),
            "file_bytes": measured.file_bytes,
            "loads_s": loads_s[:LOADS_KEPT],
        }
        self._write("measured", key, told)

    def asked(self, key: str) -> Footprint | None:
        """What an engine's own table said of a load of this kind."""
        row = self._try(lambda base: base.execute("SELECT told FROM asked WHERE key = ?", (key,)).fetchone())
        try:
            return Footprint(**json.loads(row[0])) if row else None
        except (TypeError, ValueError):
            return None

    def keep_answer(self, key: str, footprint: Footprint) -> None:
        """Remember it: asking costs a process."""
        told = {"bytes": footprint.bytes, "source": footprint.source, "band_ratio": footprint.band_ratio}
        self._write("asked", key, {**told, "parts": footprint.parts})

    def close(self) -> None:
        with self._lock, suppress(sqlite3.Error):
            self._database.close()

    def _write(self, table: str, key: str, told: dict[str, object]) -> None:
        values = (key, json.dumps(told), time.time())

        def write(base: sqlite3.Connection) -> None:
            base.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", values)  # noqa: S608 - ours, not a caller's
            oldest = f"SELECT key FROM {table} ORDER BY at DESC LIMIT -1 OFFSET {ROWS_MAX}"  # noqa: S608
            base.execute(f"DELETE FROM {table} WHERE key IN ({oldest})")  # noqa: S608
            base.commit()

        self._try(write)

    def _try(self, act: Callable[[sqlite3.Connection], _T]) -> _T | None:
        """A store that fails must not fail a load."""
        try:
            with self._lock:
                return act(self._database)
        except sqlite3.Error as problem:
            _log.warning("memory.measured_store_failed", problem=str(problem))
            return None

    def _opened(self, path: Path | None) -> sqlite3.Connection:
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                return _with_tables(path)
            except (OSError, sqlite3.Error) as problem:
                _log.warning("memory.measured_store_unusable", path=str(path), problem=str(problem))
            with suppress(OSError, sqlite3.Error):
                path.replace(path.with_suffix(".damaged"))
                return _with_tables(path)
        return _with_tables(Path(":memory:"))


def _with_tables(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path, timeout=2.0, check_same_thread=False)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=NORMAL")  # the last write may be lost with the machine; nobody waits for the disk
    if base.execute("PRAGMA user_version").fetchone()[0] not in (0, SCHEMA):
        base.close()
        raise sqlite3.DatabaseError("it was written by another version")
    for table in ("measured", "asked"):
        base.execute(f"CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, told TEXT NOT NULL, at REAL NOT NULL)")
    base.execute(f"PRAGMA user_version = {SCHEMA}")
    base.commit()
    return base
