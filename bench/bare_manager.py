"""The transformers library without us and without HTTP: its own continuous batching, driven in its own process.

`python -m bench.bare_manager FOLDER THREADS SLOTS BLOCKS BATCH` loads and says `ready`; each line `STREAMS TOKENS` it
then reads is answered with the seconds that so many answers of so many tokens took. The stricter baseline: the
library's own server adds HTTP to the same manager, and needs a package that is no dependency of ours.
"""

from __future__ import annotations

import sys
import time

import torch
from tools.gguf_files import text_of_tokens
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig


def main() -> None:
    folder, (threads, slots, blocks, batch) = sys.argv[1], (int(text) for text in sys.argv[2:])
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": text_of_tokens(16)}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer.encode(text, add_special_tokens=False)
    config = ContinuousBatchingConfig(
        num_blocks=blocks, max_batch_tokens=batch, max_requests_per_batch=slots, max_memory_percent=1.0
    )
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1)
    manager = model.init_continuous_batching(generation_config=greedy, continuous_batching_config=config)
    manager.start()
    print("ready", flush=True)
    for line in sys.stdin:
        streams, tokens = (int(word) for word in line.split())
        began = time.monotonic()
        waiting = set(manager.add_requests([prompt] * streams, max_new_tokens=tokens, streaming=True))
        while waiting:
            output = manager.get_result(timeout=1)
            if output is not None and output.is_finished():
                waiting.discard(output.request_id)
        print(time.monotonic() - began, flush=True)


if __name__ == "__main__":
    main()
