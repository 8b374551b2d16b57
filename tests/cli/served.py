"""A real server as a process of its own, for commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 60.0


@contextmanager
def real_server(folder: Path, config: str) -> Iterator[str]:
    """Serving with this configuration while the block runs; its address."""
    (folder / "modelyard.toml").write_text(f"[server]\nport = 0\n{config}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")}
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "modelyard.cli", "serve"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, text=True)
    try:
        deadline = time.monotonic() + START_S
        while (found := re.search(r"http://127\.0\.0\.1:\d+", (folder / "log").read_text())) is None:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.05)
        yield found[0]
    finally:
        process.terminate()
        process.wait(START_S)
