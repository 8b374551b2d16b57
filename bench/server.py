"""The server under load, as a process: a whole node with keys, limits, figures and a log, whose one worker is static.

A program: `python -m bench.server CONFIG FOLDER LOG`. Listens where its configuration says.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from modelyard.api.http_protocol import listen
from modelyard.api.server import YardServer
from modelyard.compose import running_node
from modelyard.config.settings import LoadedSettings, load_settings
from modelyard.errors import ShuttingDown
from modelyard.logs import logging_to
from modelyard.node import Node
from modelyard.serving import spare_garbage_collector

from .upstream import StaticEngine, static_model


async def serve(loaded: LoadedSettings, folder: Path) -> None:
    """As `modelyard serve` does, with one more engine and one more model."""
    engines, models = (StaticEngine(folder),), (static_model(),)
    async with running_node(loaded, engines=engines, models=models) as node:
        server = YardServer(
            node.app,
            drain_s=1,
            on_stopping=node.operations.begin_drain,
            interrupt_all=lambda: node.inference.interrupt_all(ShuttingDown()),
            on_started=lambda: _started(node),
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
        await server.serve(listen(loaded.settings.server.host, loaded.settings.server.port))


def _started(node: Node) -> None:
    spare_garbage_collector()
    node.operations.mark_started()


def main(config: str, folder: str, log: str) -> None:
    loaded = load_settings(config_file=Path(config))
    with (
        Path(log).open("wb") as stream,
        logging_to(stream, format="json"),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(serve(loaded, Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
