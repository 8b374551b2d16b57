"""`modelyard completion`: what makes a shell complete commands, options and model names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from modelyard.cli.session import session_of
from modelyard.errors import N_

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_MODELYARD_COMPLETE"


@click.command(
    help=N_(
        "Print a script that makes your shell complete commands, options and model names.\n\n"
        "\b\n  echo 'eval \"$(modelyard completion bash)\"' >> ~/.bashrc\n"
        "  echo 'eval \"$(modelyard completion zsh)\"' >> ~/.zshrc\n"
        "  modelyard completion fish > ~/.config/fish/completions/modelyard.fish"
    ),
    short_help=N_("Completion for bash, zsh and fish."),
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    found = get_completion_class(shell)
    assert found is not None, "click knows these shells"
    script = found(context.find_root().command, {}, "modelyard", VARIABLE).source()
    session_of(context).terminal.listing(script + "\n")
