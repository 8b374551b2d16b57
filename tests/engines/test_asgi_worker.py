"""What Python workers have in common: a load leaves nothing behind that slows down what comes after it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="needs the transformers extra")

PROGRAM = """
import os, time
from concurrent.futures import ThreadPoolExecutor
import torch
from modelyard.engines.asgi_worker import load_in

def threads():
    return len(os.listdir("/proc/self/task"))

def compute():
    return torch.ones(1 << 22).exp().sum().item(), threads()

torch.set_num_threads(4)  # has threads of its own, that stay
before = threads()
with ThreadPoolExecutor(1) as passing:
    _total, meanwhile = load_in(passing, compute)
deadline = time.monotonic() + 20
while threads() > before and time.monotonic() < deadline:
    time.sleep(0.01)
print(before, meanwhile, threads())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_the_helpers_of_a_load_end_with_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    before, meanwhile, after = (int(word) for word in done.stdout.split())
    assert meanwhile == before + 4  # the thread of the load, and three to help it
    assert after == before
