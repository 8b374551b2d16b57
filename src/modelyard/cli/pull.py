"""`modelyard pull` and `rm`: models onto this machine, and off it again.

The server does it if one runs: then ten who want the same model wait for one download. Without one the command works by
itself, on the same store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from modelyard.cli.output import format_option, write_listing
from modelyard.cli.pull_progress import ProgressLine
from modelyard.cli.session import Session, complete_model, session_of, url_option
from modelyard.config.load import client_target
from modelyard.errors import N_, BadRequest, NotFound, UpstreamUnreachable

if TYPE_CHECKING:
    from modelyard.config.settings import LoadedSettings
    from modelyard.models.store import Store
    from modelyard.registry.reference import Reference

PARTIAL_COLUMNS = ("KEY", "HERE", "SIZE", "STATE", "MODIFIED", "FROM")
KEY_CHARS = 20


@click.command(
    help=N_(
        "Bring a model onto this machine, verified by digest.\n\n"
        "\b\n  modelyard pull hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF    Q4_K_M, or what comes next to it\n"
        "  modelyard pull hf:org/name-GGUF:Q8_0                 another one; or a file, by its name\n"
        "  modelyard pull hf:org/name@v1.1                      a branch, tag or commit; here safetensors\n"
        "  modelyard pull ollama:llama3.1:8b                    from the Ollama server on this machine\n"
        "  modelyard pull llama3.1:8b@studio                    have the node studio fetch it for itself\n"
        "  modelyard pull --partials                            what is on its way, or was broken off\n\n"
        "A pull that was broken off goes on where it was. HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE count."
    ),
    short_help=N_("Bring a model onto this machine."),
)
@click.argument("model", default="")
@click.option("--partials", is_flag=True, help=N_("List files that are only partly here."))
@format_option
@url_option
@click.pass_context
def pull(context: click.Context, model: str, partials: bool, form: str, url: str | None) -> None:
    session = session_of(context)
    if partials:
        write_partials(session, form, _store(session)[1])
        return
    if not model:
        raise click.UsageError(session.terminal._(N_("Which model? Such as hf:ORGANISATION/NAME.")))
    name = ""
    with ProgressLine(session) as line:
        for step in _steps(session, model, url):
            line.show(step)
            name = str(step.get("model") or name)
    session.terminal.say(N_("{model} is here."), model=name or model)
    if name:
        session.terminal.answer(f"{name}\n")  # for scripts: what it is called from now on


@click.command(
    help=N_(
        "Take a model off this machine, or what came of broken-off pulls.\n\n"
        "\b\n  modelyard rm org/name:q4_k_m        a model, out of memory and off the disk\n"
        "  modelyard rm --partials             all that is only partly here\n"
        "  modelyard rm --partials KEY         one of them, as `modelyard pull --partials` lists it"
    ),
    short_help=N_("Take a model off this machine."),
)
@click.argument("model", default="", shell_complete=complete_model)
@click.option("--partials", is_flag=True, help=N_("Remove files that are only partly here."))
@click.option("--yes", is_flag=True, help=N_("Do not ask."))
@url_option
@click.pass_context
def rm(context: click.Context, model: str, partials: bool, yes: bool, url: str | None) -> None:
    session = session_of(context)
    if partials:
        _remove_partials(session, model)
        return
    if not model:
        raise click.UsageError(session.terminal._(N_("Which model? `modelyard list` shows every model.")))
    if not yes and session.has_input and session.terminal.is_watched:
        question = session.terminal._(N_("Remove {model} from the disk?"), model=model)
        click.confirm(question, abort=True, err=True)
    with session.client(url) as client:
        try:
            client.check()
        except UpstreamUnreachable:
            if not _may_act_alone(session, url):
                raise
            _remove(_store(session)[1], model)
        else:
            client.delete(model)
    session.terminal.say(N_("{model} is removed."), model=model)


def write_partials(session: Session, form: str, store: Store) -> None:
    """Write what is on its way, or was broken off."""
    from modelyard.models.partials import partial_files

    found, now = partial_files(store.partials), time.time()
    rows = [
        (
            one.key[:KEY_CHARS],
            session.terminal.size(one.completed_bytes),
            session.terminal.size(one.size_bytes) if one.size_bytes else "-",
            session.terminal._(N_("being fetched")) if one.is_active else session.terminal._(N_("broken off")),
            session.terminal.ago(max(0.0, now - one.modified_at)),
            one.label or "-",
        )
        for one in found
    ]
    write_listing(session.terminal, form, "partials", PARTIAL_COLUMNS, rows, [asdict(one) for one in found])
    if form == "table" and not found:
        session.terminal.say(N_("Nothing is partly here."))


def _remove(store: Store, model: str) -> None:
    from modelyard.registry.transfer import disk_errors

    with disk_errors(model):
        store.remove(model)


def _remove_partials(session: Session, wanted: str) -> None:
    from modelyard.models.partials import forget, partial_files

    _loaded, store = _store(session)
    found = [one for one in partial_files(store.partials) if one.key.startswith(wanted)]
    if wanted and not found:
        raise NotFound(
            N_("Nothing that is partly here has a key that begins with {key}."),
            hints=(N_("`modelyard pull --partials` lists the keys."),), key=wanted,
        )  # fmt: skip
    gone = [one for one in found if forget(store.partials, store.disk, one.key)]
    freed = session.terminal.size(sum(one.completed_bytes for one in gone))
    text = session.terminal.counted(
        len(gone), "{count} file is removed, {freed} are free again.",
        "{count} files are removed, {freed} are free again.", freed=freed,
    )  # fmt: skip
    session.terminal.note(text)
    if len(gone) < len(found):
        kept = len(found) - len(gone)
        session.terminal.note(
            session.terminal.counted(
                kept, "{count} is being fetched now, and stays.", "{count} are being fetched now, and stay."
            )
        )


def _steps(session: Session, model: str, url: str | None) -> Iterator[Mapping[str, Any]]:
    """Those of the server, else our own."""
    with session.client(url) as client:
        try:
            client.check()
        except UpstreamUnreachable:
            reference = _registered(model)
            if reference is None or not _may_act_alone(session, url):
                raise
        else:
            yield from client.pull(model)
            return
    yield from _own_steps(session, reference)


def _registered(model: str) -> Reference | None:
    from modelyard.registry.reference import parse

    try:
        return parse(model)
    except ValueError as problem:
        raise BadRequest(N_("{name} is not a model: {problem}"), name=model, problem=problem) from None


def _own_steps(session: Session, reference: Reference) -> Iterator[Mapping[str, Any]]:
    """Pull in this process. The store's locks keep other processes off the same files."""
    import asyncio
    import logging

    import structlog

    from modelyard.clock import SystemClock
    from modelyard.wiring.pulls import Servers, pulls

    loaded, store = _store(session)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # we say it ourselves

    async def published() -> None:
        pass  # no server has to be told

    servers = Servers(lambda: loaded.settings.nodes, session.environment)
    with asyncio.Runner() as runner:
        own = pulls(
            loaded.settings.pull, store, session.environment, SystemClock(), nodes=servers.plan, published=published
        )
        runner.run(own.__aenter__())
        steps = own.pull(reference)
        try:
            while (step := runner.run(_next(steps))) is not None:
                yield step
        finally:
            runner.run(own.__aexit__(None, None, None))


async def _next(steps: Any) -> Mapping[str, Any] | None:
    return await anext(steps, None)


def _store(session: Session) -> tuple[LoadedSettings, Store]:
    from modelyard.config.settings import load_settings
    from modelyard.models.stored import opened_store

    loaded = load_settings(environment=session.environment)
    return loaded, opened_store(loaded.settings.pull.store or loaded.paths.store)


def _may_act_alone(session: Session, url: str | None) -> bool:
    """Whether nobody was named whom to ask: then it is this machine that is meant."""
    from modelyard.config.load import DEFAULT_URL

    return url is None and client_target(None, environment=session.environment).url == DEFAULT_URL
