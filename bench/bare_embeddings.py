"""sentence-transformers without us: `python -m bench.bare_embeddings FOLDER THREADS`. Texts in, seconds out."""

from __future__ import annotations

import json
import sys
import time

import torch
from sentence_transformers import SentenceTransformer

BATCH = 32


def main() -> None:
    """Answer until the input ends."""
    torch.set_num_threads(int(sys.argv[2]))
    model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
    print("ready", flush=True)
    for line in sys.stdin:
        texts = json.loads(line)
        began = time.monotonic()
        vectors = model.encode(texts, batch_size=BATCH, show_progress_bar=False)
        print(json.dumps([time.monotonic() - began, len(vectors)]), flush=True)


if __name__ == "__main__":
    main()
