"""``millstream config show``: a node's configuration, and where each value comes from."""

import os
from typing import Annotated

import typer

from millstream_server.cli.invocation import Invocation, command
from millstream_server.cli.output import Column, Table
from millstream_server.cli.properties import parse_assignments
from millstream_server.cli.server_extra import load_node_config

_COLUMNS = (
    Column("key", "key"),
    Column("value", "value"),
    Column("origin", "origin"),
    Column("description", "description", wide=True),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    group = typer.Typer(no_args_is_help=True, help="The configuration of a node.")
    app.add_typer(group, name="config")
    app.add_typer(group, name="configs", hidden=True)

    @command(group, "show", cluster=False)
    def show(
        invocation: Invocation,
        config: Annotated[str, typer.Option("--config", help="The node's TOML file.")] = "",
        effective: Annotated[
            bool, typer.Option("--effective", help="Show the keys at their default as well.")
        ] = False,
        settings: Annotated[
            list[str] | None,
            typer.Option("-X", metavar="KEY=VALUE", help="A key, as a flag of serve."),
        ] = None,
    ) -> None:
        """Show what a node would run with: flags over environment over file over defaults."""
        from millstream_server.node.config_sources import known_keys

        flags = parse_assignments(settings or (), "-X")
        loaded = load_node_config(config, os.environ, flags)
        values = loaded.config.model_dump(by_alias=True)
        rows = [
            {
                "key": key,
                "value": _shown(values[key]),
                "origin": loaded.origins.get(key, "default"),
                "description": description,
            }
            for key, description in known_keys().items()
            if effective or key in loaded.origins
        ]
        invocation.output.show(
            rows,
            Table(_COLUMNS, rows, empty="Every key is at its default; --effective shows them."),
        )


def _shown(value: object) -> object:
    return ",".join(value) if isinstance(value, tuple) else value
