"""Exit codes: what a script can tell from how a command ended. Knows nothing about commands."""

from __future__ import annotations

from collections.abc import Mapping

from modelyard import errors
from modelyard.errors import YardError

OK = 0
FAILED = 1
USAGE = 2  # click's own
PARTIAL = 8  # a part of what was asked for failed
INTERRUPTED = 130
BROKEN_PIPE = 141

# The nearest class in an error's ancestry decides.
_CODES: Mapping[type[YardError], int] = {
    YardError: FAILED,
    errors.ConfigError: 3,
    errors.UpstreamUnreachable: 4,
    errors.OllamaConnectionError: 4,
    errors.NotFound: 5,
    errors.OllamaModelNotFoundError: 5,
    errors.InsufficientMemory: 6,
    errors.QueueTimeout: 7,
    errors.LoadStalled: 7,
    errors.UpstreamStalled: 7,
    errors.UpstreamTimeout: 7,
    errors.NotAuthenticated: 9,
    errors.PermissionDenied: 9,
}


def exit_code(error: YardError) -> int:
    """The exit code an error ends a command with."""
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
