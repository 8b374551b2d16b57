"""`modelyard nodes`: who else answers, how each is, and what an operator wants of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from modelyard.cli.output import format_option, write_listing
from modelyard.cli.session import Session, session_of, url_option
from modelyard.errors import N_

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelyard.types.fleet import FleetNodeStatus

COLUMNS = ("NAME", "KIND", "HEALTH", "WEIGHT", "BUSY", "MODELS", "IN MEMORY", "SEEN", "WHY")


@click.group(invoke_without_command=True, help=N_("List other nodes, and say how much they should answer."))
@format_option
@url_option
@click.pass_context
def nodes(context: click.Context, form: str, url: str | None) -> None:
    if context.invoked_subcommand is not None:
        return
    session = session_of(context)
    with session.client(url) as client:
        write_nodes(session, form, client.nodes())


@nodes.command(help=N_("Change how much of the work a node gets; 0 gives it none."))
@click.argument("name")
@click.argument("weight", type=click.FloatRange(0, 1000))
@url_option
@click.pass_context
def weight(context: click.Context, name: str, weight: float, url: str | None) -> None:
    session = session_of(context)
    with session.client(url) as client:
        status = client.edit_node(name, weight=weight)
    session.terminal.say(N_("{name} has the weight {weight} now."), name=status.name, weight=f"{status.weight:g}")


@nodes.command(help=N_("Give a node no new work; what it has it finishes."))
@click.argument("name")
@click.option("--off", is_flag=True, help=N_("Give it work again."))
@url_option
@click.pass_context
def drain(context: click.Context, name: str, off: bool, url: str | None) -> None:
    session = session_of(context)
    with session.client(url) as client:
        status = client.edit_node(name, draining=not off)
    if off:
        session.terminal.say(N_("{name} gets work again."), name=status.name)
        return
    text = session.terminal.counted(
        status.in_flight, "{name} gets no new work; it still answers {count} request.",
        "{name} gets no new work; it still answers {count} requests.", name=status.name,
    )  # fmt: skip
    session.terminal.note(text)


@nodes.command(help=N_("Have a node looked at now, and say how it is."))
@click.argument("name")
@format_option
@url_option
@click.pass_context
def check(context: click.Context, name: str, form: str, url: str | None) -> None:
    session = session_of(context)
    with session.client(url) as client:
        write_nodes(session, form, [client.check_node(name)])


def write_nodes(session: Session, form: str, statuses: Sequence[FleetNodeStatus]) -> None:
    """Write nodes as they were last seen."""
    rows = [
        (
            one.name,
            one.kind,
            session.terminal.told("draining" if one.draining else one.health.value),
            f"{one.weight:g}",
            f"{one.in_flight}/{one.slots}" if one.slots else str(one.in_flight),
            str(one.models_count),
            ", ".join(resident.node_model for resident in one.residents) or "-",
            "-" if one.seen_s_ago is None else session.terminal.duration(one.seen_s_ago),
            session.terminal.told(one.reason) or "-",
        )
        for one in statuses
    ]
    write_listing(session.terminal, form, "nodes", COLUMNS, rows, [asdict(one) for one in statuses])
    if form == "table" and not statuses:
        session.terminal.say(N_("There are no other nodes; add some as [[nodes]] to the configuration."))
