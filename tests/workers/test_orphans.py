from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from modelyard.errors import ConfigError
from modelyard.workers.leftovers import reap_leftovers
from modelyard.workers.marked import RUN_VARIABLE, find_marked, kill_marked
from modelyard.workers.run_folder import OWNER_FILE, RunFolder, make_private, run_root
from tests.workers.waiting import until

OWNER = Path(__file__).with_name("owner.py")


def living(mark: str) -> int:
    return len(find_marked({RUN_VARIABLE: frozenset((mark,))}))


@asynccontextmanager
async def owner(root: Path, *kinds: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A node with workers, as a process of its own; whatever it leaves behind is ended afterwards."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(OWNER), str(root), *kinds, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    mark = (await process.stdout.readline()).decode().strip()
    try:
        yield process, mark
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        kill_marked({RUN_VARIABLE: frozenset((mark,))}, within_s=10)


async def test_nothing_outlives_a_killed_node_not_even_what_has_a_session_of_its_own(folder: Path) -> None:
    async with owner(folder, *["echo"] * 4, *["wrapper"] * 4) as (node, mark):
        # 4 echo workers; 4 times a guardian, the wrapper, and its three sleepers with their shell
        await until(lambda: living(mark) >= 4 + 4 * 6, "all workers and their grandchildren run")

        node.send_signal(signal.SIGKILL)
        await node.wait()

        await until(lambda: living(mark) == 0, "all of them are gone")


async def test_the_next_start_ends_what_a_dead_run_left_behind(folder: Path) -> None:
    async with owner(folder, "bare", "bare") as (node, mark):
        await until(lambda: living(mark) >= 2 * 5, "the unguarded commands run")
        node.send_signal(signal.SIGKILL)
        await node.wait()
        assert living(mark) >= 2 * 5

        reaped = reap_leftovers(folder)

        assert reaped.runs == (mark,)
        assert reaped.process_count >= 2 * 5
        assert reaped.remaining_count == 0
        assert living(mark) == 0
        assert not (folder / mark).exists()


async def test_the_workers_of_a_living_node_are_left_alone(folder: Path) -> None:
    async with owner(folder, "bare", "echo") as (_node, mark):
        await until(lambda: living(mark) >= 6, "its workers run")
        before = living(mark)

        reaped = reap_leftovers(folder)

        assert reaped.runs == ()
        assert living(mark) == before
        assert (folder / mark / OWNER_FILE).exists()


async def test_a_run_whose_lock_is_lost_counts_as_alive_while_its_process_is_there(folder: Path) -> None:
    async with owner(folder, "bare") as (_node, mark):
        await until(lambda: living(mark) >= 1, "its worker runs")
        record = folder / mark / OWNER_FILE
        copy = record.read_bytes()
        record.unlink()
        record.write_bytes(copy)  # same words, but nobody's lock

        reaped = reap_leftovers(folder)

        assert reaped.runs == ()
        assert living(mark) >= 1


def test_a_run_folder_is_private_and_goes_with_its_run(folder: Path) -> None:
    with RunFolder(folder / "runs") as run:
        assert run.path.stat().st_mode & 0o777 == 0o700
        assert (folder / "runs").stat().st_mode & 0o777 == 0o700
        assert run.new_socket() != run.new_socket()
        assert len(str(run.new_socket())) < 100

    assert list((folder / "runs").iterdir()) == []


def test_foreign_files_in_the_folder_of_runs_are_left_alone(folder: Path) -> None:
    (folder / "notes").mkdir()
    (folder / "file").write_text("mine")

    reaped = reap_leftovers(folder)

    assert reaped.runs == ()
    assert {entry.name for entry in folder.iterdir()} == {"notes", "file"}


def test_a_folder_somebody_else_has_put_there_is_refused(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "runs").symlink_to(folder / "elsewhere")

    with pytest.raises(ConfigError):
        make_private(folder / "runs")


def test_runs_live_in_the_users_runtime_folder_where_there_is_one(folder: Path) -> None:
    assert run_root(folder) == folder / "modelyard"
    assert "modelyard-" in run_root(None).name
