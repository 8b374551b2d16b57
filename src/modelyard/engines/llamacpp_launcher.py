"""The llama.cpp worker: its own C++ server, in a process of ours, on a Unix socket.

A program: `python -m modelyard.engines.llamacpp_launcher --socket PATH --params JSON`. It answers /health once the
model is loaded. SIGTERM keeps its default action and the process never ends in an orderly way: the server holds the
interpreter's lock for the whole of a load, and closing it can hang.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys

import xllamacpp

from modelyard.engines.worker_cell import enter

PING_S = 10  # a comment in every silent stream
VERBOSITY = 2  # errors and warnings: never a prompt


def server_params(socket: str, asked: dict[str, object]) -> xllamacpp.CommonParams:
    """The server's parameters: what the engine decided, and what is the same for every worker."""
    params = xllamacpp.CommonParams()
    params.hostnames, params.port = [socket], 0
    params.verbosity, params.log_json, params.sse_ping_interval = VERBOSITY, False, PING_S
    params.fit_params = False  # it shrinks a context silently
    params.offline, params.ui, params.server_tools, params.media_path = True, False, [], ""
    params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.use_jinja, params.kv_unified, params.ctx_shift, params.warmup = True, False, False, True
    params.model.path = asked.pop("model")
    params.model_alias = {"model"}  # else every chunk tells the file's path
    if projector := asked.pop("projector", None):
        params.mmproj.path = projector
    threads = asked.pop("threads")
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{str(asked.pop('kv_type')).upper()}")
    params.cache_type_k = params.cache_type_v = kind
    if pooling := asked.pop("pooling", None):
        params.embedding = True
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling}")
    for name in ("n_ctx", "n_parallel", "n_batch", "n_ubatch", "n_gpu_layers", "cache_ram_mib", "n_ctx_checkpoints"):
        setattr(params, name, asked.pop(name))
    if asked:
        raise SystemExit(f"unknown parameters: {', '.join(asked)}")
    return params


def main(arguments: list[str]) -> None:
    """Load, serve, and end when the node lets go of our standard input, if a signal does not come first."""
    enter(os.environ)
    match arguments:
        case ["--socket", socket, "--params", params]:
            pass
        case _:
            raise SystemExit("usage: llamacpp_launcher --socket PATH --params JSON")
    os.umask(0o177)  # the server binds the socket itself: it is its owner's alone from its first moment
    try:
        server = xllamacpp.Server(server_params(socket, json.loads(params)))
    except Exception as error:
        sys.stderr.write(f"load failed: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        while os.read(0, 4096):
            pass
    else:
        signal.pause()
    assert server is not None  # kept alive until here, and never closed
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
