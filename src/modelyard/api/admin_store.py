"""The part of the admin API about the store: what is in it, and its files by digest for another Modelyard.

Only files of the store are handed out, and only by a digest: no path is ever made of what a caller writes.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from fastapi import FastAPI
from starlette.responses import FileResponse, Response

from modelyard.errors import N_, ModelNotFound, NotFound
from modelyard.gateway.operations import Operations
from modelyard.models.manifest import checked_digest, encode
from modelyard.models.partials import partial_files
from modelyard.models.store import Store

from .answers import json_answer

SCHEMA_VERSION = 1


def add_store(api: FastAPI, operations: Operations) -> None:
    """Add the routes of the store to the admin API."""

    @api.get("/admin/store")
    async def listed() -> Response:
        """Every model in the store with its files, what is wrong with the others, and what is only partly here."""
        store = _store(operations)
        sound, damaged = await asyncio.to_thread(store.manifests)
        partials = await asyncio.to_thread(partial_files, store.partials)
        models = [{**asdict(one), "digest": one.digest, "size_bytes": one.size_bytes} for one in sound.values()]
        return json_answer(
            {
                "schema_version": SCHEMA_VERSION, "models": models, "damaged": damaged,
                "partials": [asdict(one) for one in partials],
            }
        )  # fmt: skip

    @api.get("/admin/store/models/{name:path}")
    async def manifest(name: str) -> Response:
        """The manifest of one model in the store."""
        found = operations.catalog.find(name)
        if found is None or not found.is_stored:
            raise ModelNotFound(model=name[:200])
        known = await asyncio.to_thread(_store(operations).manifest, found.name)
        return Response(encode(known), media_type="application/json")

    @api.get("/admin/store/blobs/{digest}", response_class=FileResponse)
    async def blob(digest: str) -> Response:
        """The bytes of a file in the store, or a range of them."""
        try:
            path = _store(operations).blob_of(checked_digest(digest))
        except ValueError:
            path = None
        if path is None:
            raise NotFound(N_("The store has no file of that digest."), hints=())
        headers = {"etag": f'"{digest}"', "accept-ranges": "bytes"}
        return FileResponse(path, media_type="application/octet-stream", headers=headers)


def _store(operations: Operations) -> Store:
    if operations.store is None:
        raise NotFound(N_("This server has no store."), hints=())
    return operations.store
