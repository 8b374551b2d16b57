"""Names that are paths: whatever a caller writes, nothing is opened but what the server's own folders hold.

Every file that the server's process opens, lists, links, moves, removes or starts is written down by an audit hook
inside it. Names hold a word that no honest file holds, so a single use of one shows, whatever the answer was.
"""

from __future__ import annotations

import asyncio
import json
import os
import site
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_from_bytes

from tools.gguf_files import write_tiny_llama

import modelyard
from modelyard.testing import FakeOllama
from tests.support.counts import PROVE, tell
from tests.support.node import Server, echo, running, short_folder

BAIT = "zqbait"  # in the path of everything that must not be touched
NAMES_LEAST = 300
AT_ONCE = 8
# The server, with every use of a file written down. Nothing else differs.
AUDITED = """
import json, os, sys
sink = os.open({sink!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
USES = ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.link", "os.symlink", "os.mkdir", "os.rmdir",
        "os.truncate", "os.chmod", "os.chown", "os.utime", "os.chdir", "shutil.copyfile", "shutil.move",
        "shutil.rmtree", "glob.glob", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "sqlite3.connect")
def note(event, arguments):
    if event in USES:
        told = [os.fsdecode(one) if isinstance(one, bytes) else str(one) for one in arguments[:2]]
        os.write(sink, (json.dumps([event, *told]) + "\\n").encode())
sys.addaudithook(note)
from modelyard.cli.main import main
sys.exit(main())
"""
HEAD = "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
NEEDS_NO_FILE = ("/proc/", "/sys/", "/dev/null", "/dev/urandom")  # the system's own, read by libraries


# ---- what callers write ----


def escapes(word: str) -> Iterator[str]:
    """Ways out of a folder to `word`, as texts."""
    for depth in (1, 2, 3, 8, 16):
        for step in ("../", "..\\", "....//", "..;/", "./../", ".../", "..//", "/../", "..%2f", "..%5c", "..%252f",
                     "%2e%2e/", "%2e%2e%2f", "%252e%252e%252f", ".%2e/", "..\u2215", "..\uff0f", "\uff0e\uff0e/",
                     "..%c0%af", "..%e0%80%af", "%c0%ae%c0%ae/", "..%u2215", "..\x00/", "..%00/"):  # fmt: skip
            yield step * depth + word
            if depth == 3:
                yield f"m:{step * depth}{word}"
                yield f"m@{step * depth}{word}"
    for start in ("/", "//", "\\", "\\\\", "/./", "/..", "~/", "~root/", "./", "file:", "file:///", "file://localhost/",
                  "C:/", "C:\\", "c:", "\\\\?\\C:\\", "\\\\server\\share\\", "/proc/self/root/", "/proc/self/fd/",
                  "/dev/fd/", "/etc/", "$HOME/", "${HOME}/", "%HOME%\\", "hf://", "s3://", "http://127.0.0.1/", "-",
                  "--", "@", ":", "m:", "m@", "m/", "m/../", "m:latest/../", "m@far/../", "local/", "local/../",
                  "far/../", "sha256:", "sha256-", "sha256:../", "blobs/sha256-", "../blobs/sha256-", "manifests/../",
                  "{", "*/", "?", "[a-z]/", "`", "$(", "|", "\n", "\r\n", " ", "\u202e", "\ufeff", "\x7f"):  # fmt: skip
        yield start + word
    for end in ("\x00", "\x00.gguf", "%00", "%00.gguf", ";", ";.gguf", "#", "#.gguf", "?", "?.gguf", "/", "/.", "/..",
                "\\", ".", "..", " ", ":", "::$DATA", ":latest", ":..", ":../..", "@", "@..", "@../far", "@far/..",
                "@local", "/../m", "/../../m", ".gguf", "/model.gguf", "/config.json", "~", ".lock"):  # fmt: skip
        yield word + end
        yield "../" + word + end


def names(outside: Path) -> list[str]:
    """All of them, to a file there is and to others."""
    bait = str(outside / "secret.gguf")
    up = "/".join([".."] * 12)
    there = [bait, bait.removesuffix(".gguf"), up + bait, f"m{up}{bait}", f"m/{up}{bait}", f"file://{bait}",
             f"m@{bait}", f"m:{bait}", f"{bait}:latest", f"{bait}@far", quote(bait, safe=""),
             quote(quote(bait, safe=""), safe=""),
             bait.replace("/", "\\"), bait.replace("/", "%2f"), f"{bait}\x00.gguf", f"./{bait}", f"../{outside.name}",
             f"folder/{BAIT}-inner", f"folder/../{BAIT}", f"../{outside.name}/secret", outside.name]  # fmt: skip
    return list(dict.fromkeys([*there, *escapes(BAIT)]))


@dataclass(frozen=True, slots=True)
class Asked:
    """One request with a name in it."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    headers: str = ""

    def __bytes__(self) -> bytes:
        raw = b"" if self.body is None else json.dumps(self.body).encode()
        kind = "Content-Type: application/json\r\n" if self.body is not None else ""
        head = HEAD.format(method=self.method, target=self.path)
        return f"{head}{self.headers}{kind}Content-Length: {len(raw)}\r\n\r\n".encode("utf-8", "surrogatepass") + raw


def requests(name: str) -> list[Asked]:
    """Every place in every route of both dialects and of the admin API where a caller can write a name."""
    messages, chat = [{"role": "user", "content": "x"}], {"stream": False, "max_tokens": 1}
    said: dict[str, Any] = {"messages": messages, "prompt": "x", "input": "x"}
    asks = [
        Asked("POST", path, {"model": name, **chat, **{member: said[member] for member in members}})
        for path, *members in (
            ("/v1/chat/completions", "messages"), ("/v1/completions", "prompt"), ("/v1/embeddings", "input"),
            ("/api/chat", "messages"), ("/api/generate", "prompt"), ("/api/embed", "input"),
            ("/api/embeddings", "prompt"), ("/api/v1/llm/chat", "messages"), ("/api/v1/llm/generate", "prompt"),
            ("/api/v1/llm/embeddings", "input"), ("/api/show",), ("/api/pull",), ("/api/push",), ("/api/create",),
        )
    ]  # fmt: skip
    asks += [
        Asked("POST", "/api/generate", {"model": "own", "prompt": "x", "system": name, "template": name, **chat}),
        Asked("POST", "/api/create", {"model": "own", "from": name, "files": {name: "sha256:0"}}),
    ]
    store = [
        Asked("POST", "/api/pull", {"model": "m", "node": name, "stream": False}),
        Asked("DELETE", "/api/delete", {"model": name}), Asked("DELETE", "/api/delete", {"model": "m", "node": name}),
        Asked("POST", "/api/copy", {"source": name, "destination": "copy"}),
        Asked("POST", "/api/copy", {"source": "tiny", "destination": name}),
        Asked("POST", "/api/copy", {"source": "tiny", "destination": "copy", "node": name}),
    ]  # fmt: skip
    paths = []
    for written in dict.fromkeys((quote(name, safe="", errors="surrogatepass"), as_it_is(name))):
        reads = ("", "v1/models/", "admin/nodes/", "readyz/", "openapi.json/", "metrics/")
        nodes, models = f"/admin/nodes/{written}", f"/admin/models/{written}"
        paths += [
            *(Asked("GET", f"/{before}{written}") for before in reads),
            Asked("POST", f"{nodes}/edit", {"weight": 1}), Asked("POST", f"{nodes}/check", {}),
            Asked("POST", f"{models}/load", {}), Asked("POST", f"{models}/unload", {}),
            Asked("POST", f"{models}/pin", {"pinned": False}), Asked("DELETE", f"/admin/requests/{written}"),
            Asked("HEAD", f"/api/blobs/{written}"), Asked("POST", f"/api/blobs/sha256:{written}", {}),
        ]  # fmt: skip
    told = quote(name, safe="/.\\~:@%;#?")
    given = f"X-Request-Id: {told}\r\nX-Session-Id: {told}\r\nAccept-Language: {told}\r\n"
    return [*asks, *store, *paths, Asked("POST", "/api/chat", {"model": "own", "messages": messages, **chat}, given)]


def as_it_is(name: str) -> str:
    """As much of it as a request line can hold, with what is not a letter of the wire as raw bytes of a path."""
    return quote_from_bytes(name.encode("utf-8", "surrogatepass"), safe="/.\\~:@%;#?$&'()*+,!=[]{}|^`\"<>-_")


# ---- a server that writes down what it touches ----


@dataclass(frozen=True, slots=True)
class Yard:
    """The server, its folders, and the record."""

    server: Server
    models: Path
    outside: Path
    sink: Path

    def uses(self, since: int = 0) -> list[tuple[str, ...]]:
        return [tuple(json.loads(line)) for line in self.sink.read_text().splitlines()[since:]]

    async def ask(self, asked: Asked) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            writer.write(bytes(asked))
            return await reader.read(-1)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def ask_all(self, asked: list[Asked]) -> list[bytes]:
        left, found = iter(asked), []

        async def some() -> None:
            for one in left:
                found.append(await self.ask(one))

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        return found


@asynccontextmanager
async def yard() -> AsyncIterator[Yard]:
    with short_folder() as top:
        models, outside = top / "models", top / f"{BAIT}-outside"
        for folder in (models, outside):
            folder.mkdir()
        for name in ("secret", "inner", "hard"):
            write_tiny_llama(outside / f"{name}.gguf")
        write_tiny_llama(models / "tiny.gguf")
        (models / "folder").symlink_to(outside, target_is_directory=True)
        (models / "linked.gguf").symlink_to(outside / "secret.gguf")  # as caches do it: read, and never changed
        os.link(outside / "hard.gguf", models / "hard.gguf")
        async with FakeOllama(["far-one"]) as node:
            config = echo(own={"reply_tokens": 1})
            config["models"]["folders"] = [str(models)]
            config["nodes"] = [{"name": "far", "url": node.url}]
            sink = top / "uses"
            async with running(config, program=("-c", AUDITED.format(sink=str(sink)))) as server:
                yield Yard(server, models, outside, sink)


def is_plain(use: tuple[str, ...], yard: Yard) -> bool:
    """Whether what is used under a hostile name is a file directly in the models folder: that name was a name."""
    used = [Path(one) for one in use[1:] if BAIT in one]
    return all(one.parent.resolve() == yard.models.resolve() for one in used)


def is_inside(path: str, yard: Yard) -> bool:
    """Whether a path as it was opened lies where this server has business: its folders, Python, the system's own."""
    if path.lstrip("-").isdigit() or path == "None":
        return True  # a descriptor that is open already, or an entry below one
    real = (yard.server.folder / path).resolve()
    python = (*map(Path, (sys.prefix, sys.base_prefix, *site.getsitepackages())), Path(modelyard.__file__).parent)
    roots = (yard.server.folder, yard.models, *python)
    return str(real).startswith(NEEDS_NO_FILE) or any(real.is_relative_to(one.resolve()) for one in roots)


def leads_out(path: str, yard: Yard) -> bool:
    """Whether a path is of the folder outside, and not the link to a file that an operator made."""
    return Path(path).resolve().is_relative_to(yard.outside.resolve()) and Path(path) != yard.models / "linked.gguf"


async def test_no_name_a_caller_writes_is_ever_a_path() -> None:
    async with yard() as here:
        corpus = names(here.outside)
        asked = [one for name in corpus for one in requests(name)]
        if not PROVE:  # every name, and every place, but not all of them together
            asked = [one for at, one in enumerate(asked) if (at + at // 20) % 10 == 0]
        before = len(here.uses())
        answers = await here.ask_all(asked)
        still = await here.ask(Asked("GET", "/v1/models"))
        used = here.uses(before)
        found = {path.name for path in here.models.rglob("*") if path.parent.resolve() == here.models.resolve()}
        beside = {path.name for path in here.outside.parent.iterdir() if BAIT in path.name}
        baited = [one for one in used if BAIT in "".join(one[1:])]
        opened = [one for one in used if one[0] == "open"]

    tell(f"{len(corpus)} names, {len(asked)} requests, {len(used)} uses of files")
    assert len(corpus) >= NAMES_LEAST
    assert [one for one in baited if not is_plain(one, here)] == []
    assert [one for one in opened if not is_inside(one[1], here)] == []
    assert {"folder", "hard.gguf", "linked.gguf", "tiny.gguf"} <= found
    assert all(name.endswith(".gguf") for name in found - {"folder"})
    assert beside == {here.outside.name}
    assert not any(b"GGUF" in one for one in answers)
    assert still.startswith(b"HTTP/1.1 200 ")


async def test_links_in_a_models_folder_lead_to_nothing_that_an_api_could_change() -> None:
    async with yard() as here:
        before = len(here.uses())
        led_out = [one for one in here.uses() if len(one) > 1 and leads_out(one[1], here)]
        listed = await here.ask(Asked("GET", "/v1/models"))
        refused = [
            await here.ask(Asked("DELETE", "/api/delete", {"model": "linked"})),
            await here.ask(Asked("POST", "/api/copy", {"source": "linked", "destination": "mine"})),
        ]
        removed = await here.ask(Asked("DELETE", "/api/delete", {"model": "hard"}))
        acts = [one for one in here.uses(before) if one[0].startswith(("os.remove", "os.rename", "os.link", "shutil."))]
        left = sorted(path.name for path in here.outside.iterdir())

    assert led_out == []  # the linked folder was not even listed
    assert b"inner" not in listed
    assert all(one.startswith(b"HTTP/1.1 400 ") for one in refused)
    assert removed.startswith(b"HTTP/1.1 200 ")
    assert acts == [("os.remove", str(here.models.resolve() / "hard.gguf"), "-1")]
    assert left == ["hard.gguf", "inner.gguf", "secret.gguf"]
