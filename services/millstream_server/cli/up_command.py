"""``millstream up``: a cluster on this machine with one command, its data kept between starts.

Without ``--brokers`` it is one process in all three roles. With it, it is the cluster that a
data centre would have, as separate processes on loopback ports.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from millstream_server.cli.failures import CommandError, Finished
from millstream_server.cli.invocation import Invocation, command
from millstream_server.cli.properties import parse_assignments
from millstream_server.cli.server_extra import load_node_config, require_server

DATA_VARIABLE = "MILLSTREAM_DATA"
DEFAULT_DATA = "millstream-data"
DEFAULT_PORT = 9092
_ADMIN_PORT = 9644
_EMBEDDED_MARK = "node.json"
_METADATA_NODES = 3
_COORDINATORS = 2


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "up", cluster=False)(up)


def up(
    invocation: Invocation,
    port: Annotated[
        int, typer.Option("--port", help="Port of the (first) broker.", min=1, max=65535)
    ] = DEFAULT_PORT,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help=f"Data folder, kept. [env: {DATA_VARIABLE}; default: ./{DEFAULT_DATA}]",
        ),
    ] = "",
    brokers: Annotated[
        int,
        typer.Option(
            "--brokers",
            help="Start a cluster of separate processes with so many brokers; 0: one process.",
            min=0,
            max=64,
        ),
    ] = 0,
    config: Annotated[
        str, typer.Option("--config", metavar="FILE", help="A node's TOML file.")
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("-X", metavar="KEY=VALUE", help="Any key of a node's configuration."),
    ] = None,
) -> None:
    """Start Millstream on this machine; Ctrl-C stops it."""
    require_server()
    folder = Path(data or os.environ.get(DATA_VARIABLE) or DEFAULT_DATA)
    given = parse_assignments(settings or (), "-X")
    if brokers:
        _up_cluster(invocation, folder, port, brokers, config, given)
    else:
        _up_embedded(invocation, folder, port, config, given)


def _up_embedded(
    invocation: Invocation, folder: Path, port: int, config_path: str, given: dict[str, str]
) -> None:
    from millstream_server.cli.embedded import Announcement, run_embedded
    from millstream_server.local_cluster.connection import CONNECTION_FILE

    if (folder / CONNECTION_FILE).exists():
        raise CommandError(
            f"{folder} holds a cluster of several processes: start it with --brokers, or choose "
            "another folder with --data"
        )
    if "listeners" not in given:
        _check_port(port)
    flags: dict[str, Any] = {
        "auto.create.topics.enable": "true",
        "log.level": _log_level(invocation),
        **given,
        "data.dir": str(folder),
        "listeners": given.get("listeners", f"127.0.0.1:{port}"),
    }
    if "admin.listener" not in given:
        flags["admin.listener"] = f"127.0.0.1:{_free_port(_ADMIN_PORT)}"
    loaded = load_node_config(config_path, os.environ, flags)
    address = loaded.config.advertised_listeners or loaded.config.listeners
    announcement = Announcement(invocation.output, address, str(folder))
    raise Finished(run_embedded(loaded.config, announcement))


def _up_cluster(
    invocation: Invocation,
    folder: Path,
    port: int,
    brokers: int,
    config_path: str,
    given: dict[str, str],
) -> None:
    from millstream_server.cli.cluster_foreground import run_cluster
    from millstream_server.local_cluster import LocalCluster, PortsTakenError
    from millstream_server.local_cluster.reopening import ClusterShapeError, stored_layout

    if (folder / _EMBEDDED_MARK).exists():
        raise CommandError(
            f"{folder} holds a single process: start it without --brokers, or choose another "
            "folder with --data"
        )
    flags = {"auto.create.topics.enable": "true", **given}
    # Checked here, where a mistake can be told in one sentence; each node checks its own again.
    shared = load_node_config(config_path, os.environ, flags)
    values = shared.config.model_dump(by_alias=True)
    config = {key: _plain(values[key]) for key in shared.origins}
    counts = {"metadata": _METADATA_NODES, "broker": brokers, "coordinator": _COORDINATORS}
    try:
        stored = stored_layout(folder, counts)
        cluster = LocalCluster.create(
            folder,
            metadata=_METADATA_NODES,
            brokers=brokers,
            coordinators=_COORDINATORS,
            ports=stored.ports if stored else (),
            broker_ports=tuple(range(port, port + brokers)),
            cluster_id=stored.cluster_id if stored else "",
            config=config,
        )
    except ClusterShapeError as error:
        raise CommandError(f"{error}: choose another folder with --data") from None
    except PortsTakenError as error:
        raise CommandError(f"{error} with --port") from None
    raise Finished(run_cluster(cluster, invocation.output))


def _log_level(invocation: Invocation) -> str:
    return ("warning", "info", "debug")[min(invocation.output.verbosity, 2)]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _check_port(port: int) -> None:
    """Raise CommandError if the port is taken: the node itself would say so in its log only."""
    from millstream_server.local_cluster.ports import PortsTakenError, ReservedPorts

    with ReservedPorts() as ports:
        try:
            ports.take(port)
        except PortsTakenError as error:
            raise CommandError(f"{error} with --port") from None


def _free_port(wanted: int) -> int:
    """The port, or a free one if somebody has it: metrics are not worth a refused start."""
    from millstream_server.local_cluster.ports import PortsTakenError, ReservedPorts

    with ReservedPorts() as ports:
        try:
            return ports.take(wanted)
        except PortsTakenError:
            return ports.take()
