"""A model in the store of one server of ours is copied by another: by digest, and only with an administrator's key."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from modelyard import demo
from tests.support import fakes_thread
from tests.support.fake_hub import FakeHub
from tests.support.node import Server, ask, client, running

BOSS, USER = "boss-key-0123456789", "user-key-0123456789"
KEYS = {
    "keys": [
        {"id": "boss", "secret": "env:BOSS", "rights": ["admin", "infer", "read"]},
        {"id": "user", "secret": "env:USER_KEY"},
    ]
}
MODEL = demo.gguf_path().read_bytes()
BARE: dict[str, Any] = {"models": {"builtin": False}, "memory": {"gpus": False}, "pull": {"store": "store"}}


def node(server: Server, key: str, name: str = "first") -> dict[str, Any]:
    return {"name": name, "kind": "openai", "url": server.url, "key": f"env:{key}"}


async def pull(session: aiohttp.ClientSession, server: Server, model: str, key: str = "") -> dict[str, Any]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with session.post(f"{server.url}/api/pull", json={"model": model}, headers=headers) as response:
        lines = [line async for line in response.content]
    return dict(json.loads(lines[-1]))


async def test_a_model_goes_from_one_store_to_another_for_administrators_alone() -> None:
    hub = FakeHub({"Tiny-Q4_K_M.gguf": MODEL})
    keys = {"BOSS": BOSS, "USER_KEY": USER}
    with fakes_thread.running(hub):
        async with running({**BARE, **KEYS}, environment={"HF_ENDPOINT": hub.url, **keys}) as first:
            nodes = [node(first, "BOSS"), node(first, "USER_KEY", "closed")]
            async with running({**BARE, "nodes": nodes}, environment=keys) as second, client() as session:
                await pull(session, first, "hf:org/Tiny-GGUF", BOSS)
                came = await pull(session, second, "ollama:org/tiny:q4_k_m@first")
                closed = await pull(session, second, "ollama:org/tiny:q4_k_m@closed")
                missing = await pull(session, second, "ollama:nothing@first")
                answer = await ask(session, second, "local/org/tiny:q4_k_m", max_tokens=4)
                boss = {"authorization": f"Bearer {BOSS}"}
                told = await session.get(f"{first.url}/admin/store", headers=boss)
                store = await told.json()
                digest = store["models"][0]["files"][0]["digest"]
                refused = [
                    (await session.get(f"{first.url}{path}", headers={"authorization": f"Bearer {USER}"})).status
                    for path in ("/admin/store", "/admin/store/models/tiny", f"/admin/store/blobs/{digest}")
                ]
                odd = [
                    (await session.get(f"{first.url}/admin/store/blobs/{name}", headers=boss)).status
                    for name in ("sha256:" + "0" * 64, "sha256:..", "x", "..%2f..%2fmanifests%2fx", digest[:-1])
                ]
                part = await session.get(
                    f"{first.url}/admin/store/blobs/{digest}", headers={**boss, "range": "bytes=100-199"}
                )
                bytes_of, said = await part.read(), second.text()

    assert (came["status"], came["model"]) == ("success", "org/tiny:q4_k_m")
    assert closed["code"] == "upstream_refused_key"
    assert missing["code"] == "not_found"
    assert answer.status == 200
    assert refused == [403] * 3
    assert odd == [404] * 5
    assert (part.status, bytes_of) == (206, MODEL[100:200])
    assert BOSS not in said + json.dumps(store)
