"""``millstream health``: one line and an exit code, as Nagios wants them."""

import typer

from millstream_server.cli import gateway
from millstream_server.cli.failures import Finished, sentence_of
from millstream_server.cli.health_assessment import (
    Assessment,
    Finding,
    Severity,
    assess,
    unreachable,
)
from millstream_server.cli.invocation import Invocation, command


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "health")(health)


def health(invocation: Invocation) -> None:
    """Check the cluster as a Nagios plug-in: exit code 0 ok, 1 warning, 2 critical, 3 unknown."""
    try:
        assessment = assess_cluster(invocation)
    except Exception as error:  # noqa: BLE001 - whatever it was, Nagios wants a line and a 3
        text = f"the check itself failed: {type(error).__name__}: {error}"
        assessment = Assessment((Finding(Severity.UNKNOWN, text),), {})
    if invocation.output.for_people:
        print(assessment.nagios_line(), file=invocation.output.stdout)
    else:
        invocation.output.show(assessment.document())
    raise Finished(int(assessment.severity))


def assess_cluster(invocation: Invocation) -> Assessment:
    """Ask the cluster and judge the answers; a cluster that does not answer is critical."""
    from millstream import MillstreamError

    try:
        with invocation.admin() as admin:
            cluster = gateway.describe_cluster(admin)
            topics = gateway.list_topics(admin, include_internal=True)
            try:
                quorum = gateway.describe_quorum(admin)
            except MillstreamError:
                quorum = None
    except MillstreamError as error:
        return unreachable(sentence_of(error, invocation.bootstrap_servers))
    return assess(cluster, topics, quorum)
