"""`modelyard config`, `paths`, `version`: what is configured, where files live. These ask no server."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelyard import __version__
from modelyard.cli.output import FORMATS, format_option, write_listing, write_object
from modelyard.cli.session import session_of
from modelyard.errors import N_

if TYPE_CHECKING:
    from modelyard.config.settings import LoadedSettings
    from modelyard.engines.base import Choice

_config_option = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help=N_("Configuration file to read.")
)


@click.group(
    invoke_without_command=True,
    help=N_(
        "Show every setting, its value, and where it came from; of launch values that are not set, what this machine "
        "chooses and why. Secrets are masked."
    ),
    short_help=N_("Show every setting and where it came from."),
)
@_config_option
@click.option("--changed", is_flag=True, help=N_("Only what differs from the defaults."))
@format_option
@click.pass_context
def config(context: click.Context, config_file: Path | None, changed: bool, form: str) -> None:
    if context.invoked_subcommand is not None:
        context.meta["modelyard.config_file"] = config_file
        return
    from modelyard.config.explain import setting_rows, written
    from modelyard.config.settings import load_settings

    session = session_of(context)
    told = session.terminal.told
    loaded = load_settings(config_file=config_file, environment=session.environment)
    found = [row for row in setting_rows(loaded) if not changed or row.origin.source != "default"]
    chosen = {} if changed else _automatic(loaded, session.environment)
    rows = [
        (row.name, written(row.name, chosen[row.name].value), f"automatic: {told(chosen[row.name].reason)}")
        if row.name in chosen
        else (row.name, written(row.name, row.value), str(row.origin))
        for row in found
    ]
    objects = [
        {"name": row.name, "value": row.value, **dataclasses.asdict(row.origin)}
        | ({"automatic": dataclasses.asdict(chosen[row.name])} if row.name in chosen else {})
        for row in found
    ]
    extra = {"file": str(loaded.file) if loaded.file else None}
    write_listing(session.terminal, form, "settings", ("NAME", "VALUE", "ORIGIN"), rows, objects, extra)


def _automatic(loaded: LoadedSettings, environment: Mapping[str, str]) -> dict[str, Choice]:
    """What this machine chooses for launch values that are not set, by the names of the settings."""
    import asyncio

    from modelyard.memory.devices import SystemDevices
    from modelyard.wiring.engines import automatic_launch

    devices = SystemDevices(gpus=loaded.settings.memory.gpus)
    found = asyncio.run(automatic_launch(loaded.settings, devices, environment))
    return {f"models.launch.{name}": choice for name, choice in found.items()}


@config.command(
    help=N_("Check the configuration: says every problem and exits with 3, else with 0."),
    short_help=N_("Say what is wrong with the configuration."),
)
@_config_option
@click.pass_context
def check(context: click.Context, config_file: Path | None) -> None:
    from modelyard.config.settings import load_settings

    session = session_of(context)
    outer = context.meta.get("modelyard.config_file")
    loaded = load_settings(config_file=config_file or outer, environment=session.environment)
    for notice in loaded.notices:
        session.terminal.say(notice.text, **notice.fields)
        session.terminal.say("  " + notice.remedy, **notice.fields)
    session.terminal.say(
        N_("The configuration is valid. File: {file}"), file=loaded.file or session.terminal._(N_("none"))
    )


@click.command(help=N_("Show where configuration, models, state and cache live."))
@format_option
@click.pass_context
def paths(context: click.Context, form: str) -> None:
    from modelyard.config.paths import user_paths

    session = session_of(context)
    found = dataclasses.asdict(user_paths(session.environment))
    rows = [(name, str(path) if path else "-") for name, path in found.items()]
    objects = [{"name": name, "path": str(path) if path else None} for name, path in found.items()]
    write_listing(session.terminal, form, "paths", ("NAME", "PATH"), rows, objects)


@click.command(help=N_("Show the version."))
@click.option("-o", "--output", "form", type=click.Choice(FORMATS), default="plain", help=N_("Output format."))
@click.pass_context
def version(context: click.Context, form: str) -> None:
    terminal = session_of(context).terminal
    if form in ("table", "plain"):
        terminal.answer(f"modelyard {__version__}\n")
    else:
        facts = {"version": __version__, "python": platform.python_version(), "platform": platform.platform()}
        write_object(terminal, form, facts)
