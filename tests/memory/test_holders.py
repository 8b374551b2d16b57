"""Who holds memory that is not ours: real processes, and trees of processes as they stand in procfs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelyard.memory.devices import SystemDevices
from modelyard.memory.holders import HOLDERS_MAX, NoHolders, SystemHolders
from modelyard.types.memory import Holder
from modelyard.units import GIB, KIB, MIB

OWN = 10


class Machine:
    """A pretended machine: `add` puts a process on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.on_gpus: dict[int, dict[str, int]] = {}
        self.group = ""
        (root / "proc/self").mkdir(parents=True)

    def gpu_held(self) -> Mapping[int, Mapping[str, int]]:
        return self.on_gpus

    def ram_group(self) -> str:
        return self.group

    def add(
        self,
        pid: int,
        name: str,
        mib: int,
        *,
        parent: int = 1,
        shared_mib: int = 0,
        file_mib: int = 0,
        group: str = "/",
    ) -> None:
        folder = self.root / f"proc/{pid}"
        (folder / f"task/{pid}").mkdir(parents=True)
        (folder / f"task/{pid}/children").write_text("")
        pages = (mib + shared_mib + file_mib) * MIB // os.sysconf("SC_PAGE_SIZE")
        (folder / "statm").write_text(f"{2 * pages} {pages} 0 0 0 0 0\n")
        sizes = {"RssAnon": mib, "RssFile": file_mib, "RssShmem": shared_mib}
        lines = [f"{key}:\t{count * MIB // KIB} kB" for key, count in sizes.items()]
        (folder / "status").write_text("\n".join((f"Name:\t{name}", f"PPid:\t{parent}", *lines, "")))
        (folder / "cgroup").write_text(f"0::{group}\n")
        children = self.root / f"proc/{parent}/task/{parent}/children"
        if children.exists():
            children.write_text(children.read_text() + f"{pid} ")

    def holders(
        self, left_behind: Mapping[int, str] = {}, in_ledger: frozenset[str] = frozenset()
    ) -> tuple[Holder, ...]:
        return SystemHolders(self, OWN).read(left_behind, in_ledger)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.add(OWN, "modelyard", 200)
    return machine


def test_the_largest_are_named_without_us_and_our_workers(machine: Machine) -> None:
    machine.add(11, "worker", 5000, parent=OWN)
    machine.add(12, "helper", 4000, parent=11)
    machine.add(20, "game", 3000, shared_mib=500, file_mib=9000)
    machine.add(21, "browser", 4000)
    machine.add(22, "shell", 3)

    assert machine.holders() == (Holder(21, "browser", {"ram": 4000 * MIB}), Holder(20, "game", {"ram": 3500 * MIB}))


def test_their_count_is_bounded_and_mapped_files_crowd_nobody_out(machine: Machine) -> None:
    for number in range(30):
        machine.add(100 + number, f"p{number}", 100 + number, file_mib=2000 if number < 10 else 0)

    names = [holder.name for holder in machine.holders()]

    assert names == [f"p{number}" for number in range(29, 29 - HOLDERS_MAX, -1)]


def test_a_worker_that_could_not_be_ended_is_named_with_its_model(machine: Machine) -> None:
    machine.add(11, "worker", 5000, parent=OWN)
    machine.add(12, "helper", 4000, parent=11)

    assert machine.holders({11: "qwen"}) == (
        Holder(11, "worker (qwen)", {"ram": 5000 * MIB}),
        Holder(12, "helper (qwen)", {"ram": 4000 * MIB}),
    )


def test_a_server_whose_models_are_in_the_ledger_is_not_foreign(machine: Machine) -> None:
    machine.add(30, "Ollama", 300)
    machine.add(31, "llama-server", 6000, parent=30)
    machine.on_gpus[31] = {"gpu0": GIB}

    assert machine.holders(in_ledger=frozenset({"ollama"})) == ()
    assert [holder.name for holder in machine.holders()] == ["llama-server", "Ollama"]


def test_who_draws_on_another_limit_is_not_in_our_way(machine: Machine) -> None:
    machine.group = "/ours"
    machine.add(40, "outside", 5000, group="/others")
    machine.add(41, "inside", 400, group="/ours/below")

    assert [holder.name for holder in machine.holders()] == ["inside"]


def test_gpus_have_their_own_holders_and_a_process_is_named_once(machine: Machine) -> None:
    machine.add(11, "worker", 50, parent=OWN)
    machine.add(50, "trainer", 700)
    machine.on_gpus = {11: {"gpu0": GIB}, 50: {"gpu0": 2 * GIB, "gpu1": 4 * MIB}, 51: {"gpu1": GIB}}

    assert machine.holders() == (
        Holder(50, "trainer", {"gpu0": 2 * GIB, "gpu1": 4 * MIB, "ram": 700 * MIB}),
        Holder(51, "?", {"gpu1": GIB}),
    )


def test_main_memory_that_a_gpu_uses_counts(machine: Machine) -> None:
    machine.add(50, "trainer", 20)
    machine.on_gpus = {50: {"": 3 * GIB}}

    assert machine.holders() == (Holder(50, "trainer", {"ram": 3 * GIB + 20 * MIB}),)


def test_a_name_cannot_write_on_a_terminal(machine: Machine) -> None:
    machine.add(60, "\x1b[2Jevil\x07", 100)

    assert [holder.name for holder in machine.holders()] == ["?[2Jevil?"]


def test_where_nobody_can_tell_nobody_is_named() -> None:
    assert NoHolders().read({}, ()) == ()


@contextmanager
def hog(mib: int) -> Iterator[subprocess.Popen[str]]:
    code = f"held = bytearray(b'x') * ({mib} * 1024**2); print('up', flush=True); import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.communicate()


def test_a_real_process_is_found_and_as_a_child_of_ours_it_is_not() -> None:
    machine = SystemDevices(gpus=False)
    with hog(900) as process, hog(16) as other:
        seen_by_another = SystemHolders(machine, other.pid).read({}, ())
        seen_by_us = SystemHolders(machine).read({}, ())

    found = next(holder for holder in seen_by_another if holder.pid == process.pid)
    assert found.name.startswith("python")
    assert 900 * MIB < found.bytes["ram"] < 1000 * MIB
    assert process.pid not in [holder.pid for holder in seen_by_us]
