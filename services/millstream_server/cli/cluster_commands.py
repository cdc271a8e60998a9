"""``millstream cluster`` and ``millstream metadata quorum``: the cluster as a whole."""

import time
from typing import Annotated, Any

import typer

from millstream_server.cli import gateway
from millstream_server.cli.failures import EXIT_FAILED, Finished
from millstream_server.cli.health_assessment import Assessment, Severity
from millstream_server.cli.health_command import assess_cluster
from millstream_server.cli.invocation import Invocation, command
from millstream_server.cli.output import Column, Table

_NODE_COLUMNS = (
    Column("node", "nodeId", right=True),
    Column("roles", "roles"),
    Column("address", "address"),
    Column("state", "state"),
    Column("rack", "rack"),
    Column("epoch", "epoch", wide=True, right=True),
    Column("version", "version", wide=True),
)
_QUORUM_COLUMNS = (
    Column("node", "nodeId", right=True),
    Column("address", "address"),
    Column("leader", "isLeader"),
    Column("connected", "connected"),
    Column("last index", "lastIndex", right=True),
    Column("lag", "lag", right=True),
)
_FINDING_COLUMNS = (Column("severity", "severity"), Column("finding", "text"))
_WAIT_PERIOD_S = 0.5


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="The cluster: describe it, check its health.")
    app.add_typer(group, name="cluster")
    app.add_typer(group, name="clusters", hidden=True)
    command(group, "describe", aliases=("info", "show"))(describe)
    command(group, "health")(health)
    metadata = typer.Typer(no_args_is_help=True, help="The metadata quorum.")
    quorum = typer.Typer(no_args_is_help=True, help="The metadata quorum.")
    app.add_typer(metadata, name="metadata")
    metadata.add_typer(quorum, name="quorum")
    command(quorum, "describe", aliases=("show",))(describe_quorum)


def describe(invocation: Invocation) -> None:
    """Describe the nodes of the cluster."""
    with invocation.admin() as admin:
        document = gateway.describe_cluster(admin)
    rows = [_node_row(node, document) for node in document["nodes"]]
    title = f"Cluster {document['clusterId']}, metadata version {document['version']}"
    invocation.output.show(document, Table(_NODE_COLUMNS, rows, title))


def _node_row(node: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    state = "fenced" if node["fenced"] else "up"
    if node["nodeId"] == document.get("controllerId"):
        state = "controller" if "broker" not in node["roles"] else f"{state}, controller"
    return {**node, "address": f"{node['host']}:{node['port']}", "state": state}


def health(
    invocation: Invocation,
    wait: Annotated[
        bool, typer.Option("-w", "--wait", help="Wait until it is healthy, up to --timeout.")
    ] = False,
) -> None:
    """Check the cluster; exit code 0 if it is healthy, else 1."""
    deadline = time.monotonic() + invocation.timeout_s
    assessment = assess_cluster(invocation)
    while wait and assessment.severity != Severity.OK and time.monotonic() < deadline:
        time.sleep(_WAIT_PERIOD_S)
        assessment = assess_cluster(invocation)
    _show(invocation, assessment)
    if assessment.severity != Severity.OK:
        raise Finished(EXIT_FAILED)


def _show(invocation: Invocation, assessment: Assessment) -> None:
    document = assessment.document()
    title = f"{assessment.severity.name}: {assessment.summary}"
    if document["findings"]:
        invocation.output.show(document, Table(_FINDING_COLUMNS, document["findings"]))
    elif invocation.output.for_people:
        print(title, file=invocation.output.stdout)
    else:
        invocation.output.show(document)


def describe_quorum(invocation: Invocation) -> None:
    """Describe the metadata quorum: leader, term, and the log of each node."""
    with invocation.admin() as admin:
        document = gateway.describe_quorum(admin)
    leader = document.get("leaderId")
    rows = [{**node, "isLeader": node["nodeId"] == leader} for node in document["nodes"]]
    title = (
        f"Leader {'none' if leader is None else leader}, term {document['term']}, "
        f"committed up to {document['commitIndex']}"
    )
    invocation.output.show(document, Table(_QUORUM_COLUMNS, rows, title))
