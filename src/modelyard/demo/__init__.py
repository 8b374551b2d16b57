"""The built-in model, yardling: where its files are. CARD.md beside this file says what it can and cannot do."""

from __future__ import annotations

from pathlib import Path

__all__ = ["gguf_path", "hf_folder"]

_FOLDER = Path(__file__).resolve().parent


def gguf_path() -> Path:
    """The model as one GGUF file."""
    return _FOLDER / "yardling.gguf"


def hf_folder() -> Path:
    """The same weights as a Hugging Face folder."""
    return _FOLDER / "yardling-hf"
