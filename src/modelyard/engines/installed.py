"""Which engines in Python are installed here, and whether their PyTorch was built for GPUs.

Reads what packages say of themselves and imports none: they take seconds and hundreds of megabytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

_CUDA = re.compile(r"^(?:cuda|hip)\b[^=]*= *'", re.MULTILINE)


def version_of(package: str) -> str:
    """The installed version; empty if there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def is_missing(*packages: str) -> bool:
    """Whether one of these is not installed."""
    return not all(version_of(package) for package in packages)


def torch_uses_gpus() -> bool:
    """Whether the installed PyTorch is a build for GPUs."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return False
    try:
        return _CUDA.search(Path(found.origin).with_name("version.py").read_text()) is not None
    except OSError:
        return False


def visible(gpus: Sequence[str], wanted: str | None) -> tuple[str, ...]:
    """Of our GPUs those that CUDA_VISIBLE_DEVICES leaves, in its order; all if it does not number them.

    >>> visible(("gpu0", "gpu1"), None), visible(("gpu0", "gpu1"), "1"), visible(("gpu0",), "")
    (('gpu0', 'gpu1'), ('gpu1',), ())
    """
    if wanted is None:
        return tuple(gpus)
    numbers = [text.strip() for text in wanted.split(",") if text.strip()]
    if not all(text.isascii() and text.isdigit() for text in numbers):
        return tuple(gpus)
    return tuple(f"gpu{int(number)}" for number in numbers if f"gpu{int(number)}" in gpus)
