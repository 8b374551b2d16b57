"""Runs a node as a process: its sockets, what it says at start, what signals mean, its exit status."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import structlog
import uvloop

from modelyard import __version__
from modelyard.api.http_protocol import listen
from modelyard.api.server import YardServer, inherited
from modelyard.config.banner import start_lines
from modelyard.config.explain import MachineFacts
from modelyard.config.load import process_environment
from modelyard.config.settings import LoadedSettings
from modelyard.errors import ShuttingDown
from modelyard.logs import LogWriter, logging_to
from modelyard.memory.commit import commit_limit_bytes
from modelyard.node import Node, Wiring
from modelyard.residency.manager import ResidencyManager
from modelyard.wiring.names import BUILTIN, default_model
from modelyard.workers.descriptors import raise_descriptor_limit
from modelyard.workers.marked import RUN_VARIABLE, kill_marked
from modelyard.workers.run_folder import RunFolder

HURRY_S = 1.5  # the second signal: this long to end every worker
GARBAGE_OBJECTS_MAX = 20_000  # kept alive by themselves before anybody looks for them; Python's own 700 is for scripts
LAST_S = 4.5  # after the drain limit, the process is gone even if something in it hangs
_REACHED_BY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - a wildcard is no address to call

log = structlog.get_logger()


def serve(loaded: LoadedSettings, wiring: Wiring) -> int:
    """Run a node until a signal ends it. Returns the exit status: 130 after SIGINT, 143 after SIGTERM."""
    settings = loaded.settings
    raise_descriptor_limit()
    with (
        logging_to(level=settings.log.level, format=settings.log.format) as writer,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        return runner.run(_serve(loaded, wiring, writer))


async def _serve(loaded: LoadedSettings, wiring: Wiring, writer: LogWriter) -> int:
    with Signals(loaded.settings.server.drain_s) as signals:
        try:
            # The sockets first of all, so that a taken port costs nothing.
            with listening(loaded) as (loaded, sockets):
                await _run(loaded, wiring, sockets, signals, writer)
        except asyncio.CancelledError:
            if not signals.first:
                raise
    return 128 + signals.first if signals.first else 0


async def _run(
    loaded: LoadedSettings, wiring: Wiring, sockets: list[socket.socket], signals: Signals, writer: LogWriter
) -> None:
    async with wiring(loaded) as node:
        server = YardServer(
            node.app,
            drain_s=loaded.settings.server.drain_s,
            on_stopping=node.operations.begin_drain,
            interrupt_all=lambda: node.inference.interrupt_all(ShuttingDown()),
            on_started=lambda: _started(loaded, node, sockets[0].getsockname(), writer),
        )
        signals.obey(server.stop, node.run, node.reload)
        await server.serve(sockets)
        await node.manager.close()


@contextmanager
def listening(loaded: LoadedSettings) -> Iterator[tuple[LoadedSettings, list[socket.socket]]]:
    """The sockets to serve on, and settings that tell where that is: an inherited socket has an address of its own."""
    given = loaded.settings.server
    if given.fd is None:
        sockets = listen(given.host, given.port)
    else:
        sockets = inherited(given.fd)
        host, port = sockets[0].getsockname()[:2]
        server = given.model_copy(update={"host": host, "port": port})
        loaded = replace(loaded, settings=loaded.settings.model_copy(update={"server": server}))
    try:
        yield loaded, sockets
    finally:
        for each in sockets:
            each.close()


class Signals:
    """What signals mean: the first asks the node to stop, the second ends it, workers included, in `HURRY_S`.

    SIGHUP has the configuration read again.

    Whatever hangs after the first one is ended in the same way, `LAST_S` after the drain limit.
    """

    def __init__(self, drain_s: float) -> None:
        self.first = 0
        self._drain_s = drain_s
        self._run: RunFolder | None = None
        self._stop: Callable[[], object] = lambda: None
        self._reload: Callable[[], None] = lambda: None

    def __enter__(self) -> Signals:
        loop, starting = asyncio.get_running_loop(), asyncio.current_task()
        assert starting is not None
        self._stop = starting.cancel  # a node that is not up yet has nobody to wait for
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._came, number)
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        return self

    def __exit__(self, *_exception: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            loop.remove_signal_handler(number)

    def obey(self, stop: Callable[[], object], run: RunFolder, reload: Callable[[], None]) -> None:
        """From here on there is a server to stop or to configure anew, and there may be workers of this run."""
        self._stop, self._run, self._reload = stop, run, reload

    def _hang_up(self) -> None:
        self._reload()

    def _came(self, number: int) -> None:
        if self.first:
            self._end()
        self.first = number
        log.info("node.stopping", signal=signal.Signals(number).name, drain_s=self._drain_s)
        last = threading.Timer(self._drain_s + LAST_S, self._end)
        last.daemon = True
        last.start()
        self._stop()

    def _end(self) -> None:
        if self._run is not None:
            kill_marked({RUN_VARIABLE: frozenset((self._run.mark,))}, within_s=HURRY_S)
            shutil.rmtree(self._run.path, ignore_errors=True)
        os._exit(128 + self.first)


def _started(loaded: LoadedSettings, node: Node, address: tuple[object, ...], writer: LogWriter) -> None:
    spare_garbage_collector()
    node.operations.mark_started()
    host = _REACHED_BY.get(str(address[0]), str(address[0]))
    servable = [model.name for model in node.catalog.list() if not model.problem and not model.node]
    own = [name for name in servable if name != BUILTIN]
    lines = start_lines(
        loaded,
        version=__version__,
        url=f"http://[{host}]:{address[1]}" if ":" in host else f"http://{host}:{address[1]}",
        model=default_model(loaded.settings, node.catalog) or next(iter(own or servable), None),
        facts=machine_facts(loaded, node.manager),
        environment=process_environment(),
        program=sys.argv[0] if os.sep in sys.argv[0] else "modelyard",
        unservable=[model.name for model in node.catalog.list() if model.problem],
    )
    writer.line("\n".join(("", *lines, "")).encode(errors="backslashreplace"))  # for whoever started us


def spare_garbage_collector() -> None:
    """What is here now stays: looking through it again and again would hold up the loop by 50 ms each time.

    Requests leave next to no cycles behind, so what comes later is looked through rarely: that is a twentieth of each.
    """
    gc.collect()
    gc.freeze()
    gc.enable()  # the command line starts without
    gc.set_threshold(GARBAGE_OBJECTS_MAX, *gc.get_threshold()[1:])


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
