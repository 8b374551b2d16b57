"""What `llama-server` is: llama.cpp's own server on a port, as a program: `llama_server.py --port N -m FILE`."""

from __future__ import annotations

import argparse
import os
import signal

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("-m", dest="model", required=True)
    parser.add_argument("-np", dest="slots", type=int, default=4)
    parser.add_argument("-c", dest="context", type=int, default=4096)
    parser.add_argument("-b", dest="batch", type=int, default=512)
    parser.add_argument("-t", dest="threads", type=int, default=2)
    parser.add_argument("--api-key", default=os.environ.get("LLAMA_API_KEY", ""))
    given = parser.parse_args()

    params = xllamacpp.CommonParams()
    params.hostnames, params.port = ["127.0.0.1"], given.port
    params.model.path = given.model
    params.n_parallel, params.n_ctx, params.verbosity = given.slots, given.context, 2
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given.threads
    params.n_batch = params.n_ubatch = given.batch
    params.fit_params, params.offline, params.ui = False, True, False
    if given.api_key:
        params.api_keys = [given.api_key]
    server = xllamacpp.Server(params)
    signal.pause()
    assert server is not None  # kept alive until here


if __name__ == "__main__":
    main()
