"""Which nodes are left alone for a while, after failures: passive, immediate, and always with a way back. Pure.

(1) A failure of the request or its caller changes nothing. (2) What names its own time (a limit, an overload) counts at
once, and so does a refused key. (3) Others count in a row, connect errors and the node's own apart; some say something
about one model only. (4) Each time in a row is twice as long, up to a bound; a success takes one step back.
(5) A longer time stands: nothing shortens it. (6) When it is over, one trial goes first; its verdict counts, a late one
of an older attempt does not, and one that hangs is replaced. `now` is monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .failures import Failure, is_local

OF_MODEL = (Failure.OUT_OF_MEMORY, Failure.MODEL_MISSING, Failure.STALLED, Failure.TIMEOUT)
AT_ONCE = (Failure.LIMITED, Failure.OVERLOADED, Failure.AUTH, Failure.MODEL_MISSING, Failure.OUT_OF_MEMORY)
ANY = ""  # every model of a node
STEPS_COUNTED = 16  # doublings beyond the longest time say nothing more


@dataclass(frozen=True, slots=True)
class CooldownRules:
    """Every number of it; seconds."""

    base_s: float = 5.0
    growth: float = 2.0
    longest_s: float = 300.0
    auth_s: float = 60.0  # our mistake: nobody mends it within seconds
    overload_s: float = 2.0
    said_s_max: float = 3600.0  # of what a node says of its own limit
    connect_count: int = 3  # in a row
    upstream_count: int = 5
    model_count: int = 2
    trial_s: float = 330.0  # then a trial is given up: longer than any first token may take


@dataclass(slots=True)
class _Entry:
    local_count: int = 0  # failures in a row
    upstream_count: int = 0
    steps: int = 0  # times it has cooled down without a good time between
    until: float = 0.0
    is_closed: bool = True  # False: cooling down, or waiting for its trial's verdict
    reason: str = ""
    trial: int = 0  # the token of the one that is out; 0: none
    trial_at: float = 0.0


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
        entry = self._entries.setdefault((node, model if failure in OF_MODEL else ANY), _Entry())
        if not entry.is_closed and entry.trial not in {trial.token for trial in trials}:
            # An older attempt: what it tells is known, but for a longer time.
            if retry_after_s is not None:
                entry.until = max(entry.until, now + min(retry_after_s, self.rules.said_s_max))
            return
        if is_local(failure):
            entry.local_count += 1
        else:
            entry.upstream_count += 1
        if entry.is_closed and not self._is_enough(entry, failure):
            return
        entry.until = max(entry.until, now + self._length_s(entry, failure, retry_after_s))  # (5)
        entry.steps += 1
        entry.is_closed, entry.reason, entry.trial = False, failure.value, 0

    def _is_enough(self, entry: _Entry, failure: Failure) -> bool:
        rules = self.rules
        upstream_count = rules.model_count if failure in OF_MODEL else rules.upstream_count
        return failure in AT_ONCE or entry.local_count >= rules.connect_count or entry.upstream_count >= upstream_count

    def _length_s(self, entry: _Entry, failure: Failure, retry_after_s: float | None) -> float:
        rules = self.rules
        least_s = {Failure.AUTH: rules.auth_s, Failure.OVERLOADED: rules.overload_s}.get(failure, rules.base_s)
        length_s = min(least_s * rules.growth ** min(entry.steps, STEPS_COUNTED), rules.longest_s)
        return length_s if retry_after_s is None else max(length_s, min(retry_after_s, rules.said_s_max))

    def succeeded(self, node: str, model: str, now: float) -> None:
        """An answer of it was complete. While it cools down only its trial says that it is well again."""
        for key in ((node, ANY), (node, model)):
            entry = self._entries.get(key)
            if entry is not None and entry.is_closed:
                entry.local_count = entry.upstream_count = 0
                entry.steps = max(0, entry.steps - 1)
                if not entry.steps:
                    del self._entries[key]

    def until(self, node: str, model: str, now: float) -> float:
        """Until when nobody is sent there; 0.0 if somebody may be."""
        times = [entry.until for entry in self._of(node, model) if not entry.is_closed and entry.until > now]
        return max(times, default=0.0)

    def is_trial(self, node: str, model: str) -> bool:
        """Whether whoever goes there next is the one that finds out."""
        return any(not entry.is_closed for entry in self._of(node, model))

    def may_try(self, node: str, model: str, now: float) -> bool:
        """Whether a trial may begin: the time is over, and none is out that could still come back."""
        return all(
            entry.until <= now and (not entry.trial or now - entry.trial_at >= self.rules.trial_s)
            for entry in self._of(node, model)
            if not entry.is_closed
        )

    def begin_trial(self, node: str, model: str, now: float) -> tuple[Trial, ...]:
        """Send an attempt: the trials it is, if it is any. Ask `may_try` first."""
        trials = []
        for key in ((node, ANY), (node, model)):
            entry = self._entries.get(key)
            if entry is not None and not entry.is_closed:
                self._tokens += 1
                entry.trial, entry.trial_at = self._tokens, now
                trials.append(Trial(key, self._tokens))
        return tuple(trials)

    def end_trial(self, trial: Trial, now: float, *, ok: bool | None) -> None:
        """How it went; None: nobody can tell, since its caller left. A failure has been told by `failed` before."""
        entry = self._entries.get(trial.key)
        if entry is None or entry.trial != trial.token:
            return
        entry.trial = 0
        if ok:
            entry.is_closed, entry.until, entry.reason = True, 0.0, ""
            entry.local_count = entry.upstream_count = 0

    def reason(self, node: str, model: str) -> str:
        """What it cools down after."""
        return next((entry.reason for entry in self._of(node, model) if not entry.is_closed), "")

    def is_guess(self, node: str, model: str) -> bool:
        """Whether that time is our own idea, and not what the node said."""
        return self.reason(node, model) not in AT_ONCE

    def snapshot(self, now: float) -> dict[tuple[str, str], float]:
        """(node, model) -> until when; the model is empty where all of the node is meant."""
        return {key: entry.until for key, entry in self._entries.items() if not entry.is_closed and entry.until > now}

    def forget(self, node: str) -> None:
        """A node is gone."""
        self._entries = {key: entry for key, entry in self._entries.items() if key[0] != node}

    def _of(self, node: str, model: str) -> list[_Entry]:
        found = (self._entries.get((node, ANY)), self._entries.get((node, model)))
        return [entry for entry in found if entry is not None]
