"""Where a node listens, and who it must prove to be. A value; connects to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node listens.

    >>> Address.parse("https://api.example.com/openai/").path("/v1/models")
    '/openai/v1/models'
    >>> Address.parse("http://[::1]:8000").host_header
    '[::1]:8000'
    """

    host: str
    port: int
    is_tls: bool = False
    base_path: str = ""
    ca_file: Path | None = None
    fingerprint: str = ""  # SHA-256 of the certificate that alone is trusted, in hexadecimal digits

    @classmethod
    def parse(cls, url: str, *, ca_file: Path | None = None, fingerprint: str = "") -> Address:
        """From a URL that was checked when it was configured. A path ending in `/v1` means what is above it."""
        parts = urlsplit(url)
        is_tls = parts.scheme == "https"
        return cls(
            parts.hostname or "", parts.port or (443 if is_tls else 80), is_tls,
            parts.path.rstrip("/").removesuffix("/v1"), ca_file, fingerprint.replace(":", "").lower(),
        )  # fmt: skip

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Without anything below it."""
        return f"{'https' if self.is_tls else 'http'}://{self.host_header}{self.base_path}"

    def path(self, below: str) -> str:
        return self.base_path + below
