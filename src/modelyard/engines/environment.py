"""Which environment variables a worker may see. An allowlist: what is not named here stays with the node. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping

ALLOWED = frozenset(
    (
        "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
        "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH",
        "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES", "OMP_NUM_THREADS",
    )
)  # fmt: skip
DEVICE_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # so that an engine's numbers of GPUs are the driver's


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that workers get. Secrets have no names here, so they cannot slip through.

    >>> scrubbed({"PATH": "/bin", "OPENAI_API_KEY": "sk-1"})["PATH"], len(scrubbed({"OPENAI_API_KEY": "sk-1"}))
    ('/bin', 2)
    """
    defaults = {"PATH": os.defpath, "LANG": "C.UTF-8"}
    return defaults | {name: value for name, value in environment.items() if name in ALLOWED}
