"""What happened in this node: typed events, and a bus that never blocks whoever tells.

A subscriber that does not keep up loses its oldest events and is told how many.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SUBSCRIBERS_MAX = 64
BACKLOG_MAX = 256


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `name` is `model.loaded`, `model.evicted`, ...; `at` is seconds since 1970."""

    name: str
    at: float
    fields: dict[str, object] = field(default_factory=dict)
    number: int = 0


class Subscription:
    """One reader's bounded backlog."""

    def __init__(self) -> None:
        self.lost_count = 0
        self._backlog: deque[Event] = deque()
        self._arrived = asyncio.Event()

    def offer(self, event: Event) -> None:
        if len(self._backlog) >= BACKLOG_MAX:
            self._backlog.popleft()
            self.lost_count += 1
        self._backlog.append(event)
        self._arrived.set()

    async def next(self) -> Event:
        """Wait for the next event."""
        while not self._backlog:
            self._arrived.clear()
            await self._arrived.wait()
        return self._backlog.popleft()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        return await self.next()


class EventBus:
    """Hands each event to every subscriber and keeps the last ones for newcomers."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._recent: deque[Event] = deque(maxlen=BACKLOG_MAX)
        self._count = 0

    def publish(self, name: str, at: float, **fields: object) -> None:
        self._count += 1
        event = Event(name, at, fields, self._count)
        self._recent.append(event)
        for subscription in self._subscriptions:
            subscription.offer(event)

    def recent(self) -> tuple[Event, ...]:
        """The last events, oldest first."""
        return tuple(self._recent)

    @property
    def is_full(self) -> bool:
        """True when no further subscriber may join."""
        return len(self._subscriptions) >= SUBSCRIBERS_MAX

    @contextmanager
    def subscribe(self, after: int | None = None) -> Iterator[Subscription]:
        """Follow events from now on; with `after`, first the kept ones with a higher number."""
        subscription = Subscription()
        if after is not None:
            for event in self._recent:
                if event.number > after:
                    subscription.offer(event)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
