"""A folder that means harm: no code of it runs, its endless template is an error, and its worker goes on serving."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelyard.demo import hf_folder
from tests.support.node import Server, ask, client, fetch, resident, serving

ENDLESS = (
    "{% if messages[0].content == 'loop' %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}{% endif %}{{ messages[0].content }}"
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="my") as made:
        yield Path(made)


def edited(folder: Path, name: str, **changes: Any) -> Path:
    """A copy of yardling with members of a JSON file changed, and a module that leaves a canary when it is run."""
    copy = Path(shutil.copytree(hf_folder(), folder / "models" / name))
    for file, members in changes.items():
        path = copy / f"{file}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **members}))
    (copy / "evil.py").write_text(f"open({str(folder / 'canary')!r}, 'w').write('run')\nclass Evil: pass\n")
    return copy


@pytest.fixture(scope="module")
def yard(folder: Path) -> Iterator[Server]:
    edited(
        folder, "hostile",
        tokenizer_config={"chat_template": ENDLESS, "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}},
        generation_config={"trust_remote_code": True},
    )  # fmt: skip
    edited(folder, "coded", config={"auto_map": {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"}})
    config = {
        "models": {"folders": [str(folder / "models")], "launch": {"threads": 1, "context_length": 256}},
        "memory": {"gpus": False},
    }
    with serving(config) as server:
        yield server


async def test_code_in_a_folder_is_never_run(yard: Server, folder: Path) -> None:
    async with client() as session:
        loaded = await ask(session, yard, "hostile", content="hello", max_tokens=2)
        refused = await ask(session, yard, "coded", content="hello")

    assert loaded.status == 200, loaded.body
    assert refused.error is not None
    assert "auto_map" in refused.error["message"]
    assert not (folder / "canary").exists()


async def test_a_template_that_never_ends_is_an_error_and_nobody_elses(yard: Server) -> None:
    async with client() as session:
        await ask(session, yard, "hostile", content="hello", max_tokens=1)
        before = await resident(session, yard, "hostile")
        endless = await ask(session, yard, "hostile", content="loop")
        after = await ask(session, yard, "hostile", content="hello", max_tokens=2)
        now = await resident(session, yard, "hostile")
        status = await fetch(session, yard, "/admin/status")

    assert endless.status == 400
    assert endless.error is not None
    assert endless.error["code"] == "chat_template_failed"
    assert after.status == 200
    assert before is not None
    assert now is not None
    assert before["pid"] == now["pid"]
    assert status["requests"] == []
