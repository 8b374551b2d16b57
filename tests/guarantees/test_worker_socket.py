"""Nobody but us reaches a worker: private sockets in a private folder, and nothing that listens on a network."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import psutil
import pytest

from tests.support.node import Server, ask, client, echo, serving, sockets_of

MARKED_WORLD = stat.S_IRWXG | stat.S_IRWXO


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    config = echo(scripted={"reply_tokens": 2})
    config["models"]["builtin"] = True
    with serving(config) as server:
        yield server


async def workers(server: Server) -> list[psutil.Process]:
    """One worker of each engine, both of which have just answered."""
    async with client() as session:
        answers = [await ask(session, server, model, max_tokens=2) for model in ("scripted", "yardling")]
    assert [answer.status for answer in answers] == [200, 200]
    found = server.workers()
    assert len(found) >= 2
    return found


async def test_sockets_and_their_folders_are_ours_alone(server: Server) -> None:
    await workers(server)

    sockets = sockets_of(server)

    assert len(sockets) == 2
    for path in sockets:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert path.stat().st_uid == path.parent.stat().st_uid == os.geteuid()


async def test_nothing_else_in_the_run_folder_is_open_to_others(server: Server) -> None:
    await workers(server)
    (folder,) = {path.parent for path in sockets_of(server)}

    open_to_others = [path for path in folder.rglob("*") if path.lstat().st_mode & MARKED_WORLD]

    assert open_to_others == []


async def test_workers_listen_on_no_network(server: Server) -> None:
    found = await workers(server)

    connections = [connection for worker in found for connection in worker.net_connections("inet")]

    assert connections == []


async def test_the_server_listens_where_it_was_told_and_nowhere_else(server: Server) -> None:
    await workers(server)

    connections = psutil.Process(server.process.pid).net_connections("inet")

    listening = {(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", server.port)}


async def test_workers_inherit_no_descriptor_of_the_server(server: Server) -> None:
    found = await workers(server)

    for worker in found:
        links = [os.readlink(f"/proc/{worker.pid}/fd/{name}") for name in os.listdir(f"/proc/{worker.pid}/fd")]
        assert not [link for link in links if link == str(server.log) or link.endswith(".json")]
