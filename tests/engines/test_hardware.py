from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.engines import hardware
from modelyard.engines.environment import scrubbed
from modelyard.engines.hardware import Hardware, read_hardware


def test_threads_are_physical_cores_and_a_quota_lowers_them() -> None:
    assert hardware.threads(Hardware(8)).value == 8
    assert hardware.threads(Hardware(8, cpu_quota=2.5)).value == 2
    assert hardware.threads(Hardware(8, cpu_quota=0.5)).value == 1
    assert "2.5 of 8" in hardware.threads(Hardware(8, cpu_quota=2.5)).reason


@pytest.mark.parametrize(
    ("cores", "parameters", "tokens"), [(2, 500_000_000, 128), (2, 8_000_000_000, 32), (16, 10_000_000, 512)]
)
def test_a_step_of_a_prompt_takes_about_a_second_at_most(cores: int, parameters: int, tokens: int) -> None:
    assert hardware.batch_tokens(Hardware(cores), parameters).value == tokens


def test_a_gpu_changes_slots_context_batch_and_layers() -> None:
    without, having = Hardware(4), Hardware(4, gpus=("gpu0",))

    assert hardware.gpu_layers(without).value == 0
    assert hardware.gpu_layers(having).value == hardware.GPU_LAYERS_ALL
    assert hardware.slots(having).value == 4
    assert hardware.batch_tokens(having, 1).value == 2048


def test_no_context_is_longer_than_what_the_model_was_trained_for() -> None:
    assert hardware.context_length(Hardware(), 512).value == 512
    assert hardware.context_length(Hardware(), 32768).value == 4096
    assert hardware.context_length(Hardware(), None).value == 4096


def test_quotas_of_both_cgroup_versions_are_read(tmp_path: Path) -> None:
    two, one, none = tmp_path / "v2", tmp_path / "v1", tmp_path / "none"
    two.mkdir()
    (two / "cpu.max").write_text("50000 100000\n")
    (one / "cpu").mkdir(parents=True)
    (one / "cpu/cpu.cfs_quota_us").write_text("25000\n")
    (one / "cpu/cpu.cfs_period_us").write_text("100000\n")

    assert read_hardware(cgroups=two).cpu_quota == 0.5
    assert read_hardware(cgroups=one).cpu_quota == 0.25
    assert read_hardware(cgroups=none).cores >= 1


def test_secrets_stay_out_of_a_workers_environment() -> None:
    seen = scrubbed({"PATH": "/bin", "HF_TOKEN": "canary", "MODELYARD_KEYS": "canary", "CUDA_VISIBLE_DEVICES": "0"})

    assert "canary" not in seen.values()
    assert seen["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize("program", ["raise SystemExit(1)", "print('no list')", "import os; os.abort()"])
async def test_a_probe_that_fails_finds_no_gpu(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_PROBE", program)

    assert await hardware.usable_gpus({}) == ()


async def test_gpus_have_the_drivers_numbers_whichever_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_PROBE", "import os; print([0] if 'SECRET' not in os.environ else [0, 0])")

    assert await hardware.usable_gpus({"CUDA_VISIBLE_DEVICES": "1", "SECRET": "x"}) == ("gpu1",)
