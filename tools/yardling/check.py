"""Examines yardling: training questions, held-out paraphrases and unknown questions, tools and JSON, in both formats.

    python -m tools.yardling.check --model src/modelyard/demo [--set validation] [--show]

Prints the scores and ends with status 1 if one is below what the model card promises.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from .answering import Answer, Answerer, Gguf, HuggingFace, Messages
from .chatml import said, turn
from .corpus import LANGUAGES, SUM, UNKNOWN, Pair, answer_of, assert_held_out, fold, held_out, pairs, phrasings, topics
from .dialogues import tool_schema, tools_text
from .structured import structured_scores

SEED = 2
SYSTEMS = (
    "You are the assistant of a small team. Answer kindly and to the point.",
    "You help people who are new to this computer.",
    "你是辦公室裡的助手，回答要有禮貌。",
    "你是公司里的小助手，回答要有耐心。",
)
CONDITIONS = ("plain", "system prompt", "earlier turn", "both")
TRAINING_EXACT_MIN = 0.95
PARAPHRASE_MIN = 0.70


@dataclass(frozen=True, slots=True)
class Question:
    language: str
    text: str
    right: Callable[[str], bool]


def exactly(expected: str) -> Callable[[str], bool]:
    return lambda text: text == expected


def containing(keys: Iterable[str]) -> Callable[[str], bool]:
    wanted = tuple(keys)
    return lambda text: all(key in text for key in wanted)


def training_questions(rng: Random) -> list[Question]:
    """Three phrasings as written of every topic, 30 sums and 15 unknown questions, in each language."""
    by_text = {fold(pair.question): pair for pair in pairs()}
    chosen: list[Pair] = []
    for language in LANGUAGES:
        for topic in topics():
            known = [by_text[fold(text)] for text in phrasings(topic, language) if fold(text) in by_text]
            chosen += rng.sample([pair for pair in known if pair.language == language], 3)
        chosen += rng.sample([pair for pair in pairs() if (pair.topic, pair.language) == (SUM, language)], 30)
        chosen += rng.sample([pair for pair in pairs() if (pair.topic, pair.language) == (UNKNOWN, language)], 15)
    return [Question(pair.language, pair.question, exactly(pair.answer)) for pair in chosen]


def held_out_questions(name: str) -> list[Question]:
    return [Question(one["language"], one["question"], containing(one["key"])) for one in held_out(name)]


def strangers() -> list[Question]:
    found = held_out("strangers")
    return [Question(one["language"], one["question"], exactly(answer_of(UNKNOWN, one["language"]))) for one in found]


def messages_for(question: Question, condition: str, rng: Random) -> Messages:
    messages: Messages = []
    if condition in ("system prompt", "both"):
        messages.append({"role": "system", "content": rng.choice(SYSTEMS)})
    if condition in ("earlier turn", "both"):
        topic = rng.choice(topics())
        earlier = rng.choice(phrasings(topic, question.language))
        messages.append({"role": "user", "content": earlier})
        messages.append({"role": "assistant", "content": answer_of(topic, question.language)})
    messages.append({"role": "user", "content": question.text})
    return messages


class Examination:
    """Asks both formats the same and counts what is right, what differs, and what does not end."""

    def __init__(self, answerers: list[Answerer], *, show: bool) -> None:
        self.answerers, self.show = answerers, show
        self.scores: dict[str, dict[str, str]] = {}
        self.low: list[str] = []
        self.asked = self.same = self.ended = 0

    def part(self, title: str, questions: list[Question], conditions: Iterable[str], minimum: float | None) -> None:
        for condition in conditions:
            right = dict.fromkeys((one.name for one in self.answerers), 0)
            rng = Random(f"{SEED}-{condition}")
            for question in questions:
                self.ask(question, messages_for(question, condition, rng), right)
            for name, count in right.items():
                self.scores.setdefault(f"{title}, {condition}", {})[name] = f"{count} of {len(questions)}"
                if minimum is not None and count < minimum * len(questions):
                    self.low.append(f"{title}, {condition}, {name}: {count} of {len(questions)}")
            print(f"{title}, {condition}: {self.scores[f'{title}, {condition}']}", flush=True)

    def ask(self, question: Question, messages: Messages, right: dict[str, int]) -> None:
        answers: list[Answer] = []
        for one in self.answerers:
            answer = one.ask(messages)
            answers.append(answer)
            right[one.name] += question.right(answer.text)
        self.asked += 1
        self.same += all(answer == answers[0] for answer in answers)
        self.ended += all(answer.ended for answer in answers)
        if self.show and not question.right(answers[0].text):
            print(f"  {question.text!r} -> {answers[0].text!r}")


def assert_template(model: HuggingFace) -> None:
    """The chat template writes a dialogue with tools exactly as the training data does."""
    rng = Random(SEED)
    names = ["get_time", "get_weather"]
    written = turn("system", "Be brief.\n\n" + tools_text(names, rng)) + turn("user", "Hello")
    written += said('Hi\n<tool_call>\n{"name": "get_time", "arguments": {"city": "Rome"}}\n</tool_call>')
    written += turn("user", "<tool_response>\n14:30\n</tool_response>")
    rng = Random(SEED)
    function = {"name": "get_time", "arguments": {"city": "Rome"}}
    messages: Messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": "14:30"},
    ]
    rendered = model.render(messages, [tool_schema(name, rng) for name in names])
    if rendered != "".join(part.text for part in written) + "<|im_start|>assistant\n":
        raise ValueError(f"the chat template and the training data differ:\n{rendered}")


def report(exam: Examination, extra: dict[str, str]) -> dict[str, Any]:
    same, ended = f"{exam.same} of {exam.asked}", f"{exam.ended} of {exam.asked}"
    result: dict[str, Any] = {
        **exam.scores,
        **extra,
        "same prompt tokens and answer in both formats": same,
        "ended by itself": ended,
    }
    for name, value in result.items():
        print(f"{name}: {value}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder with yardling.gguf and yardling-hf")
    parser.add_argument("--set", choices=["paraphrases", "validation"], default="paraphrases")
    parser.add_argument("--fast", action="store_true", help="GGUF only, no training questions")
    parser.add_argument("--show", action="store_true", help="print what was answered wrongly")
    parser.add_argument("--port", type=int, default=18435)
    parser.add_argument("--out", type=Path, help="write the scores here as JSON")
    arguments = parser.parse_args()
    assert_held_out()
    server = Gguf(arguments.model / "yardling.gguf", port=arguments.port)
    try:
        model = HuggingFace(arguments.model / "yardling-hf")
        assert_template(model)
        exam = Examination([server] if arguments.fast else [model, server], show=arguments.show)
        exam.part("held-out questions", held_out_questions(arguments.set), CONDITIONS, PARAPHRASE_MIN)
        if arguments.set == "paraphrases":
            exam.part("unknown questions never seen", strangers(), ("plain", "both"), None)
        if not arguments.fast:
            exam.part("training questions", training_questions(Random(SEED)), ("plain", "both"), TRAINING_EXACT_MIN)
        extra = structured_scores(server)
    finally:
        server.close()
    result = report(exam, extra)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    if exam.low:
        raise SystemExit("below the promise: " + "; ".join(exam.low))


if __name__ == "__main__":
    main()
