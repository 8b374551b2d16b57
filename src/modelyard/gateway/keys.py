"""Who is calling: API keys, the rights they carry, and the caller a request becomes.

Secrets are kept only as keyed hashes under a per-process key; looking one up takes the same time whether it exists
or not. Knows nothing about HTTP: it is handed the text of a credential.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from modelyard.errors import N_, ConfigError, said

SECRET_CHARS_MIN = 8
SECRET_CHARS_MAX = 512
HASH_PREFIX = "sha256:"
SECRET_BYTES = 32


class Right(StrEnum):
    """What a key may do."""

    INFER = "infer"  # ask models
    READ = "read"  # see models, status, events, memory
    METRICS = "metrics"  # scrape /metrics
    ADMIN = "admin"  # load, unload, pin, cancel, rescan, configuration; implies READ and METRICS


ALL_RIGHTS = frozenset(Right)
_ADMIN_IMPLIES = frozenset((Right.READ, Right.METRICS))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, after authentication. `id` is safe to log; limits count per `id`."""

    id: str
    rights: frozenset[Right] = frozenset()
    models: frozenset[str] | None = None  # canonical names this caller may use; None: every model
    is_local: bool = False
    priority: int = 0  # added to the model's: whose requests get memory first

    def may_use(self, model_name: str) -> bool:
        """Whether the caller may use a model; ask with the canonical name, never with an alias.

        Whoever may use `llama` may use each copy of it; `llama@studio` in a key means that copy alone.
        """
        if self.models is None:
            return True
        name = model_name.lower()
        return name in self.models or name.partition("@")[0] in self.models


ANONYMOUS = Caller("anonymous")


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One configured key. `secret` is the key itself, or `sha256:` and the 64 hexadecimal digits of its hash."""

    id: str
    secret: str = field(repr=False)
    rights: frozenset[Right] = frozenset((Right.INFER, Right.READ))
    models: frozenset[str] | None = None
    priority: int = 0


class KeyRing:
    """Every key this server accepts, as hashes."""

    def __init__(self, entries: Iterable[KeyEntry] = ()) -> None:
        self._pepper = secrets.token_bytes(32)
        self._callers: dict[bytes, tuple[bytes, Caller]] = {}
        ids: set[str] = set()
        for entry in entries:
            if not entry.id.isprintable() or not 0 < len(entry.id) <= 64 or entry.id in ids:
                raise ConfigError(where="keys", problem=N_("every key needs an id of 1 to 64 characters of its own"))
            ids.add(entry.id)
            self._add(entry)

    def __bool__(self) -> bool:
        return bool(self._callers)

    def __len__(self) -> int:
        return len(self._callers)

    def callers(self) -> dict[str, Caller]:
        """Whom the keys are for, by id."""
        return {caller.id: caller for _digest, caller in self._callers.values()}

    def find(self, secret: str) -> Caller | None:
        """The caller a secret belongs to."""
        if len(secret) > SECRET_CHARS_MAX:
            return None
        digest = self._digest(_sha256(secret))
        kept, caller = self._callers.get(digest, (b"", None))
        return caller if hmac.compare_digest(kept, digest) else None

    def _add(self, entry: KeyEntry) -> None:
        digest = self._digest(_sha256_of(entry))
        if digest in self._callers:
            raise ConfigError(where=f"keys.{entry.id}", problem=N_("another key has the same secret"))
        rights = frozenset(Right(right) for right in entry.rights)
        if Right.ADMIN in rights:
            rights |= _ADMIN_IMPLIES
        models = None if entry.models is None else frozenset(name.lower() for name in entry.models)
        self._callers[digest] = (digest, Caller(entry.id, rights, models, priority=entry.priority))

    def _digest(self, sha256: bytes) -> bytes:
        return hashlib.blake2b(sha256, key=self._pepper, digest_size=32).digest()


def hash_secret(secret: str) -> str:
    """The form of a secret that may stand in a file.

    >>> hash_secret("correct horse")[:12]
    'sha256:4104d'
    """
    return HASH_PREFIX + _sha256(secret).hex()


def new_secret() -> str:
    """A fresh secret, to be shown once."""
    return "my-" + secrets.token_urlsafe(SECRET_BYTES)


def _sha256(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _sha256_of(entry: KeyEntry) -> bytes:
    where = f"keys.{entry.id}.secret"
    if entry.secret.startswith(HASH_PREFIX):
        try:
            digest = bytes.fromhex(entry.secret.removeprefix(HASH_PREFIX))
        except ValueError:
            digest = b""
        if len(digest) != hashlib.sha256().digest_size:
            raise ConfigError(where=where, problem=N_("sha256: must be followed by 64 hexadecimal digits"))
        return digest
    if not SECRET_CHARS_MIN <= len(entry.secret) <= SECRET_CHARS_MAX:
        raise ConfigError(
            where=where,
            problem=said(
                "a secret has {secret_chars_min} to {secret_chars_max} characters",
                secret_chars_min=SECRET_CHARS_MIN,
                secret_chars_max=SECRET_CHARS_MAX,
            ),
        )
    return _sha256(entry.secret)
