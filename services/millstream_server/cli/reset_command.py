"""``millstream group reset``: moves committed offsets; shows the plan only, unless --execute."""

from typing import Annotated, Any

import typer

from millstream_server.cli import gateway
from millstream_server.cli.failures import CommandError, UsageError
from millstream_server.cli.group_reset import (
    PartitionBounds,
    PlannedReset,
    ResetTarget,
    parse_topic_choice,
    plan_resets,
)
from millstream_server.cli.invocation import Invocation, command
from millstream_server.cli.moments import parse_duration_ms, parse_moment_ms
from millstream_server.cli.output import Column, Table
from millstream_server.cli.wall_clock import now_ms

_COLUMNS = (
    Column("topic", "topic"),
    Column("partition", "partition", right=True),
    Column("committed", "committedOffset", right=True),
    Column("new offset", "offset", right=True),
    Column("note", "note"),
)


def add_to(group: typer.Typer) -> None:
    """Add the command to the group ``group``."""
    command(group, "reset", aliases=("reset-offsets", "seek"))(reset)


_TOPICS = Annotated[
    list[str] | None,
    typer.Option(
        "-t", "--topic", metavar="TOPIC[:0,1]", help="Default: all with committed offsets."
    ),
]
_TO_EARLIEST = Annotated[bool, typer.Option("--to-earliest", help="To the start of the log.")]
_TO_LATEST = Annotated[bool, typer.Option("--to-latest", help="To the end of the log.")]
_TO_CURRENT = Annotated[
    bool, typer.Option("--to-current", help="To where they are, within the log.")
]
_TO_OFFSET = Annotated[int | None, typer.Option("--to-offset", help="To this offset.", min=0)]
_TO_DATETIME = Annotated[
    str, typer.Option("--to-datetime", help="To the first record at or after a time.")
]
_BY_DURATION = Annotated[
    str, typer.Option("--by-duration", help="To so long ago, such as 2h or PT2H.")
]
_SHIFT_BY = Annotated[
    int | None, typer.Option("--shift-by", help="Forward by N records, back by -N.")
]
_EXECUTE = Annotated[
    bool, typer.Option("--execute", help="Do it. Without this the plan is only shown.")
]


def reset(
    invocation: Invocation,
    group: Annotated[str, typer.Argument(metavar="GROUP")],
    topics: _TOPICS = None,
    to_earliest: _TO_EARLIEST = False,
    to_latest: _TO_LATEST = False,
    to_current: _TO_CURRENT = False,
    to_offset: _TO_OFFSET = None,
    to_datetime: _TO_DATETIME = "",
    by_duration: _BY_DURATION = "",
    shift_by: _SHIFT_BY = None,
    execute: _EXECUTE = False,
) -> None:
    """Move the committed offsets of a group that has no members."""
    given: dict[str, Any] = {
        "to_earliest": to_earliest,
        "to_latest": to_latest,
        "to_current": to_current,
        "to_offset": to_offset,
        "to_datetime": to_datetime,
        "by_duration": by_duration,
        "shift_by": shift_by,
    }
    target = choose_target(given, now_ms())
    try:
        choices = [parse_topic_choice(text) for text in topics or ()]
    except ValueError as error:
        raise UsageError(str(error)) from None
    with invocation.admin() as admin:
        known = _bounds(admin, group, choices, target)
        plan = plan_resets(target, known)
        if not plan:
            raise CommandError(
                f"{group} has nothing to reset: it has no committed offset there; "
                "name a topic with --topic"
            )
        done = execute and not invocation.dry_run
        if done:
            places = {(each.topic, each.partition): each.offset for each in plan}
            gateway.reset_offsets(admin, group, places)
    rows = [_row(each) for each in plan]
    invocation.output.show(rows, Table(_COLUMNS, rows))
    if not done:
        invocation.output.note("Nothing was changed: pass --execute to do it.")


def _row(planned: PlannedReset) -> dict[str, Any]:
    return {
        "topic": planned.topic,
        "partition": planned.partition,
        "committedOffset": planned.committed,
        "offset": planned.offset,
        "note": planned.note,
    }


def choose_target(given: dict[str, Any], now: int) -> ResetTarget:
    """The one target that was asked for. Raises UsageError for none and for several."""
    # An offset or a shift of 0 is a wish, so no test of truth here.
    asked = [
        name
        for name, value in given.items()
        if value is not None and value is not False and value != ""
    ]
    if len(asked) != 1:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"pass exactly one of {flags}")
    name = asked[0]
    try:
        if name == "to_datetime":
            return ResetTarget("time", parse_moment_ms(given[name], now))
        if name == "by_duration":
            return ResetTarget("time", now - parse_duration_ms(given[name]))
    except ValueError as error:
        raise UsageError(f"--{name.replace('_', '-')}: {error}") from None
    if name == "to_offset":
        return ResetTarget("offset", given[name])
    if name == "shift_by":
        return ResetTarget("shift", given[name])
    if name == "to_earliest":
        return ResetTarget("earliest")
    return ResetTarget("latest" if name == "to_latest" else "current")


def _bounds(
    admin: Any,
    group: str,
    choices: list[tuple[str, list[int] | None]],
    target: ResetTarget,
) -> list[PartitionBounds]:
    committed = gateway.committed_offsets(admin, group)
    places = sorted(committed)
    if choices:
        known = {
            topic["name"]: [partition["partition"] for partition in topic["partitions"]]
            for topic in gateway.describe_topics(admin, [name for name, _ in choices])
        }
        places = [
            (name, number)
            for name, numbers in choices
            for number in (known[name] if numbers is None else numbers)
        ]
    bounds = gateway.log_bounds(admin, places)
    missing = [place for place in places if place not in bounds]
    if missing:
        topic, number = missing[0]
        raise CommandError(f"the bounds of {topic}:{number} cannot be read now: try again")
    at_time: dict[tuple[str, int], int | None] = {}
    if target.kind == "time":
        at_time = gateway.offsets_at(admin, places, target.number)
    return [
        PartitionBounds(
            topic=place[0],
            partition=place[1],
            committed=committed[place]["offset"] if place in committed else None,
            beginning=bounds[place][0],
            end=bounds[place][1],
            at_time=at_time.get(place),
        )
        for place in places
    ]
