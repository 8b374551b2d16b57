"""The transformers worker: a program that serves a safetensors folder with the library's continuous batching.

Started as `python -m modelyard.engines.transformers_worker --socket PATH --params JSON`. Loads the model, builds the
whole KV pool and computes one full batch, then listens: a worker that is ready holds all the memory it will need.
Nothing is fetched, nothing pickled is read, and no code of a model runs unless its parameters say so.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from modelyard.engines import transformers_sampling
from modelyard.engines.answer_text import CALL, THINK
from modelyard.engines.asgi_worker import LoadRefused, asked, give_up, load_in, serve
from modelyard.engines.templates import Renderer
from modelyard.engines.transformers_app import LOOK_S, Engine, Step, app_of
from modelyard.engines.transformers_question import Question, Sampling
from modelyard.engines.worker_cell import enter

PAGE_TOKENS = 256  # the library's: what a block holds
WARM_UP_S_MAX = 600.0


@dataclass(frozen=True, slots=True)
class Params:
    """What the node decided."""

    folder: str
    device: str
    dtype: str
    threads: int
    slots: int
    context_length: int
    batch_tokens: int
    blocks: int
    quantization: str = ""
    runs_code: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory, and what computes with it."""

    model: Any
    tokenizer: Any
    manager: Any


class InEngine:
    """One request in the library's manager. Implements the app's `Generation`."""

    def __init__(self, manager: Any, request_id: str, prompt_count: int) -> None:
        self._manager = manager
        self._id = request_id
        self._count = prompt_count
        self._latest: Any = None
        self._news = asyncio.Event()
        self._is_over = False
        manager.register_result_handler(request_id, self._hear)

    async def step(self) -> Step | None:
        try:
            async with asyncio.timeout(None if self._latest else LOOK_S):
                await self._news.wait()
        except TimeoutError:
            return None
        self._news.clear()
        latest = self._latest
        return Step(latest.generated_tokens, latest.is_finished(), latest.error or "")

    def prompt_done(self) -> int:
        """Read from the library's thread's own state: a number that is a step old at worst."""
        state = self._manager.batch_processor.scheduler.active_requests.get(self._id)
        return 0 if state is None else self._count - len(state.remaining_prefill_tokens)

    def cancel(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._manager.output_router.result_handlers.pop(self._id, None)
            self._manager.cancel_request(self._id)

    def _hear(self, output: Any) -> None:
        self._latest = output
        self._is_over = self._is_over or output.is_finished()
        self._news.set()


class Requests:
    """Hands requests to the manager and counts them."""

    def __init__(self, loaded: Loaded, ends: frozenset[int]) -> None:
        self._manager = loaded.manager
        self._device = loaded.model.device
        self._ends = sorted(ends)
        self._numbers = itertools.count()

    def begin(self, tokens: list[int], limit: int, question: Question) -> InEngine:
        request_id = f"r{next(self._numbers)}"
        generation = InEngine(self._manager, request_id, len(tokens))
        self._manager.add_request(
            tokens, request_id=request_id, max_new_tokens=limit, streaming=True,
            eos_token_id=-1 if question.ignore_eos else self._ends,
            draw=transformers_sampling.Draw(question.sampling, self._device),
        )  # fmt: skip
        return generation

    def counters(self) -> Mapping[str, int]:
        scheduler = self._manager.batch_processor.scheduler
        return {
            "running": len(scheduler.active_requests), "waiting": len(scheduler.waiting_requests),
            "steps": self._manager.current_batch,
        }  # fmt: skip


@torch.inference_mode()  # type: ignore[untyped-decorator]
def load(params: Params) -> Loaded:
    """Everything in memory that will be needed, and at work. Raise `LoadRefused`, or whatever the library raises."""
    torch.set_num_threads(params.threads)
    folder: dict[str, Any] = {"local_files_only": True, "trust_remote_code": params.runs_code}
    config = AutoConfig.from_pretrained(params.folder, **folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(params.folder, **folder)
    except (OSError, ValueError, ImportError) as error:
        raise LoadRefused("it has no tokenizer that can be read") from error
    if not tokenizer.is_fast:
        raise LoadRefused("it has no tokenizer.json")
    width = config.get_text_config().vocab_size
    if len(tokenizer) > width:
        raise LoadRefused(f"its tokenizer is another model's: it has {len(tokenizer)} tokens, the model {width}")
    model = AutoModelForCausalLM.from_pretrained(
        params.folder, config=config, dtype=getattr(torch, params.dtype), use_safetensors=True,
        attn_implementation="sdpa", quantization_config=_quantization(params), **folder,
    )  # fmt: skip
    if not params.quantization:
        model.to(params.device)
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=PAGE_TOKENS, num_blocks=params.blocks, max_batch_tokens=params.batch_tokens,
            max_requests_per_batch=params.slots, max_memory_percent=1.0, max_blocks_per_request=0,
            # One step after the other, each as we gave it: nothing is computed twice, doubled or reordered.
            use_async_batching=False, use_cuda_graph=False, auto_switch_to_flash=False, cpu_offload_space=0.0,
            safety_margin=0.0,
        ),
    )  # fmt: skip
    transformers_sampling.install(manager)
    manager.warmup()  # builds the pool
    manager.batch_processor.cache.cache_tensor.zero_()  # and makes it ours: pages are given when they are touched
    manager.start()
    loaded = Loaded(model, tokenizer, manager)
    warm_up(loaded, params)
    return loaded


def _quantization(params: Params) -> Any:
    if not params.quantization:
        return None
    four = params.quantization == "4bit"
    return BitsAndBytesConfig(
        load_in_4bit=four, load_in_8bit=not four, bnb_4bit_compute_dtype=getattr(torch, params.dtype)
    )


def ends_of(loaded: Loaded) -> frozenset[int]:
    """The tokens that end an answer."""
    found: set[int] = set()
    for place in (loaded.model.generation_config, loaded.model.config, loaded.tokenizer):
        value = getattr(place, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else value or ())
    return frozenset(found)


def defaults_of(model: Any) -> Sampling:
    """How the model's authors want tokens to be chosen, where a request says nothing."""
    given = model.generation_config
    if not given.do_sample:
        return Sampling(repeat_penalty=given.repetition_penalty or 1.0)
    one, nothing = 1.0, 0.0
    return Sampling(
        temperature=one if given.temperature is None else given.temperature,
        top_k=given.top_k or 0,
        top_p=one if given.top_p is None else given.top_p,
        min_p=given.min_p or nothing,
        repeat_penalty=given.repetition_penalty or one,
    )


def engine_of(loaded: Loaded, params: Params, environment: Mapping[str, str]) -> Engine:
    """What the app answers with."""
    backend, tokenizer = loaded.tokenizer.backend_tokenizer, loaded.tokenizer
    ends = ends_of(loaded)
    requests = Requests(loaded, ends)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    names = {name: str(value) for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}

    def encode(text: str, *, adds_special: bool) -> list[int]:
        begins = tokenizer.bos_token
        tokens: list[int] = tokenizer.encode(
            text, add_special_tokens=adds_special and not (begins and text.startswith(begins))
        )
        return tokens

    def decode(tokens: list[int]) -> str:
        return str(backend.decode(tokens, skip_special_tokens=True))

    return Engine(
        params.context_length, loaded.model.config.get_text_config().vocab_size, defaults_of(loaded.model),
        encode, decode, requests.begin, ends, requests.counters,
        renderer=Renderer(template, environment) if template else None, template_names=names,
        may_think=THINK in (template or "") or "enable_thinking" in (template or ""), may_call=CALL in (template or ""),
    )  # fmt: skip


def warm_up(loaded: Loaded, params: Params) -> None:
    """Compute one full batch: what it takes is taken now, and not by the first request."""
    count = max(1, min(params.batch_tokens, params.context_length - 1))
    loaded.manager.add_request([0] * count, request_id="warm-up", max_new_tokens=1, eos_token_id=-1)
    output = loaded.manager.get_result("warm-up", timeout=WARM_UP_S_MAX)
    if output is None or output.error:
        raise LoadRefused("its first batch failed" if output is None else f"its first batch failed: {output.error}")
    loaded.manager.batch_processor.cache.free_all_requests(clear_ledgers=True)


def end_with(manager: Any) -> None:
    """The library's thread ends only if it failed. Then so do we: a worker that cannot compute must not look well."""
    manager._generation_thread.join()
    give_up(f"load failed: the engine's thread ended: {manager.background_thread_status.fatal_error!r}")


def main(arguments: list[str]) -> None:
    """Load, serve, and end with the node."""
    enter(os.environ)
    socket, given = asked(arguments)
    params = Params(**given)
    with ThreadPoolExecutor(1) as passing:  # the library computes in a thread of its own
        loaded = load_in(passing, partial(load, params))
    threading.Thread(target=end_with, args=(loaded.manager,), daemon=True).start()
    serve(app_of(engine_of(loaded, params, os.environ)), socket)


if __name__ == "__main__":
    main(sys.argv[1:])
