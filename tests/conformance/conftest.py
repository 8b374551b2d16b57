"""The JavaScript clients: installed once per version, outside of the tree."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = ("ollama@0.6.4", "openai@6.30.1")
INSTALL_S = 300.0


def programs() -> None:
    """Node and npm: Debian's, if there are none."""
    if shutil.which("node") and shutil.which("npm"):
        return
    commands = (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-qy", "--no-install-recommends", "nodejs", "npm"],
    )
    results = [subprocess.run(command, capture_output=True, check=False) for command in commands]
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.fail(f"node and npm are needed: {results[-1].stderr.decode(errors='replace')}")


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder with the clients, installed once per version and kept outside of the tree."""
    programs()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "modelyard-tests" / "-".join(re.sub(r"[^\w.]", "-", name) for name in PACKAGES)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes side by side install it once
        if not (folder / "installed").exists():
            (folder / "package.json").write_text("{}")
            options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--prefix", str(folder))
            command = ["npm", "install", *options, *PACKAGES]
            done = subprocess.run(command, capture_output=True, check=False, timeout=INSTALL_S, cwd=folder)
            assert done.returncode == 0, done.stderr.decode(errors="replace")
            (folder / "installed").touch()
    return folder
