"""How long each phase of an answer may take. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Each one counts from the last sign of progress in its phase; an answer as a whole has none."""

    connect_s: float = 2.0
    queue_s: float = 300.0  # waiting for memory and a slot
    first_token_s: float = 300.0  # extended by every sign that the prompt is being read
    between_tokens_s: float = 30.0  # counted from the last progress of any slot of the worker
    exit_news_s: float = 0.5  # a connection may end this long before we hear that the process did
    load_s: float = 300.0  # at another node: for bringing the model in, before anything is heard,
    load_s_per_gib: float = 20.0  # and this much more for each GiB of it
