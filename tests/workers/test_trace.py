"""How a worker's end is judged by what was seen of it and counted meanwhile."""

from __future__ import annotations

from modelyard.types.memory import ProcessMemory
from modelyard.workers.process import ExitStatus
from modelyard.workers.trace import Pressure, Trace, pressure

MIB = 1024**2
KILLED = ExitStatus.of(-9)
ALIVE, GONE = ProcessMemory(anonymous_bytes=10 * MIB, file_bytes=900 * MIB), ProcessMemory()


class Machine:
    """What is counted and measured, as a test sets it."""

    def __init__(self) -> None:
        self.kills, self.free, self.held = 5, 1000 * MIB, ALIVE

    def look(self) -> Pressure:
        return Pressure(self.free, 1000 * MIB, self.kills)

    def trace(self) -> Trace:
        return Trace(lambda: self.held, look=self.look, tried=("n_batch=64",))


def test_a_kill_that_the_kernel_counts_is_for_memory() -> None:
    machine = Machine()
    trace = machine.trace()

    machine.kills += 1
    verdict = trace.verdict(KILLED, ("a line",))

    assert (verdict.code, verdict.evidence["oom_kills"]) == ("out_of_memory", 1)
    assert verdict.tried == ("n_batch=64",)


def test_an_old_kill_of_somebody_else_is_not_this_ones() -> None:
    machine = Machine()
    trace = machine.trace()
    machine.kills += 1
    for _ in range(2):
        trace.memory()

    assert trace.verdict(KILLED, ()).code == "killed"


def test_a_kill_counted_while_its_victim_still_shows_memory_is_its_own() -> None:
    machine = Machine()
    trace = machine.trace()
    for _ in range(3):
        trace.memory()
    machine.kills += 1
    trace.memory()

    assert trace.verdict(KILLED, ()).code == "out_of_memory"


def test_looks_at_one_that_is_gone_change_nothing() -> None:
    machine = Machine()
    trace = machine.trace()
    machine.held, machine.free = GONE, 0
    machine.kills += 1
    for _ in range(5):
        trace.memory()

    verdict = trace.verdict(KILLED, ())

    assert (verdict.code, verdict.evidence["oom_kills"]) == ("out_of_memory", 1)
    assert verdict.evidence["free_last_bytes"] == 1000 * MIB


def test_mapped_files_are_not_what_it_held() -> None:
    machine = Machine()
    trace = machine.trace()
    trace.memory()

    assert trace.held_bytes == 10 * MIB
    assert trace.verdict(KILLED, ()).code == "killed"


def test_one_that_held_all_there_was_died_of_it() -> None:
    machine = Machine()
    trace = machine.trace()
    machine.held = ProcessMemory(anonymous_bytes=950 * MIB)
    trace.memory()

    verdict = trace.verdict(KILLED, ())

    assert (verdict.code, verdict.evidence["held_bytes"]) == ("out_of_memory", 950 * MIB)


def test_this_machine_can_be_looked_at() -> None:
    now = pressure()

    assert 0 < now.free_bytes <= now.limit_bytes
    assert now.oom_kills >= 0
