"""JSON answers of the control plane: orjson, never cached."""

from __future__ import annotations

import orjson
from starlette.responses import Response


def json_answer(body: object, status: int = 200) -> Response:
    """A whole JSON answer."""
    return Response(
        orjson.dumps(body, default=str, option=orjson.OPT_NON_STR_KEYS),
        status,
        {"cache-control": "no-store"},
        "application/json",
    )
