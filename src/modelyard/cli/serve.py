"""`modelyard serve`: flags to settings, settings to a running node. The node itself is built in compose."""

from __future__ import annotations

import gc
from pathlib import Path

import click

from modelyard.cli.session import Session, language_in, session_of
from modelyard.config.load import Flag, parts_of, value_of
from modelyard.errors import N_, ConfigError
from modelyard.words import _


@click.command(
    help=N_(
        "Start the server.\n\n"
        "\b\n  modelyard serve --models ~/models\n"
        "  modelyard serve --ram-limit 8GiB --port 8000\n"
        "  modelyard serve --set residency.idle_ttl_s=30m\n"
        "  modelyard serve --minimal --model ~/models/small.gguf\n\n"
        "Every setting, and where else it may be given: docs/settings.md. `modelyard config` shows what is in effect."
    ),
    short_help=N_("Start the server."),
)
@click.option("--host", metavar="ADDRESS", help=N_("Address to listen on. Off loopback a key is required."))
@click.option("--port", metavar="PORT", help=N_("Port to listen on."))
@click.option("--config", "config_file", type=click.Path(path_type=Path), help=N_("Configuration file to read."))
@click.option("--models", multiple=True, metavar="FOLDER", help=N_("Folder or file with models. May be repeated."))
@click.option("--ram-limit", metavar="SIZE", help=N_("Most main memory that models may have, such as 8GiB."))
@click.option(
    "--minimal",
    is_flag=True,
    help=N_("OpenAI's chat with one model, and health; nothing else. Starts faster and takes less memory; no GPU."),
)
@click.option("--model", metavar="MODEL", help=N_("The one model of --minimal: its name, or a file or folder."))
@click.option("--log-level", metavar="LEVEL", help=N_("debug, info, warning or error."))
@click.option("--log-format", metavar="FORMAT", help=N_("console, json or auto."))
@click.option("--set", "others", multiple=True, metavar="NAME=VALUE", help=N_("Any other setting. May be repeated."))
@click.pass_context
def serve(
    context: click.Context,
    host: str | None,
    port: str | None,
    config_file: Path | None,
    models: tuple[str, ...],
    ram_limit: str | None,
    minimal: bool,
    model: str | None,
    log_level: str | None,
    log_format: str | None,
    others: tuple[str, ...],
) -> None:
    given = [
        Flag(("server", "host"), host, "--host"),
        Flag(("server", "port"), port, "--port"),
        Flag(("models", "folders"), list(models) or None, "--models"),
        Flag(("memory", "ram_limit_bytes"), ram_limit, "--ram-limit"),
        Flag(("log", "level"), log_level, "--log-level"),
        Flag(("log", "format"), log_format, "--log-format"),
    ]
    if model is not None and not minimal:
        raise click.UsageError(_(N_("--model goes with --minimal."), language_in(context)))
    flags = [*(_other(text) for text in others), *(flag for flag in given if flag.value is not None)]
    flags += _one_model(model) if model is not None else []
    gc.disable()  # until it is up: what is made by then stays, and looking through it takes a sixth of the start
    try:
        status = _served(flags, config_file, session_of(context), minimal=minimal)
    finally:
        gc.enable()
    context.exit(status)


def _served(flags: list[Flag], config_file: Path | None, session: Session, *, minimal: bool) -> int:
    from modelyard.config.settings import load_settings

    loaded = load_settings(flags, config_file=config_file, environment=session.environment)
    from modelyard import logs, serving  # noqa: F401 - only now: a wrong flag is told at once; logs first: see there

    if minimal:
        from modelyard.compose_minimal import running_node
    else:
        from modelyard.compose import running_node
    return serving.serve(loaded, running_node)


def _one_model(text: str) -> list[Flag]:
    """A file or folder, else a name."""
    if Path(text).expanduser().exists():
        return [Flag(("models", "path"), text, "--model"), Flag(("models", "default"), None, "--model")]
    return [Flag(("models", "default"), text, "--model")]


def _other(text: str) -> Flag:
    name, equals, value = text.partition("=")
    parts = parts_of(name.strip())
    if not equals or len(parts) < 2:
        raise ConfigError(N_("{where}: expected NAME=VALUE, such as server.port=8000"), where=f"--set {name}")
    if parts[0] == "keys":
        # Whoever lists processes would read it.
        raise ConfigError(N_("{where}: keys are never given as flags"), where=f"--set {name}")
    return Flag(parts, value_of(value), f"--set {name.strip()}")
