"""What pages say of a running server is compared with one: examples, events, metrics, and the README's first minute."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import Server, clean_environment, serving, until
from tests.support.pages import Example, blocks, code_words, curl, examples, frames, read, rows, shape

API = read("docs/api.md")
EXAMPLES = [*examples(API), *examples(read("docs/streaming.md"))]
MIB = 1024**2
DEADLINE_S = 60.0
BY_ITSELF = {"date", "content-type", "content-length", "cache-control", "transfer-encoding", "connection"}
# Told only at the end, of other nodes, of other programs, or after a quarter of an hour.
STAND_IN_LABELS = {  # what does not happen here: nobody stands in for another model, and nothing is embedded
    "modelyard_fallbacks_total": {"model", "to", "reason"},
    "modelyard_vector_cache_hits_total": {"model"},
    "modelyard_vector_cache_misses_total": {"model"},
}
NOT_LIVED = (
    "node.changed", "node.draining", "node.health", "node.reachable", "node.unreachable",
    "model.adopted", "model.left", "model.recycling",
    "model.switched", "model.role_released", "model.load_progress", "memory.",
)  # fmt: skip
CONFIG: dict[str, Any] = {
    "memory": {"gpus": False, "ram_limit_bytes": 2048 * MIB},
    "models": {
        "default": "yardling",
        "echo": {
            "echo": {"slots": 2},
            "slow": {"tokens_per_s": 1, "reply_tokens": 4000},
            "large": {"footprint_bytes": 1200 * MIB},
            "wide": {"footprint_bytes": 1200 * MIB},
            "broken": {"fail_load": "no room"},
            "crasher": {"crash_after_tokens": 1},
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(CONFIG) as started:
        yield started


@pytest.fixture(scope="module")
def lived(server: Server) -> Server:
    """The same server, after it has seen a bit of everything."""
    for model in ("echo", "large", "wide", "broken", "crasher"):  # wide evicts large
        ask(server, model)
    ask(server, "echo", keep_alive=0)  # expires
    answering = threading.Thread(target=ask, args=(server, "slow"))
    answering.start()
    asyncio.run(until(lambda: resident(server, "slow").get("leases"), "the slow one answers"))
    unload = "curl -X POST http://127.0.0.1:11435/admin/models/slow/unload"
    unloading = threading.Thread(target=curl, args=(unload, server.url))
    unloading.start()
    asyncio.run(until(lambda: resident(server, "slow").get("state") == "draining", "it drains"))
    (request,) = get(server, "/admin/status")["requests"]
    curl(f"curl -X DELETE http://127.0.0.1:11435/admin/requests/{request['id']}", server.url)
    answering.join()
    unloading.join()
    curl("curl -X DELETE http://127.0.0.1:11435/v1/models", server.url)  # refused at the door
    return server


def resident(server: Server, model: str) -> dict[str, Any]:
    return next((each for each in get(server, "/admin/status")["residents"] if each["model"] == model), {})


def ask(server: Server, model: str, **fields: Any) -> int:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}], **fields})
    command = (
        f"curl http://127.0.0.1:11435/v1/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )
    return curl(command, server.url)[0]


def get(server: Server, path: str) -> Any:
    return json.loads(curl(f"curl http://127.0.0.1:11435{path}", server.url)[2])


def events(server: Server, *, last: str) -> list[dict[str, Any]]:
    """Everything told so far, up to the last event of that name and model `slow`."""
    request = urllib.request.Request(f"{server.url}/admin/events", headers={"Last-Event-ID": "0"})
    found: list[dict[str, Any]] = []
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as lines:
        for line in lines:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
                if found[-1]["event"] == last and found[-1].get("model") == "slow":
                    break
    return found


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.command.split("11435")[1].split()[0])
def test_an_example_on_the_pages_about_the_api_is_what_the_server_answers(server: Server, example: Example) -> None:
    if "/load" in example.command and "pinned" not in example.command:
        curl("curl -X POST http://127.0.0.1:11435/admin/models/echo/unload", server.url)

    _status, _headers, body = curl(example.command, server.url)

    if example.answer.startswith("data: "):
        assert [shape(frame) for frame in frames(body)] == [shape(frame) for frame in frames(example.answer)]
    elif '"done":false' in example.answer:
        assert [shape(json.loads(line)) for line in body.splitlines()] == [
            shape(json.loads(line)) for line in example.answer.splitlines()
        ]
    else:
        assert shape(json.loads(body)) == shape(json.loads(example.answer))


def test_every_header_of_an_answer_is_on_the_api_page(server: Server) -> None:
    _status, headers, _body = curl(examples(API)[0].command, server.url)

    assert {name.lower() for name in headers} - BY_ITSELF <= set(code_words(API))


def test_events_have_the_fields_the_api_page_gives_them(lived: Server) -> None:
    documented = {cells[0].strip("`"): cells[2] for cells in rows(API) if re.match(r"`(model|node|memory)\.", cells[0])}
    receipt = set(code_words(next(part for part in API.split("\n\n") if part.startswith("**A receipt**"))))
    told = events(lived, last="model.unloaded")

    names = {event["event"] for event in told}
    assert names <= documented.keys()
    assert {name for name in documented.keys() - names if not name.startswith(NOT_LIVED)} == set()
    for event in told:
        fields, text = event.keys() - {"event", "at"}, documented[event["event"]]
        if "receipt" in text:
            assert fields - set(code_words(text)) <= receipt, event
        else:
            assert fields == set(code_words(text)), event


def test_the_metrics_page_is_what_a_scrape_finds(lived: Server) -> None:
    text = curl("curl http://127.0.0.1:11435/metrics", lived.url)[2]
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    labels: dict[str, set[str]] = {name: set() for name in kinds}
    for name, inner in re.findall(r"^(\w+)\{(.*)\} ", text, re.MULTILINE):
        family = name if name in kinds else re.sub(r"_(bucket|sum|count)$", "", name)
        labels[family] |= set(re.findall(r'(\w+)="', inner)) - {"le"}

    documented = {
        cells[0].strip("`"): (cells[1], set(code_words(cells[2])))
        for cells in rows(read("docs/metrics.md"))
        if cells[0].startswith("`modelyard_")
    }

    found = {name: (kind, labels[name] or STAND_IN_LABELS.get(name, set())) for name, kind in kinds.items()}
    assert documented == found
    assert re.search(r'model_load_failures_total\{code="model_load_failed",engine="echo"\} 1', text)
    assert re.search(r'evictions_total\{reason="eviction"\} 1', text)


def test_an_error_of_an_engine_names_it_as_the_docs_say(lived: Server) -> None:
    body = json.dumps({"model": "crasher", "messages": [{"role": "user", "content": "hello"}]})
    command = ["curl", "http://127.0.0.1:11435/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body]

    status, _headers, answer = curl(shlex.join(command), lived.url)

    assert (status, json.loads(answer)["error"]["backend"]) == (502, "echo")


def test_python_in_the_readme_runs_as_it_stands(server: Server) -> None:
    (program,) = [block.text for block in blocks(read("README.md")) if block.kind == "python"]

    done = run(sys.executable, "-c", program.replace("http://127.0.0.1:11435", server.url), server=server)

    assert done.stdout.strip()


def test_curl_in_the_readme_is_answered(server: Server) -> None:
    commands = [block.text for block in blocks(read("README.md")) if block.text.startswith("curl ")]

    assert commands
    for command in commands:
        assert curl(command, server.url)[0] == 200


def test_commands_in_the_readme_run_as_they_stand(server: Server) -> None:
    lines = [line for block in blocks(read("README.md")) for line in block.text.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith(".venv/bin/modelyard ")]
    # These need a network, a person, a second model, or meet a model that never ends (the tutorial runs a tour).
    asked = [words for words in commands if words[0] not in ("serve", "chat", "pull", "rm", "compare", "tour")]

    assert asked
    ask(server, "yardling")  # who names no model gets one in memory
    for words in asked:
        named = ["yardling" if word == "NAME" else word for word in words]
        done = run(sys.executable, "-m", "modelyard.cli", *named, server=server)
        assert done.returncode == 0
        assert done.stderr if words[0] == "load" else done.stdout  # stdout carries answers, and a load has none


def run(*words: str, server: Server) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(Path(server.folder), {"MODELYARD_URL": server.url, "LANG": "C.UTF-8"})
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
