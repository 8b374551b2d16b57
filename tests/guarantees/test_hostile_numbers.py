"""No number, and nothing in the place of one, reaches a worker that cannot bear it: against the built-in model."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import aiohttp
import psutil
import pytest

from tests.support.counts import PROVE
from tests.support.node import Server, ask, client, serving

MIB = 1024**2
GROWTH_BYTES_MAX = 64 * MIB
PATHS = ("/v1/chat/completions", "/v1/completions")
FLOATS = (
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "min_p", "typical_p", "repeat_penalty",
    "dynatemp_range", "dynatemp_exponent", "mirostat_tau", "mirostat_eta", "xtc_probability", "xtc_threshold",
    "dry_multiplier", "dry_base",
)  # fmt: skip
INTEGERS = (
    "n", "max_tokens", "seed", "top_k", "repeat_last_n", "mirostat", "dry_allowed_length", "dry_penalty_last_n",
)  # fmt: skip
OF_ONE_PATH = {"max_completion_tokens": PATHS[0], "top_logprobs": PATHS[0], "logprobs": PATHS[1], "best_of": PATHS[1]}
# As they stand in the body: JSON has no NaN, but parsers do.
NEVER = (
    "NaN", "-NaN", "Infinity", "-Infinity", "nan", "1e400", "-1e400", "1e309", "9223372036854775808",
    "-9223372036854775809", "18446744073709551616", "1" + "0" * 400, "-1e300", '"1"', '"NaN"', '""', "[]", "[1]",
    "[0.5, 0.5]", "{}", '{"a": 1}', "true", "0x10", "01", "1.", ".5", "+1", "--1", "1e", "1_0",
)  # fmt: skip
NEVER_INTEGERS = ("0.5", "1e-5", "-3", "4294967296", "1e18")
EDGES = ("0", "-0.0", "1", "2", "5e-324", "1e-45", "1e308", "0.999999999", "2147483647", "2147483648", "null", "-1")


def question(path: str, **fields: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": "hello"}]} if "chat" in path else {"prompt": "hello"}
    return {"model": "yardling", "max_tokens": 2, **asked, **fields}


def with_raw(path: str, name: str, raw: str) -> bytes:
    body = question(path)
    body.pop(name, None)
    if name == "top_logprobs":
        body["logprobs"] = True
    return (json.dumps(body)[:-1] + f', "{name}": {raw}}}').encode()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving({"memory": {"gpus": False}, "models": {"launch": {"slots": 2}}}) as server:
        yield server


async def post(session: aiohttp.ClientSession, server: Server, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "application/json"}
    async with session.post(server.url + path, data=body, headers=headers) as response:
        return response.status, json.loads(await response.read())


def pids(server: Server) -> list[int]:
    return sorted(worker.pid for worker in server.workers())


def rss_bytes(server: Server) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in (*pids(server), server.process.pid))


async def all_well(session: aiohttp.ClientSession, server: Server, before: list[int], grown_from_bytes: int) -> None:
    """The same workers answer, in much the same memory."""
    async with session.get(server.url + "/livez") as response:
        assert response.status == 200
    assert (await ask(session, server, "yardling", max_tokens=2)).status == 200
    assert pids(server) == before
    assert rss_bytes(server) - grown_from_bytes < GROWTH_BYTES_MAX


def cases() -> list[tuple[str, str, str, bool]]:
    """Path, option, value as written, and whether it must be refused."""
    found = []
    for path in PATHS:
        names = [*FLOATS, *INTEGERS, *(name for name, only in OF_ONE_PATH.items() if only == path)]
        for name in names:
            for raw in NEVER:
                if not (name in OF_ONE_PATH and raw == "true"):
                    found.append((path, name, raw, True))
            found += [(path, name, raw, True) for raw in NEVER_INTEGERS if name not in FLOATS and name != "seed"]
            found += [(path, name, raw, False) for raw in EDGES]
    return found


async def test_every_number_in_the_place_of_every_option_is_refused_or_borne(server: Server) -> None:
    chosen = cases() if PROVE else random.Random(7).sample(cases(), 250)
    async with client() as session:
        await ask(session, server, "yardling", max_tokens=2)
        before, bytes_before = pids(server), rss_bytes(server)

        wrong = []
        for path, name, raw, is_refused in chosen:
            status, answer = await post(session, server, path, with_raw(path, name, raw))
            is_typed = status == 200 or (status == 400 and answer["error"]["code"] and answer["error"]["message"])
            if not is_typed or (is_refused and status == 200):
                wrong.append((path, name, raw, status, answer.get("error")))

        assert wrong == []
        await all_well(session, server, before, bytes_before)


HOSTILE_FIELDS: tuple[dict[str, Any], ...] = (
    {"logit_bias": {"999999999": 100, "-1": 5, "abc": -100, "": 3, "1e3": 1, "\n": 1}},
    {"logit_bias": {str(token): -100 for token in range(1000)}},
    {"logit_bias": {"1": 101}}, {"logit_bias": {"1": "x"}}, {"logit_bias": [[1, 2]]}, {"logit_bias": "x"},
    {"logit_bias": {str(token): 1 for token in range(5000)}}, {"logit_bias": {"1" * 5000: 1}},
    {"stop": ["x" * 512] * 16}, {"stop": ["x"] * 17}, {"stop": "x" * 100_000}, {"stop": [1]}, {"stop": {"a": 1}},
    {"stop": ["\n", "\u2028", "data: [DONE]", "\0"]}, {"stop": ["", ""]}, {"stop": [["x"]]},
    {"chat_template_kwargs": {"enable_thinking": "yes"}}, {"chat_template_kwargs": []},
    {"chat_template_kwargs": {"messages": "x", "bos_token": "{{7*7}}", "tools": [], "raise_exception": 1}},
    {"chat_template": "{% for i in range(10**9) %}x{% endfor %}"}, {"template": "{{ x }}"},
    {"repeat_last_n": 1_000_000, "repeat_penalty": 1e-300, "temperature": 1e-300}, {"seed": 2**32 - 1, "n": 2},
    {"temperature": 1, "dynatemp_range": 10, "dynatemp_exponent": 10},
    {"mirostat": 1, "mirostat_tau": 0, "mirostat_eta": 0},
    {"mirostat": 2, "mirostat_tau": 100, "mirostat_eta": 1}, {"top_p": 0, "min_p": 1, "typical_p": 0, "temperature": 0},
    {"dry_multiplier": 10, "dry_base": 0, "dry_allowed_length": 0}, {"xtc_probability": 1, "xtc_threshold": 0},
    {"n_predict": -1}, {"n_discard": -1}, {"n_keep": -1, "id_slot": 999}, {"cache_prompt": "x"},
    {"samplers": ["x"] * 9},
    {"n_probs": 10**9}, {"lora": [{"id": 0, "scale": 1e308}]}, {"return_tokens": True, "timings_per_token": True},
    {"speculative.n_max": 10**9}, {"response_fields": ["model_path"]}, {"json_schema": {"type": "string"}},
    {"prompt_logprobs": 10**9}, {"best_of": 10**6}, {"user": "x" * 10**5}, {"metadata": {"a": "b"}},
)  # fmt: skip
HOSTILE_PROMPTS: tuple[Any, ...] = (
    [2**31 - 1], [2**31], [-1], [10**6] * 10, [1.5], [None], [[1], [2]], ["a", "b"], {"x": 1}, [], "", "\0" * 50,
    [[999_999_999]], [True], "<s>" * 200, 7,
)  # fmt: skip
HOSTILE_MESSAGES: tuple[Any, ...] = (
    [], "x", [{}], [{"role": "root", "content": "x"}], [{"role": "user"}], [{"role": "user", "content": None}],
    [{"role": "user", "content": {"a": 1}}], [{"role": "user", "content": [[]]}], [{"role": "tool", "content": "x"}],
    [{"role": "assistant", "content": None}], [{"role": "user", "content": [{"type": "bomb"}]}],
    [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
    [{"role": "assistant", "content": "x", "tool_calls": "x"}], [{"role": "user", "content": "x"}] * 2049,
    [{"role": "user", "content": "x"}] * 500, [{"role": "system", "content": "{{ 7*7 }}{% raw %}<|im_end|>"}],
    [{"role": "user", "content": "\0\u2028\ud7ff\U0010ffff"}], [{"role": "user", "content": "x" * 200_000}],
)  # fmt: skip


async def test_hostile_values_of_the_other_options_are_refused_or_borne(server: Server) -> None:
    bodies = [question(path, **fields) for path in PATHS for fields in HOSTILE_FIELDS]
    asked = [(path, body) for path, body in zip([p for p in PATHS for _ in HOSTILE_FIELDS], bodies, strict=True)]
    asked += [(PATHS[1], question(PATHS[1], prompt=prompt)) for prompt in HOSTILE_PROMPTS]
    asked += [(PATHS[0], question(PATHS[0], messages=messages)) for messages in HOSTILE_MESSAGES]
    async with client() as session:
        await ask(session, server, "yardling", max_tokens=2)
        before, bytes_before = pids(server), rss_bytes(server)

        wrong = []
        for path, body in asked:
            status, answer = await post(session, server, path, json.dumps(body).encode())
            if not (status == 200 or (400 <= status < 500 and answer["error"]["code"])):
                wrong.append((path, {name: str(value)[:80] for name, value in body.items()}, status, answer))

        assert wrong == []
        await all_well(session, server, before, bytes_before)
