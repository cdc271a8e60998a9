"""``millstream topic``: list, create, describe, delete, add-partitions, trim."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from millstream_server.cli import gateway, topic_config_commands
from millstream_server.cli.failures import CommandError, UsageError
from millstream_server.cli.invocation import Invocation, command
from millstream_server.cli.output import Column, Table
from millstream_server.cli.positions import parse_partitions, parse_start
from millstream_server.cli.properties import parse_assignments
from millstream_server.cli.wall_clock import now_ms

TOPIC_GROUP_HELP = "Topics: list, create, describe, delete, grow, trim, configure."
_TOPICS = Annotated[list[str], typer.Argument(metavar="TOPIC…")]
_LIST_COLUMNS = (
    Column("name", "name"),
    Column("partitions", "partitionCount", right=True),
    Column("replicas", "replicationFactor", right=True),
    Column("internal", "internal", wide=True),
    Column("id", "topicId", wide=True),
    Column("configs", "configs", wide=True),
)
_PARTITION_COLUMNS = (
    Column("partition", "partition", right=True),
    Column("leader", "leaderId", right=True),
    Column("epoch", "leaderEpoch", right=True),
    Column("replicas", "replicaIds"),
    Column("in sync", "inSyncReplicaIds"),
    Column("min in sync", "minInSyncReplicas", right=True),
    Column("state", "state"),
    Column("eligible", "eligibleLeaderReplicaIds", wide=True),
    Column("start offset", "logStartOffset", right=True),
    Column("end offset", "highWatermark", right=True),
    Column("partition epoch", "partitionEpoch", wide=True, right=True),
)
_TRIM_COLUMNS = (
    Column("topic", "topic"),
    Column("partition", "partition", right=True),
    Column("new start offset", "logStartOffset", right=True),
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help=TOPIC_GROUP_HELP)
    app.add_typer(group, name="topic")
    app.add_typer(group, name="topics", hidden=True)
    command(group, "list", aliases=("ls",))(list_topics)
    command(group, "create")(create)
    command(group, "describe", aliases=("show",))(describe)
    command(group, "delete", aliases=("rm",))(delete)
    command(group, "add-partitions")(add_partitions)
    command(group, "trim", aliases=("delete-records",))(trim)
    topic_config_commands.add_to(group)


def list_topics(
    invocation: Invocation,
    internal: Annotated[
        bool, typer.Option("--internal", "-i", help="Internal topics as well.")
    ] = False,
) -> None:
    """List topics."""
    with invocation.admin() as admin:
        topics = gateway.list_topics(admin, include_internal=internal)
    rows = [_summary(topic) for topic in topics]
    advice = "No topics. `millstream topic create NAME` makes one."
    invocation.output.show(topics, Table(_LIST_COLUMNS, rows, empty=advice))


def _summary(topic: dict[str, Any]) -> dict[str, Any]:
    partitions = topic["partitions"]
    replicas = max((len(partition["replicaIds"]) for partition in partitions), default=0)
    return {**topic, "partitionCount": len(partitions), "replicationFactor": replicas}


def create(
    invocation: Invocation,
    topics: _TOPICS,
    partitions: Annotated[
        int,
        typer.Option("-p", "--partitions", help="Partitions; 0: the cluster's default.", min=0),
    ] = 0,
    replicas: Annotated[
        int,
        typer.Option(
            "-r", "--replicas", "--replication-factor",
            help="Replicas of each partition; 0: the cluster's default.", min=0,
        ),
    ] = 0,
    configs: Annotated[
        list[str] | None,
        typer.Option("-c", "--topic-config", metavar="KEY=VALUE", help="A topic config."),
    ] = None,
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="Succeed if the topic exists.")
    ] = False,
) -> None:  # fmt: skip
    """Create topics."""
    from millstream import MillstreamError

    wanted = parse_assignments(configs or (), "-c")
    made = []
    with invocation.admin() as admin:
        for name in topics:
            try:
                topic = gateway.create_topic(
                    admin, name, partitions, replicas, wanted, validate_only=invocation.dry_run
                )
            except MillstreamError as error:
                if not if_not_exists or error.code != "TOPIC_ALREADY_EXISTS":
                    raise
                invocation.output.note(f"{name} exists already")
                continue
            made.append(topic)
            done = "could be created" if invocation.dry_run else "created"
            invocation.output.note(f"{name} {done}: {len(topic['partitions'])} partitions")
    if not invocation.output.for_people:
        invocation.output.show(made)


def describe(invocation: Invocation, topics: _TOPICS) -> None:
    """Describe topics with their partitions, leaders, replicas and offsets."""
    with invocation.admin() as admin:
        found = gateway.describe_topics(admin, topics)
        ends = gateway.log_bounds(admin, _places(found))
    for topic in found:
        for partition in topic["partitions"]:
            bounds = ends.get((topic["name"], partition["partition"]))
            if bounds is not None:
                partition["logStartOffset"], partition["highWatermark"] = bounds
    tables = [
        Table(
            _PARTITION_COLUMNS, [_partition_row(one) for one in topic["partitions"]], _title(topic)
        )
        for topic in found
    ]
    invocation.output.show(found, *tables)


def _partition_row(partition: dict[str, Any]) -> dict[str, Any]:
    flags = {
        "no leader": partition["leaderId"] is None,
        "recovering": partition["recovering"],
        "under-replicated": partition["underReplicated"],
        "under min in sync": partition["underMinInSyncReplicas"],
        "moving": partition["addingReplicaIds"] or partition["removingReplicaIds"],
        "damaged": partition["damagedReplicaIds"],
    }
    return {**partition, "state": ", ".join(name for name, on in flags.items() if on) or "ok"}


def _title(topic: dict[str, Any]) -> str:
    configs = ", ".join(f"{key}={value}" for key, value in topic.get("configs", {}).items())
    internal = ", internal" if topic.get("internal") else ""
    return f"{topic['name']} (id {topic['topicId']}{internal}{', ' if configs else ''}{configs})"


def _places(topics: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    return [
        (topic["name"], partition["partition"])
        for topic in topics
        for partition in topic["partitions"]
        if partition.get("leaderId") is not None
    ]


def delete(
    invocation: Invocation,
    topics: _TOPICS,
    if_exists: Annotated[
        bool, typer.Option("--if-exists", help="Succeed if the topic does not exist.")
    ] = False,
) -> None:
    """Delete topics with all their records."""
    from millstream import MillstreamError

    with invocation.admin() as admin:
        present = []
        for name in topics:
            try:
                gateway.describe_topics(admin, [name])
                present.append(name)
            except MillstreamError as error:
                if not if_exists or error.code != "UNKNOWN_TOPIC":
                    raise
                invocation.output.note(f"{name} does not exist")
        if invocation.dry_run:
            invocation.output.note(f"would delete {', '.join(present) or 'nothing'}")
            return
        if present:
            invocation.confirm(f"Delete {', '.join(present)} with all records?")
            gateway.delete_topics(admin, present)
            invocation.output.note(f"deleted {', '.join(present)}")


def add_partitions(
    invocation: Invocation,
    topics: _TOPICS,
    number: Annotated[
        int, typer.Option("-n", "--num", help="Partitions to add.", min=1)
    ],
) -> None:  # fmt: skip
    """Add partitions to topics. Records with a key go to other partitions from then on."""
    with invocation.admin() as admin:
        for topic in gateway.describe_topics(admin, topics):
            total = len(topic["partitions"]) + number
            gateway.create_partitions(admin, topic["name"], total, validate_only=invocation.dry_run)
            verb = "could have" if invocation.dry_run else "has"
            invocation.output.note(f"{topic['name']} {verb} {total} partitions now")


def trim(
    invocation: Invocation,
    topic: Annotated[str, typer.Argument(metavar="TOPIC")],
    offset: Annotated[
        str,
        typer.Option("-o", "--offset", help="The new first offset: end, an offset, -N, @time."),
    ],
    partitions: Annotated[
        str, typer.Option("-p", "--partitions", help="Partitions such as 0,2-4; default: all.")
    ] = "",
) -> None:
    """Delete the records before an offset."""
    try:
        position = parse_start(offset, now_ms())
        chosen = parse_partitions(partitions) if partitions else None
    except ValueError as error:
        raise UsageError(str(error)) from None
    with invocation.admin() as admin:
        (found,) = gateway.describe_topics(admin, [topic])
        places = [place for place in _places([found]) if chosen is None or place[1] in chosen]
        if not places:
            raise CommandError(f"{topic} has none of these partitions, or they have no leader")
        targets = gateway.resolve_positions(admin, places, position)
        if invocation.dry_run:
            rows = [
                {"topic": name, "partition": number, "logStartOffset": target}
                for (name, number), target in targets.items()
            ]
        else:
            invocation.confirm(f"Delete records of {topic} before the new start for good?")
            rows = gateway.delete_records(admin, targets)
    invocation.output.show(rows, Table(_TRIM_COLUMNS, rows))
