"""Trains yardling from its written data, with a seed, on the CPU; stops and resumes at a checkpoint.

    python -m tools.yardling.train --run /tmp/yardling-run

The run folder holds the tokenizer, the checkpoint and the log of the loss; `export.py` makes the model files of it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

from . import vocabulary
from .corpus import assert_held_out
from .dialogues import dialogue

CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the result."""

    seed: int = 11435
    tokens: int = 8_000_000
    batch_tokens: int = 2560
    pool_tokens: int = 65_536
    rate: float = 1.5e-3
    warm_up: float = 0.02
    decay: float = 0.4
    weight_decay: float = 0.1
    dropout: float = 0.05
    token_dropout: float = 0.06
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    key_heads: int = 2
    feed_forward: int = 512


@dataclass(frozen=True, slots=True)
class Batch:
    ids: torch.Tensor
    targets: torch.Tensor
    digits: torch.Tensor
    tokens: int


def configuration(recipe: Recipe) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocabulary.SIZE,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_heads,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=vocabulary.SIZE - 1,
        pad_token_id=vocabulary.SIZE - 3,
        use_cache=True,
    )


def batches(tokenizer: Tokenizer, recipe: Recipe, pool: int) -> list[Batch]:
    """The batches of one pool: dialogues sorted by length, cut to an equal number of tokens, then shuffled."""
    rng = Random(f"{recipe.seed}-{pool}")
    made: list[tuple[list[int], list[bool]]] = []
    tokens = 0
    while tokens < recipe.pool_tokens:
        ids, learn = vocabulary.encode(tokenizer, dialogue(rng))
        ids, learn = ids[:CONTEXT], learn[:CONTEXT]
        made.append((ids, learn))
        tokens += len(ids)
    made.sort(key=lambda one: len(one[0]))
    groups: list[list[tuple[list[int], list[bool]]]] = [[]]
    for one in made:
        if groups[-1] and (len(groups[-1]) + 1) * len(one[0]) > recipe.batch_tokens:
            groups.append([])
        groups[-1].append(one)
    rng.shuffle(groups)
    digits = torch.tensor([number for one in "0123456789" for number in tokenizer.encode(one).ids])
    return [padded(group, digits) for group in groups]


def padded(group: list[tuple[list[int], list[bool]]], digits: torch.Tensor) -> Batch:
    width = max(len(ids) for ids, _ in group)
    ids = torch.full((len(group), width), vocabulary.SIZE - 3)
    targets = torch.full((len(group), width), -100)
    for row, (numbers, learn) in enumerate(group):
        ids[row, : len(numbers)] = torch.tensor(numbers)
        wanted = [number if flag else -100 for number, flag in zip(numbers[1:], learn[1:], strict=True)]
        targets[row, : len(wanted)] = torch.tensor(wanted)
    return Batch(ids, targets, torch.isin(ids, digits), int(ids.numel()))


def loss_of(model: Qwen2ForCausalLM, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """Cross-entropy at the learned positions only; logits are made for no others.

    Now and then a whole token of what was asked is hidden, digits excepted: a sum without them has no answer.
    """
    embedded = model.model.embed_tokens(batch.ids)
    embedded = torch.nn.functional.dropout(embedded, recipe.dropout, model.training)
    if model.training:
        whole = torch.rand(embedded.shape[:2]) < recipe.token_dropout * torch.rand(())
        whole &= (batch.targets.roll(1, 1) == -100) & ~batch.digits
        embedded = embedded.masked_fill(whole[..., None], 0.0)
    hidden = model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    chosen = batch.targets != -100
    logits = model.lm_head(torch.nn.functional.dropout(hidden[chosen], recipe.dropout, model.training))
    return torch.nn.functional.cross_entropy(logits, batch.targets[chosen])


def rate_at(progress: float, recipe: Recipe) -> float:
    """Up, level, then down in a straight line: where the way down begins can still be moved while it is level."""
    if progress < recipe.warm_up:
        return recipe.rate * progress / recipe.warm_up
    left = min(1.0, (1.0 - progress) / recipe.decay)
    return recipe.rate * max(0.01, left)


def optimizer_of(model: Qwen2ForCausalLM, recipe: Recipe) -> torch.optim.Optimizer:
    matrices = [value for value in model.parameters() if value.dim() > 1]
    others = [value for value in model.parameters() if value.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=True)


class Run:
    """A run folder: where training stands, and how it goes on from there."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
        path = folder / "tokenizer.json"
        if not path.exists():
            vocabulary.train(recipe.seed).save(str(path))
        self.tokenizer = Tokenizer.from_file(str(path))
        torch.manual_seed(recipe.seed)
        self.model = Qwen2ForCausalLM(configuration(recipe))
        self.optimizer = optimizer_of(self.model, recipe)
        self.pool, self.tokens, self.seconds = 0, 0, 0.0
        if (folder / "checkpoint.pt").exists():
            self.resume()

    def resume(self) -> None:
        state: dict[str, Any] = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.pool, self.tokens, self.seconds = state["pool"], state["tokens"], state["seconds"]

    def save(self) -> None:
        state: dict[str, Any] = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"pool": self.pool, "tokens": self.tokens, "seconds": self.seconds}
        torch.save(state, self.folder / "checkpoint.tmp")
        (self.folder / "checkpoint.tmp").replace(self.folder / "checkpoint.pt")

    def train(self) -> None:
        """Until the tokens of the recipe are used up; a checkpoint after every third pool."""
        self.model.train()
        while self.tokens < self.recipe.tokens:
            started, losses = time.monotonic(), []
            torch.manual_seed(self.recipe.seed + self.pool)
            for batch in batches(self.tokenizer, self.recipe, self.pool):
                losses.append(self.step(batch))
            self.pool += 1
            self.seconds += time.monotonic() - started
            mean = sum(losses) / len(losses)
            print(f"{self.pool} {self.tokens} tokens {self.seconds:.0f} s loss {mean:.4f}", flush=True)
            if self.pool % 3 == 0 or self.tokens >= self.recipe.tokens:
                self.save()

    def step(self, batch: Batch) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.tokens / self.recipe.tokens, self.recipe)
        loss = loss_of(self.model, batch, self.recipe)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.tokens += batch.tokens
        return loss.item()


def options() -> Iterator[tuple[str, type]]:
    yield from {"seed": int, "tokens": int, "rate": float}.items()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder for tokenizer, checkpoint and log")
    for name, kind in options():
        parser.add_argument(f"--{name}", type=kind, default=getattr(Recipe(), name))
    arguments = parser.parse_args()
    assert_held_out()
    torch.set_num_threads(2)
    recipe = Recipe(seed=arguments.seed, tokens=arguments.tokens, rate=arguments.rate)
    Run(arguments.run, recipe).train()


if __name__ == "__main__":
    main()
