"""Who is at the other end of a worker's socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from modelyard.workers.ready import is_ours

LISTEN = """
import os, socket, sys
os.setuid(65534)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
sys.stdin.read()
"""


def test_a_listener_of_the_same_user_is_ours(folder: Path) -> None:
    path = folder / "a.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(path))
        listener.listen()
        client.connect(str(path))

        assert is_ours(client.fileno())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_listener_of_another_user_is_not(folder: Path) -> None:
    folder.chmod(0o777)
    path = folder / "b.sock"
    stranger = subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )  # fmt: skip
    try:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"listening\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))

            assert not is_ours(client.fileno())
    finally:
        stranger.communicate()
