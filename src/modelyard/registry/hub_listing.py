"""A program of its own: asks a hub what a repository has, with the hub's own library, and says it as one line of JSON.

It lives for one question, so the library, its settings and its memory stay out of the server. Reads the question from
stdin. HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean what they mean everywhere. Redirects lead to the same
server or nowhere, answers have a bound, and no file is fetched here.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from modelyard.loopback import is_loopback

ANSWER_BYTES_MAX = 32 * 1024**2
ANSWER_S = 30.0
LIFE_S = 90.0
REDIRECTS_MAX = 3
FILE_COUNT_MAX = 20_000


class Refused(Exception):
    """What went wrong, as a word for the program that asked, and as a text."""

    def __init__(self, kind: str, text: str = "") -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


def main() -> None:
    """Answer one question."""
    timer = threading.Timer(LIFE_S, lambda: os._exit(1))
    timer.daemon = True
    timer.start()
    question = json.loads(sys.stdin.read(4096))
    try:
        answer = listed(question["repository"], question["revision"])
    except Refused as refusal:
        answer = {"error": refusal.kind, "text": refusal.text[:500]}
    sys.stdout.write(json.dumps(answer))


def listed(repository: str, revision: str) -> dict[str, Any]:
    """The files of a repository, each with its size and digest."""
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError:
        raise Refused("missing") from None
    cache = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    if constants.HF_HUB_OFFLINE:
        return from_cache(cache, revision or constants.DEFAULT_REVISION)
    check_endpoint(constants.ENDPOINT)
    huggingface_hub.set_client_factory(client)
    try:
        info = huggingface_hub.HfApi().model_info(
            repository, revision=revision or None, files_metadata=True, timeout=ANSWER_S
        )
    except errors.GatedRepoError as problem:
        raise Refused("gated", problem.response.headers.get("x-error-message", "")) from problem
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as problem:
        has_revision = isinstance(problem, errors.RevisionNotFoundError)
        raise Refused("no_revision" if has_revision else "not_found") from problem
    except errors.HfHubHTTPError as problem:
        raise Refused("failed", f"it answered with status {problem.response.status_code}") from problem
    except (httpx2.RemoteProtocolError, httpx2.TooManyRedirects) as problem:
        raise Refused("invalid", str(problem)) from problem
    except httpx2.TransportError as problem:
        raise Refused("unreachable", str(problem) or type(problem).__name__) from problem
    except Exception as problem:
        raise Refused("invalid", str(problem) or type(problem).__name__) from problem
    files = [
        {
            "path": one.rfilename, "size_bytes": one.lfs.size if one.lfs else one.size,
            "sha256": one.lfs.sha256 if one.lfs else "", "git_sha1": "" if one.lfs else one.blob_id or "",
            "local": in_cache(cache, one.lfs.sha256 if one.lfs else one.blob_id or ""),
        }
        for one in (info.siblings or [])[:FILE_COUNT_MAX]
    ]  # fmt: skip
    return {
        "endpoint": constants.ENDPOINT, "token": huggingface_hub.get_token() or "", "revision": info.sha or "",
        "files": files,
    }  # fmt: skip


def check_endpoint(endpoint: str) -> None:
    """A token goes over TLS, or to this machine."""
    url = httpx2.URL(endpoint)
    if url.scheme != "https" and not is_loopback(url.host):
        raise Refused("insecure", endpoint)


def in_cache(cache: Path, digest: str) -> str:
    """Where the hub's own cache has a file, which it names after its digest."""
    blob = cache / "blobs" / digest
    return str(blob) if digest and set(digest) <= set("0123456789abcdef") and blob.is_file() else ""


def from_cache(cache: Path, revision: str) -> dict[str, Any]:
    """What the hub's own cache has of a repository, for whoever works offline."""
    named = cache / "refs" / revision
    commit = named.read_text().strip() if named.is_file() else revision
    snapshot = cache / "snapshots" / commit
    if not commit or commit in (".", "..") or "/" in commit or not snapshot.is_dir():
        raise Refused("offline")
    files = []
    for path in sorted(snapshot.rglob("*")):
        blob = path.resolve()
        if path.is_file() and blob.parent == (cache / "blobs").resolve():
            digest = blob.name
            files.append(
                {
                    "path": path.relative_to(snapshot).as_posix(), "size_bytes": blob.stat().st_size,
                    "sha256": digest if len(digest) == 64 else "", "git_sha1": digest if len(digest) == 40 else "",
                    "local": str(blob),
                }
            )  # fmt: skip
    return {"endpoint": "", "token": "", "revision": commit, "files": files}


class Bounded(httpx2.SyncByteStream):
    """A body that ends with an error where it is longer than anybody needs."""

    def __init__(self, stream: httpx2.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        count = 0
        for piece in self._stream:
            count += len(piece)
            if count > ANSWER_BYTES_MAX:
                raise httpx2.RemoteProtocolError("the hub's answer is too long")
            yield piece

    def close(self) -> None:
        self._stream.close()


class BoundedTransport(httpx2.HTTPTransport):
    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        assert isinstance(response.stream, httpx2.SyncByteStream), "it is a synchronous client"
        response.stream = Bounded(response.stream)
        return response


def stay(response: httpx2.Response) -> None:
    """A repository may have moved, but on the same server."""
    if response.is_redirect:
        target = response.url.join(response.headers.get("location", ""))
        if (target.scheme, target.host, target.port) != (response.url.scheme, response.url.host, response.url.port):
            raise httpx2.RemoteProtocolError("it sends us to another server")


def client() -> httpx2.Client:
    """What the library asks with."""
    return httpx2.Client(
        transport=BoundedTransport(verify=ssl.create_default_context()),
        event_hooks={"response": [stay]},
        follow_redirects=True,
        max_redirects=REDIRECTS_MAX,
        timeout=ANSWER_S,
        headers={"accept-encoding": "identity"},
        trust_env=False,
    )


if __name__ == "__main__":
    main()
