"""What programs import to talk to a server: `from modelyard.client import OllamaService`.

A name is loaded when it is first used, so that importing this package, or a light module of it, costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from modelyard.errors import (
    OllamaConnectionError,
    OllamaError,
    OllamaModelNotFoundError,
    OllamaServiceError,
    TimeoutWithDiagnosis,
    YardError,
)
from modelyard.units import format_size

if TYPE_CHECKING:
    from modelyard.client.ollama import OllamaService, OllamaStream
    from modelyard.client.ollama_budgets import diagnose_timeout
    from modelyard.client.ollama_retry import Retries
    from modelyard.client.ollama_settings import OllamaSettings, get_settings
    from modelyard.client.ollama_sync import SyncOllamaService, SyncOllamaStream
    from modelyard.diagnosis import is_oom_error

__all__ = [
    "OllamaConnectionError", "OllamaError", "OllamaModelNotFoundError", "OllamaService", "OllamaServiceError",
    "OllamaSettings", "OllamaStream", "Retries", "SyncOllamaService", "SyncOllamaStream", "TimeoutWithDiagnosis",
    "YardError", "diagnose_timeout", "format_bytes", "get_settings", "is_oom_error",
]  # fmt: skip
_HOMES = {
    "OllamaService": ".ollama",
    "OllamaStream": ".ollama",
    "OllamaSettings": ".ollama_settings",
    "Retries": ".ollama_retry",
    "SyncOllamaService": ".ollama_sync",
    "SyncOllamaStream": ".ollama_sync",
    "diagnose_timeout": ".ollama_budgets",
    "get_settings": ".ollama_settings",
    "is_oom_error": "modelyard.diagnosis",
}


def format_bytes(count: int, decimals: int = 1) -> str:
    """A size as tools around Ollama write it, in steps of 1024: `40.9 GB`, `512.0 MB`."""
    return format_size(count, decimals)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
