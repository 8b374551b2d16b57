"""How a model will be started, in full and in smaller ways, and what each will need.

Three sources for a footprint, the best first: what such a load took before, what the engine's own allocator said, and
the formula over the header. Starts nothing itself; the engine may start a short-lived helper to ask.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from modelyard.engines.base import Engine, LaunchOptions
from modelyard.errors import LoadFailed, said
from modelyard.memory.contexts import bucket, sizes
from modelyard.memory.measured import MeasuredStore
from modelyard.types.memory import Footprint
from modelyard.types.model import VECTORS_GROUP, Model, ModelSpec

LOAD_BYTES_PER_S_EXPECTED = 500_000_000  # a first guess of what a load costs, until one was measured
LOAD_S_MIN = 0.2
_WHOLE_NUMBERS = ("n_batch", "n_gpu_layers")


@dataclass(frozen=True, slots=True)
class Keeping:
    """What its configuration says of one model in memory: how long it stays, who goes first, what it may give up."""

    idle_ttl_s: float | None = None
    pinned: bool = False
    weight: float = 1.0
    priority: int = 0
    group: str = ""
    ladder: tuple[str, ...] = ()  # `context_length=8192` and so on, each beside those before it


@dataclass(frozen=True, slots=True)
class Plan:
    """How one model is started: the same for every start until its files or the settings change."""

    engine: Engine
    options: LaunchOptions
    footprint: Footprint
    spec: ModelSpec


class LaunchPlanner:
    """Turns models into plans."""

    def __init__(self, engines: Iterable[Engine], keeping: Mapping[str, Keeping], store: MeasuredStore) -> None:
        self._engines = tuple(engines)
        self._keeping = {name.lower(): value for name, value in keeping.items()}
        self.store = store

    def configure(self, keeping: Mapping[str, Keeping]) -> None:
        """Plan with this from now on."""
        self._keeping = {name.lower(): value for name, value in keeping.items()}

    async def ways(self, model: Model, context_length: int | None = None) -> tuple[Plan, ...]:
        """The plan in full with a context for so many tokens, then one for each step of the model's ladder."""
        engine = self._engine(model)
        options = engine.options(model)
        default = options.context_length or 0
        if context_length is not None and default:
            tokens = bucket(context_length, default, model.context_length)
            if tokens != default:
                reasons = {**options.reasons, "context_length": "asked for"}
                options = replace(options, context_length=tokens, reasons=reasons)
        keeping = self._keeping_of(model)
        rungs = [await self._plan(engine, model, way, keeping, given_up) for way, given_up in _rungs(options, keeping)]
        full = await self._plan(engine, model, options, keeping, ())
        spec = replace(full.spec, rungs=tuple(rung.spec for rung in rungs))
        return (replace(full, spec=spec), *rungs)

    async def estimates(self, model: Model) -> tuple[ModelSpec, ...]:
        """What a load would take with each size of context, without asking the engine anew."""
        engine = self._engine(model)
        options = engine.options(model)
        keeping = self._keeping_of(model)
        found = []
        for tokens in sizes(options.context_length or 0, model.context_length):
            way = replace(options, context_length=tokens)
            found.append((await self._plan(engine, model, way, keeping, (), is_cheap=True)).spec)
        return tuple(found)

    def _keeping_of(self, model: Model) -> Keeping:
        """What is configured for it; models that embed or rank are together in a group, if they name no other."""
        keeping = self._keeping.get(model.name.lower()) or self._keeping.get("", Keeping())
        return keeping if keeping.group or model.purpose == "chat" else replace(keeping, group=VECTORS_GROUP)

    def _engine(self, model: Model) -> Engine:
        engine = next((engine for engine in self._engines if engine.serves(model)), None)
        if engine is None:
            raise LoadFailed(
                model=model.name,
                problem=said("no engine here serves it ({format})", format=model.engine or "unknown format"),
            )
        return engine

    async def _plan(
        self,
        engine: Engine,
        model: Model,
        options: LaunchOptions,
        keeping: Keeping,
        given_up: tuple[str, ...],
        *,
        is_cheap: bool = False,
    ) -> Plan:
        spec = ModelSpec(
            name=model.name,
            identity=f"{model.identity or model.name}+{_digest(engine, options)}",
            footprint=Footprint({}),
            slots=options.slots,
            load_s_expected=LOAD_S_MIN + model.size_bytes / LOAD_BYTES_PER_S_EXPECTED,
            idle_ttl_s=keeping.idle_ttl_s,
            purpose=model.purpose,
            pinned=keeping.pinned,
            context_length=options.context_length or 0,
            weight=keeping.weight,
            priority=keeping.priority,
            group=keeping.group,
            degraded=given_up,
        )
        key = key_of(spec)
        measured = await asyncio.to_thread(self.store.find, key)
        if measured is not None:
            known = replace(spec, footprint=measured.footprint, load_s_expected=measured.load_s or spec.load_s_expected)
            return Plan(engine, options, measured.footprint, known)
        footprint = await asyncio.to_thread(self.store.asked, key)
        if footprint is None:
            # A rung is tried when memory is short already: no helper process is started to ask about it.
            ask = not given_up and not is_cheap
            footprint = await engine.footprint(model, options) if ask else engine.estimate(model, options)
            if footprint.source == "oracle":
                await asyncio.to_thread(self.store.keep_answer, key, footprint)
        return Plan(engine, options, footprint, replace(spec, footprint=footprint))


def key_of(spec: ModelSpec) -> str:
    """Everything a footprint depends on: the files, the engine and its options, and the context."""
    return f"{spec.identity}/{spec.context_length}"


def _rungs(options: LaunchOptions, keeping: Keeping) -> list[tuple[LaunchOptions, tuple[str, ...]]]:
    """The ladder's steps on this model, each with all before it. A step that changes nothing is left out."""
    found: list[tuple[LaunchOptions, tuple[str, ...]]] = []
    given_up: tuple[str, ...] = ()
    for step in () if options.is_fixed else keeping.ladder:
        name, _equals, value = step.partition("=")
        smaller = _stepped(options, name, value)
        if smaller is None:
            continue
        options = smaller
        given_up = (*(one for one in given_up if not one.startswith(f"{name}=")), step)
        found.append((options, given_up))
    return found


def _stepped(options: LaunchOptions, name: str, value: str) -> LaunchOptions | None:
    reasons = {**options.reasons, name: "given up, since memory is short"}
    if name == "context_length":
        tokens = int(value)
        is_less = options.context_length is not None and tokens < options.context_length
        return replace(options, context_length=tokens, reasons=reasons) if is_less else None
    if name not in options.values or str(options.values[name]) == value:
        return None
    number: object = int(value) if name in _WHOLE_NUMBERS else value
    return replace(options, values={**options.values, name: number}, reasons=reasons)


def _digest(engine: Engine, options: LaunchOptions) -> str:
    """Of the engine and all options but the context: of two equal ones the larger context serves."""
    text = json.dumps([engine.name, engine.version, options.slots, dict(options.values)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
