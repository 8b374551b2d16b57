"""Words cannot drift from code: what pages say is compared with the code they speak of. No server is needed here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from tools.errors_page import page, tree

from modelyard.api.embedding_bodies import EmbeddingsBody
from modelyard.api.ollama_body import (
    OllamaChatBody,
    OllamaEmbedBody,
    OllamaGenerateBody,
    OllamaMessage,
    OptionsBody,
)
from modelyard.api.openai_body import REFUSED, ChatBody, CompletionBody
from modelyard.api.security import Secured
from modelyard.cli.main import COMMANDS, cli
from modelyard.client.ollama_settings import OllamaSettings
from modelyard.config.load import CLIENT_VARIABLES, FOREIGN_VARIABLES, PREFIX, SECTIONS
from modelyard.config.shared_layout import HOST_VARIABLE, PORT_VARIABLE
from modelyard.diagnosis.verdict import SURE, verdict
from modelyard.errors import ContextLengthExceeded, QueueTimeout, YardError
from tests.api.surface import build_yard
from tests.support.pages import ROOT, blocks, code_words, heading_of, links, prose, read, rows

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "docs/decisions", "src/modelyard", "tools", "examples")
    for path in (ROOT / folder).glob("*.md" if folder != "src/modelyard" and folder != "tools" else "*/*.md")
)
API = read("docs/api.md")
DECISION_LINES_MAX = 40
LOGGED_ONLY = {"node.stopping"}


def documented_routes() -> dict[tuple[str, str], frozenset[str]]:
    found = {}
    for cells in rows(API):
        if cells[0] in ("GET", "POST", "DELETE", "PUT") and len(cells) == 4:
            found[cells[0], cells[1].strip("`")] = frozenset(cells[2].split(" or ")) - {"public"}
    return found


def served_routes(app: Starlette) -> dict[tuple[str, str], frozenset[str]]:
    found = {}
    for route in app.routes:
        assert isinstance(route, Route)
        assert isinstance(route.app, Secured)
        path = re.sub(r"\{(\w+):path\}", r"{\1}", route.path)
        if path != "/{path}":
            for method in set(route.app.methods) - {"HEAD"}:
                found[method, path] = frozenset(right.value for right in route.app.rights)
    return found


def test_the_api_page_has_every_route_with_its_right_and_no_other() -> None:
    assert documented_routes() == served_routes(build_yard().app)


def test_every_member_of_a_body_is_on_the_api_page() -> None:
    bodies = (
        ChatBody, CompletionBody, EmbeddingsBody, OllamaChatBody, OllamaGenerateBody, OllamaEmbedBody, OptionsBody,
        OllamaMessage,
    )  # fmt: skip
    known = {field for body in bodies for field in body.__struct_fields__}

    assert known - set(code_words(prose(API))) == set()


def test_the_api_page_says_what_is_refused() -> None:
    paragraph = next(part for part in API.split("\n\n") if part.startswith("**Fields that are refused**"))

    assert set(REFUSED) <= set(code_words(paragraph))


def test_the_errors_page_is_the_error_tree() -> None:
    assert read("docs/errors.md") == page(), "run: python -m tools.errors_page > docs/errors.md"


def test_every_error_has_one_row() -> None:
    listed = sorted(cells[0].strip("`") for cells in rows(page()) if cells[0] != "code")

    assert listed == sorted(error.code for error in tree(YardError))


def test_every_event_is_on_the_api_page() -> None:
    told: set[str] = set()
    for path in (ROOT / "src" / "modelyard").rglob("*.py"):
        told |= set(re.findall(r"""["']((?:model\.|node\.|memory\.(?:foreign|leak)_)[a-z_]+)["']""", path.read_text()))
    listed = {cells[0].strip("`") for cells in rows(API) if re.match(r"`(model|node|memory)\.", cells[0])}

    told.discard("model.safetensors")  # a file
    assert listed == {name for name in told if name not in LOGGED_ONLY}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme_or_the_docs(command: str) -> None:
    text = "\n".join(read(name) for name in PAGES)

    assert re.search(rf"modelyard {command}\b", text), f"nobody says what `modelyard {command}` is for"


@pytest.mark.parametrize("name", PAGES)
def test_commands_and_flags_are_those_there_are(name: str) -> None:
    text = read(name)
    said = [*code_words(prose(text)), *(line for block in blocks(text) for line in block.text.splitlines())]
    for line in said:
        words = line.partition("#")[0].split()
        if len(words) > 1 and words[0].rpartition("/")[2] == "modelyard" and words[1][0].isalpha():
            assert words[1] in COMMANDS, line
            command = cli.get_command(click.Context(cli), words[1])
            assert command is not None
            flags = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
            if not isinstance(command, click.Group):
                assert flags <= {option for param in command.params for option in param.opts} | {"--help"}, line


@pytest.mark.parametrize(
    "name", ["README.md", *(f"docs/{name}.md" for name in ("faq", "environment", "coming-from", "troubleshooting"))]
)
def test_settings_that_pages_name_exist(name: str) -> None:
    there = [line.removeprefix("### ") for line in read("docs/settings.md").splitlines() if line.startswith("### ")]
    for word in code_words(prose(read(name))):
        parts = word.split(".")
        if parts[0] in SECTIONS and len(parts) > 1 and re.fullmatch(r"[\w.]+", word):
            plain = ".".join(part for part in parts if not part.isupper())
            assert any(f"{one}.".startswith(f"{plain}.") for one in there), word


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for link in links(read(name)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _hash, anchor = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.exists(), link
        if anchor:
            headings = [heading_of(line) for line in target.read_text().splitlines() if line.startswith("#")]
            assert anchor in headings, link


@pytest.mark.parametrize("name", PAGES)
def test_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    said = set(re.findall(r"`make ([a-z]+)", read(name)))
    for block in blocks(read(name)):
        said |= set(re.findall(r"^make ([a-z]+)", block.text, re.MULTILINE))

    assert said <= targets


def test_the_tree_in_the_readme_is_the_tree() -> None:
    tree_block = next(block.text for block in blocks(read("README.md")) if block.text.startswith("src/modelyard/"))
    named = set()
    for line in tree_block.splitlines()[1:]:
        if line.startswith(("├", "└")):
            named |= set(re.split(r"\s{2,}", line[4:])[0].split())
    package = ROOT / "src" / "modelyard"
    there = {path.name for path in package.iterdir() if path.is_dir() and not path.name.startswith("_")}

    assert {name.rstrip("/") for name in named if name.endswith("/")} == there
    for name in named:
        assert (package / name).exists() or (package / f"{name}.py").exists(), name


def test_files_named_on_the_architecture_page_exist() -> None:
    for word in code_words(prose(read("docs/architecture.md"))):
        if re.fullmatch(r"[\w/]+\.(py|md)|[\w/]+/", word):
            assert (ROOT / word).exists() or (ROOT / "src" / "modelyard" / word).exists(), word


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = {re.split(r"[>=<~!\[]", line)[0] for line in project["dependencies"]}
    reasons = {re.sub(r"\[.*\]", "", cells[0]) for cells in rows(read("docs/decisions/0001-dependencies.md"))}

    assert reasons - {"package"} == wanted


def test_decisions_are_short_and_all_on_the_architecture_page() -> None:
    linked = {Path(link).name for link in links(read("docs/architecture.md")) if link.startswith("decisions/")}
    written = {path.name for path in (ROOT / "docs" / "decisions").glob("*.md")}

    assert linked == written
    for name in written:
        assert read(f"docs/decisions/{name}").count("\n") <= DECISION_LINES_MAX, name


def test_the_page_about_the_environment_has_every_variable_that_is_read_and_no_other() -> None:
    text = read("docs/environment.md")
    listed = {cells[0].strip("`") for cells in rows(text)} - {"variable"}
    settings = {name.upper() for name in OllamaSettings.model_fields}
    known = {
        *FOREIGN_VARIABLES, *(PREFIX + name for name in CLIENT_VARIABLES), HOST_VARIABLE, PORT_VARIABLE, *settings,
    }  # fmt: skip
    others = listed - known
    sources = "\n".join(path.read_text() for path in (ROOT / "src" / "modelyard").rglob("*.py"))

    assert known <= listed
    assert all(re.search(rf"\b{name}\b", sources) for name in others), others


@pytest.mark.parametrize(
    ("trouble", "advice"),
    [
        (verdict("out_of_memory", SURE, "page_file").suggestions, "page file to 16 GB"),
        (verdict("out_of_memory", SURE, "gpu").suggestions, "4-bit quantisation, a smaller n_batch"),
        (verdict("out_of_memory", SURE).suggestions, "shorter idle time"),
        (QueueTimeout.hints, "MODEL_UNLOAD_ENABLED=1"),
        (ContextLengthExceeded.hints, "MAX_INPUT_TOKENS"),
    ],
)
def test_what_helps_is_said_by_the_error_itself(trouble: tuple[str, ...], advice: str) -> None:
    assert any(advice in hint for hint in trouble)
