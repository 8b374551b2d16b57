"""Who called, for endpoints that FastAPI builds."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from modelyard.gateway.keys import Caller


def caller_of(request: Request) -> Caller:
    """Whom the guard has let in."""
    caller: Caller = request.scope["state"]["caller"]
    return caller


By = Annotated[Caller, Depends(caller_of)]
