"""What the tour asks a server of ours beside its answers, without blocking: what is in memory, and to let go of it.

Being cancelled closes the connection, as everywhere.
"""

from __future__ import annotations

from modelyard.client.addresses import model_path
from modelyard.client.openai_chat import OpenAIClient
from modelyard.client.replies import convert
from modelyard.types.memory import Receipt
from modelyard.types.status import NodeStatus


class AsyncYardClient(OpenAIClient):
    """One server of ours."""

    async def status(self) -> NodeStatus:
        """What is in memory, who waits, what runs."""
        return convert(await self._ask("GET", "/admin/status"), NodeStatus, self.url)

    async def unload(self, model: str) -> Receipt | None:
        """Take a model out of memory, at the latest when its running requests have ended. None: it was not there."""
        told = await self._ask("POST", f"/admin/models/{model_path(model)}/unload", {"force": False})
        return convert(told.get("receipt"), Receipt | None, self.url)  # type: ignore[arg-type]
