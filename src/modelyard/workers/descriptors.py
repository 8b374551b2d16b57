"""How many files and sockets this process may have open: a shell's usual 1,024 are used up by 500 streams.

Knows nothing about who opens them.
"""

from __future__ import annotations

import resource
from contextlib import suppress

DESCRIPTORS_MAX = 65_536  # some systems say "no limit" and mean a table of that size


def raise_descriptor_limit() -> int:
    """Take as many as the system lets us without asking anybody; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS has a lower limit than it tells
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
