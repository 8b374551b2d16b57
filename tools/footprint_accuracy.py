"""How far the formula is from the engine's own allocator, over a zoo of shapes: `python -m tools.footprint_accuracy`.

Prints one line a case, with what the engine asks for and what the formula says, in MiB; then the figures by model.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tools.gguf_zoo import ZOO, write_wild

from modelyard.engines.llamacpp_oracle import ask
from modelyard.memory.footprint import FORMULA_BAND_RATIO, CacheType, LoadShape, predict
from modelyard.models.describe import describe
from modelyard.units import MIB

PARTS = ("weights", "kv", "compute")
KINDS: tuple[CacheType, ...] = ("f16", "q8_0", "q4_0")
CONTEXTS = (2048, 8192, 32768)
AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Case:
    """One load, as the engine and as the formula see it. Bytes of the parts an allocator knows."""

    model: str
    kind: CacheType
    context: int
    asked: dict[str, int]
    predicted: dict[str, int]

    @property
    def error_ratio(self) -> float:
        """Above zero the formula says too much, below too little."""
        asked = sum(self.asked.values())
        return (sum(self.predicted.values()) - asked) / asked if asked else 0.0


def cases(
    names: Iterable[str], kinds: Iterable[CacheType] = KINDS, contexts: Iterable[int] = CONTEXTS
) -> list[tuple[str, CacheType, int]]:
    """Every combination."""
    return [(name, kind, context) for name in names for kind in kinds for context in contexts]


async def measure(wanted: Iterable[tuple[str, CacheType, int]], folder: Path) -> list[Case]:
    """Ask about every case, two at a time. One that gets no answer raises `ValueError`."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, kind: CacheType, context: int) -> Case:
        path = folder / f"{name}.gguf"
        if not path.exists():
            write_wild(path, name)
        model = describe(name, [path])
        if model.facts is None:
            raise ValueError(f"{name}: {model.problem}")
        shape = LoadShape(context, batch_tokens=512, key_type=kind, value_type=kind)
        async with turns:
            answer = await ask(path, shape, model.facts)
        if answer is None:
            raise ValueError(f"{name}: the engine does not take it")
        formula = predict(model.facts, shape)
        asked, predicted = ({part: one.parts.get(part, 0) for part in PARTS} for one in (answer, formula))
        return Case(name, kind, context, asked, predicted)

    return await asyncio.gather(*(one(*case) for case in wanted))


def summary(found: list[Case]) -> list[str]:
    """Per model the middle and the worst error, then over all."""
    lines = []
    for name in [*dict.fromkeys(case.model for case in found), "all"]:
        errors = [case.error_ratio for case in found if name in (case.model, "all")]
        middle = median(abs(error) for error in errors)
        lines.append(f"{name:16} median {middle:6.1%}   lowest {min(errors):+7.1%}   highest {max(errors):+7.1%}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(ZOO))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(cases(options.models), Path(folder)))
    for case in found:
        parts = "  ".join(f"{part} {case.asked[part] / MIB:8.0f} {case.predicted[part] / MIB:8.0f}" for part in PARTS)
        sys.stdout.write(f"{case.model:16} {case.kind:5} {case.context:6}  {parts}  {case.error_ratio:+7.1%}\n")
    sys.stdout.writelines(f"{line}\n" for line in summary(found))
    sys.stdout.write(f"the band is {FORMULA_BAND_RATIO:.0%}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
