"""The Hugging Face hub as a registry: asks the listing program what a repository has, and plans which files to take."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta

from modelyard.errors import (
    N_,
    ConfigError,
    ExtraMissing,
    ModelFileError,
    NotFound,
    UpstreamInvalid,
    UpstreamRefusedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
    YardError,
    said,
)
from modelyard.models.manifest import FILE_BYTES_MAX, FILE_COUNT_MAX
from modelyard.models.partial import Wanted

from .choosing import HubFile, choose
from .fetch import FileRequest
from .plan import PlannedFile, PullPlan
from .reference import HubReference
from .transfer import Source

PROGRAM = "modelyard.registry.hub_listing"
LISTING_S = 100.0
LISTING_BYTES_MAX = 32 * 1024**2
INSTALL = 'pip install "modelyard[hub]"'
_HANDED_ON = re.compile(
    r"HF_\w+|HUGGING_FACE_HUB_TOKEN|TRANSFORMERS_OFFLINE|XDG_CACHE_HOME|SSL_CERT_(FILE|DIR)|PATH|HOME|USERPROFILE|"
    r"SYSTEMROOT|LANG|LC_\w+|TMPDIR|TEMP|LD_LIBRARY_PATH|VIRTUAL_ENV|PYTHON(PATH|HOME)"
)
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


class _File(msgspec.Struct):
    path: Annotated[str, Meta(max_length=1000)]
    size_bytes: Annotated[int, Meta(ge=0, le=FILE_BYTES_MAX)] | None = None
    sha256: Annotated[str, Meta(max_length=64)] = ""
    git_sha1: Annotated[str, Meta(max_length=40)] = ""
    local: str = ""


class _Listing(msgspec.Struct):
    error: str = ""
    text: str = ""
    endpoint: str = ""
    token: str = ""
    revision: str = ""
    files: list[_File] = []


class Hub:
    """One hub: the one that HF_ENDPOINT names, else huggingface.co."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        handed_on = {name: value for name, value in environment.items() if _HANDED_ON.fullmatch(name)}
        self._environment = {**handed_on, "HF_HUB_DISABLE_TELEMETRY": "1"}  # it asks for nothing but the list

    async def plan(self, reference: HubReference) -> PullPlan:
        """What to fetch for this. Raises what is wrong with the reference, the repository or the hub."""
        listing = await self._listed(reference)
        files = [
            HubFile(one.path, one.size_bytes, one.sha256, one.git_sha1, one.local)
            for one in listing.files
            if one.size_bytes is not None
        ]
        chosen = choose(reference, files)
        if len(chosen.files) > FILE_COUNT_MAX:
            raise ModelFileError(
                path=reference.source,
                problem=said("it has more than {file_count_max} files", file_count_max=FILE_COUNT_MAX),
                hints=(),
            )
        # What says how to read the rest comes first: it may be refused before gigabytes are fetched.
        ordered = sorted(chosen.files, key=lambda one: one.size_bytes)
        planned = tuple(self._planned(reference, one, listing) for one in ordered)
        return PullPlan(chosen.name, chosen.aliases, reference.source, listing.revision, planned)

    def _planned(self, reference: HubReference, file: HubFile, listing: _Listing) -> PlannedFile:
        label = f"hf:{reference.repository}/{file.path}"
        wanted = Wanted(file.size_bytes, file.sha256, file.git_sha1, label)
        try:
            wanted.key  # noqa: B018 - it is checked
        except ValueError as problem:
            raise UpstreamInvalid(provider="the hub", problem=f"{file.path}: {problem}", hints=()) from problem
        url = f"{listing.endpoint}/{reference.repository}/resolve/{listing.revision}/{quote(file.path)}"
        request = FileRequest(url, file.size_bytes, listing.endpoint, listing.token) if listing.endpoint else None
        return PlannedFile(file.path, wanted, Source(request, Path(file.local) if file.local else None))

    async def _listed(self, reference: HubReference) -> _Listing:
        question = msgspec.json.encode({"repository": reference.repository, "revision": reference.revision})
        try:
            raw = await self._asked(question)
            listing = msgspec.json.decode(raw, type=_Listing)
        except TimeoutError:
            raise UpstreamTimeout(N_("{provider} did not say in time what it has."), provider="the hub") from None
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as problem:
            raise UpstreamInvalid(
                provider="the hub", problem=N_("its list of files makes no sense"), hints=()
            ) from problem
        if listing.error:
            raise _refusal(listing, reference)
        if not _COMMIT.fullmatch(listing.revision):
            raise UpstreamInvalid(provider="the hub", problem=N_("it names no commit"), hints=())
        return listing

    async def _asked(self, question: bytes) -> bytes:
        """Run the listing program. What the caller named goes in by stdin, and never into a command line."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", PROGRAM, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, env=self._environment, limit=LISTING_BYTES_MAX,
        )  # fmt: skip
        assert process.stdin is not None, "it has a pipe"
        assert process.stdout is not None, "it has a pipe"
        try:
            process.stdin.write(question)
            process.stdin.close()
            async with asyncio.timeout(LISTING_S):
                return await process.stdout.read(LISTING_BYTES_MAX)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _refusal(listing: _Listing, reference: HubReference) -> YardError:
    repository = reference.repository
    match listing.error:
        case "missing":
            return ExtraMissing(packages="huggingface_hub", command=INSTALL)
        case "offline":
            return UpstreamUnreachable(
                N_("HF_HUB_OFFLINE is set, and this machine has no copy of {repository}."),
                hints=(N_("Unset HF_HUB_OFFLINE to fetch it."),), repository=repository,
            )  # fmt: skip
        case "gated":
            return UpstreamRefusedKey(
                N_("{repository} is only for those who have accepted its terms."),
                hints=(N_("Accept them on the hub's page, and put your token into HF_TOKEN."),), repository=repository,
            )  # fmt: skip
        case "not_found":
            return NotFound(
                N_("The hub has no repository {repository}, or not for us."),
                hints=(N_("If it is private, put a token that may read it into HF_TOKEN."),), repository=repository,
            )  # fmt: skip
        case "no_revision":
            return NotFound(
                N_("{repository} has no revision {revision}."), hints=(), repository=repository,
                revision=reference.revision or "main",
            )  # fmt: skip
        case "insecure":
            return ConfigError(where="HF_ENDPOINT", problem=N_("a hub that is not this machine is reached over https"))
        case "unreachable":
            return UpstreamUnreachable(provider="the hub", problem=listing.text, hints=())
        case "failed":
            return UpstreamInvalid(N_("The hub did not answer: {problem}"), problem=listing.text, hints=())
        case _:
            return UpstreamInvalid(provider="the hub", problem=listing.text or listing.error, hints=())
