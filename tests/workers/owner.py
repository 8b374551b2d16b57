"""A stand-in for the node that a test can kill: starts workers, says so, and waits. `owner.py ROOT KIND...`"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from modelyard.engines.base import WorkerCommand
from modelyard.engines.echo import Echo, echo_model
from modelyard.workers.process import spawn
from modelyard.workers.run_folder import RunFolder

# A wrapper as people write them: one child in a session of its own, one that was forked twice, and itself.
WRAPPER = "setsid sleep 300 & (setsid sh -c 'sleep 300 & sleep 300' &) ; exec sleep 300"


def command(kind: str, socket: Path) -> WorkerCommand:
    """`echo` is a worker of ours, `wrapper` a command under a guardian, `bare` one that nobody guards."""
    environment = {"PATH": "/usr/bin:/bin"}
    if kind == "echo":
        model = echo_model("a", ignore_term=True)
        engine = Echo(environment)
        return engine.command(model, engine.options(model), socket)
    wrapper = WorkerCommand(("/bin/sh", "-c", WRAPPER), environment, socket)
    return replace(wrapper, under_guardian=kind == "wrapper")


async def main(root: Path, kinds: list[str]) -> None:
    with RunFolder(root) as run:
        workers = [await spawn(command(kind, run.new_socket()), run_folder=run.path, mark=run.mark) for kind in kinds]
        assert len(workers) == len(kinds)
        sys.stdout.write(run.mark + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
