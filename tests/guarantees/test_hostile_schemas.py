"""A schema, pattern, grammar, tool or image made to hurt is refused, or costs a worker a moment: no answer of others.

Against the built-in model in a real worker. Each case that must be refused once hung llama.cpp, ended it, or let it
grow without end.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import psutil
import pytest

from tests.support.counts import PROVE
from tests.support.node import Server, ask, chat_body, client, serving

MIB = 1024**2
GROWTH_BYTES_MAX = 96 * MIB
GUARD_S = 30.0
PATH = "/v1/chat/completions"
A = {"$ref": "#/$defs/a"}


def formatted(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def pattern(text: str) -> dict[str, Any]:
    return formatted({"type": "string", "pattern": text})


def tool(parameters: Any, **fields: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}], **fields}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _level in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def doubling(name: str, depth: int, last: Any, wrap: bool = False) -> dict[str, Any]:
    """Small, and 2^depth large when it is written out."""
    definitions: dict[str, Any] = {}
    for level in range(depth):
        below: dict[str, Any] = {"$ref": f"#/$defs/r{level + 1}"}
        definitions[f"r{level}"] = {name: [{"type": "array", "items": below} if wrap else below] * 2}
    return {"$ref": "#/$defs/r0", "$defs": {**definitions, f"r{depth}": last}}


def properties(count: int, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(count)}, **more}


def recursive(*branches: Any) -> dict[str, Any]:
    return {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": list(branches)}}}


def tagged(kind: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"k": {"const": kind}, "l": A, "r": A}, "required": ["k", "l"]}


SHORTER = {"type": "string", "minLength": 2, "maxLength": 1}
STARS = "^" + "[a-z]*" * 16 + "$"
REFUSED: dict[str, dict[str, Any]] = {
    "text shorter than itself": formatted({"type": "string", "minLength": 9, "maxLength": 2}),
    "list shorter than itself": formatted({"type": "array", "items": {}, "minItems": 3, "maxItems": 1}),
    "number smaller than itself": formatted({"type": "integer", "minimum": 5, "maximum": 2}),
    "negative length": formatted({"type": "string", "minLength": -5}),
    "length 2^63": formatted({"type": "string", "minLength": 2**63}),
    "length of text": formatted({"type": "string", "minLength": "9"}),
    "length of list": formatted({"type": "string", "maxLength": [9]}),
    "length true": formatted({"type": "string", "maxLength": True}),
    "length 1.5": formatted({"type": "string", "maxLength": 1.5}),
    "integer 10^30": formatted({"type": "integer", "minimum": 10**30}),
    "hidden behind a tool": tool({"type": "object", "properties": {"a": SHORTER}}),
    "hidden behind a reference": formatted({"$ref": "#/x", "x": SHORTER}),
    "hidden in a default": formatted({"$ref": "#/default", "default": SHORTER}),
    "hidden in a list": formatted({"type": "array", "prefixItems": [{"type": "string", "pattern": "^a{2,1}$"}]}),
    "many optional properties": formatted(properties(300)),
    "very many properties": formatted(properties(5000)),
    "many objects of many": formatted({"type": "array", "prefixItems": [properties(64)] * 16}),
    "many tools of many": {"tools": [
        {"type": "function", "function": {"name": f"f{n}", "parameters": properties(64)}} for n in range(16)
    ]},
    "many values": formatted({"enum": [f"v{n}" for n in range(1000)]}),
    "a long value": formatted({"enum": ["x" * 500_000]}),
    "many types": formatted({"type": ["string"] * 1000}),
    "deep": formatted(nested(80)),
    "very deep": formatted(nested(300)),
    "alternatives doubled": formatted(doubling("anyOf", 22, {"type": "string"})),
    "lists doubled": formatted(doubling("oneOf", 22, {"type": "string"}, wrap=True)),
    "recursion that begins alike": formatted(
        recursive({"type": "array", "items": A}, {"type": "array", "items": A, "maxItems": 5})
    ),
    "recursion in objects that begin alike": formatted(recursive(tagged("x"), tagged("x"))),
    "reference to a file": formatted({"$ref": "file:///etc/passwd"}),
    "reference to nowhere": formatted({"$ref": "#/nowhere"}),
    "reference that is a number": formatted({"$ref": 7}),
    "chain of references": formatted({"$ref": "#/$defs/r0", "$defs": {
        **{f"r{n}": {"$ref": f"#/$defs/r{n + 1}"} for n in range(500)}, "r500": {"type": "string"},
    }}),
    "two tools of one name": {"tools": [{"type": "function", "function": {"name": "f"}}] * 2},
    "tool named like a path": {"tools": [{"type": "function", "function": {"name": "../../etc"}}]},
    "tool without a name": {"tools": [{"type": "function", "function": {"name": ""}}]},
    "tool of another type": {"tools": [{"type": "bomb", "function": {"name": "f"}}]},
    "tools of the wrong type": {"tools": {"a": 1}}, "parameters of the wrong type": tool([1, 2]),
    "257 tools": {"tools": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(257)]},
    "choice of no tool": tool({}, tool_choice={"type": "function", "function": {"name": "g"}}),
    "format of another type": {"response_format": {"type": "grammar", "grammar": "x"}},
    "schema that is a list": formatted([1]), "schema that is true": formatted(True),
    **{f"pattern {text[:20]}": pattern(text) for text in (
        "^[^\\x00-\\x1f]{2,1}$", "^" + "a?" * 5000 + "$", "^" + "[a-z]?" * 500 + "$", "^" + "(a|b|c)*" * 500 + "$",
        "^" + "(a|b|[a-z])*" * 16 + "$", "^" + "[a-z]*" * 32 + "$", "^(((((((((a+)+)+)+)+)+)+)+)+$",
        "^(([a-z]{0,100}){0,100}){0,100}$", "^(a{0,9}){0,9}(a{0,9}){0,9}(a{0,9}){0,9}$", "^" + "(" * 20_000 + "$",
    )},
    "patterns beside each other": formatted({"anyOf": [{"type": "string", "pattern": STARS}] * 40}),
    "one pattern many times": formatted(
        {"anyOf": [{"$ref": "#/$defs/p"}] * 40, "$defs": {"p": {"type": "string", "pattern": STARS}}}
    ),
    **{f"grammar {text[:20]}": {"grammar": text} for text in (
        "root ::= " + "(" * 1000 + '"a"' + ")" * 1000, "root ::= " + "(" * 60_000, "root ::= " + '[a-z]? ' * 500,
        "root ::= r0 r0\n" + "\n".join(f"r{n} ::= r{n + 1} r{n + 1}" for n in range(30)) + '\nr30 ::= "a"?',
        'root ::= "a"',
    )},
}  # fmt: skip
BORNE: dict[str, dict[str, Any]] = {
    "deep": formatted(nested(25)), "reference to itself": formatted({"$ref": "#"}),
    "references in a ring": formatted({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": A}}),
    "tree": formatted({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"l": A, "r": A}}}}),
    "tagged recursion": formatted(recursive(tagged("and"), tagged("or"), {"type": "string"})),
    "recursion through allOf": formatted({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [A, {"type": "object"}]}}}),
    "recursion at once": formatted(recursive(A, {"type": "object"})),
    "allOf doubled": formatted(doubling("allOf", 22, properties(1))),
    "no value": formatted({"enum": []}), "odd values": formatted({"enum": [{"a": [1, {"b": None}]}, 1.5, True]}),
    "200 values": formatted({"enum": [f"v{n}" for n in range(200)]}), "100 optional": formatted(properties(100)),
    "1,000 required": formatted(properties(1000, required=[f"p{n}" for n in range(1000)])),
    "length 10^9": formatted({"type": "string", "minLength": 10**9}),
    "up to 10^9": formatted({"type": "string", "maxLength": 10**9}),
    "items 10^9": formatted({"type": "array", "items": {"type": "string"}, "minItems": 10**9}),
    "integer of all bits": formatted({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}),
    "integer 10^300": formatted({"type": "integer", "minimum": 1e300}),
    "types that are none": formatted({"type": ["string", "null", 7]}), "type 7": formatted({"type": 7}),
    "type bomb": formatted({"type": "bomb"}), "properties in a list": formatted({"type": "object", "properties": [1]}),
    "required as text": formatted({"type": "object", "properties": {"a": {}}, "required": "a"}),
    "items 7": formatted({"type": "array", "items": 7}), "nothing": formatted({}),
    "anything inside": formatted({"type": "object", "additionalProperties": {"$ref": "#"}}),
    "name that looks like a rule": formatted({"type": "object", "properties": {'"\\\n root ::= "x"': {}}}),
    "tool that must be called": tool(properties(1), tool_choice="required"),
    "tool without an object": tool({"type": "string"}, tool_choice="required"),
    "tool that refers to itself": tool({"$ref": "#"}, tool_choice="required"),
    "tool of long text": tool({"type": "object", "properties": {"a": {"type": "string", "minLength": 10**9}}}),
    "256 tools": {"tools": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(256)]},
    **{f"pattern {text[:20]}": pattern(text) for text in (
        "^(a+)+$", "^(a*)*$", "^(a|a)*$", "^a{1000000000}$", "^a{0,100000}$", "^a{99999999999999999999}$", "^[a-z$",
        "^(a{100}){100}$", "^((a{50}){50}){50}$", "^\\", "^(?=x)$", "^\\p{L}$", "^\u2028\\u0000$", "^.*.*.*.*x$", "^)$",
        "^a{,}$", "^a{-1}$", "^{$", "^*$", "^()*$", "^(a|)*$", "^(((a*)*)*)*$", STARS, "a", "",
    )},
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving({"memory": {"gpus": False}, "models": {"launch": {"slots": 2}}}) as server:
        yield server


def pids(server: Server) -> list[int]:
    return sorted(worker.pid for worker in server.workers())


def rss_bytes(server: Server) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in pids(server))


def said(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


async def answer_to(session: aiohttp.ClientSession, server: Server, fields: dict[str, Any]) -> tuple[int, str]:
    """Status and the error's code, of the answer or inside it."""
    body = json.dumps({**chat_body("yardling"), "max_tokens": 12, "stream": True, **fields}).encode()
    async with asyncio.timeout(GUARD_S):
        status, raw = await post(session, server, body)
    if status != 200:
        return status, str(json.loads(raw)["error"]["code"])
    frames = [json.loads(line[6:]) for line in raw.split(b"\n") if line.startswith(b"data: {")]
    return status, next((str(frame["error"]["code"]) for frame in frames if "error" in frame), "")


async def post(session: aiohttp.ClientSession, server: Server, body: bytes) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json"}
    async with session.post(server.url + PATH, data=io.BytesIO(body), headers=headers) as response:
        return response.status, await response.read()


async def test_what_would_stop_a_worker_is_refused_at_the_door(server: Server) -> None:
    async with client() as session:
        answers = {name: await answer_to(session, server, fields) for name, fields in REFUSED.items()}

    assert {name: status for name, (status, _code) in answers.items() if status not in (400, 413)} == {}
    assert all(code for _status, code in answers.values())
    assert pids(server) == []  # no worker has even been started


async def test_the_rest_is_borne_by_the_worker_beside_the_answers_of_others(server: Server) -> None:
    chosen = list(BORNE.items()) if PROVE else list(BORNE.items())[::3]
    async with client() as session:
        await ask(session, server, "yardling", max_tokens=2)
        before, bytes_before = pids(server), rss_bytes(server)

        wrong = []
        for name, fields in chosen:
            hostile, other = await asyncio.gather(answer_to(session, server, fields), answer_to(session, server, {}))
            status, code = hostile
            # The engine itself sometimes says that what it wrote does not fit: an error of its own, and typed.
            is_typed = status == 200 or (status == 400 and code) or hostile == (502, "upstream_error")
            if other != (200, "") or not is_typed:
                wrong.append((name, hostile, other))

        assert wrong == []
        async with session.get(server.url + "/livez") as response:
            assert response.status == 200
        assert pids(server) == before
        assert rss_bytes(server) - bytes_before < GROWTH_BYTES_MAX


# ---- what a request may not choose ----


async def test_nothing_that_a_request_names_is_connected_to(server: Server) -> None:
    connections = 0

    def count(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    sink = await asyncio.start_server(count, "127.0.0.1", 0)
    where = f"127.0.0.1:{sink.sockets[0].getsockname()[1]}"
    url = f"http://{where}/x"
    fields: list[dict[str, Any]] = [
        *({name: value} for name in (
            "api_base", "base_url", "api_key", "headers", "extra_headers", "extra_body", "extra_query", "proxy",
            "proxies", "custom_llm_provider", "api_version", "endpoint", "host", "webhook", "callback_url",
            "azure_endpoint",
            "organization", "fallbacks", "mock_response", "litellm_params", "metadata", "web_search_options",
        ) for value in (url, {"url": url, "api_base": url})),
        *(formatted({"$ref": reference}) for reference in (url, f"{url}#/a", f"//{where}/x", f"https://{where}/")),
        tool({"$ref": url}, tool_choice="required"),
        {"messages": [{"role": "user", "content": "hello", "api_base": url}]},
        {"stream_options": {"api_base": url, "include_usage": True}},
        *(said({"type": "image_url", "image_url": {"url": image}}) for image in (
            url, f"//{where}/x", f"HTTP://{where}/", f"ftp://{where}", f" {url}", f"data:image/png;base64,{url}",
            "file:///etc/passwd", "file://../../etc/passwd", "/etc/passwd", "../../../etc/passwd",
            "data:text/html;base64,AA",
            "data:image/png,AA", "data:image/svg+xml;base64,AA", "data:image/png;base64", "", "data:", "\0",
            "data:image/png;base64," + "A" * 5_000_000, "data:image/png;base64,!!!!", f"blob:{url}",
        )),
        *(said(part) for part in (
            {"type": "image_url", "image_url": url}, {"type": "image_url"},
            {"type": "input_audio", "input_audio": {"data": url}},
            {"type": "file", "file": {"file_data": url}}, {"type": "video_url", "video_url": {"url": url}},
        )),
    ]  # fmt: skip
    async with client() as session, sink:
        answers = [await answer_to(session, server, each) for each in fields]

    assert connections == 0
    assert [(f, a) for f, a in zip(fields, answers, strict=True) if a[0] not in (200, 400)] == []
    refused = [name for each, (status, _) in zip(fields, answers, strict=True) for name in each if status == 400]
    assert {"api_base", "base_url", "api_key", "headers", "extra_body", "proxy"} <= set(refused)
    images = [
        a for f, a in zip(fields, answers, strict=True) if isinstance(f.get("messages", [{}])[0].get("content"), list)
    ]
    assert len(images) == 25
    assert {status for status, _code in images} == {400}


async def test_a_body_that_only_looks_like_json_is_refused(server: Server) -> None:
    whole = json.dumps(chat_body("yardling", max_tokens=1)).encode()
    bodies = [
        b"", b"null", b"[]", b"7", b'"x"', b"{", whole[:-1], whole + b"x", b"\xef\xbb\xbf" + whole, b"\xff\xfe",
        whole * 2,
        b"[" * 100_000, b"{\"a\":" * 100_000, b"[" + b"[],"  * 200_000 + b"[]]", b"{" + b'"a":1,' * 300_000 + b'"b":1}',
        whole.replace(b"hello", b"\xff"), whole.replace(b"hello", b"\\ud800"), whole.replace(b"hello", b"\n"),
        whole.decode().encode("utf-16"), whole.decode().encode("utf-32"), b"\0" * 100,
        whole.replace(b'"yardling"', b"{}"),
    ]  # fmt: skip
    async with client() as session:
        statuses = []
        for body in bodies:
            status, raw = await post(session, server, body)
            statuses.append((status, json.loads(raw)["error"]["code"]))

    assert {status for status, _code in statuses} <= {400, 413}, statuses
