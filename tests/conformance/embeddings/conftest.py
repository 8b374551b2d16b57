"""One server with a real sentence-embedding model in every engine that can serve it, and models that order texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.support.minilm import link_minilm, write_cross_encoder, write_minilm_gguf
from tests.support.node import Server, serving, short_folder

EMBEDDERS = ("minilm-gguf", "minilm-torch")
RERANKERS = ("ranker-gguf", "ranker-torch")
CHAT = "yardling"


@pytest.fixture(scope="session")
def models() -> Iterator[Path]:
    with short_folder() as folder:
        models = folder / "models"
        models.mkdir()
        write_minilm_gguf(models / "minilm-gguf.gguf")
        write_minilm_gguf(models / "ranker-gguf.gguf", has_rank_head=True)
        write_minilm_gguf(models / "headless-gguf.gguf", has_rank_head=False)
        link_minilm(models / "minilm-torch")
        write_cross_encoder(models / "ranker-torch")
        yield models


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[Server]:
    with serving({"models": {"folders": [str(models)]}, "memory": {"gpus": False}}) as server:
        yield server


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=120) as client:
        yield client


@pytest.fixture(params=EMBEDDERS)
def embedder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=RERANKERS)
def reranker(request: pytest.FixtureRequest) -> str:
    return str(request.param)
