"""`modelyard completion`: what makes a shell complete commands, options and model names.

click knows the shells; two things it does not: bash cuts words at colons, which nearly every model's name has, and zsh
completes nothing before somebody called `compinit`.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from modelyard.cli.session import session_of
from modelyard.errors import N_

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_MODELYARD_COMPLETE"
# The line goes to click as it does in fish: whole, up to the cursor. What readline takes for the word begins after the
# last colon, so that much of each answer is left out. Old versions of bash, as on macOS, have no `nosort`.
_BASH = """\
_modelyard_completion() {
    local line="${COMP_LINE:0:COMP_POINT}" word begun="" kind value
    word="${line##*[[:space:]]}"
    if [[ $COMP_WORDBREAKS == *:* && ${word##*=} == *:* ]]; then
        begun="${word##*=}"
        begun="${begun%"${begun##*:}"}"
    fi
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) value="${value%%$'\t'*}"; COMPREPLY+=("${value#"$begun"}") ;;
        esac
    done < <(COMP_WORDS="$line" COMP_CWORD="$word" VARIABLE=fish_complete "$1" 2>/dev/null)
}
complete -o nosort -F _modelyard_completion modelyard 2>/dev/null || complete -F _modelyard_completion modelyard
"""
_ZSH = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }\n"


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
    session_of(context).terminal.listing(script_of(shell, context.find_root().command))


def script_of(shell: str, command: click.Command) -> str:
    """What the shell reads."""
    if shell == "bash":
        return _BASH.replace("VARIABLE", VARIABLE)
    found = get_completion_class(shell)
    assert found is not None, "click knows these shells"
    script = found(command, {}, "modelyard", VARIABLE).source() + "\n"
    if shell == "zsh":
        first, _newline, rest = script.partition("\n")  # `#compdef` has to stay the first line
        return f"{first}\n{_ZSH}{rest}"
    return script
