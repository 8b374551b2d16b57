"""What loads, unloads and changes of kind are called when people are told of them: in events, the API, the terminal.

One function from an event's name and fields to lines. Figures of a GPU are in GB of 1024 MB, with two decimals; what a
worker had in main memory only is not said here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelyard.errors import N_, Sentence, fill
from modelyard.units import GIB

from . import _

ELSEWHERE = ("ollama", "openai")  # engines of models that are not ours to call local
_SWITCHED = N_("Model switched: {switched_from} -> {switched_to}")
_MAKING_ROOM = N_("Unloading the local model to free the GPU")
_UNLOADING = N_("Unloading the local model...")
_UNLOADED = N_("The local model is unloaded")
_BEFORE = N_("GPU memory in use before the unload: {size}")
_AFTER = N_("GPU memory in use after the unload: {size}")
_FREED = N_("GPU memory freed: {size}")
_CACHE = N_("The GPU cache is cleared")
_COMING_BACK = N_("Loading the local model again")
_LOADING = N_("Loading the local model...")
_LOADED = N_("The local model is loaded")
_FAILED = N_("The local model could not be loaded")
_THERE = N_("The local model is loaded already; there is nothing to do")


def lines(event: str, fields: Mapping[str, Any], language: str = "en") -> list[str]:
    """An event as people are told it; nothing for one that has no words.

    >>> lines("model.switched", {"switched_from": "local", "switched_to": "ollama"}, "zh_CN")
    ['模型切换: local -> ollama']
    """
    return [fill(_(template, language), values) for template, values in _told(event, fields)]


def _told(event: str, fields: Mapping[str, Any]) -> list[Sentence]:
    if event == "model.switched":
        switched: Sentence = (_SWITCHED, {name: fields.get(name) for name in ("switched_from", "switched_to")})
        return [switched, (_COMING_BACK, {})] if fields.get("switched_to") == "local" else [switched]
    if fields.get("engine") in ELSEWHERE:
        return []
    match event:
        case "model.evicted":
            return [(_MAKING_ROOM, {})]
        case "model.unloading":
            return [(_UNLOADING, {})]
        case "model.unloaded":
            return [(_UNLOADED, {}), *_figures(fields)]
        case "model.loading":
            return [(_LOADING, {})]
        case "model.loaded":
            return [(_LOADED, {})]
        case "model.load_failed":
            return [(_FAILED, {})]
        case "there":  # no event: the answer to a load that was not needed
            return [(_THERE, {})]
    return []


def _figures(fields: Mapping[str, Any]) -> list[Sentence]:
    """What the GPUs had in use before and after, where the worker held any of it."""
    held = (fields.get("worker") or {}).get("gpu_bytes") or {}
    if not any(held.values()):
        return []
    sums = [
        sum(count for device, count in fields.get(name, {}).items() if device in held)
        for name in ("before_bytes", "after_bytes", "freed_bytes")
    ]
    named: list[Sentence] = [
        (template, {"size": f"{count / GIB:.2f} GB"})
        for template, count in zip((_BEFORE, _AFTER, _FREED), sums, strict=True)
    ]
    return [*named, (_CACHE, {})]
