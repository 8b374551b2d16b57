"""Roles share one load of one model, and it leaves when the last of them has let go of it."""

from __future__ import annotations

from tests.support.node import ask, client, echo, fetch, resident, running


async def test_roles_share_a_model_and_the_last_one_lets_it_go() -> None:
    config = {**echo(one={}), "roles": {"chat": "one", "translation": "one"}}
    async with running(config) as server, client() as session:
        first = await fetch(session, server, "/admin/models/chat/load", "POST", json={})
        second = await fetch(session, server, "/admin/models/translation/load", "POST", json={})
        found = await resident(session, server, "one")

        assert first["receipt"] is not None
        assert second["receipt"] is None  # it was there
        assert found is not None
        assert found["roles"] == ["chat", "translation"]
        assert (await ask(session, server, "chat", max_tokens=1)).error is None

        kept = await fetch(session, server, "/admin/models/chat/unload", "POST", json={})
        found = await resident(session, server, "one")
        assert kept["receipt"] is None
        assert found is not None
        assert found["roles"] == ["translation"]

        gone = await fetch(session, server, "/admin/models/translation/unload", "POST", json={})
        assert gone["receipt"]["freed_bytes"] is not None
        assert await resident(session, server, "one") is None
