"""Which server to visit, and of what kind it is: found out by asking it."""

from __future__ import annotations

import asyncio
from typing import Any

from modelyard.cli.session import Session
from modelyard.cli.tour.freed import held_by_server
from modelyard.cli.tour.nodes import TourNode
from modelyard.cli.tour.ollama_node import SILENCE_S, OllamaNode, YardNode
from modelyard.cli.tour.openai_node import OpenAINode
from modelyard.client.ollama import OllamaService
from modelyard.client.ollama_retry import Retries
from modelyard.client.ollama_settings import get_settings
from modelyard.client.openai_chat import OpenAIClient
from modelyard.client.yard_async import AsyncYardClient
from modelyard.config.load import ClientTarget, client_target
from modelyard.errors import N_, UpstreamTimeout, UpstreamUnreachable, YardError

ONCE = Retries(attempts_max=1)  # a tour shows what happens, and does not smooth it over


async def find_node(session: Session, url: str | None, *, connect_s: float, ps_budget_s: float) -> TourNode:
    """The named server; else ours, if it answers; else Ollama's. Raises `UpstreamUnreachable`."""
    target = client_target(url, environment=session.environment)
    told = await _version(target, connect_s)
    if told is None and url is None:
        target = ClientTarget(get_settings(session.environment).ollama_base_url, None)
        told = await _version(target, connect_s)
    if told is None:
        raise UpstreamUnreachable(
            N_("No server answers at {url}."),
            hints=(
                N_("Start one with `modelyard serve`."),
                N_("Or name another with --url, MODELYARD_URL or OLLAMA_BASE_URL."),
            ),
            url=target.url,
        )
    language = session.terminal.language
    times = {"silence_s": SILENCE_S, "connect_s": connect_s}
    if "version" not in told:
        return OpenAINode(OpenAIClient(target.url, target.key, language=language, **times), evidence_s=ps_budget_s)
    service = OllamaService(
        target.url, SILENCE_S, key=target.key, retries=ONCE, language=language, connect_timeout=connect_s
    )
    if "modelyard" in told:
        client = AsyncYardClient(target.url, target.key, language=language, **times)
        return YardNode(service, client, ps_budget_s=ps_budget_s)
    return OllamaNode(service, ps_budget_s=ps_budget_s, held=held_by_server(target.url))


async def _version(target: ClientTarget, connect_s: float) -> dict[str, Any] | None:
    """What it says of itself: empty if it answers, and not as Ollama does; None if nobody answers."""
    client = OpenAIClient(target.url, target.key)
    try:
        async with asyncio.timeout(connect_s):
            return await client.ollama_version()
    except (TimeoutError, UpstreamUnreachable, UpstreamTimeout):
        return None
    except YardError:
        return {}
    finally:
        await client.close()
