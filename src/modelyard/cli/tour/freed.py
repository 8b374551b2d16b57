"""What an Ollama server on this machine holds, by its processes: an unload is over when its memory has come back.

Only where it can be known: the processes are Ollama's, and not at the other end of a tunnel. Else nothing is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import psutil

from modelyard.loopback import is_loopback
from modelyard.memory.devices import SystemDevices

SERVER = "ollama"
BACK_RATIO = 0.75  # of a model's told size: that is the server's estimate, and some of it may be shared
LEAST_RATIO = 0.1  # less than this is no model that left
LOOK_EVERY_S = 0.1
SETTLED_S = 1.0  # nothing more came for so long

Held = Callable[[], int]  # bytes


def held_by_server(url: str) -> Held | None:
    """How to read what the Ollama server at this address holds; None if that cannot be known."""
    address = urlsplit(url)
    if not is_loopback(address.hostname or ""):
        return None
    try:
        pid = _server(address.port or 80)
    except psutil.Error:
        return None
    if pid is None:
        return None
    devices = SystemDevices()

    def held() -> int:
        now = devices.process(pid)
        return now.anonymous_bytes + now.file_bytes + sum(now.gpu_bytes.values())

    return held


def _server(port: int) -> int | None:
    """The process that listens; where that is not ours to see, the only server of that name."""
    sockets = (one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
    listening = [one for one in sockets if one.laddr and one.laddr.port == port]
    for one in listening:
        if one.pid:
            return one.pid if _is_ollama(one.pid) else None
    servers = [one for one in psutil.process_iter(["name", "ppid"]) if one.info["name"] == SERVER]
    first = [one.pid for one in servers if one.info["ppid"] not in {other.pid for other in servers}]
    return first[0] if len(first) == 1 and listening else None


def _is_ollama(pid: int) -> bool:
    return psutil.Process(pid).name().lower().removesuffix(".exe") == SERVER


async def come_back(held: Held, before: int, size: int) -> int | None:
    """Wait until a model's memory has come back: so many bytes. None if the server cannot have held that much.

    Waits for ever if none of it comes.
    """
    if not size or before < LEAST_RATIO * size:
        return None
    loop, most = asyncio.get_running_loop(), 0
    moved_at = loop.time()
    while True:
        back = before - held()
        if back > most:
            most, moved_at = back, loop.time()
        has_settled = most >= LEAST_RATIO * size and loop.time() - moved_at >= SETTLED_S
        if most >= BACK_RATIO * size or has_settled:
            return most
        await asyncio.sleep(LOOK_EVERY_S)
