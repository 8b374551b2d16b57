"""Keys, secrets of the environment, prompts and answers: one canary of each, and not one is found where it has no
business, whatever goes well or wrong with them.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.support.node import (
    Server,
    ask,
    chat_body,
    clean_environment,
    client,
    echo,
    environment_of,
    running,
    short_folder,
    start_server,
)

ADMIN = "canary-key-of-the-admin-8c1f"
USER = "canary-key-of-the-user-77aa"
WRONG = "canary-key-that-is-wrong-0b9d"
FILED = "canary-key-in-a-file-4e21"
FOREIGN = "canary-secret-of-somebody-else-51d3"
PROMPT = "canaryprompt6f0e"
TOOL = "canarytool3a77"
CANARIES = (ADMIN, USER, WRONG, FILED, FOREIGN, PROMPT, TOOL)
BY_ADMIN = {"authorization": f"Bearer {ADMIN}"}
BY_USER = {"x-api-key": USER}
PAGES = (
    "/metrics", "/admin/status", "/admin/config", "/health/detailed", "/health/memory", "/v1/models", "/openapi.json",
    "/readyz?verbose",
)  # fmt: skip


def config_in(folder: Path) -> dict[str, Any]:
    file = folder / "key"
    file.write_text(FILED)
    file.chmod(0o600)
    scripts: dict[str, Any] = {
        "says": {"echo_prompt": True, "tokens_per_s": 50},
        "crashes": {"echo_prompt": True, "crash_after_tokens": 2},
        "garbage": {"echo_prompt": True, "garbage_after_tokens": 1},
        "stalls": {"echo_prompt": True, "stall_after_tokens": 1},
        "cut": {"echo_prompt": True, "cut_after_bytes": 700},
        "broken": {"fail_load": "it will not load"},
    }
    rights = ["infer", "read", "metrics", "admin"]
    keys = [
        {"id": "admin", "secret": "env:ADMIN_KEY", "rights": rights},
        {"id": "user", "secret": "${USER_KEY}"},
        {"id": "filed", "secret": f"file:{file}"},
    ]
    return {
        **echo(**scripts), "keys": keys, "deadlines": {"between_tokens_s": 1},
        "log": {"format": "json", "level": "debug"},
    }  # fmt: skip


SECRETS = {
    "ADMIN_KEY": ADMIN, "USER_KEY": USER, "OPENAI_API_KEY": FOREIGN, "HF_TOKEN": FOREIGN, "MODELYARD_KEY": ADMIN,
}  # fmt: skip


def found_in(text: str, *, besides: tuple[str, ...] = ()) -> list[str]:
    """The canaries in a text, and around each of them enough to see where it is."""
    return [
        text[max(text.find(each) - 100, 0) : text.find(each) + 60]
        for each in CANARIES
        if each in text and each not in besides
    ]


async def misuse(session: aiohttp.ClientSession, server: Server) -> list[str]:
    """Ask in every way that goes wrong; the errors that came back."""
    said = []
    told: dict[str, Any] = {"content": f"{PROMPT} one two three", "max_tokens": 50}
    for model in ("crashes", "garbage", "stalls", "cut", "broken"):
        for stream in (True, False):
            answer = await ask(session, server, model, headers=BY_USER, stream=stream, **told)
            assert answer.error is not None, model
            said.append(json.dumps(answer.error))
    wrong: list[tuple[dict[str, Any], dict[str, str]]] = [
        (chat_body("says", PROMPT), {"authorization": f"Bearer {WRONG}"}),
        (chat_body("says", PROMPT), {**BY_USER, "authorization": f"Bearer {WRONG}"}),
        (chat_body("says", PROMPT, temperature="hot"), BY_USER),
        (chat_body("says", PROMPT, api_key=FOREIGN), BY_USER),
        (chat_body("says", PROMPT, extra_body={"api_key": FOREIGN}), BY_USER),
        ({"model": "says", "messages": [{"role": "user", "content": {"text": PROMPT}}]}, BY_USER),
        ({"model": "says", "messages": PROMPT}, BY_USER),
        ({"model": "says", "messages": [{"role": "user", "content": f"{PROMPT} " * 5000}]}, BY_USER),
        (chat_body("says", PROMPT, tools=[{"type": "function", "function": {"name": TOOL, "parameters": 3}}]), BY_USER),
    ]  # fmt: skip
    for body, headers in wrong:
        async with session.post(f"{server.url}/v1/chat/completions", json=body, headers=headers) as response:
            assert response.status >= 400, body
            said.append(await response.text())
    cut = f'{{"model":"says","messages":"{PROMPT}'
    for raw in (PROMPT.encode(), cut.encode(), cut.encode() + b"\xff"):
        headers = {**BY_USER, "content-type": "application/json"}
        async with session.post(f"{server.url}/v1/chat/completions", data=raw, headers=headers) as response:
            assert response.status == 400
            said.append(await response.text())
    return said


async def test_no_secret_and_no_prompt_is_found_where_it_has_no_business() -> None:
    with short_folder() as keys:
        async with running(config_in(keys), environment=SECRETS) as server, client() as session:
            events = asyncio.create_task(listened(session, server))
            answer = await ask(session, server, "says", headers=BY_USER, content=PROMPT, stream=True, max_tokens=8)
            assert PROMPT in answer.text
            whole = await ask(session, server, "says", headers=BY_ADMIN, content=PROMPT, max_tokens=8)
            assert PROMPT in whole.json["choices"][0]["message"]["content"]

            for error in await misuse(session, server):
                assert found_in(error) == []
            assert found_in(str(dict(answer.headers)) + str(dict(whole.headers))) == []
            async with session.post(
                f"{server.url}/admin/models/says/load", json={"pinned": PROMPT}, headers=BY_ADMIN
            ) as response:
                assert found_in(await response.text()) == []
            for path in PAGES:
                async with session.get(f"{server.url}{path}", headers=BY_ADMIN) as response:
                    assert response.status == 200, path
                    assert found_in(await response.text()) == [], path

            node = psutil.Process(server.process.pid)
            workers = server.workers()
            assert workers
            for process in (node, *workers):
                assert found_in(" ".join(process.cmdline()) + process.name()) == []
            for worker in workers:
                assert found_in(str(environment_of(worker))) == []
                assert not {"OPENAI_API_KEY", "HF_TOKEN", "ADMIN_KEY", "MODELYARD_KEY"} & set(environment_of(worker))
            server.process.terminate()
            assert found_in(await events) == []
            assert await asyncio.to_thread(server.process.wait, 60) == 143
            assert "request.finished" in server.text()
            assert found_in(server.text()) == []
            for file in server.runtime.rglob("*"):
                assert not file.is_file() or found_in(file.read_text(errors="replace")) == []


async def listened(session: aiohttp.ClientSession, server: Server) -> str:
    """Everything that is told about the node, until it ends."""
    async with session.get(f"{server.url}/admin/events", headers=BY_ADMIN) as response:
        assert response.status == 200
        return await response.text()


def test_the_configuration_is_shown_without_its_secrets() -> None:
    with short_folder() as folder:
        path = folder / "modelyard.json"
        path.write_text(json.dumps(config_in(folder)))
        for arguments in (["config"], ["config", "-o", "json"], ["config", "check"]):
            done = subprocess.run(
                [sys.executable, "-m", "modelyard.cli", *arguments, "--config", str(path)],
                capture_output=True, text=True, env=clean_environment(folder, SECRETS), cwd=folder, check=False,
            )  # fmt: skip

            assert done.returncode == 0, done.stderr
            assert found_in(done.stdout + done.stderr) == []


async def test_a_wrong_configuration_is_refused_without_its_secrets() -> None:
    short = "canaryshort"
    with short_folder() as folder:
        wrong: list[dict[str, Any]] = [
            {"keys": [{"id": "a", "secret": "env:SHORT"}]},
            {"keys": [{"id": "a", "secret": USER}]},
            {"keys": [{"id": "a", "secret": "env:USER_KEY", "rights": ["none"]}]},
            {"keys": [{"id": "a", "secret": ["env:USER_KEY"]}], "server": {"port": 99999}},
        ]
        for config in wrong:
            server = start_server(folder, config, environment={**SECRETS, "SHORT": short})

            assert await asyncio.to_thread(server.process.wait, 60) == 3
            assert [*found_in(server.text()), *(each for each in (short,) if each in server.text())] == []
