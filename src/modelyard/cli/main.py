"""The command `modelyard`: finds a command's module when it is called, and turns errors into words and exit codes.

`--help` stays fast: nothing here, nor at the top of a command's module, imports a heavy library.
"""

from __future__ import annotations

import copy
import difflib
import gc
import importlib
import os
import sys
from collections.abc import Mapping

import click

from modelyard import __version__
from modelyard.cli.click_words import speak
from modelyard.cli.examples import with_examples
from modelyard.cli.exits import BROKEN_PIPE, FAILED, INTERRUPTED, exit_code
from modelyard.cli.session import LANGUAGE, Session, language_in
from modelyard.cli.terminal import Terminal
from modelyard.config.load import process_environment
from modelyard.errors import N_, YardError
from modelyard.words import LANGUAGES, _, language_of_header

START_OBJECTS_MAX = 50_000  # made before anybody looks for garbage; with Python's 700 that is 6 % of a start

# Where each command is, and its line in `--help`, which imports none of them.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "serve": ("modelyard.cli.serve:serve", N_("Start the server.")),
    "chat": ("modelyard.cli.chat.command:chat", N_("Talk to a model.")),
    "ask": ("modelyard.cli.ask:ask", N_("Ask one question.")),
    "compare": ("modelyard.cli.compare.command:compare", N_("Ask several models the same.")),
    "top": ("modelyard.cli.top.command:top", N_("Watch memory, models and requests.")),
    "tour": ("modelyard.cli.tour.command:tour", N_("Meet every model of a server in turn.")),
    "list": ("modelyard.cli.models:list_models", N_("List the models of a server.")),
    "ps": ("modelyard.cli.models:ps", N_("List the models in memory.")),
    "show": ("modelyard.cli.show:show", N_("Show one model.")),
    "rescan": ("modelyard.cli.memory:rescan", N_("Read the model folders again.")),
    "load": ("modelyard.cli.memory:load", N_("Load a model.")),
    "unload": ("modelyard.cli.memory:unload", N_("Take a model out of memory.")),
    "pin": ("modelyard.cli.memory:pin", N_("Keep a model in memory.")),
    "pull": ("modelyard.cli.pull:pull", N_("Bring a model onto this machine.")),
    "rm": ("modelyard.cli.pull:rm", N_("Take a model off this machine.")),
    "nodes": ("modelyard.cli.nodes:nodes", N_("List other nodes, weigh them, drain them.")),
    "config": ("modelyard.cli.config:config", N_("Show every setting and where it came from.")),
    "paths": ("modelyard.cli.config:paths", N_("Show where files live.")),
    "completion": ("modelyard.cli.completion:completion", N_("Completion for bash, zsh and fish.")),
    "version": ("modelyard.cli.config:version", N_("Show the version.")),
}


class Commands(click.Group):
    """A group whose commands are imported when they are needed, and shown in the person's language."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Hear `--lang` first, wherever it stands: what is wrong with the rest is said in that language."""
        args = _language_first(args)
        if args[:1] == ["--lang"] and len(args) > 1 and args[1] in LANGUAGES:
            ctx.meta[LANGUAGE] = args[1]
        speak(language_in(ctx))
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        click.Group.format_help(in_language(self, language_in(ctx)), ctx, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _colon, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), f"{cmd_name} is a command"
        return with_examples(cmd_name, in_language(command, language_in(ctx)))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[:1] == ["help"]:  # as people who come from other tools type it
            args = [*args[1:], "--help"]
            if len(args) == 1:
                click.echo(ctx.get_help())
                ctx.exit()
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            template = (
                N_("There is no command {name}. Did you mean {near}?") if near else N_("There is no command {name}.")
            )
            ctx.fail(_(template, language_in(ctx)).format(name=args[0], near="".join(near)))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        language = language_in(ctx)
        with formatter.section(_(N_("Commands"), language)):
            formatter.write_dl([(name, _(line, language)) for name, (_target, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; whatever it raises becomes words on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except YardError as error:
            if isinstance(ctx.obj, Session) and ctx.obj.is_debug:
                raise
            _terminal(ctx).fail(error)
            ctx.exit(exit_code(error))
        except (KeyboardInterrupt, click.Abort):
            _terminal(ctx).clear_status()
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # Whoever read our output has left. Python would complain once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            ctx.exit(BROKEN_PIPE)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as problem:
            if isinstance(ctx.obj, Session) and ctx.obj.is_debug:
                raise
            _terminal(ctx).say(
                N_("modelyard: something went wrong: {problem}. With --debug it says where."), problem=repr(problem)
            )
            ctx.exit(FAILED)


def in_language(command: click.Command, language: str) -> click.Command:
    """The same command with its help in a language."""
    if language == "en":
        return command
    translated = copy.copy(command)
    translated.help = _(command.help, language) if command.help else None
    translated.short_help = _(command.short_help, language) if command.short_help else None
    translated.params = [copy.copy(param) for param in command.params]
    if isinstance(translated, click.Group):
        translated.commands = {name: in_language(inner, language) for name, inner in translated.commands.items()}
    for param in translated.params:
        if isinstance(param, click.Option) and param.help:
            param.help = _(param.help, language)
    return translated


def _terminal(ctx: click.Context) -> Terminal:
    return ctx.obj.terminal if isinstance(ctx.obj, Session) else Terminal(language_in(ctx), process_environment())


def _language_first(args: list[str]) -> list[str]:
    """The words of a command line, with `--lang` before the command.

    >>> _language_first(["chat", "--lang=zh-TW", "-c"]), _language_first(["ask", "--", "--lang", "en"])
    (['--lang', 'zh_TW', 'chat', '-c'], ['ask', '--', '--lang', 'en'])
    """
    end = args.index("--") if "--" in args else len(args)
    for place, word in enumerate(args[:end]):
        name, equals, value = word.partition("=")
        if name != "--lang":
            continue
        rest = args[:place] + args[place + (1 if equals else 2) :]
        if equals or place + 1 < end:
            asked = value if equals else args[place + 1]
            return ["--lang", asked if asked in LANGUAGES else language_of_header(asked) or asked, *rest]
    return args


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help=N_(
        "One process in front of every language model you run yourself.\n\n"
        "\b\n  modelyard serve                    start the server\n"
        "  modelyard chat                     talk to a model\n"
        "  modelyard ask 'Why is it so?'      one question, one answer"
    ),
)
@click.option(
    "--lang",
    type=click.Choice(LANGUAGES),
    is_eager=True,
    expose_value=False,  # heard before: see parse_args
    help=N_("Language of messages; it may stand after the command too. Default: LC_ALL, LC_MESSAGES, LANG."),
)
@click.option("--no-input", is_flag=True, help=N_("Never ask anything."))
@click.option("--debug", is_flag=True, help=N_("Show where an error came from."))
@click.version_option(__version__, prog_name="modelyard", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, no_input: bool, debug: bool) -> None:
    environment = process_environment()
    ctx.obj = Session(Terminal(language_in(ctx), environment), environment, not no_input, debug)


def main() -> None:
    """Run the command line of this process."""
    gc.set_threshold(START_OBJECTS_MAX)  # imports make many objects, and all of them stay
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a terminal that lacks a character shows a mark instead of a traceback
    cli(prog_name="modelyard")
