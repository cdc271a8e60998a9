"""``millstream broker``: list, describe, drain, decommission."""

import time
from typing import Annotated, Any

import typer

from millstream_server.cli import gateway
from millstream_server.cli.failures import CommandError
from millstream_server.cli.invocation import Invocation, command
from millstream_server.cli.output import Column, Table

_ID = Annotated[int, typer.Argument(metavar="ID", help="Id of the broker.", min=1)]
_WAIT = Annotated[
    bool, typer.Option("-w", "--wait", help="Wait until it holds no replica, up to --timeout.")
]
_WAIT_PERIOD_S = 0.5
_BROKER_COLUMNS = (
    Column("broker", "nodeId", right=True),
    Column("address", "address"),
    Column("rack", "rack"),
    Column("state", "state"),
    Column("leads", "leaderCount", right=True),
    Column("replicas", "replicaCount", right=True),
    Column("not in sync", "outOfSyncCount", right=True),
    Column("epoch", "epoch", wide=True, right=True),
    Column("version", "version", wide=True),
)
_REPLICA_COLUMNS = (
    Column("topic", "topic"),
    Column("partition", "partition", right=True),
    Column("leader", "leaderId", right=True),
    Column("in sync", "inSync"),
    Column("replicas", "replicaIds"),
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Brokers: list, describe, drain, decommission.")
    app.add_typer(group, name="broker")
    app.add_typer(group, name="brokers", hidden=True)
    command(group, "list", aliases=("ls",))(list_brokers)
    command(group, "describe", aliases=("show",))(describe)
    command(group, "drain")(drain)
    command(group, "decommission")(decommission)


def list_brokers(invocation: Invocation) -> None:
    """List the brokers with what they hold."""
    with invocation.admin() as admin:
        brokers = gateway.describe_brokers(admin)
    invocation.output.show(brokers, Table(_BROKER_COLUMNS, [_row(one) for one in brokers]))


def describe(invocation: Invocation, node_id: _ID) -> None:
    """Describe a broker with its replicas."""
    with invocation.admin() as admin:
        broker = _broker(gateway.describe_brokers(admin), node_id)
        topics = gateway.list_topics(admin, include_internal=True)
    replicas = [
        {
            "topic": topic["name"],
            "partition": partition["partition"],
            "leaderId": partition["leaderId"],
            "inSync": node_id in partition["inSyncReplicaIds"],
            "replicaIds": partition["replicaIds"],
        }
        for topic in topics
        for partition in topic["partitions"]
        if node_id in partition["replicaIds"]
    ]
    invocation.output.show(
        {**broker, "replicas": replicas},
        Table(_BROKER_COLUMNS, [_row(broker)]),
        Table(_REPLICA_COLUMNS, replicas),
    )


def drain(invocation: Invocation, node_id: _ID) -> None:
    """Move all leaders and shards away from a node, until it is started again."""
    with invocation.admin() as admin:
        if invocation.dry_run:
            invocation.output.note(f"would move leaders and shards away from node {node_id}")
            return
        invocation.confirm(f"Drain node {node_id}? It leads nothing until it is started again.")
        gateway.drain_broker(admin, node_id)
        invocation.output.note(f"node {node_id} leads nothing any more")


def decommission(
    invocation: Invocation,
    node_id: _ID,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Stop it: the broker may have new replicas again.")
    ] = False,
    wait: _WAIT = False,
) -> None:
    """Empty a broker: it gets no new replicas, and those that it has are moved to others."""
    with invocation.admin() as admin:
        if invocation.dry_run:
            count = _broker(gateway.describe_brokers(admin), node_id)["replicaCount"]
            invocation.output.note(f"would move {count} replicas away from broker {node_id}")
            return
        if cancel:
            gateway.decommission_broker(admin, node_id, cancel=True)
            invocation.output.note(f"broker {node_id} may have replicas again")
            return
        invocation.confirm(f"Move all replicas away from broker {node_id}?")
        left = gateway.decommission_broker(admin, node_id, cancel=False)
        invocation.output.note(f"{left} replicas are to leave broker {node_id}")
        if wait:
            _wait_until_empty(invocation, admin, node_id)


def _wait_until_empty(invocation: Invocation, admin: Any, node_id: int) -> None:
    deadline = time.monotonic() + invocation.timeout_s
    while left := _broker(gateway.describe_brokers(admin), node_id)["replicaCount"]:
        if time.monotonic() >= deadline:
            raise CommandError(f"{left} replicas are on broker {node_id} still; it goes on")
        time.sleep(_WAIT_PERIOD_S)
    invocation.output.note(f"broker {node_id} holds no replica")


def _broker(brokers: list[dict[str, Any]], node_id: int) -> dict[str, Any]:
    for broker in brokers:
        if broker["nodeId"] == node_id:
            return broker
    known = ", ".join(str(broker["nodeId"]) for broker in brokers)
    raise CommandError(f"there is no broker {node_id}; there are {known}")


def _row(broker: dict[str, Any]) -> dict[str, Any]:
    state = "fenced" if broker["fenced"] else "up"
    if broker["shuttingDown"] and not broker["fenced"]:
        state = "drained"
    if broker["decommissioning"]:
        state += ", decommissioning" if broker["replicaCount"] else ", decommissioned"
    return {**broker, "address": f"{broker['host']}:{broker['port']}", "state": state}
