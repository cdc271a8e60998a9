"""``millstream node``: the registrations of brokers and coordinators."""

from typing import Annotated

import typer

from millstream_server.cli import gateway
from millstream_server.cli.invocation import Invocation, command


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Brokers and coordinators: forget one.")
    app.add_typer(group, name="node")
    app.add_typer(group, name="nodes", hidden=True)
    command(group, "unregister")(unregister)


def unregister(
    invocation: Invocation,
    node_id: Annotated[int, typer.Argument(metavar="ID", help="Id of the node.", min=1)],
) -> None:
    """Forget a node that will not come back; refused while it runs or holds anything."""
    with invocation.admin() as admin:
        if invocation.dry_run:
            invocation.output.note(f"would forget node {node_id}")
            return
        invocation.confirm(f"Forget node {node_id}?")
        gateway.unregister_node(admin, node_id)
        invocation.output.note(f"node {node_id} is forgotten")
