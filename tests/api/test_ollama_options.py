"""Every option of Ollama's with every kind of nonsense: refused, dropped, or in range when it reaches the engine."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from modelyard.api.ollama_body import OptionsBody

from .data_plane import data_plane

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": False}
RANGES = {
    "max_tokens": (1, 2**31), "temperature": (0, 5), "top_k": (0, 1e6), "top_p": (0, 1), "min_p": (0, 1),
    "typical_p": (0, 1), "seed": (-1, 2**32), "repeat_last_n": (-1, 1e6), "repeat_penalty": (0, 10),
    "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2), "mirostat": (0, 2), "mirostat_tau": (0, 100),
    "mirostat_eta": (0, 10),
}  # fmt: skip
NONSENSE = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "-5", "0", "1", "-0.0", "1e308", "9223372036854775808",
    "-9223372036854775809", "1" + "0" * 400, "0.5", "true", '"1"', '"NaN"', "[]", "[1]", "{}", "null", "[null]",
)  # fmt: skip


@pytest.mark.parametrize("name", [*OptionsBody.__struct_fields__, "n_discard", "num_gpu", "__proto__"])
async def test_no_nonsense_reaches_an_engine(name: str) -> None:
    async with data_plane() as plane:
        for value in NONSENSE:
            head = json.dumps(CHAT)[:-1]
            answer = await plane.ask(f'{head}, "options": {{"{name}": {value}}}}}'.encode(), "/api/chat")

            assert answer.status in (200, 400), (name, value)
        for asked in plane.worker.bodies:
            for option, (low, high) in RANGES.items():
                if option in asked:
                    number = asked[option]
                    assert type(number) in (int, float), (option, number)
                    assert math.isfinite(number), (option, number)
                    assert low <= number <= high, (option, number)
            known = {"model", "messages", "stream", "stream_options", "return_progress", "stop", *RANGES}
            assert asked.keys() <= known
