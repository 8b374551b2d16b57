"""Writes docs/errors.md from the error tree: `python -m tools.errors_page > docs/errors.md`. A test compares them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from modelyard import errors
from modelyard.api.problems import error_headers, error_type, status_of
from modelyard.cli.exits import exit_code
from modelyard.errors import YardError

HEAD = """# Errors

This page is generated: `python -m tools.errors_page > docs/errors.md`.

Every error has a code that does not change, a sentence for people, and what to do next. Over HTTP it is

```json
{"error": {"message": "There is no model named yarding.", "type": "invalid_request_error", "param": "model",
           "code": "model_not_found", "backend": null,
           "suggestions": ["Did you mean: yardling?", "`modelyard list` shows every model."],
           "request_id": "req-f25be28923dd97ea4dc12ffd"}}
```

`param` is the member of the request that is at fault, or null. `backend` is the engine that failed to load a model or
to answer, else null. `/admin` says the same as `application/problem+json`, see [the API](api.md#errors). Look for
`request_id` in the server's log. `message` and `suggestions` are for people, and their wording may change; programs
look at `code`.

**Why a worker ended.** Errors of a load that broke and of a worker that died have a member `verdict` as well:

```json
"verdict": {"code": "out_of_memory", "confidence": 0.95,
            "evidence": {"line": "ggml_aligned_malloc: insufficient memory"}}
```

Its codes: `out_of_memory`, `damaged_file`, `missing_file`, `unsupported_model`, `missing_library`, `address_in_use`,
`gpu_driver`, `processor` (it lacks an instruction), `killed` (by somebody), `crashed`, `stalled`, `unknown`.
`confidence` is from 0 to 1: what the system counted (exit status, kills by the kernel, memory held and free) and an
engine's own lines are worth more than what another server reports, which never makes more than 0.6. `tried` lists what
was given up in vain. See [memory trouble](troubleshooting.md#memory).

**Trying again.** The column *again* says what the header `x-should-retry` says: *yes* comes with `Retry-After` in whole
seconds and `retry-after-ms`; *no* means the same request fails in the same way. Without an entry the header is not
sent, and the client's own rule for the status counts.

**In a stream** that has begun the status is 200 already: the error is the last frame, and no `[DONE]` follows.

*Exit* is the exit status of a `modelyard` command that ends with this error. The others: 0 done, 2 a wrong command
line, 130 Ctrl-C, 141 nobody reads the output any more, 143 a server ended by SIGTERM.
"""
GROUPS: tuple[tuple[str, str, tuple[type[YardError], ...]], ...] = (
    ("The request", "What was asked cannot be. Change the request.", (errors.BadRequest,)),
    ("Who asks", "Keys, rights and limits of the caller.",
     (errors.NotAuthenticated, errors.PermissionDenied, errors.RateLimited)),
    ("Names", "", (errors.NotFound,)),
    ("This server's room and time", "Nothing is wrong with the request.", (errors.Unavailable,)),
    ("What should have answered", "A worker or another node did not, or its answer cannot be believed.",
     (errors.UpstreamError,)),
    ("The Ollama client library", "Raised by [`OllamaService`](ollama-client.md); no server sends them.",
     (errors.OllamaServiceError,)),
    ("The rest", "", (
        errors.DeadlineExceeded, errors.NotBuilt, errors.ExtraMissing, errors.LoopDetected, errors.RequestCancelled,
        errors.ModelFileError, errors.ConfigError, errors.ClientClosed,
    )),
)  # fmt: skip
# For those whose suggestions come with the single case, or that need none there.
ADVICE = {
    "invalid_value": "Correct the member that `param` names.",
    "method_not_allowed": "Use a method of the header `Allow`.",
    "request_timeout": "Send the request without long pauses; a whole body must arrive within 60 s.",
    "request_cancelled": "Ask whoever operates the server.",
    "client_closed": "Nothing: it is what the log says of a caller that left.",
}
NOT_SENT = {"client_closed": "log only", "config_invalid": "at start"} | {
    kind.code: "library"
    for kind in (
        errors.OllamaServiceError, errors.OllamaConnectionError, errors.OllamaModelNotFoundError, errors.OllamaError,
    )
}  # fmt: skip


def page() -> str:
    """The whole page."""
    sections = [HEAD, *(_section(title, text, kinds) for title, text, kinds in GROUPS)]
    rest = "## Unforeseen\n\n" + "\n".join([*_table_head(), _row(YardError)]) + "\n"
    return "\n".join([*sections, rest])


def tree(root: type[YardError]) -> Iterator[type[YardError]]:
    """An error and all below it, in the order they are written."""
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def _section(title: str, text: str, kinds: tuple[type[YardError], ...]) -> str:
    rows = [_row(kind) for root in kinds for kind in tree(root)]
    return "\n".join([f"## {title}", "", *([text, ""] if text else []), *_table_head(), *rows, ""])


def _table_head() -> list[str]:
    return ["| code | HTTP | `type` | again | exit | when | what to do |", "|---|---|---|---|---|---|---|"]


def _row(kind: type[YardError]) -> str:
    error = kind()
    again = {"true": "yes", "false": "no"}.get(error_headers(error).get("x-should-retry", ""), "")
    status, type_ = str(status_of(error)), f"`{error_type(error)}`"
    if kind.code in NOT_SENT:
        status, type_, again = NOT_SENT[kind.code], "", ""
    if kind is errors.InsufficientMemory:
        again = "yes; *no* if it can never fit"
    cells = (f"`{kind.code}`", status, type_, again, str(exit_code(error)), _when(kind), _advice(kind))
    return f"| {' | '.join(cells)} |"


def _when(kind: type[YardError]) -> str:
    text = (inspect.getdoc(kind) or "").splitlines()[0]
    return text.replace("|", "\\|")


def _advice(kind: type[YardError]) -> str:
    if kind.code in ADVICE:
        assert not kind.hints, f"{kind.code} has suggestions of its own by now"
        return ADVICE[kind.code]
    return " ".join(_readable(hint) for hint in kind.hints)


def _readable(hint: str) -> str:
    """A template with its values named instead of filled.

    >>> _readable("see `modelyard show {model}`")
    'see `modelyard show MODEL`'
    """
    return re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), hint).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
