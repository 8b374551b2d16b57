"""Nodes of the routing simulator: memory, loads one at a time, evictions as Ollama does them, slots, prompt caches.

A node decides nothing about routing; it takes what it is given and tells what happened. Seconds are simulated.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .routing_traces import Ask, Machine

KEEP_ALIVE_S = 300.0
LOAD_S_LEAST = 1.5
READING = 20.0  # reading a prompt is that much faster than writing
CROWD = 0.15  # what each further answer costs all others of a node
CACHED_PER_SLOT = 2
OVERHEAD_GB = 0.8  # a model in memory is larger than its file


class Timeline:
    """What happens when, in simulated seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), do))

    def run(self) -> None:
        while self._events:
            self.now, _number, do = heapq.heappop(self._events)
            do()


@dataclass(slots=True, eq=False)
class Run:
    """One request on its way through a node."""

    ask: Ask
    began: Callable[[], None]  # its first token is there
    ended: Callable[[], None]
    lost: Callable[[], None]  # the node failed
    speed: float = 0.0  # of its answer
    is_over: bool = False


@dataclass(slots=True, eq=False)
class Copy:
    """A model in a node's memory."""

    model: str
    size_gb: float
    ready_at: float
    used_at: float
    running: int = 0
    is_leaving: bool = False  # takes nobody new, so that another model gets its memory
    waiting: deque[Run] = field(default_factory=deque)
    cached: OrderedDict[str, int] = field(default_factory=OrderedDict)  # session -> tokens that were read

    @property
    def is_idle(self) -> bool:
        return not self.running and not self.waiting


class Node:
    """One machine."""

    def __init__(self, machine: Machine, sizes_gb: dict[str, float], timeline: Timeline) -> None:
        self.machine, self._sizes_gb, self._timeline = machine, sizes_gb, timeline
        self.copies: dict[str, Copy] = {}
        self.is_down = False
        self.loads = self.evictions = 0
        self._pending: deque[Run] = deque()  # for models that are not in memory, in the order they came
        self._live: set[Run] = set()
        self._life = 0

    @property
    def free_gb(self) -> float:
        return self.machine.memory_gb - sum(copy.size_gb for copy in self.copies.values())

    def holds(self, model: str) -> bool:
        return model in self.copies and not self.copies[model].is_leaving

    def has_read(self, ask: Ask) -> bool:
        return self.holds(ask.model) and ask.session in self.copies[ask.model].cached

    def fits(self, model: str) -> bool:
        return self._sizes_gb[model] + OVERHEAD_GB <= self.machine.memory_gb

    def take(self, run: Run) -> None:
        self._live.add(run)
        if self.holds(run.ask.model):
            self.copies[run.ask.model].waiting.append(run)
            self._serve(self.copies[run.ask.model])
        else:
            self._pending.append(run)
            self._make_room()

    def fail(self) -> None:
        """It goes down with all it had."""
        self.is_down, self._life = True, self._life + 1
        lost, self._live = self._live, set()
        self.copies.clear()
        self._pending.clear()
        for run in sorted(lost, key=lambda run: (run.ask.at, run.ask.session)):
            run.is_over = True
            run.lost()

    def recover(self) -> None:
        self.is_down = False

    def _later(self, seconds: float, do: Callable[[], None]) -> None:
        life = self._life
        self._timeline.at(self._timeline.now + seconds, lambda: do() if self._life == life else None)

    def _make_room(self) -> None:
        """For whoever waits longest; nobody overtakes."""
        while self._pending:
            model = self._pending[0].ask.model
            if not self.holds(model):
                if model in self.copies or not self._has_room(self._sizes_gb[model] + OVERHEAD_GB):
                    return
                self._load(model)
            copy = self.copies[model]
            mine = [run for run in self._pending if run.ask.model == model]
            self._pending = deque(run for run in self._pending if run.ask.model != model)
            copy.waiting.extend(mine)
            self._serve(copy)

    def _has_room(self, need_gb: float) -> bool:
        """Sends away who was not used for longest. Who is busy leaves when it is not."""
        coming = self.free_gb + sum(copy.size_gb for copy in self.copies.values() if copy.is_leaving)
        for copy in sorted(self.copies.values(), key=lambda copy: (not copy.is_idle, copy.used_at)):
            if coming >= need_gb:
                break
            if not copy.is_leaving:
                copy.is_leaving = True
                coming += copy.size_gb
        for copy in [copy for copy in self.copies.values() if copy.is_leaving and copy.is_idle]:
            del self.copies[copy.model]
            self.evictions += 1
        return self.free_gb >= need_gb

    def _load(self, model: str) -> None:
        now = self._timeline.now
        loading_until = max((copy.ready_at for copy in self.copies.values()), default=now)  # one at a time
        size = self._sizes_gb[model]
        ready_at = max(now, loading_until) + LOAD_S_LEAST + size / self.machine.load_gb_per_s
        copy = self.copies[model] = Copy(model, size + OVERHEAD_GB, ready_at, ready_at)
        self.loads += 1
        self._later(ready_at - now, lambda: self._serve(copy))

    def _serve(self, copy: Copy) -> None:
        now = self._timeline.now
        while copy.waiting and copy.ready_at <= now and copy.running < self.machine.slots:
            self._answer(copy, copy.waiting.popleft())

    def _answer(self, copy: Copy, run: Run) -> None:
        ask = run.ask
        copy.running += 1
        others = sum(one.running for one in self.copies.values()) - 1
        run.speed = self.machine.tokens_gb_per_s / self._sizes_gb[ask.model] / (1 + CROWD * others)
        known = min(copy.cached.pop(ask.session, 0), ask.prompt_tokens)
        copy.cached[ask.session] = ask.prompt_tokens + ask.answer_tokens
        while len(copy.cached) > CACHED_PER_SLOT * self.machine.slots:
            copy.cached.popitem(last=False)
        first_s = (ask.prompt_tokens - known) / (run.speed * READING) + 1 / run.speed
        self._later(first_s, run.began)
        self._later(first_s + (ask.answer_tokens - 1) / run.speed, lambda: self._end(copy, run))

    def _end(self, copy: Copy, run: Run) -> None:
        copy.running -= 1
        copy.used_at = used_at = self._timeline.now
        self._live.discard(run)
        run.is_over = True
        run.ended()
        self._serve(copy)
        self._make_room()
        self._later(KEEP_ALIVE_S, lambda: self._expire(copy, used_at))

    def _expire(self, copy: Copy, used_at: float) -> None:
        if self.copies.get(copy.model) is copy and copy.is_idle and copy.used_at == used_at:
            del self.copies[copy.model]
            self._make_room()
