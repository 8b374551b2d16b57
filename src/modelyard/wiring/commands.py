"""The recipes of configured commands, from settings: pure translation, but for the warning."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from pydantic import SecretStr

from modelyard.config.command_settings import CommandSettings
from modelyard.config.schema import Settings
from modelyard.engines.command import CommandRecipe
from modelyard.types.model import Capability

log = structlog.get_logger()


def commands(settings: Settings) -> dict[str, CommandRecipe]:
    """The configured commands, by the names of their models."""
    return {name: _recipe(given) for name, given in settings.models.command.items()}


def warn_of_open_commands(recipes: Mapping[str, CommandRecipe]) -> None:
    """Tell of workers that every program on this machine may ask. Allowed, since a file says so."""
    for name, recipe in recipes.items():
        if "port" in recipe.used and "token" not in recipe.used:
            log.warning("command.no_token", model=name, hint="give it {token}, as in --api-key {token}")


def _recipe(given: CommandSettings) -> CommandRecipe:
    return CommandRecipe(
        argv=given.command,
        model_path=given.model_path,
        ready_path=given.ready_path,
        environment={
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in given.environment.items()
        },
        secrets=frozenset(name for name, value in given.environment.items() if isinstance(value, SecretStr)),
        stop_argv=given.stop_command,
        slots=given.slots,
        context_length=given.context_length,
        capabilities=frozenset(Capability(ability) for ability in given.capabilities),
        served_name=given.served_name,
        footprint=given.footprint,
        has_progress=given.has_progress,
    )
