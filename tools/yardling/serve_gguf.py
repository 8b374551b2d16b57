"""Serves one GGUF file with llama.cpp's own server until standard input ends: `serve_gguf.py FILE PORT THREADS`."""

from __future__ import annotations

import os
import sys

import xllamacpp


def main() -> None:
    path, port, threads = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.n_ctx = 2048
    params.n_parallel = 1
    params.cpuparams.n_threads = int(threads)
    params.cpuparams_batch.n_threads = int(threads)
    params.use_jinja = True
    params.fit_params = False
    params.cache_ram_mib = 0
    server = xllamacpp.Server(params)
    sys.stdin.read()
    # The engine's own threads may hang in its destructor.
    os._exit(0 if server else 1)


if __name__ == "__main__":
    main()
