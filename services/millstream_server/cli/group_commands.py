"""``millstream group``: list, describe, delete, offset-delete; ``reset`` is a module of its own."""

from typing import Annotated, Any

import typer

from millstream_server.cli import gateway, reset_command
from millstream_server.cli.failures import UsageError
from millstream_server.cli.group_reset import parse_topic_choice
from millstream_server.cli.invocation import Invocation, command
from millstream_server.cli.output import Column, Table

_GROUP = Annotated[str, typer.Argument(metavar="GROUP")]
_LIST_COLUMNS = (
    Column("group", "groupId"),
    Column("state", "state"),
    Column("members", "memberCount", right=True),
)
_LAG_COLUMNS = (
    Column("topic", "topic"),
    Column("partition", "partition", right=True),
    Column("committed", "committedOffset", right=True),
    Column("end", "highWatermark", right=True),
    Column("lag", "lag", right=True),
    Column("member", "memberId"),
    Column("client", "clientId"),
    Column("generation", "generation", wide=True, right=True),
    Column("metadata", "metadata", wide=True),
)
_MEMBER_COLUMNS = (
    Column("member", "memberId"),
    Column("client", "clientId"),
    Column("host", "clientHost"),
    Column("epoch", "memberEpoch", right=True),
    Column("owns", "ownedText"),
    Column("should own", "targetText"),
    Column("instance", "instanceId", wide=True),
    Column("topics", "topics", wide=True),
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        no_args_is_help=True, help="Consumer groups: list, describe, reset, delete."
    )
    app.add_typer(group, name="group")
    app.add_typer(group, name="groups", hidden=True)
    command(group, "list", aliases=("ls",))(list_groups)
    command(group, "describe", aliases=("show",))(describe)
    command(group, "delete", aliases=("rm",))(delete)
    command(group, "offset-delete", aliases=("delete-offsets",))(offset_delete)
    reset_command.add_to(group)


def list_groups(invocation: Invocation) -> None:
    """List groups."""
    with invocation.admin() as admin:
        rows = gateway.list_groups(admin)
    invocation.output.show(rows, Table(_LIST_COLUMNS, rows, empty="No groups."))


def describe(
    invocation: Invocation,
    groups: Annotated[list[str], typer.Argument(metavar="GROUP…")],
    members: Annotated[
        bool, typer.Option("--members", help="Show the members and what they own.")
    ] = False,
) -> None:
    """Describe groups: state, committed offsets and lag per partition, members."""
    documents, tables = [], []
    with invocation.admin() as admin:
        for name in groups:
            document = describe_group(admin, name)
            documents.append(document)
            total = sum(row["lag"] or 0 for row in document["offsets"])
            title = (
                f"{name}: {document['state']}, members {len(document['members'])}, "
                f"epoch {document['groupEpoch']}, lag {total}"
            )
            rows = document["offsets"]
            tables.append(Table(_LAG_COLUMNS, rows, title, empty=f"{title}; nothing is committed."))
            if members:
                rows = [_member_row(member) for member in document["members"]]
                tables.append(Table(_MEMBER_COLUMNS, rows, f"Members of {name}", "No members."))
    invocation.output.show(documents, *tables)


def describe_group(admin: Any, name: str) -> dict[str, Any]:
    """The group with one row per partition that is owned or has a committed offset."""
    document = gateway.describe_group(admin, name)
    committed = gateway.committed_offsets(admin, name)
    owners = {
        (owned["topic"], partition): member
        for member in document["members"]
        for owned in member["owned"]
        for partition in owned["partitions"]
    }
    places = sorted({*committed, *owners})
    bounds = gateway.log_bounds(admin, places)
    document["offsets"] = [
        _lag_row(place, committed.get(place), bounds.get(place), owners.get(place))
        for place in places
    ]
    return document


def _lag_row(
    place: tuple[str, int],
    committed: dict[str, Any] | None,
    bounds: tuple[int, int] | None,
    owner: dict[str, Any] | None,
) -> dict[str, Any]:
    offset = None if committed is None else committed["offset"]
    end = None if bounds is None else bounds[1]
    return {
        "topic": place[0],
        "partition": place[1],
        "committedOffset": offset,
        "highWatermark": end,
        "lag": None if offset is None or end is None else max(0, end - offset),
        "memberId": None if owner is None else owner["memberId"],
        "clientId": None if owner is None else owner["clientId"],
        "generation": None if committed is None else committed.get("generation"),
        "metadata": None if committed is None else committed.get("metadata"),
    }


def _member_row(member: dict[str, Any]) -> dict[str, Any]:
    return {
        **member,
        "ownedText": _partitions_text(member["owned"]),
        "targetText": _partitions_text(member["target"]),
    }


def _partitions_text(topics: list[dict[str, Any]]) -> str:
    return " ".join(
        f"{topic['topic']}:{','.join(map(str, topic['partitions']))}" for topic in topics
    )


def delete(invocation: Invocation, groups: Annotated[list[str], typer.Argument()]) -> None:
    """Delete groups with their committed offsets."""
    with invocation.admin() as admin:
        for name in groups:
            gateway.describe_group(admin, name)
        if invocation.dry_run:
            invocation.output.note(f"would delete {', '.join(groups)}")
            return
        invocation.confirm(f"Delete {', '.join(groups)} with all committed offsets?")
        gateway.delete_groups(admin, groups)
    invocation.output.note(f"deleted {', '.join(groups)}")


def offset_delete(
    invocation: Invocation,
    group: _GROUP,
    topics: Annotated[
        list[str], typer.Option("-t", "--topic", metavar="TOPIC[:0,1]", help="What to forget.")
    ],
) -> None:
    """Forget committed offsets of topics that no member subscribes to."""
    try:
        choices = [parse_topic_choice(text) for text in topics]
    except ValueError as error:
        raise UsageError(str(error)) from None
    with invocation.admin() as admin:
        committed = gateway.committed_offsets(admin, group)
        places = [
            (topic, number)
            for topic, number in sorted(committed)
            if any(
                topic == name and (numbers is None or number in numbers)
                for name, numbers in choices
            )
        ]
        shown = ", ".join(f"{topic}:{number}" for topic, number in places)
        if not places:
            invocation.output.note("nothing is committed there")
            return
        if invocation.dry_run:
            invocation.output.note(f"would forget {shown}")
            return
        invocation.confirm(f"Forget what {group} committed for {shown}?")
        gateway.delete_offsets(admin, group, places)
    invocation.output.note(f"forgot {shown}")
