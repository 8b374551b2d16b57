"""What an error says about the node that answered with it: its class, or that the node is not to blame. Pure.

connect        nobody answered, or the network between us is broken      local: our side may be at fault
timeout        no first token in time
stalled        tokens stopped coming
server         it answered 5xx, or reported an error
invalid        its answer was cut or makes no sense
limited        it limits us, and may say for how long
overloaded     it has no room now
out-of-memory  the model did not fit there
auth           it does not accept our key: our mistake
model-missing  it no longer has what it listed
"""

from __future__ import annotations

from enum import StrEnum

from modelyard.errors import (
    LoadFailed,
    NotOfferedThere,
    OutOfMemory,
    UpstreamError,
    UpstreamInvalid,
    UpstreamLimited,
    UpstreamModelMissing,
    UpstreamOverloaded,
    UpstreamRefusedKey,
    UpstreamStalled,
    UpstreamTimeout,
    UpstreamUnreachable,
    YardError,
)


class Failure(StrEnum):
    """How a node failed."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    SERVER = "server"
    INVALID = "invalid"
    LIMITED = "limited"
    OVERLOADED = "overloaded"
    OUT_OF_MEMORY = "out-of-memory"
    AUTH = "auth"
    MODEL_MISSING = "model-missing"


# The nearest class in an error's ancestry decides.
_FAILURES: dict[type[BaseException], Failure] = {
    UpstreamError: Failure.SERVER,
    UpstreamUnreachable: Failure.CONNECT,
    UpstreamTimeout: Failure.TIMEOUT,
    UpstreamStalled: Failure.STALLED,
    UpstreamInvalid: Failure.INVALID,
    UpstreamLimited: Failure.LIMITED,
    UpstreamOverloaded: Failure.OVERLOADED,
    UpstreamRefusedKey: Failure.AUTH,
    UpstreamModelMissing: Failure.MODEL_MISSING,
    OutOfMemory: Failure.OUT_OF_MEMORY,
    LoadFailed: Failure.SERVER,
}
_LATE = (Failure.TIMEOUT, Failure.STALLED)
_NOT_THERE = (NotOfferedThere,)  # no fault of the node's, and another may have it


def failure_of(error: BaseException) -> Failure | None:
    """How the node failed; None where the request, its caller, or we ourselves are the cause.

    >>> failure_of(UpstreamLimited(provider="cloud")), failure_of(ValueError())
    (<Failure.LIMITED: 'limited'>, None)
    """
    failure = next((_FAILURES[kind] for kind in type(error).__mro__ if kind in _FAILURES), None)
    verdict = error.fields.get("verdict") if isinstance(error, YardError) else None
    if failure is Failure.SERVER and isinstance(verdict, dict) and verdict.get("code") == "out_of_memory":
        return Failure.OUT_OF_MEMORY
    return failure


def may_try_another(error: BaseException, *, retry_on_timeout: bool = False) -> bool:
    """Whether another node may be asked after this, as long as no content has come.

    A node that was merely too slow may still be at work on it: asking another doubles the work, so it must be wished.
    """
    failure = failure_of(error)
    if failure is None:
        return isinstance(error, _NOT_THERE)
    return failure not in _LATE or retry_on_timeout


def is_local(failure: Failure) -> bool:
    """Whether our side, or the network, may be at fault: such failures are counted apart from the node's own."""
    return failure is Failure.CONNECT
