"""The oracle's helper program: makes llama.cpp print what a load would take, and is killed after its table.

`fit_params` computes the table with the real allocator before anything is loaded; there is no way to stop after it.
Should our killer die first, the parent-death signal ends us before a load has got anywhere.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys

import xllamacpp

PR_SET_PDEATHSIG = 1
VERBOSITY = 4  # the table is printed from here on


def main() -> None:
    """Print the table. Never returns normally."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--options", type=json.loads, required=True)
    asked = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")  # of all processes, this one may go first
    if os.getppid() != asked.parent:
        os._exit(1)
    xllamacpp.Server(_params(asked.model, asked.options))
    os._exit(1)


def _params(model: str, options: dict[str, int]) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.verbosity = VERBOSITY
    params.fit_params = True
    params.warmup = False
    params.n_threads_http = 1
    params.cache_ram_mib = 0
    for name, value in options.items():
        if name in ("cache_type_k", "cache_type_v"):
            setattr(params, name, getattr(xllamacpp.ggml_type, f"GGML_TYPE_{value}"))
        elif name == "flash_attn":
            kinds = xllamacpp.llama_flash_attn_type
            auto, off = kinds.LLAMA_FLASH_ATTN_TYPE_AUTO, kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.flash_attn_type = auto if value else off
        else:
            setattr(params, name, value)
    return params


if __name__ == "__main__":
    main()
