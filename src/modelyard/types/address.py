"""Where a worker listens: a private Unix socket, or a port on loopback for an engine that cannot use one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class LoopbackPort:
    """A port of 127.0.0.1, and the token that the worker there wants to see; empty: it asks for none."""

    number: int
    token: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{LOOPBACK}:{self.number}"

    @property
    def headers(self) -> str:
        """The lines of a request's head that are for this worker."""
        credential = f"Authorization: Bearer {self.token}\r\n" if self.token else ""
        return f"Host: {self}\r\n{credential}"


Address = Path | LoopbackPort
