"""A load that does nothing ends; one that moves may take longer than its deadline. Who waits is told, and need not."""

from __future__ import annotations

import asyncio

from tests.support.node import Server, ask, client, echo, fetch, running, until


def told(server: Server, event: str) -> int:
    return sum(one["event"] == event for one in server.log_events())


async def test_a_stuck_load_is_ended_and_everybody_hears_why() -> None:
    config = {**echo(stuck={"stall_load": True}, fine={}), "deadlines": {"load_stall_s": 1}}
    async with running(config) as server, client() as session:
        answers = await asyncio.gather(*(ask(session, server, "stuck", stream=bool(n % 2)) for n in range(10)))

        assert {(answer.status, (answer.error or {}).get("code")) for answer in answers} == {(503, "load_stalled")}
        assert told(server, "model.loading") == 1
        assert not server.workers()

        late = await ask(session, server, "stuck")  # it is not tried again at once
        assert late.status == 503
        assert 0 < int(late.headers["Retry-After"]) <= 10
        assert told(server, "model.loading") == 1
        assert (await ask(session, server, "fine", max_tokens=1)).error is None


async def test_a_slow_load_that_moves_outlives_its_deadline_and_tells_how_far_it_is() -> None:
    deadlines = {"load_s": 1, "load_per_gib_s": 0, "load_stall_s": 15}
    config = {**echo(slow={"load_s": 3, "allocate_bytes": 64 * 1024**2}), "deadlines": deadlines}
    async with running(config) as server, client() as session:
        waiting = asyncio.create_task(ask(session, server, "slow", max_tokens=1))
        seen: list[float] = []

        async def is_half_way() -> bool:
            status = await fetch(session, server, "/admin/status")
            seen.extend(one["progress"] for one in status["residents"] if one["progress"] is not None)
            if not seen or seen[-1] < 0.5:
                return False
            (wait,), (request,) = status["waiting"], status["requests"]
            assert (wait["model"], wait["position"], wait["reason"]) == ("slow", 1, "loading")
            assert wait["detail"].endswith("%")
            assert request["wait"]["reason"] == "loading"
            return True

        await until(is_half_way, "the load is seen half-way")
        hasty = await ask(session, server, "slow", headers={"X-Modelyard-Wait-Seconds": "0"})
        answer = await waiting

        assert answer.error is None
        assert seen == sorted(seen)
        assert hasty.status == 503
        assert hasty.error is not None
        assert hasty.error["code"] == "queue_timeout"
        free = await ask(session, server, "slow", headers={"X-Modelyard-Wait-Seconds": "0"}, max_tokens=1)
        assert free.error is None
        odd = await ask(session, server, "slow", headers={"X-Modelyard-Wait-Seconds": "-1"})
        assert odd.status == 400
