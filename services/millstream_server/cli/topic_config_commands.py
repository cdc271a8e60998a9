"""``millstream topic describe-config`` and ``alter-config``."""

from typing import Annotated

import typer

from millstream_server.cli import gateway
from millstream_server.cli.failures import UsageError
from millstream_server.cli.invocation import Invocation, command
from millstream_server.cli.output import Column, Table
from millstream_server.cli.properties import parse_assignments

_COLUMNS = (
    Column("key", "key"),
    Column("value", "value"),
    Column("source", "source"),
    Column("description", "documentation", wide=True),
)
_TOPIC = Annotated[str, typer.Argument(metavar="TOPIC")]


def add_to(group: typer.Typer) -> None:
    """Add the commands to the group ``topic``."""
    command(group, "describe-config", aliases=("describe-configs",))(describe_config)
    command(group, "alter-config", aliases=("alter-configs",))(alter_config)


def describe_config(invocation: Invocation, topic: _TOPIC) -> None:
    """Show every configuration key of a topic, and where its value comes from."""
    with invocation.admin() as admin:
        rows = gateway.describe_configs(admin, topic)
    invocation.output.show(rows, Table(_COLUMNS, rows))


def alter_config(
    invocation: Invocation,
    topic: _TOPIC,
    set_: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", metavar="KEY=VALUE", help="Set a key; repeat for more."),
    ] = None,
    delete: Annotated[
        list[str] | None,
        typer.Option("-d", "--delete", metavar="KEY", help="Put a key back to its default."),
    ] = None,
) -> None:
    """Change the configuration of a topic: all the keys given, or none."""
    wanted = parse_assignments(set_ or (), "--set")
    if not wanted and not delete:
        raise UsageError("nothing to change: pass --set key=value or --delete key")
    with invocation.admin() as admin:
        gateway.alter_configs(admin, topic, wanted, delete or [], validate_only=invocation.dry_run)
    changed = ", ".join([*wanted, *(delete or [])])
    verb = "could be changed" if invocation.dry_run else "changed"
    invocation.output.note(f"{topic}: {changed} {verb}")
