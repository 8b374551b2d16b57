"""What loads took is kept over restarts, and a broken file costs only that."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from modelyard.memory import measured as module
from modelyard.memory.contexts import bucket, sizes
from modelyard.memory.measured import Measured, MeasuredStore
from modelyard.types.memory import Footprint

ONE = Measured({"ram": 100, "gpu0": 50}, {"weights": 80}, anonymous_bytes=40, file_bytes=60, loads_s=(2.0,))


def test_a_measurement_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "state" / "footprints.sqlite"
    MeasuredStore(path).keep("a", ONE)

    again = MeasuredStore(path).find("a")

    assert again == ONE
    assert again is not None
    assert again.footprint.source == "measured"
    assert again.footprint.parts["measured_anonymous"] == 40


def test_the_most_ever_held_and_the_middle_of_the_last_times_stay() -> None:
    store = MeasuredStore()
    for anonymous, took_s in ((10, 1.0), (70, 9.0), (20, 2.0), (20, 2.0), (20, 3.0), (20, 4.0)):
        store.keep("a", Measured({"ram": 1}, {}, anonymous_bytes=anonymous, loads_s=(took_s,)))
    store.keep("a", Measured({"ram": 1}, {}, anonymous_bytes=30))  # at its end: no load

    found = store.find("a")

    assert found is not None
    assert found.anonymous_bytes == 70
    assert found.loads_s == (4.0, 3.0, 2.0, 2.0, 9.0)
    assert found.load_s == 3.0


def test_an_engines_answer_is_kept_too() -> None:
    store = MeasuredStore()
    footprint = Footprint({"ram": 7}, "oracle", 0.05, {"kv": 3})

    store.keep_answer("a", footprint)

    assert store.asked("a") == footprint
    assert store.asked("b") is None
    assert store.find("a") is None


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b""])
def test_a_damaged_file_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "footprints.sqlite"
    path.write_bytes(content)

    store = MeasuredStore(path)
    store.keep("a", ONE)

    assert store.find("a") == ONE


def test_a_file_of_another_version_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "footprints.sqlite"
    with sqlite3.connect(path) as base:
        base.execute("PRAGMA user_version = 99")
    base.close()

    MeasuredStore(path).keep("a", ONE)

    assert (tmp_path / "footprints.damaged").exists()
    assert MeasuredStore(path).find("a") == ONE


def test_a_place_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with capture_logs() as logs:
        store = MeasuredStore(tmp_path / "file" / "footprints.sqlite")
    store.keep("a", ONE)

    assert store.find("a") == ONE
    assert [line["event"] for line in logs] == ["memory.measured_store_unusable"]


def test_what_stands_in_a_row_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "footprints.sqlite"
    MeasuredStore(path).close()
    with sqlite3.connect(path) as base:
        for key, told in (("a", "{"), ("b", "[]"), ("c", '{"bytes": {}}'), ("d", '{"x": 1}')):
            base.execute("INSERT INTO measured VALUES (?, ?, 0)", (key, told))
            base.execute("INSERT INTO asked VALUES (?, ?, 0)", (key, told))
    base.close()
    store = MeasuredStore(path)

    assert [store.find(key) for key in "abcd"] == [None] * 4
    assert store.asked("a") is None


def test_old_rows_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_MAX", 3)
    store = MeasuredStore()

    for number in range(10):
        store.keep(str(number), ONE)

    assert [number for number in range(10) if store.find(str(number))] == [7, 8, 9]


def test_a_wish_for_less_than_the_default_changes_nothing() -> None:
    assert {bucket(wanted, 4096, 131072) for wanted in (None, 1, 2048, 4096)} == {4096}


def test_wishes_fall_into_few_sizes() -> None:
    assert {bucket(wanted, 4096, 131072) for wanted in range(4097, 131073, 999)} == {8192, 16384, 32768, 65536, 131072}
    assert bucket(50_000, 4096, 40_960) == 40_960
    assert sizes(4096, 10**7)[-1] == 10**7
    assert sizes(0, None) == (0,)
