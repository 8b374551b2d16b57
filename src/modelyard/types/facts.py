"""What a model file's header says about the memory the model will need. The formula is in memory/footprint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One block of a model: its weights, and what it keeps per token or per sequence."""

    weights_bytes: int = 0
    key_width: int = 0  # numbers kept per token for keys: KV heads times head width; 0 for a layer without attention
    value_width: int = 0
    window_tokens: int = 0  # how many tokens a sliding window keeps; 0 keeps the whole context
    state_bytes: int = 0  # kept per sequence whatever its length: recurrent and convolution layers


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Everything the footprint formula needs, from one header."""

    architecture: str = ""
    layers: tuple[LayerFacts, ...] = ()
    embedding_width: int = 0
    head_count: int = 0
    head_width: int = 0  # numbers per head; 0: the embedding's, divided among the heads
    feed_forward_width: int = 0  # of all experts used at once
    vocabulary_count: int = 0
    merge_count: int = 0
    context_length: int = 0  # what it was trained for; 0 if the header does not say
    input_bytes: int = 0  # the token embedding: stays in RAM
    output_bytes: int = 0  # the output matrix and all else outside the blocks
    is_output_tied: bool = False  # the token embedding is the output matrix too
    is_input_repacked: bool = False  # its type is rewritten for the CPU at load, so that a tied one exists twice
    projector_bytes: int = 0  # of an attached image or audio projector

    @property
    def weights_bytes(self) -> int:
        """All tensors, as they are in the files."""
        return (
            self.input_bytes + self.output_bytes + self.projector_bytes + sum(one.weights_bytes for one in self.layers)
        )
