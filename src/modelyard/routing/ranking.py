"""Who should answer: candidates in the order in which they should be asked, each with a reason. Pure.

Promises: nobody who cannot be asked is named, nobody of weight 0, nobody doubtful before somebody well; equals take
turns by weight and are never all sent to the first. The only memory is `Turns`, which the caller owns.
It knows neither how a figure was found nor what happens to whoever is asked: health, clocks and nodes are elsewhere.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from statistics import median
from typing import Literal

from modelyard.types.model import Kind, Pick

from .turns import Turns

__all__ = ["Ranked", "Standing", "Strategy", "Turns", "Usable", "expected_seconds", "rank", "work_tokens"]

Strategy = Literal["best", "round_robin", "weighted", "least_busy"]

TOKENS_PER_S_GUESS = 30.0  # where nobody's speed is known
SLOTS_GUESS = 3
ANSWER_TOKENS_GUESS = 300  # where requests are known to run and their tokens are not
PROMPT_TOKEN_WORK = 0.05  # reading a token takes this part of the time of writing one
CROWD = 0.1  # part of the work under way that slows down a request which finds a free slot
LOAD_S_MIN = 1.0  # a load is never free
NO_ROOM = 4.0  # factor on a load: who leaves for it was in use, and must be brought back by somebody
ROOM_UNKNOWN = 2.0
FAILED_S = 10.0  # what a failure costs whoever waits
ERROR_RATIO_MAX = 0.9
WEIGHT_LEAST = 1e-6  # less counts as this much: nothing is divided by what is as good as 0
AFFINITY_S = 0.5  # what a cached beginning is worth even if it is short
KIND_S = 5.0  # kinds are not mixed: an earlier one that has the model in memory is worth so long a wait
AFFINITY_S_MAX = 5.0  # the load guard: no cache is worth a longer wait
EQUAL_S, EQUAL_RATIO = 0.1, 0.1  # closer than our figures are exact


class Usable(IntEnum):
    """Whether a candidate may be asked; the lower the earlier."""

    YES = 0
    LAST = 1  # doubtful: where nobody well is left
    TRIAL = 2  # half-open: the one request that finds out
    NO = 3


@dataclass(frozen=True, slots=True)
class Standing:
    """All we know of one candidate at one moment."""

    model: str  # the copy's name, NAME@NODE or a local name
    node: str  # "" is this machine
    weight: float = 1.0  # 0: drained
    usable: Usable = Usable.YES
    reason_not: str = ""  # why it is not usable
    kind: Kind = "local"
    is_resident: bool = False
    is_told: bool = True  # that it is, or is not; else its server never says, and is taken to have it there
    load_s: float = 0.0  # predicted, if it is not resident; includes what must leave first
    has_room: bool | None = None  # whether it fits without anybody leaving; None: nobody knows
    in_flight: int = 0  # of this copy, waiting and running; if it is not resident, they wait for a load under way
    slots: int = 0  # of this copy; 0: unknown
    queued_tokens: int = 0  # `work_tokens` of what waits and runs there
    tokens_per_s: float | None = None  # of one answer
    error_ratio: float = 0.0  # recent, 0..1
    is_favoured: bool = False  # had this session or prefix last
    share: float = 1.0  # slow start, 0..1
    place: int = 0  # position in the configured order


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate in its place."""

    standing: Standing
    reason: str  # one word for people: docs/routing.md lists them
    score: float  # expected seconds to the first token, with what a load takes from others


def work_tokens(prompt_tokens: int, answer_tokens: int) -> int:
    """How much work a request is, in tokens written: reading a prompt is much faster than writing an answer.

    >>> work_tokens(2000, 300)
    400
    """
    return answer_tokens + round(prompt_tokens * PROMPT_TOKEN_WORK)


def rank(
    standings: Sequence[Standing],
    *,
    strategy: Strategy = "best",
    pick: Pick = "best",
    group: str = "",
    turns: Turns,
    prompt_tokens: int = 0,
) -> tuple[Ranked, ...]:
    """Everybody who may be asked, best first. `group` is whatever shares turns, usually the name that was asked for.

    (1) Who cannot be asked is left out. (2) The well come before the doubtful, and those before who is on trial.
    (3) Among these, `pick` decides, (4) then the strategy.
    """
    askable = [one for one in standings if one.usable is not Usable.NO and one.weight > 0]  # (1)
    turns.keep_only(group, [one.model for one in standings])
    expected_s = expected_seconds(askable, prompt_tokens=prompt_tokens)
    ranked: list[Ranked] = []
    for usable, word in ((Usable.YES, ""), (Usable.LAST, "doubtful"), (Usable.TRIAL, "trial")):  # (2)
        tier = [one for one in askable if one.usable is usable]
        if not tier:
            continue
        asking = _Asking(strategy, group, Turns() if ranked else turns, expected_s, prompt_tokens)
        order = asking.by_pick(tier, pick)
        ranked += [Ranked(one, word or reason, expected_s[one.model]) for one, reason in order]
    if len(askable) == 1 and askable[0].usable is Usable.YES:
        return (Ranked(askable[0], "only", expected_s[askable[0].model]),)
    return tuple(ranked)


def expected_seconds(standings: Sequence[Standing], *, prompt_tokens: int = 0) -> dict[str, float]:
    """Per candidate the seconds to the first token that should be expected, plus what a load takes from others."""
    known = [one.tokens_per_s for one in standings if one.tokens_per_s]
    usual = median(known) if known else TOKENS_PER_S_GUESS
    heaviest = max((one.weight for one in standings), default=1.0)
    own = work_tokens(prompt_tokens, 0)
    found = {}
    for one in standings:
        speed = one.tokens_per_s or usual
        seconds = _wait_s(one, speed) * heaviest / _weight(one) + own / speed + _load_s(one)
        failing = min(max(one.error_ratio, 0.0), ERROR_RATIO_MAX)
        found[one.model] = seconds / (1 - failing) + failing * FAILED_S
    return found


def _wait_s(one: Standing, speed: float) -> float:
    """Until a slot is free: of the work there as much as must be done first, by all slots together."""
    slots = one.slots or SLOTS_GUESS
    work = one.queued_tokens or one.in_flight * ANSWER_TOKENS_GUESS
    first = (one.in_flight - slots + 1) / one.in_flight if one.in_flight else 0.0
    return work / (slots * speed) * max(first, CROWD)


def _load_s(one: Standing) -> float:
    if one.is_resident:
        return 0.0
    load_s = max(one.load_s, LOAD_S_MIN)
    if _is_warm(one):
        return load_s
    return load_s * {True: 1.0, False: NO_ROOM, None: ROOM_UNKNOWN}[one.has_room]


def _is_warm(one: Standing) -> bool:
    """In memory, or on its way there: somebody waits for it."""
    return one.is_resident or one.in_flight > 0


_Order = list[tuple[Standing, str]]


@dataclass(frozen=True, slots=True)
class _Asking:
    """One question, and what it is decided by."""

    strategy: Strategy
    group: str
    turns: Turns
    expected_s: Mapping[str, float]
    prompt_tokens: int

    def by_pick(self, tier: Sequence[Standing], pick: Pick) -> _Order:
        if pick == "first":
            inside = sorted(tier, key=lambda one: (_is_full(one), one.place))
            first = min(tier, key=lambda one: one.place)
            return [(one, "first" if one is first else "overflow") for one in inside]
        warm = [one for one in tier if _is_warm(one)]
        warm = [one for one in warm if one.is_told] or warm
        if pick == "warm" and warm:
            cold = [one for one in tier if one not in warm]
            return [(one, "warm") for one, _ in self.by_strategy(warm)] + self._rest(cold)
        return self.by_strategy(tier)

    def by_strategy(self, tier: Sequence[Standing]) -> _Order:
        """Who goes first, and then the others by what may be expected of them."""
        weights = _weights(tier)
        kin = self._of_one_kind(tier) if self.strategy == "best" else tier
        if self.strategy == "best":
            first, reason = self._best(kin, tier)
            if len(kin) == 1 < len(tier) and reason in ("load", "least-loaded"):
                reason = "order"
        elif self.strategy == "least_busy":
            first, reason = self._least_busy(tier, weights)
        else:
            if self.strategy == "round_robin":
                weights = _weights(tier, are_equal=True)
            first, reason = self._turn(tier, weights), "weight" if self.strategy == "weighted" else "turn"
        others = [one for one in tier if one not in kin]
        return [(first, reason), *self._rest([one for one in kin if one is not first]), *self._rest(others)]

    def _of_one_kind(self, tier: Sequence[Standing]) -> Sequence[Standing]:
        """Those of the kind that is asked first: in the configured order the first that has the model in memory and
        keeps nobody waiting much longer than another would; where none has it there, the first.
        """
        kinds = dict.fromkeys(one.kind for one in sorted(tier, key=lambda one: one.place))
        if len(kinds) < 2:
            return tier
        soonest_s: dict[Kind, float] = {}
        for one in tier:
            if _is_warm(one) and one.is_told:
                soonest_s[one.kind] = min(self._value_s(one), soonest_s.get(one.kind, math.inf))
        least_s = min(soonest_s.values(), default=0.0)
        near = [kind for kind in kinds if kind in soonest_s and soonest_s[kind] <= least_s + KIND_S]
        first = (near or [*kinds])[0]
        return [one for one in tier if one.kind == first]

    def _best(self, kin: Sequence[Standing], tier: Sequence[Standing]) -> tuple[Standing, str]:
        """(1) Who starts slowly stands back, (2) a favoured one counts as that much faster, (3) equals take turns."""
        weights = _weights(kin)
        free = self._without_ramping(kin, weights)  # (1)
        values = {one.model: self._value_s(one) for one in free}  # (2)
        least = min(free, key=lambda one: values[one.model])
        if least.is_favoured:
            self.turns.ramped(self.group, least.model)
            return least, "affinity"
        margin = max(EQUAL_S, EQUAL_RATIO * values[least.model])
        equal = [one for one in free if values[one.model] <= values[least.model] + margin]
        equal = [one for one in equal if one.is_resident] or equal
        first = self._turn(equal, weights)
        return first, self._reason(first, tier, are_equal=len(equal) > 1)

    def _least_busy(self, tier: Sequence[Standing], weights: Mapping[str, float]) -> tuple[Standing, str]:
        free = self._without_ramping(tier, weights)
        least = min(one.in_flight / _weight(one) for one in free)
        equal = [one for one in free if one.in_flight / _weight(one) == least]
        return self._turn(equal, weights), "least-loaded" if len(equal) < len(tier) else "turn"

    def _turn(self, equal: Sequence[Standing], weights: Mapping[str, float]) -> Standing:
        chosen = self.turns.next(self.group, {one.model: weights[one.model] for one in equal})
        self.turns.ramped(self.group, chosen)
        return next(one for one in equal if one.model == chosen)

    def _without_ramping(self, tier: Sequence[Standing], weights: Mapping[str, float]) -> Sequence[Standing]:
        """Without those that had their part of the requests, unless somebody would have to load for that."""
        total = sum(weights.values())
        held = {
            one.model
            for one in tier
            if one.share < 1 and not self.turns.may_ramp(self.group, one.model, weights[one.model] / total)
        }
        free = [one for one in tier if one.model not in held]
        is_warm_free = any(_is_warm(one) for one in free)
        return [*free, *(one for one in tier if one.model in held and _is_warm(one) and not is_warm_free)] or tier

    def _value_s(self, one: Standing) -> float:
        return self.expected_s[one.model] - self._worth_s(one)

    def _worth_s(self, one: Standing) -> float:
        if not one.is_favoured:
            return 0.0
        speed = one.tokens_per_s or TOKENS_PER_S_GUESS
        return min(AFFINITY_S + work_tokens(self.prompt_tokens, 0) / speed, AFFINITY_S_MAX)

    def _reason(self, first: Standing, tier: Sequence[Standing], *, are_equal: bool) -> str:
        warm = [one for one in tier if _is_warm(one) and one.is_told]
        if not _is_warm(first):
            return "copy" if warm else "load"
        if len(warm) == 1 and len(tier) > 1:
            return "resident"
        return "turn" if are_equal else "least-loaded"

    def _rest(self, others: Sequence[Standing]) -> _Order:
        inside = sorted(others, key=lambda one: (self.expected_s[one.model], one.place))
        return [(one, self._reason(one, others, are_equal=False)) for one in inside]


def _weight(one: Standing) -> float:
    return max(one.weight, WEIGHT_LEAST)


def _is_full(one: Standing) -> bool:
    return 0 < one.slots <= one.in_flight


def _weights(tier: Sequence[Standing], *, are_equal: bool = False) -> dict[str, float]:
    """Per candidate its part of its node's weight: a node with two copies gets no more than one with one."""
    copies = Counter(one.node for one in tier)
    return {one.model: (1.0 if are_equal else _weight(one)) * max(one.share, 0.01) / copies[one.node] for one in tier}
