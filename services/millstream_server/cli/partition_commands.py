"""``millstream partition``: elect leaders, reassign replicas, follow reassignments."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from millstream_server.cli import gateway
from millstream_server.cli.failures import UsageError
from millstream_server.cli.invocation import Invocation, command
from millstream_server.cli.output import Column, Table

_PARTITIONS = Annotated[
    list[str] | None,
    typer.Argument(metavar="TOPIC[:N]…", help="Topics, or single partitions such as orders:3."),
]
_ELECTED_COLUMNS = (
    Column("topic", "topic"),
    Column("partition", "partition", right=True),
    Column("leader", "leaderId", right=True),
)
_TARGET_COLUMNS = (
    Column("topic", "topic"),
    Column("partition", "partition", right=True),
    Column("replicas in the end", "replicaIds"),
)
_MOVING_COLUMNS = (
    Column("topic", "topic"),
    Column("partition", "partition", right=True),
    Column("target", "targetReplicaIds"),
    Column("adding", "addingReplicaIds"),
    Column("removing", "removingReplicaIds"),
    Column("in sync", "inSyncReplicaIds"),
)
_PLACE = re.compile(r"(?P<topic>[^:]+)(?::(?P<number>\d+))?\Z")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Partitions: elect leaders, move replicas.")
    app.add_typer(group, name="partition")
    app.add_typer(group, name="partitions", hidden=True)
    command(group, "elect", aliases=("elect-leaders",))(elect)
    command(group, "reassign")(reassign)
    command(group, "reassignments", aliases=("list-reassignments",))(reassignments)


def elect(
    invocation: Invocation,
    partitions: _PARTITIONS = None,
    all_: Annotated[bool, typer.Option("--all", help="All partitions that need it.")] = False,
    unclean: Annotated[
        bool,
        typer.Option("--unclean", help="Let replicas lead that may miss acknowledged records."),
    ] = False,
    replica: Annotated[
        int | None,
        typer.Option("--replica", help="The replica to elect; with --unclean.", min=1),
    ] = None,
) -> None:
    """Elect leaders: preferred ones, or with --unclean any for partitions that have none."""
    if bool(partitions) == all_:
        raise UsageError("name partitions, or pass --all")
    if replica is not None and (not unclean or all_):
        raise UsageError("--replica goes with --unclean and named partitions")
    kind = "unclean" if unclean else "preferred"
    with invocation.admin() as admin:
        chosen = None if all_ else dict.fromkeys(_places(admin, partitions or ()), replica)
        if invocation.dry_run:
            count = "all" if chosen is None else str(len(chosen))
            invocation.output.note(f"would elect {kind} leaders of {count} partitions")
            return
        if unclean:
            invocation.confirm("Elect leaders that may miss acknowledged records for good?")
        rows = gateway.elect_leaders(admin, kind, chosen)
    table = Table(_ELECTED_COLUMNS, rows, empty="No partition needed an election.")
    invocation.output.show(rows, table)


def reassign(
    invocation: Invocation,
    partitions: _PARTITIONS = None,
    replicas: Annotated[
        str,
        typer.Option("--to", metavar="ID,ID…", help="Brokers, the preferred leader first."),
    ] = "",
    factor: Annotated[
        int,
        typer.Option(
            "-r", "--replication-factor", help="So many replicas, by load and rack.", min=0
        ),
    ] = 0,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop the move.")] = False,
    throttle: Annotated[
        int | None,
        typer.Option(
            "--throttle",
            metavar="BYTES/S",
            help="Most bytes a second that a leader copies in all moves; 0: no limit.",
            min=0,
        ),
    ] = None,
) -> None:
    """Move partitions to other brokers, change their number of replicas, or stop a move."""
    ways = [bool(replicas), bool(factor), cancel]
    if sum(ways) != (1 if partitions else 0) or (not partitions and throttle is None):
        raise UsageError("name partitions and one of --to, --replication-factor and --cancel")
    target: Sequence[int] | int | None = None if cancel else factor
    if replicas:
        target = _broker_ids(replicas)
    with invocation.admin() as admin:
        targets = dict.fromkeys(_places(admin, partitions or ()), target)
        rows = gateway.reassign(admin, targets, throttle, validate_only=invocation.dry_run)
    if targets or not invocation.output.for_people:
        invocation.output.show(rows, Table(_TARGET_COLUMNS, rows))


def reassignments(
    invocation: Invocation,
    topics: Annotated[list[str] | None, typer.Argument(metavar="TOPIC…")] = None,
) -> None:
    """List the partitions that are being moved, and how far they are."""
    with invocation.admin() as admin:
        document = gateway.reassignments(admin, topics or ())
    rows = document["reassignments"]
    rate = document["throttleBytesPerS"]
    title = f"At most {rate} bytes/s from each leader" if rate and rows else ""
    empty = "No partition is being moved."
    invocation.output.show(document, Table(_MOVING_COLUMNS, rows, title, empty=empty))


def _places(admin: Any, texts: Sequence[str]) -> list[gateway.Place]:
    """The partitions that the arguments name, all of a topic without a number."""
    places: list[gateway.Place] = []
    for text in texts:
        match = _PLACE.match(text)
        if match is None:
            raise UsageError(f"{text!r} is neither a topic nor topic:number")
        topic, number = match["topic"], match["number"]
        if number is not None:
            places.append((topic, int(number)))
            continue
        (found,) = gateway.describe_topics(admin, [topic])
        places += [(topic, partition["partition"]) for partition in found["partitions"]]
    return places


def _broker_ids(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--to {text}: broker ids with commas, such as 1,2,3")
    return [int(part) for part in parts]
