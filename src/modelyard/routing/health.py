"""How one node is: what looks, probes and answers tell of it, and whether requests may go there. Pure.

    unknown ── look ──> healthy ── failures in a row ──> doubtful ── a good time ──> healthy
       any ── looks fail ──> out ── a good time ──> recovering ── a longer one ──> healthy
    doubtful ── probes fail ──> out        any ── refuses our key ──> misconfigured ── a look goes well ──> recovering
       any ── limits looks ──> limited ── that time is over ──> recovering

A node that answers control calls and makes no tokens is not healthy: only an answer or a probe ends a doubt about that.
Where nothing can be probed, one request at a time is let through to find out, so there is a way back from everywhere.
A good time has no failure in it. Each time a node fails again soon after it came back it must be twice as long, up to a
bound: who comes and goes stays away. `now` is in seconds of the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from modelyard.errors import N_, said
from modelyard.types.fleet import Health

from .failures import Failure

# What stands in doubt after them is whether it makes tokens; a look cannot tell.
OF_TOKENS = (Failure.TIMEOUT, Failure.STALLED, Failure.SERVER, Failure.INVALID)
# Of one model, or of the moment: cooling down is enough.
PASSING = (Failure.OUT_OF_MEMORY, Failure.MODEL_MISSING, Failure.OVERLOADED, Failure.LIMITED)
LIMITS = N_("it limits us")
IN_ROTATION = (Health.UNKNOWN, Health.HEALTHY, Health.RECOVERING)


@dataclass(frozen=True, slots=True)
class HealthRules:
    """Every number of it; seconds."""

    look_s: float = 10.0
    look_s_max: float = 5.0  # between looks at a node that is out: one that is back is not left waiting
    look_s_soon: float = 1.0  # in doubt
    misses: int = 2  # looks that fail in a row
    failures: int = 3  # attempts that fail in a row
    probes: int = 2  # probes that fail in a row
    probe_s: float = 30.0  # between probes of a node that is well; traffic makes them needless
    probe_s_doubt: float = 5.0
    steady_s: float = 2.0  # a good time; doubles with every relapse
    steady_s_max: float = 16.0
    relapse_s: float = 120.0  # failing again within this time is a relapse
    trial_s: float = 5.0  # between two requests let through to a node that is out
    trial_s_max: float = 20.0
    ramp_s: float = 20.0  # after it was out, its share grows over this time
    share_least: float = 0.1
    auth_s: float = 20.0  # between trials of a node that refuses our key
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
    _bad_at: float = float("-inf")  # something failed
    _back_at: float = float("-inf")  # it came back into rotation
    _recovered_at: float | None = None
    _ramps: dict[str, float] = field(default_factory=dict)  # model -> its first answer since then
    _limited_until: float = 0.0
    _looked_at: float | None = None
    _seen_at: float = float("-inf")  # a look went well
    _probed_at: float = float("-inf")
    _heard_at: float = float("-inf")  # tokens came
    _trial_at: float = float("-inf")
    _trials: int = 0

    # ---- what happens ----

    def looked(self, now: float) -> None:
        """It answered control calls."""
        self._looked_at, self._seen_at, self._misses = now, now, 0
        if self._good_since is None:
            self._good_since = now
        self._see_whether_well(now)

    def look_failed(self, failure: Failure, now: float, retry_after_s: float | None = None, problem: str = "") -> None:
        """It did not answer control calls, or with an error; `problem` says more, for people."""
        self._looked_at = now
        if failure is Failure.LIMITED:  # that is an answer
            self._limit(now, retry_after_s)
            return
        self._good_since, self._bad_at = None, now
        self._misses += 1
        if failure is Failure.CONNECT:
            self._needs_tokens = False  # nobody listens there: what comes back is another process, without that history
        if failure is Failure.AUTH:
            self._leave(Health.MISCONFIGURED, now, N_("it does not accept the key"))
        elif self.state is Health.UNKNOWN or self._misses >= self.rules.misses:
            self._leave(Health.OUT, now, _with(said("looks fail: {failure}", failure=failure.value), problem))
        elif self.state in (Health.HEALTHY, Health.RECOVERING):
            self._leave(Health.DOUBTFUL, now, _with(said("a look failed: {failure}", failure=failure.value), problem))

    def answered(self, now: float, model: str = "") -> None:
        """A token came: the strongest sign there is."""
        self._heard_at = now
        self._failures = self._probe_misses = self._trials = 0
        self._needs_tokens = False
        if self._recovered_at is not None:
            self._ramps.setdefault(model, now)
        self._see_whether_well(now)

    def attempt_failed(self, failure: Failure, now: float) -> None:
        """A request failed there by its fault."""
        if failure is Failure.AUTH:
            self._needs_tokens, self._bad_at = True, now
            self._leave(Health.MISCONFIGURED, now, N_("it does not accept the key"))
            return
        if failure in PASSING:
            return
        self._bad_at = now
        self._failures += 1
        # One that goes quiet may answer control calls for ever: the first silence is reason enough to doubt it.
        enough = 1 if failure in (Failure.TIMEOUT, Failure.STALLED) else self.rules.failures
        self._needs_tokens = self._needs_tokens or (failure in OF_TOKENS and self._failures >= enough)
        why = said(
            "requests failed, {count} in a row; the last: {failure}", count=self._failures, failure=failure.value
        )
        if self._failures >= 2 * self.rules.failures and self.state is Health.DOUBTFUL:
            self._leave(Health.OUT, now, why)
        elif self._failures >= enough and self.is_in_rotation(now):
            self._leave(Health.DOUBTFUL, now, why)

    def probed(self, now: float, failure: Failure | None) -> None:
        """A probe ended."""
        self._probed_at = now
        if failure is None:
            self.answered(now)
        elif failure is Failure.AUTH:
            self.attempt_failed(failure, now)
        elif failure not in PASSING:
            self._bad_at = now
            self._probe_misses += 1
            self._needs_tokens = True
            misses = self._probe_misses + min(self._failures, 1)  # a request that failed before counts as one
            if misses >= self.rules.probes and (self.is_in_rotation(now) or self.state is Health.DOUBTFUL):
                self._leave(Health.OUT, now, said("it makes no tokens: {failure}", failure=failure.value))
            elif self.is_in_rotation(now):
                self._leave(Health.DOUBTFUL, now, said("a probe failed: {failure}", failure=failure.value))

    def tried(self, now: float) -> None:
        """A request is let through to find out."""
        self._trial_at = now
        self._trials += 1

    # ---- what follows ----

    def is_in_rotation(self, now: float) -> bool:
        """Whether requests go there like anywhere else."""
        return self.state in IN_ROTATION or (self.state is Health.LIMITED and now >= self._limited_until)

    def may_try(self, now: float) -> bool:
        """Whether one request may go to a node that is not in rotation, to find out."""
        return self.state in (Health.DOUBTFUL, Health.OUT, Health.MISCONFIGURED) and now >= self.next_trial_at()

    def wants_try(self, now: float) -> bool:
        """Whether one should, though others are well: only a token can tell whether it is back."""
        return self._needs_tokens and self._good_since is not None and self.may_try(now)

    def next_trial_at(self) -> float:
        """When the next request may be let through."""
        if self.state is Health.LIMITED:
            return self._limited_until
        least_s = self.rules.auth_s if self.state is Health.MISCONFIGURED else self.rules.trial_s
        wait_s = min(least_s * 2.0 ** min(self._trials, 8), self.rules.trial_s_max)
        return max(max(self._trial_at, self.since) + wait_s, self._limited_until)

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
        rules = self.rules
        hangs = self._good_since is None
        if not has_idle_resident or (hangs and now - self._seen_at > rules.look_s + rules.probe_s_doubt):
            return False  # what was in memory long ago may have left: a probe would bring it back
        is_unsure = self.state is Health.RECOVERING and self._heard_at < self.since
        if hangs or self._needs_tokens or self._failures or is_unsure or self.state is Health.DOUBTFUL:
            return self.state is not Health.LIMITED and now - self._probed_at >= rules.probe_s_doubt
        if shares_timer or not self.is_in_rotation(now):
            return False
        return now - max(self._probed_at, self._heard_at) >= rules.probe_s

    def share(self, now: float, model: str) -> float:
        """What part of its work a model there should get, from 0 to 1.

        After the node was out little until the first answer, then more and more: it may have to be loaded first.
        """
        if self._recovered_at is None:
            return 1.0
        began_at = self._ramps.get(model, now)
        return min(1.0, max(self.rules.share_least, (now - began_at) / self.rules.ramp_s))

    # ---- inside ----

    def _see_whether_well(self, now: float) -> None:
        """Something went well: is it enough?"""
        is_well = not self._needs_tokens and self._has_good_time(now)
        match self.state:
            case Health.UNKNOWN:
                self._become(Health.HEALTHY, now)
            case Health.DOUBTFUL if is_well:
                self._failures, self._back_at = 0, now
                self._become(Health.HEALTHY, now)
            case Health.OUT if is_well:
                self._recover(now)
            case Health.MISCONFIGURED if not self._needs_tokens:
                self._recover(now)
            case Health.LIMITED if now >= self._limited_until:
                self._recover(now)
            case Health.RECOVERING if is_well and now - self.since >= self.rules.ramp_s:
                self._become(Health.HEALTHY, now)

    def _has_good_time(self, now: float) -> bool:
        """No failure for long enough; where it did not come and go, an answer is enough."""
        if not self._relapses and self._heard_at > self._bad_at:
            return True
        steady_s = min(self.rules.steady_s * 2.0**self._relapses, self.rules.steady_s_max)
        began_at = self._bad_at if self._good_since is None else max(self._bad_at, self._good_since)
        return now - began_at >= steady_s

    def _become(self, state: Health, now: float, reason: str = "") -> None:
        if state is not self.state:
            self.since = now
        self.state, self.reason = state, reason

    def _leave(self, state: Health, now: float, reason: str) -> None:
        """Out of rotation, or further out."""
        if self.is_in_rotation(now):
            is_relapse = now - self._back_at < self.rules.relapse_s
            self._relapses = min(self._relapses + 1, 8) if is_relapse else 0
            self._trials = 0
        self._become(state, now, reason)

    def _recover(self, now: float) -> None:
        self._failures = self._probe_misses = 0
        if now < self._limited_until:  # it is well, and still wants nothing
            self._become(Health.LIMITED, now, LIMITS)
            return
        self._needs_tokens = False
        self._recovered_at, self._back_at, self._ramps = now, now, {}
        self._become(Health.RECOVERING, now)

    def _limit(self, now: float, retry_after_s: float | None) -> None:
        wait_s = min(retry_after_s or self.rules.look_s, self.rules.said_s_max)
        self._limited_until = max(self._limited_until, now + wait_s)
        if self.state not in (Health.OUT, Health.MISCONFIGURED):
            self._become(Health.LIMITED, now, LIMITS)


def _with(text: str, problem: str) -> str:
    return f"{text} ({problem})" if problem else text
