"""A hub on a real socket: what Hugging Face's own library asks, files with ranges, a redirect to a CDN, and faults."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from modelyard.testing.server import FakeServer, Recorded, Reply

COMMIT = "c0ffee" + "0" * 34
PIECE_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class FileFault:
    """What goes wrong with one answer that has a file in it. Places are bytes of the answer."""

    cut_at: int | None = None  # break the connection off
    end_at: int | None = None  # end the answer as if that were all
    stall_at: int | None = None
    flip_at: int | None = None  # one bit is another
    ignores_range: bool = False
    wrong_range: bool = False  # says that the part begins elsewhere
    more_bytes: int = 0  # than the file has
    html: bool = False  # an error page with status 200
    html_unsized: bool = False  # the same, of no stated type or length
    status: int = 200
    location: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class FakeHub(FakeServer):
    """One repository's files, or the CDN behind it: `redirect` is where files are fetched then."""

    def __init__(self, files: Mapping[str, bytes], repository: str = "org/Tiny-GGUF", *, token: str = "") -> None:
        super().__init__(key=token)
        self.files, self.repository = dict(files), repository
        self.redirect = ""
        self.faults: dict[str, list[FileFault]] = {}
        self.always = FileFault()
        self.pace_s = 0.0  # between two pieces
        self.listing: Any = None  # in place of the true one
        self.listing_status, self.listing_headers = 200, dict[str, str]()
        self.sent_bytes = 0  # of files
        self.hold: asyncio.Event | None = None
        self.stalled = asyncio.Event()

    def is_question(self, one: Recorded) -> bool:
        return False

    def refusal(self, status: int, text: str) -> object:
        return {"error": text}

    def fail(self, path: str, *faults: FileFault) -> None:
        """The next answers with this file go wrong like this, one after the other."""
        self.faults.setdefault(path, []).extend(faults)

    def listed(self) -> dict[str, Any]:
        """What the library reads: `siblings` with sizes, git's digest, and of large files the SHA-256."""
        siblings = []
        for path, data in self.files.items():
            one: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_digest(data)}
            if is_large(path):
                one["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(one)
        return {
            "id": self.repository,
            "sha": COMMIT,
            "siblings": siblings,
            "private": False,
            "gated": False,
            "tags": [],
        }

    async def answer(self, request: Recorded, reply: Reply) -> None:
        path = unquote(request.path)
        if path.startswith("/api/models/"):
            body = json.dumps(self.listed() if self.listing is None else self.listing).encode()
            await put(reply, self.listing_status, {"content-type": "application/json", **self.listing_headers}, body)
            return
        name = path.rpartition(f"/resolve/{COMMIT}/")[2] if "/resolve/" in path else path.removeprefix("/cdn/")
        if name not in self.files:
            await put(reply, 404, {"x-error-code": "EntryNotFound"}, b"not here")
            return
        if self.redirect and "/resolve/" in path:
            await put(reply, 302, {"location": self.redirect.format(path=name)}, b"")
            return
        waiting = self.faults.get(name)
        await self._file(request, reply, self.files[name], waiting.pop(0) if waiting else self.always)

    async def _file(self, request: Recorded, reply: Reply, data: bytes, fault: FileFault) -> None:
        headers = {"etag": f'"{hashlib.sha256(data).hexdigest()}"', "content-type": "application/octet-stream"}
        if fault.location or fault.status != 200:
            status = 302 if fault.location else fault.status
            await put(reply, status, {"location": fault.location, **fault.headers}, b"")
            return
        if fault.html or fault.html_unsized:
            page = b"<html>" + b"x" * len(data)
            sized = {"content-type": "text/html", "content-length": str(len(page))}
            await put(reply, 200, sized if fault.html else {}, page[: len(data)], is_sized=False)
            return
        asked, start = request.headers.get("range", ""), 0
        if asked and not fault.ignores_range:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            first = start + 1 if fault.wrong_range else start
            headers["content-range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        body = data[start:] + b"x" * fault.more_bytes
        if fault.flip_at is not None:
            body = body[: fault.flip_at] + bytes((body[fault.flip_at] ^ 1,)) + body[fault.flip_at + 1 :]
        if fault.end_at is not None:
            body = body[: fault.end_at]
        await put_head(reply, 206 if start else 200, {**headers, "content-length": str(len(body))})
        await self._send(request, reply, body, fault)

    async def _send(self, request: Recorded, reply: Reply, body: bytes, fault: FileFault) -> None:
        stops = [at for at in (fault.cut_at, fault.stall_at) if at is not None]
        for at in range(0, len(body), PIECE_BYTES):
            piece = body[at : min(at + PIECE_BYTES, *stops)] if stops else body[at : at + PIECE_BYTES]
            if self.hold is not None:
                await self.hold.wait()
            if piece:
                await reply._put(piece)
                self.sent_bytes += len(piece)
            if stops and at + PIECE_BYTES >= min(stops):
                if fault.stall_at is not None:
                    self.stalled.set()
                    await reply.stall()
                else:
                    await asyncio.sleep(0.05)  # what was sent is read before the connection breaks
                    reply.reset()
                return
            if self.pace_s:
                await asyncio.sleep(self.pace_s)
        request.is_whole = True


async def put(reply: Reply, status: int, headers: Mapping[str, str], body: bytes, *, is_sized: bool = True) -> None:
    sized = {"content-length": str(len(body))} if is_sized else {}
    await put_head(reply, status, {**sized, **headers})
    await reply._put(body)
    if not is_sized:
        await reply._put(b"")
        reply._writer.close()
        reply.is_open = False


async def put_head(reply: Reply, status: int, headers: Mapping[str, str]) -> None:
    lines = [f"HTTP/1.1 {status} Told", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    await reply._put("\r\n".join(lines).encode("latin-1"))


def is_large(path: str) -> bool:
    return path.endswith((".gguf", ".safetensors", ".bin"))


def git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
