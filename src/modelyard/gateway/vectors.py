"""Whether an answer of vectors or scores is one: as many as were asked for, and of numbers. Pure."""

from __future__ import annotations

import math

from modelyard.errors import N_, UpstreamInvalid
from modelyard.providers.ticket import Ticket
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, RerankAnswer, RerankRequest


def check_vectors(request: EmbedRequest, answer: EmbedAnswer, ticket: Ticket) -> None:
    """An answer that does not fit the question is none, and JSON has no word for a number that is none."""
    if len(answer.vectors) != len(request.inputs):
        raise UpstreamInvalid(provider=ticket.provider, problem=N_("there is not one vector per input"))
    if not all(math.isfinite(sum(vector)) for vector in answer.vectors):
        raise UpstreamInvalid(provider=ticket.provider, problem=N_("a vector has a number that is none"))


def check_scores(request: RerankRequest, answer: RerankAnswer, ticket: Ticket) -> None:
    """The same of scores."""
    if len(answer.scores) != len(request.documents):
        raise UpstreamInvalid(provider=ticket.provider, problem=N_("there is not one score per document"))
    if not all(math.isfinite(score) for score in answer.scores):
        raise UpstreamInvalid(provider=ticket.provider, problem=N_("a score is no number"))
