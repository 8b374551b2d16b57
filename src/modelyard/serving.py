"""Runs a node as a process: its sockets, what it says at start, what signals mean, its exit status."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import structlog
import uvloop

from modelyard import __version__
from modelyard.api.http_protocol import listen
from modelyard.api.server import YardServer, inherited
from modelyard.compose import BUILTIN, Node, running_node
from modelyard.config.banner import start_lines
from modelyard.config.explain import MachineFacts
from modelyard.config.load import process_environment
from modelyard.config.settings import LoadedSettings
from modelyard.errors import ShuttingDown
from modelyard.logs import logging_to
from modelyard.memory.commit import commit_limit_bytes
from modelyard.residency.manager import ResidencyManager
from modelyard.workers.marked import RUN_VARIABLE, kill_marked

HURRY_S = 1.5  # the second signal: this long to end every worker

log = structlog.get_logger()


def serve(loaded: LoadedSettings) -> int:
    """Run a node until a signal ends it. Returns the exit status: 130 after SIGINT, 143 after SIGTERM."""
    settings = loaded.settings
    with (
        logging_to(level=settings.log.level, format=settings.log.format),
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        return runner.run(_serve(loaded))


async def _serve(loaded: LoadedSettings) -> int:
    server_settings = loaded.settings.server
    # First of all, so that a taken port costs nothing.
    sockets = inherited(server_settings.fd) if server_settings.fd is not None else listen(
        server_settings.host, server_settings.port
    )  # fmt: skip
    async with running_node(loaded) as node:
        server = YardServer(
            node.app,
            drain_s=server_settings.drain_s,
            on_stopping=node.operations.begin_drain,
            interrupt_all=lambda: node.inference.interrupt_all(ShuttingDown()),
            on_started=lambda: _started(loaded, node, sockets[0].getsockname()),
        )
        with Signals(server.stop, node.run.mark) as signals:
            await server.serve(sockets)
            await node.manager.close()
    return 128 + signals.first if signals.first else 0


class Signals:
    """What signals mean: the first asks the node to stop, the second ends it, workers included, in `HURRY_S`."""

    def __init__(self, stop: Callable[[], None], mark: str) -> None:
        self.first = 0
        self._stop = stop
        self._mark = mark

    def __enter__(self) -> Signals:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._came, number)
        return self

    def __exit__(self, *_exception: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    def _came(self, number: int) -> None:
        if not self.first:
            self.first = number
            log.info("node.stopping", signal=signal.Signals(number).name)
            self._stop()
            return
        kill_marked({RUN_VARIABLE: frozenset((self._mark,))}, within_s=HURRY_S)
        os._exit(128 + number)


def _started(loaded: LoadedSettings, node: Node, address: tuple[object, ...]) -> None:
    node.operations.mark_started()
    host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
    servable = [model.name for model in node.catalog.list() if not model.problem]
    own = [name for name in servable if name != BUILTIN]
    lines = start_lines(
        loaded,
        version=__version__,
        url=f"http://{host}:{address[1]}",
        model=next(iter(own or servable), None),
        facts=machine_facts(loaded, node.manager),
        environment=process_environment(),
        program=sys.argv[0] if os.sep in sys.argv[0] else "modelyard",
    )
    print("\n".join(("", *lines, "")), file=sys.stderr, flush=True)  # noqa: T201 - this is for whoever started us


def machine_facts(loaded: LoadedSettings, manager: ResidencyManager) -> MachineFacts:
    """What start-up warnings depend on."""
    readings = [device.reading for device in manager.devices()]
    folder = next((path for path in (loaded.paths.models, *loaded.paths.models.parents) if path.exists()), Path("/"))
    return MachineFacts(
        ram_total_bytes=psutil.virtual_memory().total,
        gpu_count=sum(reading.kind == "gpu" for reading in readings),
        commit_limit_bytes=commit_limit_bytes(),
        disk_free_bytes=shutil.disk_usage(folder).free,
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    return None if sys.platform == "win32" else uvloop.new_event_loop
