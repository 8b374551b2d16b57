"""A worker whose socket was swept away, by a cleaner of temporary folders for instance, is replaced."""

from __future__ import annotations

from tests.support.node import ask, client, echo, fetch, resident, running, sockets_of, until


async def test_a_worker_nobody_can_reach_is_replaced_and_the_next_request_served() -> None:
    async with running(echo(a={"slots": 2})) as server, client() as session:
        assert (await ask(session, server, "a")).status == 200
        (socket,) = sockets_of(server)
        socket.unlink()

        lost = await ask(session, server, "a")
        assert (lost.status, (lost.error or {})["code"]) == (502, "upstream_unreachable")
        await until(lambda: sockets_of(server) != [socket], "the socket is another one, or none")
        answer = await ask(session, server, "a")

        assert answer.status == 200
        found = await resident(session, server, "a")
        assert found is not None
        assert found["epoch"] == 2
        status = await fetch(session, server, "/admin/status")
        assert status["queue"] == 0
