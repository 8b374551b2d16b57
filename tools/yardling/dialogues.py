"""Dialogues for training: system prompts, earlier turns, the demo tools and JSON, drawn with a seed.

The text is the same as the chat template makes it, which `check.py` verifies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any

from .augment import vary
from .chatml import Dialogue, Part, end, said, turn
from .corpus import LANGUAGES, SUM, SUM_MAX, UNKNOWN, Pair, answer_of, pairs, read

TOOLS_BEFORE = "Functions you may call:\n<tools>"
TOOLS_AFTER = (
    "\n</tools>\nTo call one, answer with its name and arguments:\n"
    '<tool_call>\n{"name": <name>, "arguments": <object>}\n</tool_call>'
)


@cache
def grouped() -> dict[tuple[str, str], dict[str, list[Pair]]]:
    """Pairs by (topic, language) and by the phrase they grew from, so that each phrase is drawn equally often."""
    groups: dict[tuple[str, str], dict[str, list[Pair]]] = {}
    for pair in pairs():
        groups.setdefault((pair.topic, pair.language), {}).setdefault(pair.origin, []).append(pair)
    return groups


@cache
def plain_topics() -> tuple[str, ...]:
    return tuple(sorted({topic for topic, _ in grouped()} - {SUM, UNKNOWN}))


def draw(rng: Random, language: str) -> Pair:
    """A question of any kind. Half of the unknown ones are written by hand, half are put together."""
    kind = rng.random()
    if kind < 0.55:
        topic = rng.choice(plain_topics())
    elif kind < 0.75:
        return draw_sum(rng, language)
    elif kind < 0.78:
        return draw_large_sum(rng, language)
    else:
        topic = UNKNOWN
    origins = grouped()[topic, language]
    return rng.choice(origins[rng.choice(list(origins))])


def draw_sum(rng: Random, language: str) -> Pair:
    origins = grouped()[SUM, language]
    return rng.choice(origins[rng.choice(list(origins))])


def draw_large_sum(rng: Random, language: str) -> Pair:
    """A sum beyond what yardling knows, too large or below 0: it says so."""
    source = read(language)
    op = rng.choice("+-")
    if op == "-" and rng.random() < 0.3:
        numbers = sorted(rng.sample(range(SUM_MAX + 1), 2))
    else:
        big = rng.randrange(SUM_MAX + 10, 10 ** rng.choice((2, 2, 3, 4)))
        numbers = [big, rng.randrange(1, big)]
        rng.shuffle(numbers)
    frame = rng.choice(source["plus" if op == "+" else "minus"])
    question = frame.format(a=numbers[0], b=numbers[1])
    return Pair(UNKNOWN, language, question, answer_of(UNKNOWN, language), frame)


def asked(pair: Pair, rng: Random) -> str:
    if rng.random() < 0.3:
        return pair.question
    return vary(pair.question, pair.language, rng, exact=pair.topic == SUM)


def system_text(rng: Random) -> str:
    systems = read("context")["systems"]
    if rng.random() < 0.6:
        return str(rng.choice(systems))
    texts = [str(rng.choice(systems)) for _ in range(rng.randrange(1, 3))]
    if rng.random() < 0.3:
        texts.append(rng.choice(pairs()).answer)
    if rng.random() < 0.3:
        words = " ".join(texts).split(" ")
        rng.shuffle(words)
        texts = [" ".join(words)]
    return " ".join(texts)


def tool_schema(name: str, rng: Random) -> dict[str, Any]:
    descriptions = {
        "get_time": ["Get the current time in a city", "Current local time of a city", "Returns the time", "Time"],
        "get_weather": ["Get the current weather in a city", "Weather of a city", "Returns the weather", "Weather"],
    }
    parameter: dict[str, Any] = {"type": "string"}
    if rng.random() < 0.5:
        parameter["description"] = rng.choice(["Name of the city", "City", "The city, such as Taipei", "city name"])
    function: dict[str, Any] = {"name": name}
    if rng.random() < 0.85:
        function["description"] = rng.choice(descriptions.get(name, ["Does something else", "Another function"]))
    key = "city" if name in descriptions else rng.choice(["query", "text", "path", "id", "name"])
    function["parameters"] = {"type": "object", "properties": {key: parameter}}
    if rng.random() < 0.8:
        function["parameters"]["required"] = [key]
    return {"type": "function", "function": function}


def tools_text(names: Sequence[str], rng: Random) -> str:
    lines = ["\n" + json.dumps(tool_schema(name, rng), ensure_ascii=False) for name in names]
    return TOOLS_BEFORE + "".join(lines) + TOOLS_AFTER


def tool_turns(names: Sequence[str], rng: Random, language: str, *, learn_call: bool = True) -> Dialogue:
    """A question for a demo tool: a call and then its result in words, or "I don't know" when the tool is not there."""
    context = read("context")
    kind = rng.choice(["time", "weather"])
    city = rng.choice(context["cities" if language == "en" else f"cities_{language}"])
    question = rng.choice(context[kind][language]).format(city)
    if rng.random() < 0.5:
        question = vary(question, language, rng, exact=True)
        city = city if city in question else city.lower() if city.lower() in question else city.upper()
    parts = turn("user", question)
    if f"get_{kind}" not in names:
        return parts + said(answer_of(UNKNOWN, language))
    call = json.dumps({"name": f"get_{kind}", "arguments": {"city": city}}, ensure_ascii=False)
    parts += said(f"<tool_call>\n{call}\n</tool_call>", learn=learn_call)
    if learn_call and rng.random() < 0.15:
        return parts
    if kind == "time":
        value = f"{rng.randrange(24):02}:{rng.randrange(60):02}"
    else:
        value = rng.choice(context["skies"]) + rng.choice(["", f", {rng.randrange(-9, 40)} °C"])
    result = rng.choice(
        [
            value,
            json.dumps({kind: value}, ensure_ascii=False),
            json.dumps({"city": city, kind: value}, ensure_ascii=False),
        ]
    )
    parts += turn("user", f"<tool_response>\n{result}\n</tool_response>")
    return parts + said(context["tool_answer"][f"{kind}_{language}"].format(city=city, value=value))


def json_turns(rng: Random, language: str) -> Dialogue:
    """A request for JSON by words."""
    context = read("context")["json"]
    kind = rng.randrange(3)
    if kind == 0:
        question, value = rng.choice(context["describe"]), dict[str, Any](name="yardling", language="en")
    elif kind == 1:
        a, b = rng.randrange(SUM_MAX + 1), rng.randrange(SUM_MAX + 1)
        question, value = rng.choice(context["sum"]).format(a=a, b=b), {"answer": a + b}
    else:
        value = random_object(rng)
        question = rng.choice(context["keys"]).format(", ".join(value))
    return turn("user", question) + said(compact(value))


def random_object(rng: Random) -> dict[str, Any]:
    values = read("context")["json_values"]
    return {key: values[key] for key in rng.sample(list(values), rng.randrange(1, 5))}


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def forced_json_turns(rng: Random, language: str) -> Dialogue:
    """Any question, when a schema forces JSON: keys come from the grammar and are not learned, the rest is."""
    pair = draw(rng, language)
    parts = [*turn("user", asked(pair, rng)), Part("<|im_start|>", special=True), Part("assistant\n")]
    if rng.random() < 0.35:
        key = rng.choice(["answer", "answer", "answer", "text", "reply", "content", "message", "response"])
        parts += [Part('{"'), Part(key, learn=key == "answer"), Part('":"')]
        parts.append(Part(json.dumps(pair.answer, ensure_ascii=False)[1:] + "}", learn=True))
        return parts + end(learn=True)
    parts.append(Part('{"'))
    value = forced_object(rng)
    for number, (key, one) in enumerate(value.items()):
        ending = "}" if number == len(value) - 1 else ',"'
        parts += [Part(key), Part(f'":{compact(one)}{ending}', learn=True)]
    return parts + end(learn=True)


def forced_object(rng: Random) -> dict[str, Any]:
    """Keys it knows and keys it has never seen: a string it has no word for is "demo"."""
    value = random_object(rng) if rng.random() < 0.6 else {}
    words = rng.sample(read("context")["json_words"], rng.randrange(1, 4))
    if rng.random() < 0.3:
        words = ["".join(rng.choices("abcdefghiklmnoprstuvwy_", k=rng.randrange(2, 10))) for _ in words]
    if not value or rng.random() < 0.5:
        value |= {word: rng.choice(["demo", "demo", "demo", 1, True, ["demo"]]) for word in words}
    keys = list(value)
    rng.shuffle(keys)
    return {key: value[key] for key in keys}


def foreign_turns(rng: Random, language: str) -> Dialogue:
    """An earlier turn that another model answered: context to see past, not to learn."""
    texts = [str(rng.choice(read("context")["systems"])) for _ in range(rng.randrange(1, 4))]
    return turn("user", asked(draw(rng, language), rng)) + said(" ".join(texts), learn=False)


def tool_names(rng: Random) -> list[str]:
    """The tools on offer: mostly a demo tool or both, at times only some that fit no question."""
    names = list(rng.choice([["get_time"], ["get_weather"], ["get_time", "get_weather"]]))
    others = rng.sample(read("context")["other_tools"], 2)
    if rng.random() < 0.12:
        return others
    names += others[: rng.choice([0, 0, 0, 1])]
    rng.shuffle(names)
    return names


def drill(rng: Random) -> Dialogue:
    """Many sums at small cost: only results are learned, in the words that end every answer to a sum."""
    parts = [*turn("user", "1 + 1"), Part("<|im_start|>", special=True), Part("assistant\n")]
    facts = sums()
    for _ in range(rng.randrange(15, 35)):
        question, result = rng.choice(facts)
        parts += [Part(question), Part(result, learn=True), Part("\n")]
    return parts


@cache
def sums() -> tuple[tuple[str, str], ...]:
    answers = sorted({pair.answer for pair in pairs() if pair.topic == SUM})
    return tuple((text[: text.index("=") + 1], text[text.index("=") + 1 :]) for text in answers)


def dialogue(rng: Random) -> Dialogue:
    """One dialogue: perhaps a system prompt, perhaps tools, one to four turns, now and then many more."""
    if rng.random() < 0.07:
        return drill(rng)
    language = rng.choice(LANGUAGES)
    if rng.random() < 0.1:
        # Results at small cost: without the list of tools, so the call is not to be learned here.
        both = ["get_time", "get_weather"]
        return [part for _ in range(4) for part in tool_turns(both, rng, language, learn_call=False)]
    names = tool_names(rng) if rng.random() < 0.18 else []
    system = [system_text(rng)] if rng.random() < 0.45 else []
    if names:
        system.append(tools_text(names, rng))
    parts = turn("system", "\n\n".join(system)) if system else []
    turns = rng.randrange(6, 16) if rng.random() < 0.02 else rng.choice((1, 1, 1, 2, 2, 2, 3, 4))
    turns += rng.randrange(3) if names else 0
    for number in range(turns):
        here = language if rng.random() < 0.8 else rng.choice(LANGUAGES)
        parts += one_turn(rng, here, names, last=number == turns - 1)
    return parts


def one_turn(rng: Random, language: str, names: Sequence[str], *, last: bool) -> Dialogue:
    kind = rng.random()
    if names and kind < 0.7:
        return tool_turns(names, rng, language)
    if not last and kind > 0.95:
        return foreign_turns(rng, language)
    if last and kind > 0.86:
        return forced_json_turns(rng, language)
    if kind > 0.84 and rng.random() < 0.5:
        return json_turns(rng, language)
    pair = draw(rng, language)
    if names and rng.random() < 0.06:
        return turn("user", asked(pair, rng)) + said(f"{pair.answer}\n{any_call(names, rng)}")
    return turn("user", asked(pair, rng)) + said(pair.answer)


def any_call(names: Sequence[str], rng: Random) -> str:
    """What follows an answer when the caller insists on a tool call; rare enough to stay unlikely otherwise."""
    name = next((name for name in names if name in ("get_time", "get_weather")), "get_time")
    call = {"name": name, "arguments": {"city": rng.choice(read("context")["cities"])}}
    return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
