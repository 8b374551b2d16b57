"""What devices say: this machine's, pretended limits, and real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from modelyard.memory import gpus as gpus_module
from modelyard.memory.devices import FakeDevices, SystemDevices
from modelyard.memory.machine import DeviceReader
from modelyard.types.memory import DeviceReading, ProcessMemory
from modelyard.units import GIB, MIB

from .driver import Driver, Process, Sizes

GUARD_S = 20


def until(question: Callable[[], ProcessMemory], answer: Callable[[ProcessMemory], bool]) -> ProcessMemory:
    deadline = time.monotonic() + GUARD_S
    while not answer(value := question()):
        assert time.monotonic() < deadline, value
        time.sleep(0.02)
    return value


@contextmanager
def running(code: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that says `ready` and then waits for the end of its input."""
    argv = [sys.executable, "-c", code + "\nprint('ready', flush=True)\nimport sys; sys.stdin.read()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(GUARD_S)


def test_ram_is_read_from_this_machine() -> None:
    ram = SystemDevices(gpus=False).read()[0]

    assert (ram.device, ram.kind) == ("ram", "ram")
    assert 0 < ram.free_bytes <= ram.total_bytes <= psutil.virtual_memory().total


def test_a_configured_limit_makes_ram_smaller_and_never_larger() -> None:
    machine = SystemDevices(gpus=False).read()[0]

    small = SystemDevices(ram_limit_bytes=64 * MIB, gpus=False).read()[0]
    large = SystemDevices(ram_limit_bytes=2**50, gpus=False).read()[0]

    assert (small.total_bytes, small.free_bytes, small.limited_by) == (64 * MIB, 64 * MIB, "configuration")
    assert (large.total_bytes, large.limited_by) == (machine.total_bytes, machine.limited_by)


def test_a_cgroup_limit_makes_ram_smaller(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text("31 23 0:28 / /cg rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "cg").mkdir()
    (tmp_path / "cg/memory.max").write_text(f"{100 * MIB}\n")
    (tmp_path / "cg/memory.current").write_text(f"{70 * MIB}\n")
    (tmp_path / "cg/memory.stat").write_text(f"anon 1\ninactive_file {20 * MIB}\n")

    limited = SystemDevices(gpus=False, root=tmp_path).read()[0]
    both = SystemDevices(ram_limit_bytes=40 * MIB, gpus=False, root=tmp_path).read()[0]

    assert (limited.total_bytes, limited.free_bytes, limited.limited_by) == (100 * MIB, 50 * MIB, "cgroup")
    assert (both.total_bytes, both.free_bytes, both.limited_by) == (40 * MIB, 40 * MIB, "configuration")
    assert limited.used_bytes == both.used_bytes == 50 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="reads procfs")
def test_anonymous_and_file_backed_memory_of_a_process_are_apart(tmp_path: Path) -> None:
    path = tmp_path / "mapped"
    path.write_bytes(b"x" * (32 * MIB))
    held = "held = bytearray(b'x') * (64 * 1024**2)\n"
    mapped = (
        f"import mmap\nfile = open({str(path)!r}, 'rb')\nmap = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
    )
    with running("pass") as plain, running(held + mapped + "sum(map[::4096])") as process:
        reader = SystemDevices(gpus=False)
        empty, full = reader.process(plain.pid), reader.process(process.pid)

    assert 63 * MIB < full.anonymous_bytes - empty.anonymous_bytes < 80 * MIB
    assert 31 * MIB < full.file_bytes - empty.file_bytes < 48 * MIB
    assert full.gpu_bytes == {}


@pytest.mark.skipif(sys.platform != "linux", reason="reads procfs")
def test_a_process_is_counted_with_all_below_it() -> None:
    inner = "held = bytearray(b'x') * (48 * 1024**2); print('up', flush=True); import sys; sys.stdin.read()"
    outer = (
        f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {inner!r}], start_new_session=True)"
    )
    reader = SystemDevices(gpus=False)
    with running(outer.replace("start_new_session=True", "start_new_session=True, stdout=-3")) as process:
        whole = until(lambda: reader.process(process.pid), lambda memory: memory.anonymous_bytes > 50 * MIB)
        below = psutil.Process(process.pid).children()

    assert whole.anonymous_bytes > 50 * MIB
    assert len(below) == 1
    below[0].wait(GUARD_S)


def test_a_process_that_is_gone_holds_nothing() -> None:
    with running("pass") as process:
        pass

    assert SystemDevices(gpus=False).process(process.pid) == ProcessMemory()


def test_a_machine_without_a_driver_has_no_gpus() -> None:
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("there is a GPU")

    assert [reading.device for reading in SystemDevices(gpus=True).read()] == ["ram"]


@pytest.mark.gpu
@pytest.mark.skipif(not os.path.exists("/dev/nvidia0"), reason="needs a GPU")
def test_a_gpu_is_read_from_its_driver() -> None:
    ram, gpu, *_others = SystemDevices().read()

    assert (ram.device, gpu.device, gpu.kind) == ("ram", "gpu0", "gpu")
    assert 0 < gpu.free_bytes <= gpu.total_bytes
    assert "NVIDIA" in gpu.name


def test_gpus_and_what_a_process_holds_on_them_are_read_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus_module, "pynvml", Driver())
    reader = SystemDevices()

    readings = reader.read()[1:]

    assert readings == (
        DeviceReading("gpu0", "NVIDIA H200", 80 * GIB, 60 * GIB, "gpu"),
        DeviceReading("gpu1", "NVIDIA H200", 80 * GIB, 61 * GIB, "gpu"),
    )
    assert reader.process(os.getpid()).gpu_bytes == {"gpu0": 5 * GIB, "gpu1": 5 * GIB + 1}


def test_a_gpu_that_is_lost_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(gpus_module, "pynvml", driver)
    reader = SystemDevices()
    driver.is_lost = True

    assert [reading.device for reading in reader.read()] == ["ram", "gpu1"]


def test_a_process_that_computes_and_draws_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    driver.computing = {0: [Process(7, 3 * GIB)], 1: []}
    driver.drawing = {0: [Process(7, 3 * GIB), Process(8, GIB)], 1: driver.NVMLError(driver.NVML_ERROR_UNKNOWN)}
    monkeypatch.setattr(gpus_module, "pynvml", driver)

    assert SystemDevices().gpu_held() == {7: {"gpu0": 3 * GIB}, 8: {"gpu0": GIB}}


def test_a_gpu_in_slices_is_as_many_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    driver.slices = {0: ["first", None, "second"]}
    driver.memory |= {"first": Sizes(20 * GIB, 20 * GIB), "second": Sizes(10 * GIB, 5 * GIB)}
    monkeypatch.setattr(gpus_module, "pynvml", driver)

    readings = SystemDevices().read()[1:]

    assert [(one.device, one.total_bytes) for one in readings] == [
        ("gpu0", 20 * GIB), ("gpu1", 10 * GIB), ("gpu2", 80 * GIB),
    ]  # fmt: skip


@pytest.mark.parametrize("says", ["nothing", "the machine's memory"])
def test_a_gpu_that_uses_main_memory_is_no_device_of_its_own(monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    driver = Driver()
    machine = psutil.virtual_memory().total
    shared = driver.NVMLError(driver.NVML_ERROR_NOT_SUPPORTED) if says == "nothing" else Sizes(machine, machine // 2)
    driver.memory = {0: shared}
    driver.computing = {0: [Process(os.getpid(), 5 * GIB)]}
    plain = SystemDevices(gpus=False).process(os.getpid()).anonymous_bytes
    monkeypatch.setattr(gpus_module, "pynvml", driver)
    devices = SystemDevices()

    assert [(one.device, one.kind) for one in devices.read()] == [("ram", "unified")]
    held = devices.process(os.getpid())
    assert held.gpu_bytes == {}
    assert 0 <= held.anonymous_bytes - plain - 5 * GIB < 64 * MIB


def test_fake_devices_say_what_they_are_told() -> None:
    devices = FakeDevices({"gpu0": 8 * GIB, "ram": 16 * GIB}, {"ram": GIB})
    reader: DeviceReader = devices
    devices.used_bytes["gpu0"] = 9 * GIB
    devices.processes[7] = ProcessMemory(5, 6)

    ram, gpu = reader.read()

    assert (ram.device, ram.kind, ram.total_bytes, ram.free_bytes) == ("ram", "ram", 16 * GIB, 15 * GIB)
    assert (gpu.device, gpu.kind, gpu.free_bytes) == ("gpu0", "gpu", 0)
    assert reader.process(7) == ProcessMemory(5, 6)
    assert reader.process(8) == ProcessMemory()
