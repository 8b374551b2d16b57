"""How much one caller may ask: a request rate over a window (GCRA), and requests at the same time.

`admit` and `slot` are synchronous and cost about a microsecond. Every table is bounded. Knows nothing about HTTP.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from modelyard.clock import Clock
from modelyard.errors import N_, RateLimited

from .keys import Caller

CALLERS_MAX = 10_000
FAILED_LOGINS_MAX = 20
FAILED_LOGIN_WINDOW_S = 60.0
_NO_LIMIT = nullcontext()
_OVERFLOW = ""  # newcomers share this entry while the table is full of active callers


@dataclass(slots=True)  # not frozen: one is made per request, and freezing triples its cost
class LimitState:
    """What is left of a caller's rate after a request was admitted."""

    requests_max: int
    remaining: int
    reset_s: float  # until nothing is used up any more
    window_s: float


class RateMeter:
    """GCRA: at most `requests_max` at once, regained evenly over `window_s`. One number per caller."""

    def __init__(self, clock: Clock, requests_max: int, window_s: float, *, callers_max: int = CALLERS_MAX) -> None:
        self._clock = clock
        self.requests_max = requests_max
        self.window_s = window_s
        self._interval_s = window_s / requests_max
        self._callers_max = callers_max
        self._full_again_at: dict[str, float] = {}

    def charge(self, who: str) -> LimitState:
        """Count one request; raise `RateLimited` (and count nothing) when the rate is used up."""
        now = self._clock.monotonic()
        who = self._place(who, now)
        used_until = max(self._full_again_at.get(who, now), now) + self._interval_s
        over_s = used_until - now - self.window_s
        if over_s > 1e-9:
            raise RateLimited(
                retry_after_s=over_s, limit=self.requests_max, window_s=round(self.window_s), remaining=0,
                reset_s=used_until - self._interval_s - now,
            )  # fmt: skip
        self._full_again_at[who] = used_until
        left = int((self.window_s - (used_until - now)) / self._interval_s + 1e-6)
        return LimitState(self.requests_max, left, used_until - now, self.window_s)

    def _place(self, who: str, now: float) -> str:
        table = self._full_again_at
        if who in table or len(table) < self._callers_max:
            return who
        for idle in [name for name, full_again_at in table.items() if full_again_at <= now]:
            del table[idle]
        return who if len(table) < self._callers_max else _OVERFLOW


class Limits:
    """The limits of every caller. None means no limit."""

    def __init__(
        self,
        clock: Clock,
        *,
        requests_max: int | None = None,
        window_s: float = 60.0,
        concurrent_max: int | None = None,
        failed_logins_max: int = FAILED_LOGINS_MAX,
    ) -> None:
        self._rate = RateMeter(clock, requests_max, window_s) if requests_max else None
        self._failures = RateMeter(clock, failed_logins_max, FAILED_LOGIN_WINDOW_S)
        self._concurrent_max = concurrent_max
        self._running: dict[str, int] = {}

    def become(self, other: Limits) -> None:
        """Take another one's limits. Who runs still counts; a rate that stays the same goes on counting."""
        old, new = self._rate, other._rate
        if old is None or new is None or (old.requests_max, old.window_s) != (new.requests_max, new.window_s):
            self._rate = new
        self._concurrent_max = other._concurrent_max

    def admit(self, caller: Caller) -> LimitState | None:
        """Count one request against the caller's rate; raise `RateLimited` if there is none left."""
        return self._rate.charge(caller.id) if self._rate else None

    def slot(self, caller: Caller) -> AbstractContextManager[None]:
        """Hold one of the caller's places for requests at the same time."""
        return _NO_LIMIT if self._concurrent_max is None else self._held(caller)

    @contextmanager
    def _held(self, caller: Caller) -> Iterator[None]:
        running = self._running.get(caller.id, 0)
        if self._concurrent_max is not None and running >= self._concurrent_max:
            raise RateLimited(
                N_("{limit} requests of this caller are running already; that is the limit."),
                hints=(N_("Wait for one of them to end."),), retry_after_s=1.0, limit=self._concurrent_max,
            )  # fmt: skip
        self._running[caller.id] = running + 1
        try:
            yield
        finally:
            left = self._running[caller.id] - 1
            if left:
                self._running[caller.id] = left
            else:
                del self._running[caller.id]

    def count_failed_login(self, address: str) -> None:
        """Count a wrong key against where it came from; raise `RateLimited` after too many."""
        self._failures.charge(_network(address))

    def running_count(self, caller: Caller) -> int:
        """Requests of the caller that hold a slot now; counted only where there is a limit."""
        return self._running.get(caller.id, 0)


def limit_headers(state: LimitState | None) -> dict[str, str]:
    """What a caller is told about its rate, in the words of OpenAI and of the IETF draft.

    >>> limit_headers(LimitState(60, 12, 48.0, 60.0))["x-ratelimit-reset-requests"]
    '48s'
    """
    if state is None:
        return {}
    return {
        "x-ratelimit-limit-requests": str(state.requests_max),
        "x-ratelimit-remaining-requests": str(state.remaining),
        "x-ratelimit-reset-requests": go_duration(state.reset_s),
        "ratelimit-policy": f'"requests";q={state.requests_max};w={math.ceil(state.window_s)}',
        "ratelimit": f'"requests";r={state.remaining};t={math.ceil(state.reset_s)}',
    }


def go_duration(seconds: float) -> str:
    """A duration as Go prints it.

    >>> go_duration(0.12), go_duration(1), go_duration(360), go_duration(3725.4)
    ('120ms', '1s', '6m0s', '1h2m6s')
    """
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _network(address: str) -> str:
    """One household, one counter: an IPv6 caller owns a whole /64."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
