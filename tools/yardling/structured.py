"""Examines what an API client relies on beside words: tool calls, their results, and JSON that follows a schema."""

from __future__ import annotations

import json
from typing import Any

from .answering import Gguf, Messages

KINDS = {"get_time": ("time", "What time is it in {}?"), "get_weather": ("weather", "What is the weather in {}?")}
CITIES = ("Taipei", "Tokyo", "London", "Paris", "Berlin", "Rome", "Seoul", "Oslo", "Cairo", "Vienna")
RESULTS = {"get_time": ("14:30", "09:05"), "get_weather": ("sunny", "rainy, 12 °C")}
FIELDS: dict[str, dict[str, Any]] = {
    "name": {"type": "string"},
    "language": {"type": "string"},
    "answer": {"type": "string"},
    "count": {"type": "integer"},
    "ok": {"type": "boolean"},
    "score": {"type": "number"},
    "colour": {"type": "string"},
    "tags": {"type": "array", "items": {"type": "string"}},
}
SCHEMAS = (("name", "language"), ("answer",), ("count", "ok"), ("name", "tags"), ("colour", "score"))
PROMPTS = ("Describe yourself as JSON", "Hello", "3 + 4", "How do I start the server?", "Who wrote Faust?", "你是誰？")
JSON_TOKENS_MAX = 120


def tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    description = f"Get the current {KINDS[name][0]} in a city"
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def schema(fields: tuple[str, ...]) -> dict[str, Any]:
    properties = {field: FIELDS[field] for field in fields}
    shape = {"type": "object", "properties": properties, "required": list(fields), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": shape}}


def structured_scores(server: Gguf) -> dict[str, str]:
    return {
        "tool called with the right city": tool_calls(server),
        "tool result put into words": tool_results(server),
        "tool call when one is required": required_calls(server),
        "no tool call for a greeting": greetings(server),
        "JSON schema followed and ended": schemas(server),
    }


def called(choice: dict[str, Any]) -> tuple[str, str] | None:
    """The name and the city of the only tool call, if there is one."""
    calls = choice["message"].get("tool_calls") or []
    if len(calls) != 1:
        return None
    try:
        arguments = json.loads(calls[0]["function"]["arguments"])
    except json.JSONDecodeError:
        return None
    return calls[0]["function"]["name"], str(arguments.get("city"))


def tool_calls(server: Gguf) -> str:
    right = 0
    for name, (_, question) in KINDS.items():
        for city in CITIES:
            messages = [{"role": "user", "content": question.format(city)}]
            right += called(server.chat(messages, tools=[tool(one) for one in KINDS])) == (name, city)
    return f"{right} of {len(KINDS) * len(CITIES)}"


def tool_results(server: Gguf) -> str:
    right = asked = 0
    for name, (kind, question) in KINDS.items():
        for city, value in ((city, value) for city in CITIES[:5] for value in RESULTS[name]):
            function = {"name": name, "arguments": json.dumps({"city": city})}
            calls = [{"id": "1", "type": "function", "function": function}]
            messages: Messages = [
                {"role": "user", "content": question.format(city)},
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "tool_call_id": "1", "content": json.dumps({kind: value}, ensure_ascii=False)},
            ]
            text = server.chat(messages, tools=[tool(name)])["message"]["content"] or ""
            asked += 1
            right += city in text and value in text
    return f"{right} of {asked}"


def required_calls(server: Gguf) -> str:
    messages = [[{"role": "user", "content": text}] for text in (*PROMPTS, "What time is it in Rome?")]
    made = [called(server.chat(one, tools=[tool("get_time")], tool_choice="required")) for one in messages]
    return f"{sum(one is not None for one in made)} of {len(made)}"


def greetings(server: Gguf) -> str:
    texts = ("Hello", "Hi there", "你好", "謝謝", "Good morning", "再见", "How do I start the server?", "3 + 4")
    choices = [server.chat([{"role": "user", "content": text}], tools=[tool("get_time")]) for text in texts]
    return f"{sum(called(choice) is None for choice in choices)} of {len(texts)}"


def schemas(server: Gguf) -> str:
    right = asked = 0
    for prompt in PROMPTS:
        for fields in SCHEMAS:
            messages = [{"role": "user", "content": prompt}]
            choice = server.chat(messages, response_format=schema(fields), max_tokens=JSON_TOKENS_MAX)
            asked += 1
            right += choice["finish_reason"] == "stop" and parses(choice["message"]["content"], fields)
    return f"{right} of {asked}"


def parses(text: str, fields: tuple[str, ...]) -> bool:
    try:
        return list(json.loads(text)) == list(fields)
    except json.JSONDecodeError:
        return False
