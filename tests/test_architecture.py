"""The architecture is a test: layers, purity, one reader of the environment, no cycles, no hidden imports.

Every exception is listed here with its reason. The lists only shrink.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "modelyard"
LAYERS = """errors | units clock loopback | types | events words logs | diagnosis | config | client | models demo
    | memory | engines | workers | residency | providers | routing registry | gateway | fleet | api web
    | wiring node | showing reload applying | compose compose_minimal | asgi serving | cli testing"""
RANK = {name: rank for rank, row in enumerate(LAYERS.split("|")) for name in row.split()}

PURE = {
    "errors.py", "units.py", "loopback.py",
    "diagnosis/__init__.py", "diagnosis/verdict.py", "diagnosis/own_lines.py", "diagnosis/told.py",
    "diagnosis/showing.py", "diagnosis/timeouts.py",
    "types/address.py", "types/placeholders.py",
    "types/chat.py", "types/model.py", "types/memory.py", "types/status.py",
    "memory/footprint.py", "memory/footprint_torch.py", "memory/planner.py", "memory/eviction.py",
    "memory/trend.py",
    "residency/scheduler.py", "residency/settling.py", "residency/acts.py", "residency/room.py", "residency/queue.py",
    "residency/state.py", "residency/messages.py", "residency/refusals.py", "residency/outlook.py",
    "residency/lifecycle.py", "residency/rules.py", "residency/waiting.py",
    "config/explain.py", "config/banner.py",
    "config/shared_layout.py", "config/changes.py",
    "engines/answer_text.py", "engines/transformers_question.py",
    "providers/openai_request.py", "providers/openai_wire.py", "providers/ollama_request.py", "providers/told.py",
    "providers/trimming.py", "providers/prompt_tokens.py",
    "models/manifest.py", "models/problems.py", "registry/reference.py", "registry/choosing.py", "registry/plan.py",
    "routing/failures.py", "routing/health.py", "routing/cooldown.py", "routing/retries.py", "routing/ranking.py",
    "routing/affinity.py", "routing/room.py", "routing/turns.py", "gateway/admission.py",
    "api/asked.py", "api/images.py", "api/ollama_body.py", "api/openai_body.py", "api/tool_calls.py",
    "client/ollama_questions.py", "client/ollama_lines.py", "client/ollama_replies.py",
}  # fmt: skip
IMPURE = {
    "asyncio", "anyio", "os", "time", "random", "subprocess", "socket", "threading", "logging", "structlog", "secrets",
    "aiohttp", "httpx2", "psutil", "datetime",
}  # fmt: skip
FILE_LINES_MAX = 300
FUNCTION_LINES_MAX = 60

# Programs of their own: a worker's process starts there, so they may read the environment they were started with.
WORKER_PROGRAMS = {
    "engines/echo_worker.py", "engines/llamacpp_launcher.py", "engines/llamacpp_oracle_launcher.py",
    "engines/transformers_worker.py", "engines/embeddings_worker.py", "engines/template_worker.py",
    "engines/worker_cell.py", "workers/guardian.py",
    "registry/hub_listing.py",
}  # fmt: skip
LONG_FILES = {
    "errors.py": "the whole error tree on one page",
}
LONG_FUNCTIONS: dict[str, str] = {}
# The command line loads a command's module, and heavy third-party libraries, when the command is called.
LAZY_IMPORTS = ("cli/",)

FILES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    parts = ["modelyard", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Every import with its absolute name, line, and whether it hides inside a function; type-only ones left out."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]

    def visit(node: ast.AST, inside: bool) -> Iterator[tuple[str, int, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parents = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*parents, base] if base else parents)
                yield base, child.lineno, inside
                yield from ((f"{base}.{alias.name}", child.lineno, inside) for alias in child.names)
            yield from visit(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from visit(ast.parse(path.read_text()), inside=False)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_from_lower_layers(path: Path) -> None:
    name = name_of(path)
    here = name.split("/")[0].removesuffix(".py")

    for module, line, inside in imports(path):
        if not module.startswith("modelyard."):
            continue
        there = module.split(".")[1]
        if there == "__version__":
            continue
        assert there in RANK, f"{name}:{line}: {there} has no layer"
        assert there == here or RANK[there] < RANK[here], f"{name}:{line}: {here} may not import {there}"
        assert not inside or name.startswith(LAZY_IMPORTS), f"{name}:{line}: import hidden in a function"


@pytest.mark.parametrize("name", sorted(PURE))
def test_a_pure_file_imports_nothing_impure(name: str) -> None:
    path = ROOT / name
    if not path.exists():
        pytest.fail(f"{name} is listed as pure and does not exist")

    found = {module.split(".")[0] for module, _line, _inside in imports(path)}

    assert not found & IMPURE


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_stays_small_and_keeps_no_global_state(path: Path) -> None:
    name, text = name_of(path), path.read_text()

    if name not in LONG_FILES:
        assert text.count("\n") <= FILE_LINES_MAX, f"{name}: over {FILE_LINES_MAX} lines"
    if name not in {"config/load.py", *WORKER_PROGRAMS}:
        names = {ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
        assert not names & {"os.environ", "os.getenv"}, f"{name}: reads the environment"
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Global), f"{name}:{node.lineno}: global"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno
            where = f"{name}:{node.name}"
            assert length < FUNCTION_LINES_MAX or where in LONG_FUNCTIONS, f"{where} has {length} lines"


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {module_of(path): path for path in FILES}
    graph = {
        name: {target for target, _line, _inside in imports(path) if target in modules and target != name}
        for name, path in modules.items()
    }
    for name in graph:  # a package's __init__ that only names its own parts is not a circle
        graph[name] = {target for target in graph[name] if not name.startswith(f"{target}.")}

    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail[trail.index(name) :], name))
        if name in done:
            return
        for target in sorted(graph[name]):
            walk(target, (*trail, name))
        done.add(name)

    for name in sorted(graph):
        walk(name, ())


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("modelyard", {"starlette", "aiohttp", "xllamacpp", "pydantic", "httpx2", "click", "rich"}),
        ("modelyard.client", {"starlette", "aiohttp", "xllamacpp", "pydantic", "httpx2", "stamina", "click", "rich"}),
        # Not rich: structlog takes it up by itself wherever it is installed.
        ("modelyard.client.ollama", {"starlette", "uvicorn", "aiohttp", "xllamacpp", "fastapi", "click"}),
        ("modelyard.client.http", {"starlette", "uvicorn", "aiohttp", "xllamacpp", "fastapi"}),
        (
            "modelyard.compose",
            {
                "xllamacpp",
                "torch",
                "transformers",
                "sentence_transformers",
                "huggingface_hub",
                "prompt_toolkit",
                "httpx2",
                "click",
            },
        ),
        (
            "modelyard.compose_minimal",
            {
                "xllamacpp",
                "torch",
                "transformers",
                "prompt_toolkit",
                "httpx2",
                "click",
                "fastapi",
                "aiohttp",
                "pynvml",
                "prometheus_client",
            },
        ),
        ("modelyard.cli.main", {"pydantic", "starlette", "aiohttp", "rich", "httpx2", "prompt_toolkit"}),
    ],
)
def test_importing_is_light(module: str, forbidden: set[str]) -> None:
    probe = f"import sys, json, {module}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"

    loaded = set(json.loads(subprocess.check_output([sys.executable, "-c", probe])))

    assert not loaded & forbidden


def test_nothing_reachable_from_a_socket_can_unpickle() -> None:
    unsafe = {"pickle", "dill", "cloudpickle", "marshal", "shelve"}

    for path in FILES:
        found = {module.split(".")[0] for module, _line, _inside in imports(path)}
        assert not found & unsafe, name_of(path)


# Whoever reaches out to another process, and where to. One more is one more that could follow a redirect with a key in
# its hand: tests/guarantees/test_redirects.py drives each that speaks HTTP to other machines.
OUTBOUND = {
    "client/http.py": "the command line's server",
    "client/ollama.py": "the Ollama server that its user names",
    "client/openai_chat.py": "the OpenAI-compatible server that its user names",
    "client/ollama_sync.py": "the same, without a loop",
    "providers/node_http.py": "the nodes of the configuration, and the hosts that files may come from",
    "providers/ollama_residents.py": "an Ollama server that shares our devices",
    "providers/worker_http.py": "our own workers, by their sockets",
    "workers/ready.py": "our own workers, while they start",
    "registry/hub_listing.py": "the hub, asked what a repository has",
    "testing/fault_proxy.py": "the server that a test put behind it",
}
REACHES_OUT = {
    "Client", "AsyncClient", "ClientSession", "HTTPConnection", "HTTPSConnection", "PoolManager", "urlopen",
    "urlretrieve", "create_connection", "create_unix_connection", "open_connection", "open_unix_connection",
    "connect_tcp", "connect_unix", "sock_connect", "connect_ex",
}  # fmt: skip


def test_only_a_few_named_files_reach_out_to_other_processes() -> None:
    found = {
        name_of(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in REACHES_OUT
    }

    assert found == OUTBOUND.keys()
