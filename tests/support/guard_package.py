"""An installed package that brings guards: entry points of the group `modelyard.guards`."""

from __future__ import annotations

from pathlib import Path

HOOK = """
import time

def check(*, text, caller, model):
    if "boom" in text:
        raise RuntimeError(text)
    if "sleep" in text:
        time.sleep(3600)
    return "pirates only" if "arr" not in text else None

number = 3
"""
ENTRY_POINTS = """[modelyard.guards]
pirates = pirate_guard:check
number = pirate_guard:number
gone = pirate_guard:gone
"""


def guard_package(folder: Path) -> str:
    """Install it into a folder, which is to be on Python's path."""
    about = folder / "site" / "pirate_guard-1.dist-info"
    about.mkdir(parents=True)
    (folder / "site" / "pirate_guard.py").write_text(HOOK)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: pirate-guard\nVersion: 1\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    return str(folder / "site")
