"""The server's own words for how something stands, which the API says in English: marked, so that people read theirs.

Said with `terminal.told(...)`. Scripts read the English ones, from `-o json`.
"""

from __future__ import annotations

from modelyard.errors import N_

STEPS = (  # of a pull, in the words of Ollama's API
    N_("pulling manifest"), N_("pulling {digest}"), N_("verifying sha256 digest"), N_("writing manifest"),
)  # fmt: skip
STATES = (  # of a model in memory, of a request, of a node, of an attempt that failed
    N_("absent"), N_("waiting"), N_("loading"), N_("resident"), N_("draining"), N_("leaving"), N_("ready"),
    N_("queued"), N_("prefill"), N_("generating"),
    N_("unknown"), N_("healthy"), N_("recovering"), N_("doubtful"), N_("out"), N_("misconfigured"), N_("limited"),
    N_("connect"), N_("timeout"), N_("stalled"), N_("server"), N_("invalid"), N_("overloaded"), N_("out-of-memory"),
    N_("auth"), N_("model-missing"),
    N_("measured"), N_("formula"), N_("declared"),  # how a model's footprint is known
)  # fmt: skip
