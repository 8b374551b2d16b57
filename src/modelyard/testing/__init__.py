"""For tests of clients and gateways: servers that fail on command, on real sockets.

    async with FakeOllama() as server:
        server.play(FAULTS["cut"], times=1)      # the next answer breaks off; those after it are whole
        ...                                      # ask server.url
        assert server.requests[0].body["model"]

`python -m modelyard.testing ollama --fault stall` runs one for programs in other languages. docs/testing.md has more.
"""

from .fake_ollama import FakeModel, FakeOllama
from .fake_openai import FakeOpenAI
from .fault_proxy import FaultProxy
from .script import FAULTS, Script, Tool
from .server import Recorded

__all__ = ["FAULTS", "FakeModel", "FakeOllama", "FakeOpenAI", "FaultProxy", "Recorded", "Script", "Tool"]
