"""The oracle: reading llama.cpp's table, and asking it for files of our own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from modelyard.engines import llamacpp_oracle
from modelyard.engines.llamacpp_oracle import ask, helper_options, parse
from modelyard.memory.footprint import LoadShape, predict
from modelyard.models.facts import facts_of
from modelyard.models.gguf import read_header
from modelyard.types.facts import ModelFacts
from modelyard.units import MIB
from tests.support.gguf_files import (
    GEMMA3_4B,
    MIXTRAL,
    QWEN2_1B,
    SEVENTY_BILLION,
    Shape,
    write_model,
    write_tiny_llama,
)

# Recorded from a sparse file of a 70B shape in Q4_K, on a machine without a GPU.
ON_CPU = """\
0.00.009.391 I common_params_fit_impl: getting device memory data for initial parameters:
0.01.046.980 I common_memory_breakdown_print: | memory breakdown [MiB] | total   free     self   model   context   compute    unaccounted |
0.01.047.126 I common_memory_breakdown_print: |   - Host               |                  1974 =   568 +    1280 +     126                |
0.01.047.179 I common_memory_breakdown_print: |   - CPU_REPACK         |                 37283 = 37283 +       0 +       0                |
0.01.077.849 I common_params_fit_impl: projected to use 1974 MiB of host memory vs. 24105 MiB of total host memory
0.01.078.115 I common_fit_params: fitting params to free memory took 1.07 seconds
""".splitlines()  # noqa: E501

# Not recorded: how llama.cpp is believed to print GPUs. To be replaced by a recording from a machine with one.
ON_GPUS = """\
I common_memory_breakdown_print: | memory breakdown [MiB]  | total    free     self   model   context   compute    unaccounted |
I common_memory_breakdown_print: |   - CUDA0 (NVIDIA H200) | 143771 = 142000 + ( 1500 =  1000 +     400 +     100) +         271 |
I common_memory_breakdown_print: |   - CUDA1 (NVIDIA H200) | 143771 = 142000 + ( 1510 =  1005 +     405 +     100) +         -39 |
I common_memory_breakdown_print: |   - Host                |                     332 =   300 +       0 +      32                 |
I common_fit_params: fitting params to free memory took 1.07 seconds
I common_memory_breakdown_print: |   - CUDA0 (NVIDIA H200) | 143771 = 142000 + (    9 =     3 +       3 +       3) +         271 |
""".splitlines()  # noqa: E501


def test_every_row_of_the_table_is_summed() -> None:
    assert parse(ON_CPU) == {
        "weights": {"ram": (568 + 37_283) * MIB},
        "kv": {"ram": 1280 * MIB},
        "compute": {"ram": 126 * MIB},
    }


def test_rows_of_gpus_are_theirs_and_only_the_first_table_counts() -> None:
    assert parse(ON_GPUS, ("gpu2", "gpu3")) == {
        "weights": {"gpu2": 1000 * MIB, "gpu3": 1005 * MIB, "ram": 300 * MIB},
        "kv": {"gpu2": 400 * MIB, "gpu3": 405 * MIB, "ram": 0},
        "compute": {"gpu2": 100 * MIB, "gpu3": 100 * MIB, "ram": 32 * MIB},
    }
    assert set(parse(ON_GPUS)["kv"]) == {"gpu0", "gpu1", "ram"}


@pytest.mark.parametrize(
    "lines", [[], ["nothing of the kind"], ON_CPU[:2], ["x memory_breakdown_print: |   - Host | ? |"]]
)
def test_no_table_is_no_answer(lines: list[str]) -> None:
    assert parse(lines) == {}


def test_the_engine_is_asked_for_the_context_of_all_slots() -> None:
    options = helper_options(LoadShape(8192, slots=4, batch_tokens=128), ModelFacts(context_length=4096))

    assert (options["n_ctx"], options["n_parallel"], options["n_ubatch"]) == (16_384, 4, 128)
    assert options["n_gpu_layers"] == 0


SHAPES = {"70B": SEVENTY_BILLION, "tied": QWEN2_1B, "windows": GEMMA3_4B, "experts": MIXTRAL}
LOADS = {
    "one slot": LoadShape(4096),
    "slots": LoadShape(8192, slots=4, batch_tokens=512),
    "small cache": LoadShape(16_384, key_type="q8_0", value_type="q8_0", is_repacked=False),
}


@pytest.mark.parametrize(
    ("shape", "load"), [("70B", "one slot"), ("tied", "slots"), ("windows", "small cache"), ("experts", "slots")]
)
async def test_the_formula_agrees_with_the_oracle(tmp_path: Path, shape: str, load: str) -> None:
    path = write_model(tmp_path / "sparse.gguf", SHAPES[shape], quantization="Q4_K", is_sparse=True)
    facts = facts_of(read_header(path))

    told = await ask(path, LOADS[load], facts, timeout_s=60)

    assert told is not None
    assert told.source == "oracle"
    formula = predict(facts, LOADS[load])
    for part in ("weights", "kv", "compute"):
        assert formula.parts[part] == pytest.approx(told.parts[part], rel=0.02, abs=3 * MIB), part
    assert formula.total_bytes == pytest.approx(told.total_bytes, rel=0.01)


async def test_a_file_the_engine_cannot_load_has_no_answer(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(100))

    assert await ask(damaged, LoadShape(512), timeout_s=60) is None
    assert await ask(tmp_path / "absent.gguf", LoadShape(512), timeout_s=60) is None


async def test_an_unknown_architecture_has_no_answer(tmp_path: Path) -> None:
    unknown = Shape(architecture="unheard-of")  # type: ignore[arg-type]
    path = write_model(tmp_path / "unknown.gguf", unknown)

    assert await ask(path, LoadShape(512), timeout_s=60) is None


async def test_the_helper_is_gone_when_the_answer_is_there_or_nobody_waits_for_it(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    before = set(psutil.Process().children(recursive=True))

    assert await ask(path, LoadShape(512), timeout_s=60) is not None
    assert await ask(path, LoadShape(512), timeout_s=0.001) is None
    asking = asyncio.create_task(ask(path, LoadShape(512), timeout_s=60))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    assert set(psutil.Process().children(recursive=True)) == before


def test_the_node_itself_never_imports_the_engine() -> None:
    assert llamacpp_oracle.__name__ in sys.modules
    assert "xllamacpp" not in vars(llamacpp_oracle)
