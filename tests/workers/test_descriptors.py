from __future__ import annotations

import subprocess
import sys

PROGRAM = (
    "import resource\n"
    "from modelyard.workers.descriptors import raise_descriptor_limit\n"
    "resource.setrlimit(resource.RLIMIT_NOFILE, (64, {hard}))\n"
    "print(raise_descriptor_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[1])\n"
)


def test_a_low_limit_is_raised_as_far_as_the_system_allows_and_no_further() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM.format(hard=512)], capture_output=True, text=True, check=True)

    assert ran.stdout.split() == ["512", "512"]
