"""How often a guarantee is tried: a little in the suite, as often as the guarantee says under `make prove`."""

from __future__ import annotations

import os
import sys

PROVE = bool(os.environ.get("MODELYARD_PROVE"))


def count(suite: int, prove: int) -> int:
    """The first in the suite, the second under `make prove`."""
    return prove if PROVE else suite


def tell(text: str) -> None:
    """Say what was tried, for whoever runs this to see figures (`pytest -s`)."""
    sys.stderr.write(text + "\n")
