"""How one node is: what looks, probes and answers tell of it, and whether requests may go there. Pure.

    unknown ── look ──> healthy <── an answer, a probe ── doubtful <── failures in a row ── healthy
       any ── looks fail ──> out ── looks go well for a while ──> recovering ── a good time ──> healthy
    doubtful ── probes fail ──> out        any ── refuses our key ──> misconfigured ── a look goes well ──> recovering
       any ── says how long it wants nothing ──> limited ── that time is over ──> recovering

A node that answers control calls and makes no tokens is not healthy: only an answer or a probe ends a doubt about that.
Where nothing can be probed, one request at a time is let through to find out, so there is a way back from everywhere.
Each time it goes out again soon after it came back, it must do well for twice as long, up to a bound. `now` is in
seconds of the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from modelyard.types.fleet import Health

from .failures import Failure

# What stands in doubt after them is whether it makes tokens; a look cannot tell.
OF_TOKENS = (Failure.TIMEOUT, Failure.STALLED, Failure.SERVER, Failure.INVALID)
IN_ROTATION = (Health.UNKNOWN, Health.HEALTHY, Health.RECOVERING)


@dataclass(frozen=True, slots=True)
class HealthRules:
    """Every number of it; seconds."""

    look_s: float = 10.0
    look_s_max: float = 60.0  # between looks at a node that is out
    look_s_soon: float = 1.0  # in doubt
    misses: int = 2  # looks that fail in a row
    failures: int = 3  # attempts that fail in a row
    probes: int = 2  # probes that fail in a row
    probe_s: float = 30.0  # between probes of a node that is well; traffic makes them needless
    probe_s_doubt: float = 5.0
    steady_s: float = 5.0  # good looks after it was out; doubles with every relapse
    steady_s_max: float = 60.0
    relapse_s: float = 120.0  # out again within this time is a relapse
    trial_s: float = 5.0  # between two requests let through to a node that is out
    trial_s_max: float = 60.0
    ramp_s: float = 20.0  # after it was out, its share grows over this time
    share_least: float = 0.1
    auth_s: float = 60.0  # between trials of a node that refuses our key
    said_s_max: float = 3600.0


@dataclass(slots=True)
class NodeHealth:
    """One node's health. One owner."""

    name: str
    since: float
    rules: HealthRules = field(default_factory=HealthRules)
    state: Health = Health.UNKNOWN
    reason: str = ""
    _misses: int = 0
    _failures: int = 0
    _probe_misses: int = 0
    _relapses: int = 0
    _needs_tokens: bool = False  # a look is not enough any more
    _good_since: float | None = None  # looks went well from then on
    _recovered_at: float | None = None
    _ramps: dict[str, float] = field(default_factory=dict)  # model -> its first answer since then
    _limited_until: float = 0.0
    _looked_at: float | None = None
    _probed_at: float = float("-inf")
    _heard_at: float = float("-inf")  # tokens came
    _trial_at: float = float("-inf")
    _trials: int = 0

    # ---- what happens ----

    def looked(self, now: float) -> None:
        """It answered control calls."""
        self._looked_at, self._misses = now, 0
        if self._good_since is None:
            self._good_since = now
        match self.state:
            case Health.UNKNOWN:
                self._become(Health.HEALTHY, now)
            case Health.OUT if not self._needs_tokens and now - self._good_since >= self._steady_s():
                self._recover(now)
            case Health.MISCONFIGURED if not self._needs_tokens:
                self._recover(now)
            case Health.LIMITED if now >= self._limited_until:
                self._recover(now)
            case Health.RECOVERING if self._is_ramped(now):
                self._become(Health.HEALTHY, now)

    def look_failed(self, failure: Failure, now: float, retry_after_s: float | None = None) -> None:
        """It did not answer control calls, or with an error."""
        self._looked_at, self._good_since = now, None
        self._misses += 1
        if failure is Failure.AUTH:
            self._become(Health.MISCONFIGURED, now, "it does not accept the key")
        elif failure is Failure.LIMITED:
            self._limit(now, retry_after_s)
        elif self.state is Health.UNKNOWN or self._misses >= self.rules.misses:
            self._out(now, f"looks fail: {failure.value}")
        elif self.state in (Health.HEALTHY, Health.RECOVERING):
            self._become(Health.DOUBTFUL, now, f"a look failed: {failure.value}")

    def answered(self, now: float, model: str = "") -> None:
        """A token came: the strongest sign there is."""
        self._heard_at = now
        if self._recovered_at is not None:
            self._ramps.setdefault(model, now)
        self._failures = self._probe_misses = self._trials = 0
        self._needs_tokens = False
        if self.state in (Health.OUT, Health.MISCONFIGURED, Health.LIMITED):
            self._recover(now)
        elif self.state in (Health.UNKNOWN, Health.DOUBTFUL) or self._is_ramped(now):
            self._become(Health.HEALTHY, now)

    def attempt_failed(self, failure: Failure, now: float, retry_after_s: float | None = None) -> None:
        """A request failed there by its fault."""
        if failure is Failure.AUTH:
            self._needs_tokens = True
            self._become(Health.MISCONFIGURED, now, "it does not accept the key")
            return
        if failure is Failure.LIMITED and retry_after_s is not None:
            self._limit(now, retry_after_s)
            return
        if failure in (Failure.OUT_OF_MEMORY, Failure.MODEL_MISSING, Failure.OVERLOADED, Failure.LIMITED):
            return  # of one model, or of the moment: cooling down is enough
        self._failures += 1
        self._needs_tokens = self._needs_tokens or (failure in OF_TOKENS and self._failures >= self.rules.failures)
        if self._failures >= self.rules.failures and self.state in IN_ROTATION:
            self._become(Health.DOUBTFUL, now, f"{self._failures} failures in a row, the last: {failure.value}")
        elif self._failures >= 2 * self.rules.failures and self.state is Health.DOUBTFUL:
            self._out(now, f"{self._failures} failures in a row, the last: {failure.value}")

    def probed(self, now: float, failure: Failure | None) -> None:
        """A probe ended."""
        self._probed_at = now
        if failure is None:
            self.answered(now)
            return
        self._probe_misses += 1
        if self._probe_misses >= self.rules.probes and self.state in (*IN_ROTATION, Health.DOUBTFUL):
            self._needs_tokens = True
            self._out(now, f"it makes no tokens: {failure.value}")
        elif self.state in IN_ROTATION:
            self._needs_tokens = True
            self._become(Health.DOUBTFUL, now, f"a probe failed: {failure.value}")

    def tried(self, now: float) -> None:
        """A request is let through to find out."""
        self._trial_at = now
        self._trials += 1

    # ---- what follows ----

    def is_in_rotation(self, now: float) -> bool:
        """Whether requests go there like anywhere else."""
        return self.state in IN_ROTATION or (self.state is Health.LIMITED and now >= self._limited_until)

    def may_try(self, now: float) -> bool:
        """Whether one request may go to a node that is out, to find out."""
        return self.state in (Health.OUT, Health.MISCONFIGURED) and now >= self.next_trial_at()

    def next_trial_at(self) -> float:
        """When the next request may be let through."""
        if self.state is Health.LIMITED:
            return self._limited_until
        least_s = self.rules.auth_s if self.state is Health.MISCONFIGURED else self.rules.trial_s
        wait_s = min(least_s * 2.0 ** min(self._trials, 8), max(self.rules.trial_s_max, least_s))
        return max(self._trial_at, self.since) + wait_s

    def next_look_at(self, now: float) -> float:
        """When to look again."""
        if self._looked_at is None:
            return now
        rules = self.rules
        if self.state is Health.OUT and self._good_since is None:
            pause_s = min(rules.look_s_soon * 2.0 ** min(self._misses, 8), rules.look_s_max)
        elif self.state in (Health.OUT, Health.DOUBTFUL, Health.RECOVERING):
            pause_s = min(rules.look_s_soon, rules.look_s)
        else:
            pause_s = rules.look_s
        return self._looked_at + pause_s

    def probe_due(self, now: float, *, has_idle_resident: bool, shares_timer: bool) -> bool:
        """Whether to have one token made. Never where nothing is in memory; only in doubt where a probe restarts the
        timer by which the model leaves (`shares_timer`).
        """
        if not has_idle_resident or self._good_since is None:
            return False
        in_doubt = self.state is Health.DOUBTFUL or (self.state is Health.OUT and self._needs_tokens)
        if in_doubt:
            return now - self._probed_at >= self.rules.probe_s_doubt
        if shares_timer or self.state not in IN_ROTATION:
            return False
        return now - max(self._probed_at, self._heard_at) >= self.rules.probe_s

    def share(self, now: float, model: str) -> float:
        """What part of its work a model there should get, from 0 to 1.

        After the node was out little until the first answer, then more and more: it may have to be loaded first.
        """
        if self._recovered_at is None:
            return 1.0
        began_at = self._ramps.get(model, now)
        return min(1.0, max(self.rules.share_least, (now - began_at) / self.rules.ramp_s))

    # ---- inside ----

    def _is_ramped(self, now: float) -> bool:
        return self.state is Health.RECOVERING and now - self.since >= self.rules.ramp_s

    def _steady_s(self) -> float:
        return min(self.rules.steady_s * 2.0**self._relapses, self.rules.steady_s_max)

    def _become(self, state: Health, now: float, reason: str = "") -> None:
        if state is not self.state:
            self.since = now
        self.state, self.reason = state, reason

    def _out(self, now: float, reason: str) -> None:
        if self.state is not Health.OUT:
            is_relapse = self._recovered_at is not None and now - self._recovered_at < self.rules.relapse_s
            self._relapses = min(self._relapses + 1, 8) if is_relapse else 0
            self._trials = 0
        self._become(Health.OUT, now, reason)

    def _recover(self, now: float) -> None:
        self._needs_tokens = False
        self._failures = self._probe_misses = 0
        self._recovered_at, self._ramps = now, {}
        self._become(Health.RECOVERING, now)

    def _limit(self, now: float, retry_after_s: float | None) -> None:
        wait_s = min(retry_after_s or self.rules.look_s, self.rules.said_s_max)
        self._limited_until = max(self._limited_until, now + wait_s)
        self._become(Health.LIMITED, now, "it limits us")
