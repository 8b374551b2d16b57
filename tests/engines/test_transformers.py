"""The transformers recipe, and its worker where it is started alone: values, footprints, and folders that are wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from modelyard.demo import hf_folder
from modelyard.engines import installed, torch_recipe
from modelyard.engines.hardware import Hardware
from modelyard.engines.installed import torch_uses_gpus
from modelyard.engines.torch_recipe import TorchOverrides
from modelyard.engines.transformers import Transformers
from modelyard.errors import EngineMissing, LoadFailed
from modelyard.memory.devices import SystemDevices
from modelyard.memory.footprint_torch import blocks_for
from modelyard.models.folder import describe_folder
from modelyard.types.memory import RAM, ProcessMemory
from modelyard.types.model import Capability, Model
from modelyard.workers.run_folder import RunFolder
from modelyard.workers.start import Starter

SMALL = TorchOverrides(threads=1, slots=2, context_length=512, n_batch=64)


@pytest.fixture
def run(folder: Path) -> Iterator[RunFolder]:
    with RunFolder(folder / "runs") as run:
        yield run


@pytest.fixture
def yardling() -> Model:
    return describe_folder("yardling-hf", hf_folder())


def engine(fixed: TorchOverrides = SMALL, machine: Hardware = Hardware(2)) -> Transformers:  # noqa: B008
    return Transformers(machine, {"PATH": os.defpath, "HF_TOKEN": "secret"}, overrides=fixed)


def tell_nobody(_phase: str, _ratio: float) -> None:
    pass


def memory(pid: int) -> ProcessMemory:
    return SystemDevices(gpus=False).process(pid)


def params_of(recipe: Transformers, model: Model) -> dict[str, Any]:
    command = recipe.command(model, recipe.options(model), Path("/run/w.sock"))
    return dict(json.loads(command.argv[-1]))


def test_values_come_from_settings_or_hardware_and_say_so(yardling: Model) -> None:
    options = engine(TorchOverrides(slots=3)).options(yardling)

    assert (options.slots, options.reasons["slots"]) == (3, "set in the configuration")
    assert (options.values["threads"], options.reasons["threads"]) == (2, "2 physical cores")
    assert (options.values["dtype"], options.values["device"]) == ("float32", "cpu")
    assert options.context_length == 2048


def test_a_models_own_settings_replace_the_general_ones(yardling: Model) -> None:
    recipe = Transformers(
        Hardware(), overrides=TorchOverrides(slots=7), per_model={"Yardling-HF": TorchOverrides(slots=3)}
    )

    assert recipe.options(yardling).slots == 3


def test_the_pool_holds_the_context_of_every_slot(yardling: Model) -> None:
    params = params_of(engine(), yardling)

    assert params["blocks"] == blocks_for(512, 2) == 6
    assert (params["slots"], params["context_length"], params["batch_tokens"]) == (2, 512, 64)


def test_a_pool_that_settings_fix_bounds_the_context(yardling: Model) -> None:
    recipe = engine(replace(SMALL, kv_blocks=1))

    assert recipe.options(yardling).context_length == 256
    assert params_of(recipe, yardling)["blocks"] == 1


def test_a_gpu_is_used_if_there_is_one_and_the_worker_sees_no_other(yardling: Model) -> None:
    recipe = engine(TorchOverrides(), Hardware(8, gpus=("gpu1", "gpu0")))
    options = recipe.options(yardling)

    command = recipe.command(yardling, options, Path("/run/w.sock"))

    assert options.values["device"] == "gpu1"
    assert command.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert json.loads(command.argv[-1])["device"] == "cuda:0"
    assert set(recipe.estimate(yardling, options).bytes) == {RAM, "gpu1"}


def test_a_gpu_that_is_not_there_is_an_error(yardling: Model) -> None:
    with pytest.raises(LoadFailed, match="gpu3"):
        params_of(engine(replace(SMALL, device="gpu3")), yardling)


def test_a_worker_gets_no_secrets_and_fetches_nothing(yardling: Model) -> None:
    recipe = engine()

    environment = recipe.command(yardling, recipe.options(yardling), Path("/run/w.sock")).environment

    assert "HF_TOKEN" not in environment
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"


def test_without_the_extra_the_error_says_how_to_install_it(yardling: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_recipe, "is_missing", lambda *packages: "transformers" in packages)

    with pytest.raises(EngineMissing) as caught:
        params_of(engine(), yardling)

    assert any("pip install 'modelyard[transformers]'" in hint for hint in caught.value.suggestions)


def test_quantization_without_its_packages_says_which(yardling: Model) -> None:
    if not installed.is_missing("bitsandbytes", "accelerate"):
        pytest.skip("bitsandbytes is installed here")

    with pytest.raises(EngineMissing, match="bitsandbytes for quantization = 4bit"):
        params_of(engine(replace(SMALL, quantization="4bit")), yardling)


def test_quantized_weights_take_less(yardling: Model) -> None:
    def weights(**fixed: Any) -> int:
        recipe = engine(replace(SMALL, **fixed))
        return recipe.estimate(yardling, recipe.options(yardling)).parts["weights"]

    assert weights(quantization="4bit") < weights(quantization="8bit") < weights(dtype="bfloat16") * 1.2
    assert weights(dtype="bfloat16") == weights() // 2


async def test_what_was_predicted_is_what_a_worker_takes(run: RunFolder, yardling: Model) -> None:
    recipe = engine(TorchOverrides(threads=1, slots=4, context_length=2048, n_batch=512))
    starter = Starter([recipe], run, memory)
    predicted = (await starter.spec(yardling)).footprint

    worker = await starter.start(yardling, 1, tell_nobody)
    held = worker.memory().anonymous_bytes
    await worker.stop()

    assert abs(held - predicted.total_bytes) < predicted.band_ratio * predicted.total_bytes
    assert not psutil.pid_exists(worker.pid)


async def test_another_models_tokenizer_is_told(run: RunFolder, folder: Path) -> None:
    copy = Path(shutil.copytree(hf_folder(), folder / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "vocab_size": 1000}))

    with pytest.raises(LoadFailed, match="its tokenizer is another model's"):
        await Starter([engine()], run, memory).start(describe_folder("copy", copy), 1, tell_nobody)


async def test_what_ended_a_load_is_told(run: RunFolder, folder: Path) -> None:
    copy = Path(shutil.copytree(hf_folder(), folder / "copy"))
    (copy / "tokenizer.json").write_text('{"version": "1.0"}')

    with pytest.raises(LoadFailed) as caught:
        await Starter([engine()], run, memory).start(describe_folder("copy", copy), 1, tell_nobody)

    problem = str(caught.value.fields["problem"])
    assert "without saying why" not in problem
    assert "Error: " in problem
    assert str(folder) not in problem


def test_a_last_word_is_told_without_paths() -> None:
    lines = ("load failed: KeyError: 'earlier'", "load failed: OSError: no file /home/me/models/x.json", "bye")

    assert engine().explain_failure(lines) == "OSError: no file ..."
    assert engine().explain_failure(("refused: it is too large", "bye")) == "it is too large"
    assert engine().explain_failure(("said: load failed: no",)) == ""


@pytest.mark.parametrize(
    ("name", "content"), [("pytorch_model.bin", b"\x80\x02"), ("model.ckpt", b"PK")]
)  # fmt: skip
def test_pickled_weights_are_a_problem_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "config.json").write_text((hf_folder() / "config.json").read_text())
    (tmp_path / name).write_bytes(content)

    assert "pickled" in describe_folder("x", tmp_path).problem


def test_a_folder_with_code_of_its_own_runs_it_only_if_it_is_named(folder: Path) -> None:
    copy = Path(shutil.copytree(hf_folder(), folder / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))

    refused, trusted = describe_folder("x", copy), describe_folder("x", copy, may_run_code=True)

    assert "auto_map" in refused.problem
    assert trusted.problem == ""
    assert engine().options(trusted).values["runs_code"] is True
    assert params_of(engine(), trusted)["runs_code"] is True
    assert params_of(engine(), describe_folder("x", hf_folder(), may_run_code=True))["runs_code"] is False


def test_thinking_and_tools_are_what_a_template_marks(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(hf_folder(), tmp_path / "copy"))
    (copy / "chat_template.jinja").write_text("{% if enable_thinking %}<think>{% endif %}")

    thinking = describe_folder("x", copy).capabilities

    assert Capability.THINKING in thinking
    assert Capability.TOOLS not in thinking
    assert Capability.TOOLS in describe_folder("x", hf_folder()).capabilities


def test_a_build_of_torch_without_gpus_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").touch()
    spec = type("Spec", (), {"origin": str(package / "__init__.py")})
    monkeypatch.setattr(installed, "find_spec", lambda _name: spec)

    (package / "version.py").write_text("cuda: Optional[str] = None\nhip: Optional[str] = None\n")
    assert not torch_uses_gpus()

    (package / "version.py").write_text("cuda: Optional[str] = '12.8'\n")
    assert torch_uses_gpus()


def test_a_changed_configuration_counts_at_the_next_start(yardling: Model) -> None:
    recipe = engine()

    recipe.configure(replace(SMALL, n_batch=128), {"yardling-hf": replace(SMALL, n_batch=32)})

    assert params_of(recipe, yardling)["batch_tokens"] == 32
    assert params_of(recipe, replace(yardling, name="other"))["batch_tokens"] == 128
