"""The built-in model: its files are small and complete, its card has numbers, its data is what the card says it is."""

from __future__ import annotations

import json
import re
from random import Random

import pytest
from tools.yardling import corpus
from tools.yardling.dialogues import dialogue

from modelyard.demo import gguf_path, hf_folder

SIZE_MAX = 10_000_000
TOGETHER_MAX = 20_000_000
CARD = gguf_path().parent / "CARD.md"


def test_the_gguf_file_is_small_enough_to_ship() -> None:
    assert gguf_path().stat().st_size <= SIZE_MAX


def test_both_formats_together_are_small_enough_to_ship() -> None:
    files = [gguf_path(), *hf_folder().iterdir()]

    assert sum(path.stat().st_size for path in files) <= TOGETHER_MAX


def test_the_gguf_header_carries_name_and_chat_template() -> None:
    content = gguf_path().read_bytes()

    assert content.startswith(b"GGUF")
    assert b"yardling" in content[:1000]
    assert template().encode() in content


def test_the_hugging_face_folder_is_complete() -> None:
    expected = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}

    assert {path.name for path in hf_folder().iterdir()} == expected


def test_both_formats_end_their_turn_with_the_same_token() -> None:
    tokenizer = json.loads((hf_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    numbers = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    generation = json.loads((hf_folder() / "generation_config.json").read_text(encoding="utf-8"))

    assert generation["eos_token_id"] == numbers["<|im_end|>"]


def test_the_shipped_template_is_the_one_in_the_workshop() -> None:
    source = corpus.DATA.parent / "chat_template.jinja"

    assert template() == source.read_text(encoding="utf-8").rstrip("\n")


def template() -> str:
    config = json.loads((hf_folder() / "tokenizer_config.json").read_text(encoding="utf-8"))
    return str(config["chat_template"])


def test_the_card_states_size_and_scores_as_measured() -> None:
    card = CARD.read_text(encoding="utf-8")

    assert f"{gguf_path().stat().st_size:,} bytes" in card
    assert len(re.findall(r"\b\d+ of 100\b", card)) >= 8
    assert re.search(r"same prompt tokens and answer in both formats\W+\d+ of \d+", card)


def test_every_topic_has_twelve_phrasings_in_each_language() -> None:
    few = {
        (topic, language): len(set(corpus.phrasings(topic, language)))
        for topic in corpus.topics()
        for language in corpus.LANGUAGES
        if len(set(corpus.phrasings(topic, language))) < 12
    }

    assert few == {}


def test_every_language_has_the_same_topics_and_key_phrases_from_their_answers() -> None:
    for language in corpus.LANGUAGES:
        entries = corpus.read(language)["topics"]

        assert list(entries) == corpus.topics()
        assert all(key in entry["answer"] for entry in entries.values() for key in entry["key"])


def test_there_are_three_hundred_unknown_questions() -> None:
    questions = {text for language in corpus.LANGUAGES for text in corpus.read("unknown")[language]["questions"]}

    assert len(questions) >= 300


def test_the_examination_has_a_hundred_paraphrases_in_three_languages() -> None:
    paraphrases = corpus.held_out("paraphrases")

    assert len(paraphrases) == 100
    assert {one["language"] for one in paraphrases} == set(corpus.LANGUAGES)
    assert all(one["key"] for one in paraphrases)


def test_no_held_out_question_is_in_the_training_data() -> None:
    corpus.assert_held_out()


def test_a_training_question_among_the_held_out_ones_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    leak = [{"question": "please, HOW do I start the server"}]
    monkeypatch.setattr(corpus, "held_out", lambda name: leak if name == "paraphrases" else [])

    with pytest.raises(ValueError, match="paraphrases are also in training"):
        corpus.assert_held_out()


def test_no_text_has_two_answers() -> None:
    asked = [corpus.fold(pair.question) for pair in corpus.pairs()]

    assert len(asked) == len(set(asked))


def test_every_sum_is_right() -> None:
    sums = [pair.answer for pair in corpus.pairs() if pair.topic == corpus.SUM]

    for text in set(sums):
        left, result = text.split(" = ")
        a, op, b = left.split(" ")
        assert int(result) == (int(a) + int(b) if op == "+" else int(a) - int(b))


def test_dialogues_depend_on_the_seed_alone() -> None:
    one = [dialogue(Random(f"seed-{number}")) for number in range(50)]
    again = [dialogue(Random(f"seed-{number}")) for number in range(50)]
    other = [dialogue(Random(f"another-{number}")) for number in range(50)]

    assert one == again
    assert one != other


def test_dialogues_have_system_prompts_earlier_turns_tools_and_json() -> None:
    texts = ["".join(part.text for part in dialogue(Random(f"kinds-{number}"))) for number in range(400)]

    assert any(text.startswith("<|im_start|>system") for text in texts)
    assert any(text.startswith("<|im_start|>user") for text in texts)
    assert {text.count("<|im_start|>assistant") for text in texts} >= {1, 2, 3, 4}
    assert any("<tools>" in text and '<tool_call>\n{"name": "get_time"' in text for text in texts)
    assert any("<tool_response>" in text for text in texts)
    assert any('"name":"yardling"' in text for text in texts)
