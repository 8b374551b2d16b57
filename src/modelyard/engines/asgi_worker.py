"""What the workers that are Python programs of ours have in common: how they begin, load, fail and serve an ASGI app.

Runs inside worker processes, never in the node. The socket appears when the model is loaded: whoever calls `serve`
loads first. A client that leaves is an `http.disconnect` to the app. Knows nothing about engines.
"""

from __future__ import annotations

import json
import os
import socket as sockets
import stat
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import uvicorn
from starlette.types import ASGIApp

BACKLOG_MAX = 256
USAGE = "usage: python -m MODULE --socket PATH --params JSON"
SEND_BYTES = 64 * 1024  # of the kernel's buffer: who reads slowly is noticed early
Model = TypeVar("Model")


class LoadRefused(Exception):
    """The folder is not what it should be; the text is for whoever reads the node's error."""


def asked(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """The socket to listen on and the parameters, as every worker of ours is told them."""
    match arguments:
        case ["--socket", socket, "--params", params]:
            return socket, json.loads(params)
    raise SystemExit(USAGE)


def load_in(thread: ThreadPoolExecutor, load: Callable[[], Model]) -> Model:
    """What `load` makes, in that thread. Whatever goes wrong with it is said in one line, and ends the process.

    It is to be the thread that computes later, or one that ends: GNU's OpenMP keeps helpers for every thread that ever
    computed, and where these and the threads they help are more than the cores, helpers sleep between two operations
    instead of waiting for the next. With a team left over from the load a tenth of the tokens was lost on two cores.
    """
    try:
        return thread.submit(load).result()
    except LoadRefused as refused:
        give_up(f"refused: {refused}")
    except BaseException as error:
        give_up("load failed: " + traceback.format_exception_only(error)[-1].strip().replace(str(Path.home()), "~"))


def give_up(why: str) -> NoReturn:
    """End at once, with a last word."""
    sys.stderr.write(why + "\n")
    sys.stderr.flush()
    os._exit(1)


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
