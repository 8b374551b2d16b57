"""A starter whose workers are no processes: what they hold is written into fake devices. For tests only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from modelyard.diagnosis import Evidence, Verdict, diagnose
from modelyard.memory.devices import FakeDevices
from modelyard.memory.measured import Measured
from modelyard.types.memory import Footprint, ProcessMemory
from modelyard.types.model import Model, ModelSpec

MIB = 1024**2
DEADLINE_S = 20.0


def model(name: str) -> Model:
    return Model(name, "fake", identity=f"id:{name}")


class FakeWorker:
    """Holds memory until it is stopped."""

    def __init__(self, starter: FakeStarter, name: str, pid: int) -> None:
        self.pid, self.socket, self.slots = pid, Path("/nowhere"), starter.slots
        self.has_progress = True
        self.context_length: int | None = 4096
        self.exited: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.name = name
        self.will_not_end = False
        self.is_gone = False
        self._starter = starter

    def memory(self) -> ProcessMemory:
        held = 0 if self.exited.done() else self._starter.sizes[self.name]
        return ProcessMemory(gpu_bytes={"gpu0": held})

    def last_lines(self) -> tuple[str, ...]:
        return ("a line", "the last line")

    def verdict(self) -> Verdict:
        return diagnose(Evidence(signal=9))

    def crash(self) -> None:
        """It ends by itself; its memory is back at once."""
        self._starter.devices.used_bytes["gpu0"] -= self._starter.sizes[self.name]
        self.exited.set_result("signal 9")

    async def stop(self) -> None:
        if self.will_not_end:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        if not self.exited.done():
            self._starter.devices.used_bytes["gpu0"] -= self._starter.sizes[self.name]
            self.exited.set_result("code 0")
        self.is_gone = True


class FakeStarter:
    """Starts fake workers; `sizes` in bytes of gpu0, `on_start` may wait or raise."""

    def __init__(self, devices: FakeDevices, sizes: dict[str, int], slots: int = 1) -> None:
        self.devices, self.sizes, self.slots = devices, sizes, slots
        self.workers: list[FakeWorker] = []
        self.starts: list[str] = []
        self.cancelled: list[str] = []
        self.remembered: list[tuple[ModelSpec, Measured]] = []
        self.on_start: Callable[[str], Awaitable[None]] | None = None

    def remember(self, spec: ModelSpec, measured: Measured) -> None:
        self.remembered.append((spec, measured))

    async def spec(self, model: Model, context_length: int | None = None) -> ModelSpec:
        await asyncio.sleep(0)
        return ModelSpec(model.name, model.identity, Footprint({"gpu0": self.sizes[model.name]}), self.slots)

    async def start(
        self, model: Model, epoch: int, on_progress: Callable[[str, float], None], spec: ModelSpec | None = None
    ) -> FakeWorker:
        self.starts.append(model.name)
        on_progress("loading", 0.5)
        try:
            await asyncio.sleep(0)
            if self.on_start is not None:
                await self.on_start(model.name)
        except asyncio.CancelledError:
            self.cancelled.append(model.name)
            raise
        self.devices.used_bytes["gpu0"] += self.sizes[model.name]
        self.workers.append(FakeWorker(self, model.name, len(self.starts)))
        return self.workers[-1]

    @property
    def live(self) -> list[str]:
        return [worker.name for worker in self.workers if not worker.exited.done()]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; a guard against hanging, not a measure."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the conditions are not events
            await asyncio.sleep(0.002)
