"""The embeddings worker: sentence-transformers in a process of ours, on a Unix socket.

A program: `python -m modelyard.engines.embeddings_worker --socket PATH --params JSON`. Only safetensors are read, only
from the folder it is given, and no program code of a model is run. The socket appears when the model is loaded and one
full batch has been computed: what it holds then is what it will hold.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from modelyard.engines.asgi_worker import LoadRefused, asked, load_in, serve
from modelyard.engines.embeddings_app import Computes, Input, Pair, Refused, app_of
from modelyard.engines.worker_cell import enter
from modelyard.models.sentence_folder import folder_problem

LONGEST_TOKENS = 1_000_000  # where a tokenizer says that it has no limit, it says a number like this


@dataclass(frozen=True, slots=True)
class Params:
    """What the recipe decided."""

    folder: str
    device: str
    dtype: str
    threads: int
    context_length: int
    batch_tokens: int
    is_reranker: bool


class Sentences:
    """A sentence-transformers model."""

    def __init__(self, params: Params) -> None:
        self.model = SentenceTransformer(params.folder, device=params.device, **_safely(params))
        self.batch_tokens = params.batch_tokens
        self.context_length = _context(params, self.model)
        self.model.max_seq_length = self.context_length
        self._tokenizer = self.model.tokenizer
        self._vocabulary = _vocabulary(self.model, self._tokenizer)
        self._prompt = (self.model.prompts or {}).get(self.model.default_prompt_name or "", "")

    def counts(self, inputs: Sequence[Input]) -> list[int]:
        for given in inputs:
            if not isinstance(given, str) and (not given or min(given) < 0 or max(given) >= self._vocabulary):
                raise Refused(f"token numbers of this model are from 0 to {self._vocabulary - 1}")
        texts = [self._prompt + given for given in inputs if isinstance(given, str)]
        of_texts = iter(_token_ids(self._tokenizer, texts) if texts else ())
        return [len(next(of_texts)) if isinstance(given, str) else len(given) for given in inputs]

    def vectors(self, inputs: Sequence[Input]) -> list[bytes]:
        texts = [given for given in inputs if isinstance(given, str)]
        if len(texts) == len(inputs):
            found = self.model.encode(texts, batch_size=len(texts), show_progress_bar=False, convert_to_numpy=True)
        else:
            found = self._of_tokens([self._ids(given) for given in inputs])
        return [np.ascontiguousarray(row, dtype="<f4").tobytes() for row in found]

    def pair_counts(self, pairs: Sequence[Pair]) -> list[int]:
        raise Refused("this model does not support reranking")

    def scores(self, pairs: Sequence[Pair]) -> list[float]:
        raise Refused("this model does not support reranking")

    def _ids(self, given: Input) -> list[int]:
        ids = _token_ids(self._tokenizer, [self._prompt + given])[0] if isinstance(given, str) else given
        return ids if len(ids) <= self.context_length else [*ids[: self.context_length - 1], ids[-1]]

    def _of_tokens(self, ids: list[list[int]]) -> Any:
        padded = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        with torch.inference_mode():
            on_device = {name: tensor.to(self.model.device) for name, tensor in padded.items()}
            return self.model(on_device)["sentence_embedding"].float().cpu().numpy()


class Pairs:
    """A cross-encoder: one score for a query and a document."""

    def __init__(self, params: Params) -> None:
        self.model = CrossEncoder(params.folder, device=params.device, **_safely(params))
        if self.model.num_labels != 1:
            raise LoadRefused(f"it has {self.model.num_labels} labels in place of one score")
        self.batch_tokens = params.batch_tokens
        self.context_length = _context(params, self.model)

    def counts(self, inputs: Sequence[Input]) -> list[int]:
        raise Refused("this model does not support embeddings")

    def vectors(self, inputs: Sequence[Input]) -> list[bytes]:
        raise Refused("this model does not support embeddings")

    def pair_counts(self, pairs: Sequence[Pair]) -> list[int]:
        return [len(ids) for ids in _token_ids(self.model.tokenizer, [list(pair) for pair in pairs])]

    def scores(self, pairs: Sequence[Pair]) -> list[float]:
        found = self.model.predict(
            [list(pair) for pair in pairs], batch_size=len(pairs), show_progress_bar=False, convert_to_numpy=True
        )
        return [float(score) for score in found]


def _safely(params: Params) -> dict[str, Any]:
    return {
        "trust_remote_code": False,
        "local_files_only": True,
        "model_kwargs": {"use_safetensors": True, "dtype": getattr(torch, params.dtype, "auto")},
    }


def _context(params: Params, model: Any) -> int:
    own = model.max_seq_length
    known = [length for length in (params.context_length, own) if length and length < LONGEST_TOKENS]
    return int(min(known)) if known else LONGEST_TOKENS


def _vocabulary(model: Any, tokenizer: Any) -> int:
    rows = getattr(getattr(model[0], "auto_model", None), "config", None)
    return int(getattr(rows, "vocab_size", 0) or len(tokenizer))


def _token_ids(tokenizer: Any, texts: Any) -> list[list[int]]:
    if callable(tokenizer):
        found: list[list[int]] = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        return found
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]  # of a model without a transformer


def load(params: Params) -> Computes:
    """The model, ready to compute. Raises `LoadRefused` for a folder that is not safe to load, or is no such model."""
    if problem := folder_problem(Path(params.folder)):
        raise LoadRefused(problem)
    torch.set_num_threads(params.threads)
    computes = Pairs(params) if params.is_reranker else Sentences(params)
    warm_up(computes, params)
    return computes


def warm_up(computes: Computes, params: Params) -> None:
    """Compute one full batch: what it takes is taken now, and not by the first request."""
    length = min(computes.context_length, computes.batch_tokens)
    words = "a " * max(1, length - 8)
    count = max(1, computes.batch_tokens // length)
    if params.is_reranker:
        computes.scores([("a", words)] * count)
    else:
        computes.vectors([words] * count)


def main(arguments: list[str]) -> None:
    """Load, serve, and end with the node."""
    enter(os.environ)
    socket, given = asked(arguments)
    params = Params(**given)
    thread = ThreadPoolExecutor(1)
    computes = load_in(thread, partial(load, params))
    serve(app_of(computes, thread, is_reranker=params.is_reranker), socket)


if __name__ == "__main__":
    main(sys.argv[1:])
