"""Everything that serves inference over HTTP, put together from what stands behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modelyard.clock import Clock
from modelyard.gateway.inference import Inference

from .bodies import BODY_BYTES_MAX
from .copies import FleetView, Residents, no_fleet
from .embeddings import EmbeddingEndpoints
from .inference_routes import InferenceEndpoints
from .models import Catalog, Details, ModelEndpoints
from .ollama import OllamaEndpoints, Standby
from .ollama_models import Ask, OllamaModelEndpoints
from .ollama_store import ModelStore, OllamaStoreEndpoints
from .openai import OpenAIEndpoints
from .rerank import RerankEndpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """What the endpoints of one node ask."""

    inference: Inference
    catalog: Catalog
    standby: Standby
    store: ModelStore
    clock: Clock
    residents: Residents
    details: Details
    fleet: FleetView = no_fleet
    ask_node: Ask | None = None  # what the node of a model says of it
    default_model: Callable[[], str | None] = lambda: None
    body_bytes_max: int = BODY_BYTES_MAX


def inference_endpoints(behind: Behind) -> InferenceEndpoints:
    """The endpoints of one node."""
    inference, clock = behind.inference, behind.clock
    default_model, body_bytes_max = behind.default_model, behind.body_bytes_max
    openai = OpenAIEndpoints(
        inference=inference, clock=clock, default_model=default_model, body_bytes_max=body_bytes_max
    )
    ollama = OllamaEndpoints(
        inference=inference, clock=clock, default_model=default_model, body_bytes_max=body_bytes_max,
        standby=behind.standby,
    )  # fmt: skip
    vectors = EmbeddingEndpoints(openai, inference, behind.standby)
    models = ModelEndpoints(behind.catalog, behind.residents, behind.details, behind.fleet)
    tags = OllamaModelEndpoints(behind.catalog, behind.residents, clock, behind.fleet, behind.ask_node)
    store = OllamaStoreEndpoints(behind.store, clock)
    return InferenceEndpoints(
        chat_completions=openai.chat_completions,
        completions=openai.completions,
        embeddings=vectors.openai,
        rerank=RerankEndpoints(openai, inference).rerank,
        models=models.models,
        model=models.model,
        ollama_chat=ollama.chat,
        ollama_generate=ollama.generate,
        ollama_embed=vectors.ollama,
        ollama_embeddings=vectors.legacy,
        ollama_tags=tags.tags,
        ollama_ps=tags.ps,
        ollama_show=tags.show,
        ollama_pull=store.pull,
        ollama_delete=store.delete,
        ollama_copy=store.copy,
        llm_chat=ollama.llm_chat,
        llm_generate=ollama.llm_generate,
        llm_embeddings=vectors.llm,
    )
