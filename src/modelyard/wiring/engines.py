"""The engines that come with this server, from settings: on this machine's hardware, and configured anew at once.

What a setting means to an engine is read here and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modelyard.config.model_settings import ModelOptions
from modelyard.config.schema import Settings
from modelyard.engines import hardware
from modelyard.engines.base import Choice, Engine
from modelyard.engines.command import Command
from modelyard.engines.echo import Echo
from modelyard.engines.embeddings import Embeddings
from modelyard.engines.installed import torch_uses_gpus, visible
from modelyard.engines.llamacpp import LlamaCpp, LlamaOverrides, automatic
from modelyard.engines.torch_recipe import TorchOverrides
from modelyard.engines.transformers import Transformers
from modelyard.memory.machine import MachineDevices
from modelyard.wiring.commands import commands, warn_of_open_commands


@dataclass(frozen=True, slots=True)
class Recipes:
    """Every engine of a node."""

    echo: Echo
    llamacpp: LlamaCpp
    transformers: Transformers
    embeddings: Embeddings
    command: Command
    further: tuple[Engine, ...] = ()  # handed in; they are asked first

    @property
    def all(self) -> tuple[Engine, ...]:
        return (*self.further, self.echo, self.llamacpp, self.transformers, self.embeddings, self.command)

    def configure(self, settings: Settings) -> None:
        """What the configuration fixes about workers from now on."""
        self.llamacpp.configure(*_all_llama(settings))
        self.transformers.configure(*_all_torch(settings))
        self.embeddings.configure(*_all_torch(settings))


async def recipes(
    settings: Settings, devices: MachineDevices, environment: Mapping[str, str], further: Iterable[Engine] = ()
) -> Recipes:
    """The built-in ones, and `further`. Looks at the machine."""
    torch = await _torch_hardware(devices, environment), environment
    fixed, per_model = _all_torch(settings)
    return Recipes(
        Echo(environment),
        await _llamacpp(settings, devices, environment),
        Transformers(*torch, overrides=fixed, per_model=per_model),
        Embeddings(*torch, overrides=fixed, per_model=per_model),
        await _command(settings, devices, environment),
        tuple(further),
    )


async def _llamacpp(settings: Settings, devices: MachineDevices, environment: Mapping[str, str]) -> LlamaCpp:
    """The engine for GGUF files, on this machine's hardware."""
    fixed, per_model = _all_llama(settings)
    return LlamaCpp(
        await _hardware(devices, environment),
        environment,
        overrides=fixed,
        per_model=per_model,
    )


async def _hardware(devices: MachineDevices, environment: Mapping[str, str]) -> hardware.Hardware:
    """What llama.cpp can use here."""
    has_gpu = any(reading.kind == "gpu" for reading in await asyncio.to_thread(devices.read))
    return hardware.read_hardware(await hardware.usable_gpus(environment) if has_gpu else ())


async def automatic_launch(
    settings: Settings, devices: MachineDevices, environment: Mapping[str, str]
) -> dict[str, Choice]:
    """Launch values of this machine where the settings fix none, by their names, for who only wants to know them."""
    found = automatic(await _hardware(devices, environment))
    return {name: choice for name, choice in found.items() if getattr(settings.models.launch, name) is None}


async def _torch_hardware(devices: MachineDevices, environment: Mapping[str, str]) -> hardware.Hardware:
    """This machine as PyTorch can use it."""
    gpus: tuple[str, ...] = ()
    if torch_uses_gpus():
        readings = await asyncio.to_thread(devices.read)
        seen = [reading.device for reading in readings if reading.kind == "gpu"]
        gpus = visible(seen, environment.get("CUDA_VISIBLE_DEVICES"))
    return hardware.read_hardware(gpus)


async def _command(settings: Settings, devices: MachineDevices, environment: Mapping[str, str]) -> Command:
    """The engine for configured commands. One of unknown size may use every device there is."""
    given = commands(settings)
    warn_of_open_commands(given)
    readings = await asyncio.to_thread(devices.read)
    return Command(environment, given, [reading.device for reading in readings])


def _all_torch(settings: Settings) -> tuple[TorchOverrides, dict[str, TorchOverrides]]:
    """What the configuration fixes about every worker with PyTorch, and about those of single models."""
    models = settings.models
    of_one = {name: _torch(models.options_for(name)) for name in models.options}
    return _torch(models.options_for("")), of_one


def _torch(options: ModelOptions) -> TorchOverrides:
    return TorchOverrides(
        context_length=options.context_length,
        slots=options.slots,
        threads=options.threads,
        n_batch=options.n_batch,
        kv_blocks=options.kv_blocks,
        device="cpu" if options.n_gpu_layers == 0 and options.device is None else options.device,
        dtype=options.dtype,
        quantization=options.quantization,
    )


def _all_llama(settings: Settings) -> tuple[LlamaOverrides, dict[str, LlamaOverrides]]:
    """What the configuration fixes about every worker, and about those of single models."""
    models = settings.models
    return _llama(models.options_for("")), {name: _llama(models.options_for(name)) for name in models.options}


def _llama(options: ModelOptions) -> LlamaOverrides:
    return LlamaOverrides(
        context_length=options.context_length,
        slots=options.slots,
        threads=options.threads,
        n_batch=options.n_batch,
        n_gpu_layers=options.n_gpu_layers,
        kv_type=options.kv_type,
        prompt_cache_bytes=options.prompt_cache_bytes,
    )
