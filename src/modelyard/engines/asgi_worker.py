"""Serves a worker's ASGI app on its Unix socket: what the workers that are Python programs of ours have in common.

Runs inside worker processes, never in the node. The socket appears when the model is loaded: whoever calls `serve`
loads first. A client that leaves is an `http.disconnect` to the app. Knows nothing about engines.
"""

from __future__ import annotations

import os
import socket as sockets
import stat
import threading
from typing import NoReturn

import uvicorn
from starlette.types import ASGIApp

BACKLOG_MAX = 256
SEND_BYTES = 64 * 1024  # of the kernel's buffer: who reads slowly is noticed early


def serve(app: ASGIApp, socket_path: str) -> NoReturn:
    """Listen until the process ends: by a signal, with the parent, or at the end of standard input."""
    listener = sockets.socket(sockets.AF_UNIX)
    listener.bind(socket_path)  # uvicorn would make it readable for everybody
    os.chmod(socket_path, 0o600)
    listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, SEND_BYTES)
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_end_with_input, daemon=True).start()
    config = uvicorn.Config(
        app, backlog=BACKLOG_MAX, access_log=False, log_level="warning", lifespan="off", ws="none",
        server_header=False, date_header=False,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])
    os._exit(0)  # libraries' threads may hang at an orderly end


def _end_with_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)
