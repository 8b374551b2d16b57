"""What this machine offers an engine, and launch values that follow from it, each with its reason.

Choices are pure functions of a `Hardware`; only `read_hardware` and `usable_gpus` look at the machine.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from modelyard.engines.base import Choice
from modelyard.engines.environment import DEVICE_ORDER, scrubbed
from modelyard.errors import N_, said

CGROUPS = Path("/sys/fs/cgroup")
PROBE_S = 20.0
# Prompt arithmetic of one core, measured on a small 2.5 GHz machine: 2 operations per parameter and token.
PREFILL_OPERATIONS_PER_CORE_S = 100e9
BATCH_S_MAX = 1.0  # a batch cannot be cancelled, and halts every other slot
BATCH_TOKENS_MIN, BATCH_TOKENS_MAX, BATCH_TOKENS_GPU = 32, 512, 2048
CONTEXT_TOKENS, CONTEXT_TOKENS_GPU = 4096, 8192
SLOTS_MAX = 4
GPU_LAYERS_ALL = 999  # more than any model has: the engine takes what there is
_PROBE = (
    "import json, xllamacpp as x\n"
    "print(json.dumps([str(d['type']) for d in x.get_device_info() if 'GPU' in str(d['type']).upper()]))"
)


@dataclass(frozen=True, slots=True)
class Hardware:
    """Cores and GPUs a worker may use."""

    physical_cores: int = 1
    cpu_quota: float | None = None  # cores a cgroup or an affinity mask leaves us
    gpus: tuple[str, ...] = ()  # device ids the engine can really use: "gpu0", ...

    @property
    def cores(self) -> int:
        """Whole cores to compute with: at least one."""
        quota = math.inf if self.cpu_quota is None else self.cpu_quota
        return max(1, int(min(self.physical_cores, quota)))


def threads(hardware: Hardware) -> Choice:
    """One thread per physical core we may use: more only wait for one another."""
    if hardware.cpu_quota is not None and hardware.cpu_quota < hardware.physical_cores:
        return Choice(
            hardware.cores,
            said(
                "{cpu_quota} of {physical_cores} cores are allowed",
                cpu_quota=f"{hardware.cpu_quota:g}",
                physical_cores=hardware.physical_cores,
            ),
        )
    return Choice(hardware.cores, said("{physical_cores} physical cores", physical_cores=hardware.physical_cores))


def slots(hardware: Hardware) -> Choice:
    """Requests served at once: they share the processor, so few without a GPU."""
    if hardware.gpus:
        return Choice(SLOTS_MAX, N_("a GPU is present"))
    return Choice(min(SLOTS_MAX, max(2, hardware.cores // 2)), said("{cores} cores and no GPU", cores=hardware.cores))


def context_length(hardware: Hardware, trained: int | None) -> Choice:
    """Tokens per slot: memory for them is taken whether used or not."""
    wanted = CONTEXT_TOKENS_GPU if hardware.gpus else CONTEXT_TOKENS
    if trained is not None and trained <= wanted:
        return Choice(trained, N_("all the model was trained for"))
    return Choice(wanted, N_("the default with a GPU") if hardware.gpus else N_("the default without a GPU"))


def batch_tokens(hardware: Hardware, parameter_count: int | None) -> Choice:
    """Prompt tokens per step: as many as are computed within a second, since a step cannot be interrupted."""
    if hardware.gpus:
        return Choice(BATCH_TOKENS_GPU, N_("a GPU is present"))
    if not parameter_count:
        return Choice(BATCH_TOKENS_MAX // 4, N_("the model's size is not known"))
    per_s = hardware.cores * PREFILL_OPERATIONS_PER_CORE_S / (2 * parameter_count)
    fitting = 2 ** int(math.log2(max(1.0, per_s * BATCH_S_MAX)))
    chosen = min(BATCH_TOKENS_MAX, max(BATCH_TOKENS_MIN, fitting))
    return Choice(
        chosen,
        said(
            "about {per_s} prompt tokens a second, and a step should end within {batch_s_max} s",
            per_s=f"{per_s:.0f}",
            batch_s_max=f"{BATCH_S_MAX:g}",
        ),
    )


def gpu_layers(hardware: Hardware) -> Choice:
    """Everything on the GPU, or nothing."""
    if hardware.gpus:
        return Choice(GPU_LAYERS_ALL, N_("all layers: a GPU is present"))
    return Choice(0, N_("no GPU the engine can use"))


def read_hardware(gpus: tuple[str, ...] = (), cgroups: Path = CGROUPS) -> Hardware:
    """Look at this machine. `gpus` are the devices the engine can use, see `usable_gpus`."""
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    limits = [quota for quota in (_cgroup_quota(cgroups), _affinity()) if quota is not None]
    return Hardware(physical, min(limits, default=None), gpus)


async def usable_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """GPUs that the installed llama.cpp can use, by the driver's numbers.

    Asked in a process of its own, which sees what a worker sees: the library is heavy, and may crash.
    """
    with suppress(OSError, TimeoutError, ValueError, IndexError):  # IndexError: it ended without a word
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", _PROBE, env={**scrubbed(environment), **DEVICE_ORDER},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(PROBE_S):
                answer, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return gpu_names(len(json.loads(answer.splitlines()[-1])), environment.get("CUDA_VISIBLE_DEVICES"))
    return ()


def gpu_names(count: int, visible: str | None) -> tuple[str, ...]:
    """Our names of the GPUs an engine counts from 0; it counts only the visible ones, the driver counts all.

    >>> gpu_names(2, None), gpu_names(2, "3,1"), gpu_names(1, "GPU-8932f937")
    (('gpu0', 'gpu1'), ('gpu3', 'gpu1'), ('gpu0',))
    """
    numbers = [text.strip() for text in (visible or "").split(",")]
    if len(numbers) < count or not all(text.isascii() and text.isdigit() for text in numbers[:count]):
        numbers = [str(number) for number in range(count)]
    return tuple(f"gpu{int(number)}" for number in numbers[:count])


def _affinity() -> float | None:
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = len(os.sched_getaffinity(0))
    return None if allowed >= (os.cpu_count() or 1) else float(allowed)


def _cgroup_quota(root: Path) -> float | None:
    """CPU quota in cores, of version 2 or 1. As a container sees it: its own group at the root."""
    with suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        limit = int((root / "cpu/cpu.cfs_quota_us").read_text())
        return limit / int((root / "cpu/cpu.cfs_period_us").read_text()) if limit > 0 else None
    return None
