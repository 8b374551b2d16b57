"""How the transformers worker chooses tokens: each request in its own way, in one batch with all others.

The library's own processors for this exist only where the model's defaults ask for them, sort the whole vocabulary for
each token, and know neither seeds nor penalties. So it is told to take the likeliest token, and this one processor
makes the token that was drawn the likeliest. Runs on the library's thread, inside worker processes only.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor
from transformers.generation.logits_process import LogitsProcessorList

from modelyard.engines.transformers_question import Sampling

LIKELIEST_COUNT = 1024  # nearly always enough of them for top_p; sorting all takes ten times as long


class Draw:
    """One request's way to choose, with its own source of chance if it has a seed."""

    def __init__(self, sampling: Sampling, device: Any) -> None:
        self.sampling = sampling
        self.generator = None
        if sampling.seed is not None:
            self.generator = torch.Generator(device=device).manual_seed(sampling.seed)


class PerRequest(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """Chooses the next token of every request in a batch."""

    supported_kwargs = {"draw": Draw}  # noqa: RUF012 - the library's name and type
    ignored_kwargs = ()

    def __init__(self) -> None:
        self._states: list[Any] = []  # of the batch under way, in the order of its rows

    def fill_defaults(self, int32_tensor: Any) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Any:
        self._states = [request.state for request in requests_with_new_token]
        return torch.zeros(len(self._states), dtype=torch.int32)

    def __call__(self, scores: Any, tensor_arg: Any) -> Any:
        for row, state in enumerate(self._states):
            draw = state.logit_processor_kwargs.get("draw")
            if draw is None or draw.sampling.is_plain:
                continue
            _changed(scores[row], draw.sampling, state)
            if draw.sampling.temperature:
                scores[row, _drawn(scores[row], draw)] = torch.inf
        return scores


def install(manager: Any) -> None:
    """Make this the only way in which a manager chooses tokens. Before its batches are prepared."""
    processors = manager.logit_processor
    processors.logits_processor = LogitsProcessorList([PerRequest()])
    processors.tensors_required, processors.supported_keys = 1, {"draw": Draw}
    processors.do_processing = True


def _changed(scores: Any, sampling: Sampling, state: Any) -> None:
    """Penalties and biases, in place."""
    for token, bias in sampling.logit_bias.items():
        if token < scores.size(0):
            scores[token] += bias
    if sampling.repeat_penalty != 1 and sampling.repeat_last_n:
        seen = (state.initial_tokens + state.generated_tokens)[-sampling.repeat_last_n :]
        at = torch.tensor(sorted(set(seen)), device=scores.device)
        found = scores[at]
        scores[at] = torch.where(found > 0, found / sampling.repeat_penalty, found * sampling.repeat_penalty)
    if (sampling.presence_penalty or sampling.frequency_penalty) and state.generated_tokens:
        counts = Counter(state.generated_tokens)
        at = torch.tensor(list(counts), device=scores.device)
        often = torch.tensor(list(counts.values()), device=scores.device, dtype=scores.dtype)
        scores[at] -= often * sampling.frequency_penalty + sampling.presence_penalty


def _drawn(scores: Any, draw: Draw) -> Any:
    """One token, by chance."""
    sampling = draw.sampling
    # Nothing a request says may make a number that is none: an error here is the end of everybody's answers.
    scores = torch.nan_to_num(scores - scores.max()) / sampling.temperature
    size = scores.size(0)
    if 0 < sampling.top_k < size:
        scores, tokens = torch.topk(scores, sampling.top_k)
        chances = scores.softmax(-1)
    else:
        chances, tokens = scores.softmax(-1), None
        if sampling.top_p < 1:
            chances, tokens = _likeliest(chances, sampling.top_p)
    if sampling.min_p:
        chances[chances < sampling.min_p * chances.max()] = 0
    if sampling.top_p < 1:
        is_beyond = chances.cumsum(-1) - chances >= sampling.top_p
        is_beyond[0] = False
        chances[is_beyond] = 0
    at = torch.multinomial(chances, 1, generator=draw.generator)
    return at if tokens is None else tokens[at]


def _likeliest(chances: Any, share: float) -> tuple[Any, Any]:
    """In order, at least as many as have this share of all chance."""
    first, tokens = torch.topk(chances, min(LIKELIEST_COUNT, chances.size(0)))
    if first.sum() >= share:
        return first, tokens
    ordered = torch.sort(chances, descending=True)
    return ordered.values, ordered.indices
