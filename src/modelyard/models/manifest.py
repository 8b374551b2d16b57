"""A manifest: the list of a model's files, each with digest and size. Pure: reads and writes bytes, touches no file.

What is read is checked as if a stranger had written it: nothing that could lead out of a model's folder is a path here,
and nothing but 64 hexadecimal digits is a digest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

import msgspec

from modelyard.errors import N_, said
from modelyard.types.model import ModelRef

SCHEMA_VERSION = 1
MANIFEST_BYTES_MAX = 1024**2
FILE_COUNT_MAX = 1000
FILE_BYTES_MAX = 2**43
PATH_CHARS_MAX = 200
PATH_PARTS_MAX = 4
STORED_NAME_BYTES_MAX = 200  # as a file is named; most file systems end at 255
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@()\[\] -]*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a model: where it stands in the model's folder, and what is in it."""

    path: str
    digest: str  # sha256:…
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model in the store."""

    name: str  # canonical: lower case, without the tag `latest`
    files: tuple[StoredFile, ...]
    source: str = ""  # where it came from: hf:org/repo, ollama:name
    revision: str = ""  # of the source
    aliases: tuple[str, ...] = ()
    pulled_at: float = 0.0  # seconds since 1970

    @property
    def digest(self) -> str:
        """Of the files alone: two models with the same files have the same."""
        lines = "".join(f"{one.digest} {one.size_bytes} {one.path}\n" for one in sorted(self.files, key=_path))
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"

    @property
    def size_bytes(self) -> int:
        return sum(one.size_bytes for one in self.files)


class _Wire(msgspec.Struct, forbid_unknown_fields=False):
    schema_version: int
    name: str
    files: list[StoredFile]
    source: str = ""
    revision: str = ""
    aliases: list[str] = []
    pulled_at: float = 0.0


def encode(manifest: Manifest) -> bytes:
    """As it stands in the store."""
    wire = _Wire(
        SCHEMA_VERSION, manifest.name, list(manifest.files), manifest.source, manifest.revision,
        list(manifest.aliases), manifest.pulled_at,
    )  # fmt: skip
    return msgspec.json.format(msgspec.json.encode(wire), indent=1) + b"\n"


def decode(raw: bytes) -> Manifest:
    """Raises `ValueError` for what is no manifest, or would do harm."""
    if len(raw) > MANIFEST_BYTES_MAX:
        raise ValueError(N_("it is too large"))
    try:
        wire = msgspec.json.decode(raw, type=_Wire)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as problem:
        raise ValueError(N_("it is not a manifest")) from problem
    if wire.schema_version != SCHEMA_VERSION:
        raise ValueError(
            said(
                "its version is {schema_version}, which this Modelyard does not know",
                schema_version=wire.schema_version,
            )
        )
    if canonical(wire.name) != wire.name:
        raise ValueError(N_("its name is not a model's"))
    for alias in wire.aliases:
        canonical(alias)
    check_files(wire.files)
    return Manifest(wire.name, tuple(wire.files), wire.source, wire.revision, tuple(wire.aliases), wire.pulled_at)


def check_files(files: Iterable[StoredFile]) -> None:
    """Raise `ValueError` unless these can stand beside each other in one folder."""
    listed = list(files)
    if not 1 <= len(listed) <= FILE_COUNT_MAX:
        raise ValueError(
            said(
                "it has {count} files; from 1 to {file_count_max} are possible",
                count=len(listed),
                file_count_max=FILE_COUNT_MAX,
            )
        )
    seen: set[str] = set()
    for one in listed:
        folded = checked_path(one.path).lower()
        if folded in seen:
            raise ValueError(said("it has two files named {path}", path=f"{one.path!a}"))
        seen.add(folded)
        checked_digest(one.digest)
        if not 0 <= one.size_bytes <= FILE_BYTES_MAX:
            raise ValueError(said("{path} has an impossible size", path=one.path))
    for path in seen:
        if any(other.startswith(f"{path}/") for other in seen):
            raise ValueError(said("{path} is a file and a folder", path=f"{path!a}"))


def checked_path(text: str) -> str:
    """A path below a model's folder, on any system. Raises `ValueError`.

    >>> checked_path("1_Pooling/config.json")
    '1_Pooling/config.json'
    """
    parts = text.split("/")
    if len(text) > PATH_CHARS_MAX or len(parts) > PATH_PARTS_MAX:
        raise ValueError(said("{text} is too long a path", text=f"{text[:60]!a}"))
    if not all(_PART.fullmatch(part) and not part.endswith((".", " ")) for part in parts):
        raise ValueError(said("{text} is not a path below a model's folder", text=f"{text[:60]!a}"))
    return text


def checked_digest(text: str) -> str:
    """A digest, or `ValueError`."""
    if not _DIGEST.fullmatch(text):
        raise ValueError(said("{text} is not a digest", text=f"{text[:80]!a}"))
    return text


def canonical(name: str) -> str:
    """A model's name as the store keeps it. Raises `ValueError` for what the store cannot have.

    >>> canonical("Llama3.1:latest"), canonical("Org/Qwen:Q4_K_M")
    ('llama3.1', 'org/qwen:q4_k_m')
    """
    ref = ModelRef.parse(name)
    if ref.node is not None or not name.isascii():
        raise ValueError(N_("a name in the store has plain letters, digits and . _ - + / : alone"))
    lowered = name.lower().removesuffix(":latest")
    if len(file_name(lowered)) > STORED_NAME_BYTES_MAX:
        raise ValueError(N_("the name is too long"))
    return lowered


def file_name(name: str) -> str:
    """What a model's manifest and folder are called: never two parts of a path, and never the same for two names.

    >>> file_name("org/qwen:q4_k_m")
    'org%2Fqwen%3Aq4_k_m'
    """
    return quote(name, safe="")


def name_of(file: str) -> str:
    """The name a file of the store stands for; `file_name` the other way round. Raises `ValueError`."""
    name = unquote(file)
    if file_name(name) != file or canonical(name) != name:
        raise ValueError(N_("it is not named after a model"))
    return name


def _path(file: StoredFile) -> str:
    return file.path
