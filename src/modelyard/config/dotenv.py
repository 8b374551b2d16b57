"""Small text files: read with a bound, and `.env` with its `NAME=value` lines."""

from __future__ import annotations

import re
from pathlib import Path

from modelyard.errors import N_, ConfigError

DOTENV_BYTES_MAX = 64 * 1024


def text_of(path: Path, bytes_max: int) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(bytes_max + 1)
        if len(raw) > bytes_max:
            raise ConfigError(N_("{where}: the file is over {bytes_max} bytes"), where=path, bytes_max=bytes_max)
        return raw.decode()
    except UnicodeDecodeError as problem:
        raise ConfigError(N_("{where}: the file is not UTF-8 text"), where=path) from problem
    except (OSError, ValueError) as problem:
        raise ConfigError(where=path, problem=getattr(problem, "strerror", None) or str(problem)) from problem


def read_dotenv(path: Path) -> dict[str, str]:
    """`NAME=value` lines, with `#` comments, `export` and quotes; nothing else is interpreted."""
    if not path.is_file():
        return {}
    found = {}
    for line in text_of(path, DOTENV_BYTES_MAX).splitlines():
        match = re.fullmatch(
            r"""\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^#]*?))\s*(?:#.*)?""", line
        )
        if match:
            name, *values = match.groups()
            found[name] = next((value for value in values if value is not None), "")
    return found
