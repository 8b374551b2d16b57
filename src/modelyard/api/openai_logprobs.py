"""Logprobs in the shape of plain completions: parallel lists instead of one object per token. Pure."""

from __future__ import annotations

from typing import Any


def legacy_logprobs(logprobs: Any, offset: int) -> dict[str, object] | None:
    """Logprobs in the shape of plain completions. Engines give the shape of chats for both; ours may come ready."""
    if not isinstance(logprobs, dict) or not isinstance(content := logprobs.get("content"), list):
        return logprobs if isinstance(logprobs, dict) else None
    tokens = [str(item.get("token", "")) for item in content]
    offsets: list[int] = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [item.get("logprob") for item in content],
        "top_logprobs": [
            {str(top.get("token", "")): top.get("logprob") for top in item.get("top_logprobs") or ()}
            for item in content
        ],
        "text_offset": offsets,
    }
