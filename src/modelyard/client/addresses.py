"""What names become in addresses: what is no name gets into no path, and a key only to who may have it. Pure."""

from __future__ import annotations

import re
from urllib.parse import quote

from modelyard.errors import ModelNotFound, NodeNotFound
from modelyard.types.model import ModelRef

_NODE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def model_path(model: str) -> str:
    """A model's name in a path."""
    try:
        ModelRef.parse(model)
    except ValueError:
        raise ModelNotFound(model=model) from None  # and nothing that is not a name ever gets into a path
    return quote(model, safe="/:@+")


def node_path(name: str) -> str:
    """A node's name in a path."""
    if not _NODE_NAME.fullmatch(name):
        raise NodeNotFound(node=ascii(name[:100]))
    return name
