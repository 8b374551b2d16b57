"""The tokenizer: byte-level BPE, trained on the written data, cut the way llama.cpp's `qwen2` pre-tokenizer cuts.

While it is trained, every Chinese character stands alone, so no merge crosses two of them: a sentence is read
character by character, however it is put together.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .chatml import Dialogue
from .corpus import LANGUAGES, pairs, phrasings, read, topics
from .dialogues import dialogue

SIZE = 3072
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# What llama.cpp does for `tokenizer.ggml.pre = qwen2`; both formats must cut alike to give the same tokens.
PRE_TOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
HAN = r"\p{Han}"


def train(seed: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = cutter(single_characters=True)
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - 3, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(texts(seed), trainer)
    tokenizer.pre_tokenizer = cutter(single_characters=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, START, END)])
    return tokenizer


def cutter(*, single_characters: bool) -> pre_tokenizers.PreTokenizer:
    steps = [pre_tokenizers.Split(Regex(PRE_TOKENIZER), "isolated")]
    if single_characters:
        steps.append(pre_tokenizers.Split(Regex(HAN), "isolated"))
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def texts(seed: int) -> Iterator[str]:
    """What people wrote, every answer, and some whole dialogues so that the marks between turns get tokens too."""
    for language in LANGUAGES:
        for topic in topics():
            yield from phrasings(topic, language) * 3
        yield from read("unknown")[language]["questions"] * 2
        yield from read("unknown")[language]["subjects"] * 2
        yield from read(language)["frames"]
    yield from sorted({pair.answer for pair in pairs()})
    for number in range(3000):
        for part in dialogue(Random(f"vocabulary-{seed}-{number}")):
            if not part.special:
                yield part.text


def encode(tokenizer: Tokenizer, parts: Dialogue) -> tuple[list[int], list[bool]]:
    """Token numbers and which of them count in the loss.

    Text between two marks is encoded as one string, as at run time; a token is learned when its first character is.
    """
    ids: list[int] = []
    learn: list[bool] = []
    text, spans = "", [(0, False)]
    for part in [*parts, None]:
        if part is not None and not part.special:
            spans.append((len(text), part.learn))
            text += part.text
            continue
        if text:
            coding = tokenizer.encode(text, add_special_tokens=False)
            ids += coding.ids
            learn += [next(flag for at, flag in reversed(spans) if at <= first) for first, _ in coding.offsets]
        text, spans = "", [(0, False)]
        if part is not None:
            number = tokenizer.token_to_id(part.text)
            assert number is not None
            ids.append(number)
            learn.append(part.learn)
    return ids, learn
