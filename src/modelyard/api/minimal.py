"""The HTTP face of a minimal server: OpenAI's chat with one model, and health. Its table is all that is served.

Behind the same door as the whole server; what is not in the table does not exist there either.
"""

from __future__ import annotations

from starlette.applications import Starlette

from modelyard.clock import Clock
from modelyard.gateway.inference import Inference
from modelyard.gateway.keys import Right

from .health import HealthEndpoints
from .models import ModelEndpoints
from .openai import OpenAIEndpoints
from .security import Guard
from .table import MODEL_RIGHTS, YardApp, health_routes


def build_minimal_app(
    *,
    inference: Inference,
    models: ModelEndpoints,
    health: HealthEndpoints,
    guard: Guard,
    clock: Clock,
    model: str,
    body_bytes_max: int,
    language: str = "en",
) -> Starlette:
    """The app of a minimal server. `model` answers whoever names none."""
    openai = OpenAIEndpoints(
        inference=inference, clock=clock, default_model=lambda: model, body_bytes_max=body_bytes_max
    )
    routes = [
        guard.secured("/v1/chat/completions", openai.chat_completions, ("POST",), Right.INFER, limited=True),
        guard.secured("/v1/models", models.models, ("GET",), MODEL_RIGHTS),
        guard.secured("/v1/models/{id:path}", models.model, ("GET",), MODEL_RIGHTS),
        *health_routes(guard, health),
    ]
    return YardApp(guard, routes, language=language)
