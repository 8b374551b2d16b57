"""Which nodes are left alone for a while, after failures: passive, immediate, and always with a way back. Pure.

(1) A failure of the request or its caller changes nothing. (2) What names its own time (a limit, an overload) counts at
once, and so does a refused key. (3) Others count in a row, connect errors and the node's own apart. What says something
of one model counts for that model; errors of several models in a row count for the node. (4) Each time in a row is
twice as long, up to a bound; a good answer and a quiet time take it back, step by step. (5) A longer time stands: no
failure shortens it. (6) When it is over, one trial goes first; its verdict counts, a late one of an older attempt does
not, and one that hangs is replaced. (7) A node that is seen to be well again may be tried earlier, unless it named its
time itself. `now` is monotonic seconds.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from .failures import Failure, is_local

# Limits too: clouds count them per model, and where one is for all models each of them finds out by one request.
OF_MODEL = (
    Failure.OUT_OF_MEMORY, Failure.MODEL_MISSING, Failure.STALLED, Failure.TIMEOUT, Failure.SERVER, Failure.INVALID,
    Failure.LIMITED,
)  # fmt: skip
OF_BOTH = (Failure.SERVER, Failure.INVALID)  # and of the node, if several models do so
AT_ONCE = (Failure.LIMITED, Failure.OVERLOADED, Failure.AUTH, Failure.MODEL_MISSING, Failure.OUT_OF_MEMORY)
# A node that says so has answered, and is well: whoever found out by a trial of the node has found out nothing else.
SAY_NOTHING_OF_THE_NODE = (Failure.MODEL_MISSING, Failure.OUT_OF_MEMORY, Failure.LIMITED)
ANY = ""  # every model of a node
STEPS_COUNTED = 16  # doublings beyond the longest time say nothing more


@dataclass(frozen=True, slots=True)
class CooldownRules:
    """Every number of it; seconds."""

    base_s: float = 5.0
    growth: float = 2.0
    longest_s: float = 300.0
    jitter: float = 0.1  # by so much our own times are shortened, differently for each node and step
    auth_s: float = 60.0  # our mistake: nobody mends it within seconds
    overload_s: float = 2.0
    overload_s_max: float = 30.0  # it says of itself that it is well, and only full
    said_s_max: float = 3600.0  # of what a node says of its own limit
    connect_count: int = 3  # in a row
    upstream_count: int = 5  # of several models
    server_count: int = 3  # of one model
    silence_count: int = 2  # of one model: each has cost somebody a long wait
    trial_s: float = 330.0  # then a trial is given up: longer than any first token may take
    quiet_s: float = 120.0  # without a failure: one step back


@dataclass(slots=True)
class _Entry:
    local_count: int = 0  # failures in a row
    upstream_count: int = 0
    models: set[str] = field(default_factory=set)  # of these, while they are counted
    steps: int = 0  # times it has cooled down without a good time between
    stepped_at: float = 0.0  # when steps changed last
    until: float = 0.0
    said_until: float = 0.0  # the part of it that the node itself named
    is_closed: bool = True  # False: cooling down, or waiting for its trial's verdict
    reason: Failure | None = None
    trial: int = 0  # the token of the one that is out; 0: none
    trial_at: float = 0.0

    def is_free(self, now: float, trial_s: float) -> bool:
        """Whether a trial may begin: the time is over, and none is out that could still come back."""
        return self.until <= now and (not self.trial or now - self.trial_at >= trial_s)

    def forgive(self) -> None:
        """Failures in a row end."""
        self.local_count = self.upstream_count = 0
        self.models.clear()

    def lengthen(self, until: float) -> None:
        """The node named a time."""
        self.said_until = max(self.said_until, until)
        self.until = max(self.until, self.said_until)


@dataclass(frozen=True, slots=True)
class Trial:
    """The right to be the one that finds out."""

    key: tuple[str, str]
    token: int


@dataclass(slots=True)
class Cooldowns:
    """All of them. One owner."""

    rules: CooldownRules = field(default_factory=CooldownRules)
    _entries: dict[tuple[str, str], _Entry] = field(default_factory=dict)
    _tokens: int = 0

    # ---- what happens ----

    def failed(
        self,
        node: str,
        model: str,
        failure: Failure,
        now: float,
        *,
        retry_after_s: float | None = None,
        trials: tuple[Trial, ...] = (),
    ) -> None:
        """An attempt failed by the node's fault; `trials` are those that it was."""
        keys = {(node, model if failure in OF_MODEL else ANY)}
        keys |= {(node, ANY)} if failure in OF_BOTH else set()
        if failure not in SAY_NOTHING_OF_THE_NODE:
            keys |= {trial.key for trial in trials if self._is_valid(trial)}
        tokens = {trial.token for trial in trials}
        said_s = None if retry_after_s is None else min(retry_after_s, self.rules.said_s_max)
        for key in sorted(keys):
            entry = self._entries.setdefault(key, _Entry())
            if entry.is_closed:
                self._count(entry, model, failure)
                if self._is_enough(entry, failure, is_node=key[1] == ANY):
                    self._cool(entry, node, failure, now, said_s)
            elif entry.trial in tokens:
                self._cool(entry, node, failure, now, said_s)
            elif said_s is not None:  # an older attempt: what it tells is known, but for a longer time
                entry.lengthen(now + said_s)

    def succeeded(self, node: str, model: str, now: float) -> None:
        """An answer of it was complete. While it cools down only its trial says that it is well again."""
        for key in ((node, ANY), (node, model)):
            entry = self._entries.get(key)
            if entry is not None and entry.is_closed:
                entry.forgive()
                if entry.steps and now - entry.stepped_at >= self.rules.base_s:  # (4) a burst of answers is one
                    entry.steps, entry.stepped_at = entry.steps - 1, now
                if not entry.steps:
                    del self._entries[key]

    def begin_trial(self, node: str, model: str, now: float) -> tuple[Trial, ...]:
        """Send an attempt: the trials it is, if it is any."""
        trials = []
        for key in ((node, ANY), (node, model)):
            entry = self._entries.get(key)
            if entry is not None and not entry.is_closed and entry.is_free(now, self.rules.trial_s):
                self._tokens += 1
                entry.trial, entry.trial_at = self._tokens, now
                trials.append(Trial(key, self._tokens))
        return tuple(trials)

    def end_trial(self, trial: Trial, now: float, *, ok: bool | None) -> None:
        """How it went; None: nobody can tell, since its caller left. A failure has been told by `failed` before."""
        if not self._is_valid(trial):
            return
        entry = self._entries[trial.key]
        entry.trial = 0
        if ok:
            entry.is_closed, entry.until, entry.said_until, entry.reason = True, 0.0, 0.0, None
            entry.stepped_at = now
            entry.forgive()

    def recovered(self, node: str, now: float) -> None:
        """(7) A look or a probe showed that it is well again: what is only our own idea of its time is over."""
        for key, entry in self._entries.items():
            if key[0] == node and entry.reason not in SAY_NOTHING_OF_THE_NODE:
                entry.until = min(entry.until, max(entry.said_until, now))

    def connected(self, node: str, now: float) -> None:
        """(7) It answers control calls: that it could not be reached, or did not take our key, is over, and so is the
        wait for that alone.
        """
        for key, entry in self._entries.items():
            if key[0] == node and entry.reason in (Failure.CONNECT, Failure.AUTH):
                entry.until = min(entry.until, max(entry.said_until, now))

    def forget(self, node: str) -> None:
        """A node is gone."""
        self._entries = {key: entry for key, entry in self._entries.items() if key[0] != node}

    # ---- what follows ----

    def until(self, node: str, model: str, now: float) -> float:
        """Until when nobody is sent there; 0.0 if somebody may be."""
        return max((entry.until for entry in self._open(node, model) if entry.until > now), default=0.0)

    def is_trial(self, node: str, model: str) -> bool:
        """Whether whoever goes there next is the one that finds out."""
        return bool(self._open(node, model))

    def may_try(self, node: str, model: str, now: float) -> bool:
        """Whether somebody may go there: nothing is open, or a trial may begin of all that is."""
        return all(entry.is_free(now, self.rules.trial_s) for entry in self._open(node, model))

    def reason(self, node: str, model: str) -> str:
        """What it cools down after."""
        return next((entry.reason.value for entry in self._open(node, model) if entry.reason), "")

    def spared(self, group: Iterable[tuple[str, str]], out: Iterable[tuple[str, str]], now: float) -> frozenset[str]:
        """Of a group of (node, model) the models that should be asked although they cool down, after all others.

        Cooling down keeps at most half of several out, together with those that are `out` for another reason. Nobody is
        spared whose time is more than our own idea: it named it, refused our key, or has no such model or no memory.
        """
        group, out = list(group), set(out)
        if len(group) < 2:
            return frozenset()
        cooling = {one: until for one in group if one not in out and (until := self.until(*one, now))}
        guessed = [one for one in cooling if all(entry.reason not in AT_ONCE for entry in self._open(*one))]
        too_many = max(0, len(cooling) + len(out) - len(group) // 2)
        first = sorted(guessed, key=lambda one: (cooling[one], one))[:too_many]
        return frozenset(model for _node, model in first)

    def snapshot(self, now: float) -> dict[tuple[str, str], float]:
        """(node, model) -> until when; the model is empty where all of the node is meant."""
        return {key: entry.until for key, entry in self._entries.items() if not entry.is_closed and entry.until > now}

    # ---- inside ----

    def _open(self, node: str, model: str) -> list[_Entry]:
        found = (self._entries.get((node, ANY)), self._entries.get((node, model)))
        return [entry for entry in found if entry is not None and not entry.is_closed]

    def _is_valid(self, trial: Trial) -> bool:
        entry = self._entries.get(trial.key)
        return entry is not None and entry.trial == trial.token

    @staticmethod
    def _count(entry: _Entry, model: str, failure: Failure) -> None:
        if is_local(failure):
            entry.local_count += 1
        else:
            entry.upstream_count += 1
            entry.models.add(model)

    def _is_enough(self, entry: _Entry, failure: Failure, *, is_node: bool) -> bool:
        rules = self.rules
        if failure in AT_ONCE:
            return True
        if is_node:  # (3)
            is_upstream = entry.upstream_count >= rules.upstream_count and len(entry.models) > 1
            return is_upstream or entry.local_count >= rules.connect_count
        return entry.upstream_count >= (rules.server_count if failure in OF_BOTH else rules.silence_count)

    def _cool(self, entry: _Entry, node: str, failure: Failure, now: float, said_s: float | None) -> None:
        rules = self.rules
        quiet = max(0, int((now - max(entry.until, entry.stepped_at)) / rules.quiet_s))
        entry.steps = max(0, entry.steps - quiet)  # (4)
        least_s, longest_s = {
            Failure.AUTH: (rules.auth_s, rules.longest_s),
            Failure.OVERLOADED: (rules.overload_s, rules.overload_s_max),
        }.get(failure, (rules.base_s, rules.longest_s))
        length_s = min(least_s * rules.growth ** min(entry.steps, STEPS_COUNTED), longest_s)
        length_s *= 1.0 - rules.jitter * (zlib.crc32(f"{node}\0{entry.steps}".encode()) % 1000) / 1000
        entry.until = max(entry.until, now + length_s)  # (5)
        entry.steps, entry.stepped_at = entry.steps + 1, now
        entry.is_closed, entry.reason, entry.trial = False, failure, 0
        if said_s is not None:
            entry.lengthen(now + said_s)
