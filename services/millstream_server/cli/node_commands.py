"""``millstream serve`` and ``millstream format``: one node, as an operator runs it."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millstream_server.cli.failures import CommandError, Finished
from millstream_server.cli.invocation import Invocation, command
from millstream_server.cli.output import Output
from millstream_server.cli.properties import parse_assignments
from millstream_server.cli.server_extra import load_node_config

if TYPE_CHECKING:  # the command line works without the server
    from millstream_server.node.data_folder import FolderIdentity

_CONFIG = Annotated[str, typer.Option("--config", metavar="FILE", help="The node's TOML file.")]
_SETTINGS = Annotated[
    list[str] | None,
    typer.Option("-X", metavar="KEY=VALUE", help="Any key of the configuration; see config show."),
]
_ROLES = Annotated[
    str, typer.Option("--roles", help="Any of broker,metadata,coordinator. [process.roles]")
]
_NODE_ID = Annotated[
    int | None, typer.Option("--node-id", help="Id of the node, unique. [node.id]", min=1)
]
_DATA = Annotated[str, typer.Option("--data", metavar="FOLDER", help="Data folder. [data.dir]")]
_VOTERS = Annotated[
    str,
    typer.Option(
        "--voters",
        metavar="ID@HOST:PORT,…",
        help="The metadata nodes. [controller.quorum.voters]",
    ),
]
_CLUSTER_ID = Annotated[str, typer.Option("--cluster-id", help="Id of the cluster. [cluster.id]")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "serve", cluster=False)(serve)
    command(app, "format", cluster=False)(format_)


def serve(
    invocation: Invocation,
    config: _CONFIG = "",
    roles: _ROLES = "",
    node_id: _NODE_ID = None,
    data: _DATA = "",
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="The gRPC port. [listeners]")
    ] = "",
    advertise: Annotated[
        str,
        typer.Option(
            "--advertise",
            metavar="HOST:PORT",
            help="What others connect to. [advertised.listeners]",
        ),
    ] = "",
    admin_listen: Annotated[
        str,
        typer.Option(
            "--admin-listen", metavar="HOST:PORT", help="Metrics and probes. [admin.listener]"
        ),
    ] = "",
    voters: _VOTERS = "",
    cluster_id: _CLUSTER_ID = "",
    plaintext: Annotated[
        bool,
        typer.Option(
            "--plaintext-allow",
            help="Serve plaintext on addresses other than loopback. [plaintext.allow]",
        ),
    ] = False,
    settings: _SETTINGS = None,
) -> None:
    """Run one node in the foreground until SIGTERM or Ctrl-C."""
    flags: dict[str, Any] = {
        "process.roles": roles,
        "node.id": node_id,
        "data.dir": data,
        "listeners": listen,
        "advertised.listeners": advertise,
        "admin.listener": admin_listen,
        "controller.quorum.voters": voters,
        "cluster.id": cluster_id,
        "plaintext.allow": plaintext or None,
    }
    loaded = load_node_config(config, os.environ, _given(flags, settings))
    from millstream_server.node.run import run_node

    raise Finished(run_node(loaded.config))


def format_(
    invocation: Invocation,
    config: _CONFIG = "",
    roles: _ROLES = "",
    node_id: _NODE_ID = None,
    data: _DATA = "",
    voters: _VOTERS = "",
    cluster_id: _CLUSTER_ID = "",
    if_not_formatted: Annotated[
        bool,
        typer.Option("--ignore-formatted", help="Succeed if the folder is this node's already."),
    ] = False,
    replace_disk: Annotated[
        bool,
        typer.Option(
            "--replace-lost-disk",
            help="This metadata node lost its disk: make the folder on its new one. Needs all "
            "other metadata nodes up and this one stopped.",
        ),
    ] = False,
    settings: _SETTINGS = None,
) -> None:
    """Make a data folder this node's, once, before its first start."""
    flags = {
        "process.roles": roles,
        "node.id": node_id,
        "data.dir": data,
        "controller.quorum.voters": voters,
        "cluster.id": cluster_id,
    }
    loaded = load_node_config(config, os.environ, _given(flags, settings))
    from millstream_server.local_cluster.formatting import format_data_folder, replace_lost_disk
    from millstream_server.node.data_folder import DataFolderError
    from millstream_server.node.format import AlreadyFormattedError

    try:
        make = replace_lost_disk if replace_disk else format_data_folder
        identity = make(loaded.config)
    except AlreadyFormattedError as error:
        if not if_not_formatted:
            raise CommandError(
                f"{error}: nothing was changed; pass --ignore-formatted if that is fine"
            ) from None
        invocation.output.note(str(error))
        return
    except DataFolderError as error:
        raise CommandError(str(error)) from None
    _show_owner(invocation.output, loaded.config.data_dir, identity)
    if replace_disk:
        invocation.output.note(
            "Start the node, and keep the other metadata nodes up until it is ready."
        )


def _show_owner(output: Output, folder: str, identity: "FolderIdentity") -> None:
    if output.for_people:
        output.note(
            f"{folder} now belongs to node {identity.node_id} of cluster {identity.cluster_id}."
        )
    else:
        document = {"clusterId": identity.cluster_id, "nodeId": identity.node_id}
        output.show({**document, "dataDir": folder})


def _given(flags: dict[str, Any], settings: list[str] | None) -> dict[str, Any]:
    named = {key: value for key, value in flags.items() if value not in ("", None)}
    return {**parse_assignments(settings or (), "-X"), **named}
