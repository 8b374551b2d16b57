"""How many tokens a prompt may have, without a tokenizer: a bound that is never too low, and an estimate. Pure.

The bound costs next to nothing and settles nearly every request: no tokenizer makes more tokens than a text has bytes.
Only who may be over a limit is counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from modelyard.types.chat import ImagePart, InferenceRequest, Message, Tool

from .trimming import text_of

SIGN_BYTES_MAX = 4  # of one character in UTF-8
BYTES_PER_TOKEN = 3  # English has about four, Chinese about three: rather too many tokens than too few
MESSAGE_TOKENS = 16  # what a template writes around a message
SAMPLE_CHARS = 4096  # of a text that is not plain ASCII: its beginning tells how many bytes a character has
TEMPLATE_TOKENS = 256  # what it writes by itself, a system message of its own included
IMAGE_TOKENS = 1024  # of an image; nobody but the engine can tell


def tokens_at_most(request: InferenceRequest) -> int:
    """More than the prompt can have.

    >>> tokens_at_most(InferenceRequest("m", prompt="x" * 100))
    356
    """
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    count = TEMPLATE_TOKENS + bytes_at_most(request.suffix or "")
    if request.prompt is not None:
        return count + bytes_at_most(request.prompt)
    count += sum(message_at_most(message) for message in request.messages)
    return count + (TEMPLATE_TOKENS + 2 * _tool_bytes(request.tools) if request.tools else 0)


def message_at_most(message: Message) -> int:
    """More than one message can have."""
    count = MESSAGE_TOKENS + bytes_at_most(text_of(message)) + bytes_at_most(message.reasoning or "")
    for call in message.tool_calls:
        count += MESSAGE_TOKENS + bytes_at_most(call.name) + bytes_at_most(call.arguments)
    return count + IMAGE_TOKENS * _image_count(message)


def bytes_at_most(text: str) -> int:
    """Known without looking at the text."""
    return len(text) if text.isascii() else SIGN_BYTES_MAX * len(text)


def tokens_about(request: InferenceRequest) -> int:
    """An estimate, for where no tokenizer can be asked.

    >>> tokens_about(InferenceRequest("m", (Message("user", "x" * 300),)))
    116
    """
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    if request.prompt is not None:
        return text_about(request.prompt) + text_about(request.suffix or "")
    return sum(messages_about(request.messages)) + _tool_bytes(request.tools) // BYTES_PER_TOKEN


def messages_about(messages: Sequence[Message]) -> list[int]:
    """An estimate for each message."""
    return [
        MESSAGE_TOKENS
        + text_about(text_of(message))
        + text_about(message.reasoning or "")
        + sum(text_about(call.name) + text_about(call.arguments) for call in message.tool_calls)
        + IMAGE_TOKENS * _image_count(message)
        for message in messages
    ]


def text_about(text: str) -> int:
    """An estimate for a text, without looking at all of it."""
    size = len(text)
    if not text.isascii():
        sample = text[:SAMPLE_CHARS]
        size = len(sample.encode(errors="replace")) * len(text) // len(sample)
    return -(-size // BYTES_PER_TOKEN)


def has_images(request: InferenceRequest) -> bool:
    """Whether a part of the prompt is no text."""
    return any(_image_count(message) for message in request.messages)


def _image_count(message: Message) -> int:
    return sum(isinstance(part, ImagePart) for part in message.content) if isinstance(message.content, tuple) else 0


def _tool_bytes(tools: Sequence[Tool]) -> int:
    names = sum(len(tool.name) + SIGN_BYTES_MAX * len(tool.description or "") for tool in tools)
    return names + sum(len(orjson.dumps(tool.parameters)) for tool in tools if tool.parameters)
