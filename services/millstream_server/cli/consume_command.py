"""``millstream consume``: reads records and writes them to stdout."""

from typing import Annotated, Any

import typer

from millstream_server.cli import gateway
from millstream_server.cli.consume_progress import EndOfLog
from millstream_server.cli.failures import CommandError, UsageError
from millstream_server.cli.invocation import Invocation, command
from millstream_server.cli.positions import StartPosition, parse_partitions, parse_start
from millstream_server.cli.record_format import RecordFormat, record_object, unescape
from millstream_server.cli.wall_clock import now_ms

DEFAULT_FORMAT = "%v\\n"
_POLL_S = 0.25
_RECORDS_PER_POLL = 500


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "consume", aliases=("sub",))(consume)


def consume(
    invocation: Invocation,
    topics: Annotated[list[str], typer.Argument(metavar="TOPIC…")],
    offset: Annotated[
        str,
        typer.Option(
            "-o", "--offset",
            help="start, end, an offset, +N after the start, -N before the end, @time; with a "
            "group: where it starts without committed offsets.",
        ),
    ] = "",
    number: Annotated[
        int, typer.Option("-n", "--num", help="Stop after so many records; 0: never.", min=0)
    ] = 0,
    partitions: Annotated[
        str, typer.Option("-p", "--partitions", help="Partitions such as 0,2-4; default: all.")
    ] = "",
    group: Annotated[
        str, typer.Option("-g", "--group", help="Read as a member of this group, and commit.")
    ] = "",
    exit_at_end: Annotated[
        bool, typer.Option("-e", "--exit", help="Stop at the end as it is now.")
    ] = False,
    record_format: Annotated[
        str,
        typer.Option(
            "-f",
            help=r"%t topic %p partition %o offset %k key %v value %h headers %T time %K %V "
            r"lengths %d date %e epoch \n \t \xHH.",
        ),
    ] = DEFAULT_FORMAT,
    null: Annotated[
        str, typer.Option("-Z", "--null", help="Written for null keys and values.")
    ] = "",
) -> None:  # fmt: skip
    """Read records, from the start unless told otherwise, and write them to stdout."""
    try:
        form = RecordFormat(record_format, unescape(null))
        start = parse_start(offset or ("stored" if group else "start"), now_ms())
        chosen = parse_partitions(partitions) if partitions else None
    except ValueError as error:
        raise UsageError(str(error)) from None
    if group and chosen is not None:
        raise UsageError("-p and -g exclude each other: a group shares out the partitions itself")
    writer = _Writer(invocation, form)
    if group:
        _read_as_member(invocation, topics, group, start, number, exit_at_end, writer)
    else:
        _read_alone(invocation, topics, chosen, start, number, exit_at_end, writer)


class _Writer:
    """Writes records as the flags say."""

    def __init__(self, invocation: Invocation, form: RecordFormat) -> None:
        self._output = invocation.output
        self._form = form

    def write(self, records: list[Any]) -> None:
        """Write the records and hand them to the reader of the pipe."""
        if self._output.for_people:
            self._output.bytes.write(b"".join([self._form.render(record) for record in records]))
            self._output.bytes.flush()
            return
        for record in records:
            self._output.json_line(record_object(record))
        self._output.stdout.flush()


def _read_alone(
    invocation: Invocation,
    topics: list[str],
    chosen: list[int] | None,
    start: StartPosition,
    number: int,
    exit_at_end: bool,
    writer: _Writer,
) -> None:
    from millstream import TopicPartition

    if start.kind == "stored":
        raise UsageError("-o stored needs a group: pass -g as well")
    with invocation.admin() as admin:
        places = [
            (topic["name"], partition["partition"])
            for topic in gateway.describe_topics(admin, topics)
            for partition in topic["partitions"]
            if chosen is None or partition["partition"] in chosen
        ]
        if not places:
            raise CommandError(f"{', '.join(topics)} has none of these partitions")
        starts = gateway.resolve_positions(admin, places, start)
        ends = {place: end for place, (_, end) in gateway.log_bounds(admin, places).items()}
    progress = EndOfLog(ends if exit_at_end else None, starts)
    with invocation.consumer({"auto.offset.reset": "none"}) as consumer:
        consumer.assign([TopicPartition(*place) for place in places])
        for place, position in starts.items():
            consumer.seek(TopicPartition(*place), position)
        _pump(consumer, progress, number, writer)


def _read_as_member(
    invocation: Invocation,
    topics: list[str],
    group: str,
    start: StartPosition,
    number: int,
    exit_at_end: bool,
    writer: _Writer,
) -> None:
    resets = {"stored": "earliest", "start": "earliest", "end": "latest"}
    if start.kind not in resets:
        raise UsageError(
            "with -g, -o is start or end; `millstream group reset` moves a group elsewhere"
        )
    config = {"group.id": group, "auto.offset.reset": resets[start.kind]}
    with invocation.admin() as admin:
        places = [
            (topic["name"], partition["partition"])
            for topic in gateway.describe_topics(admin, topics)
            for partition in topic["partitions"]
        ]
        committed = gateway.committed_offsets(admin, group)
        bounds = gateway.log_bounds(admin, places)
    starts = {
        place: committed[place]["offset"] if place in committed else begin
        for place, (begin, end) in bounds.items()
        if place in committed or start.kind != "end"
    }
    ends = {place: end for place, (_, end) in bounds.items()}
    progress = EndOfLog(ends if exit_at_end else None, starts)
    with invocation.consumer(config) as consumer:
        consumer.subscribe(topics)
        _pump(consumer, progress, number, writer, shared=True)


def _pump(
    consumer: Any, progress: EndOfLog, number: int, writer: _Writer, *, shared: bool = False
) -> None:
    """Read until the number or the end is reached. ``shared``: only the partitions that this
    member owns have to reach the end."""
    left = number
    while True:
        owned = {(each.topic, each.partition) for each in consumer.assignment()} if shared else None
        if progress.is_reached(owned):
            return
        wanted = min(left, _RECORDS_PER_POLL) if number else _RECORDS_PER_POLL
        records = consumer.consume(wanted, _POLL_S)
        if not records:
            continue
        writer.write(records)
        progress.passed(records)
        if number:
            left -= len(records)
            if left <= 0:
                return
