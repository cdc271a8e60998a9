"""``millstream log dump`` and ``log verify``: segment files, read while no node needs to run."""

import mmap
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from millstream.record import CODEC_NAMES
from millstream_server.cli.failures import EXIT_FAILED, CommandError, Finished, UsageError
from millstream_server.cli.invocation import Invocation, command
from millstream_server.cli.log_inspection import InspectedBatch, inspect_segment
from millstream_server.cli.log_records import batch_records
from millstream_server.cli.moments import format_moment
from millstream_server.cli.output import Column, Progress, Table
from millstream_server.cli.record_format import RecordFormat, record_object
from millstream_server.storage.segment import LOG_SUFFIX

_FILES = Annotated[
    list[str], typer.Argument(help="Segment files, or folders that hold them.", metavar="FILE…")
]
_DUMP_COLUMNS = (
    Column("position", "position", right=True),
    Column("first offset", "baseOffset", right=True),
    Column("last offset", "lastOffset", right=True),
    Column("records", "recordCount", right=True),
    Column("bytes", "bytes", right=True),
    Column("codec", "codec"),
    Column("epoch", "leaderEpoch", right=True),
    Column("appended", "appendTime"),
    Column("producer", "producerId", wide=True, right=True),
    Column("producer epoch", "producerEpoch", wide=True, right=True),
    Column("sequence", "baseSequence", wide=True, right=True),
    Column("synced end", "syncedEndOffset", wide=True, right=True),
    Column("problem", "problem"),
)
_VERIFY_COLUMNS = (
    Column("file", "file"),
    Column("batches", "batches", right=True),
    Column("records", "records", right=True),
    Column("bytes", "bytes", right=True),
    Column("first offset", "firstOffset", right=True),
    Column("next offset", "nextOffset", right=True),
    Column("problems", "problemCount", right=True),
)
_PROBLEMS_SHOWN_MAX = 20
_PROGRESS_PERIOD_S = 0.1


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Read segment files on this machine.")
    app.add_typer(group, name="log")
    app.add_typer(group, name="logs", hidden=True)
    command(group, "dump", cluster=False)(dump)
    command(group, "verify", aliases=("check",), cluster=False)(verify)


def dump(
    invocation: Invocation,
    files: _FILES,
    records: Annotated[bool, typer.Option("--records", help="Show records, not batches.")] = False,
    record_format: Annotated[
        str, typer.Option("-f", help="Format of records, as in consume.")
    ] = "%o %T %k %v\\n",
    limit: Annotated[int, typer.Option("-n", help="Stop after so many; 0: never.", min=0)] = 0,
) -> None:
    """Show the batches, or the records, of segment files."""
    if records:
        _dump_records(invocation, expand(files), record_format, limit)
        return
    rows: list[dict[str, Any]] = []
    for path in expand(files):
        with mapped(path) as data:
            for batch in inspect_segment(data, decode=False, gaps_allowed=True):
                if limit and len(rows) >= limit:
                    break
                rows.append({"file": path, **batch_object(batch)})
    invocation.output.show(rows, Table(_DUMP_COLUMNS, rows, empty="No batches."))


def _dump_records(
    invocation: Invocation, paths: Sequence[str], record_format: str, limit: int
) -> None:
    output = invocation.output
    try:
        form = RecordFormat(record_format)
    except ValueError as error:
        raise UsageError(f"-f: {error}") from None
    shown = 0
    for path in paths:
        with mapped(path) as data:
            for batch in inspect_segment(data, decode=True, gaps_allowed=True):
                if batch.problem:
                    output.note(f"{path}: at byte {batch.position}: {batch.problem}")
                for record in batch_records(batch):
                    if limit and shown >= limit:
                        return
                    shown += 1
                    if output.for_people:
                        output.bytes.write(form.render(record))
                    else:
                        output.json_line(record_object(record))


def verify(
    invocation: Invocation,
    files: _FILES,
    shallow: Annotated[
        bool, typer.Option("--shallow", help="Check headers and checksums, not the payloads.")
    ] = False,
    compacted: Annotated[
        bool, typer.Option("--compacted", help="The log is compacted: offsets may be missing.")
    ] = False,
) -> None:
    """Check segment files: form, both checksums, order of offsets, payloads. Exit code 1 if
    anything is wrong."""
    output = invocation.output
    paths = expand(files)
    rows = []
    total = sum(os.path.getsize(path) for path in paths)
    with output.progress("verifying", total, "bytes") as progress:
        before = 0
        for path in paths:
            row = _verify_file(path, not shallow, compacted, progress, before)
            before += row["bytes"]
            rows.append(row)
    output.show(rows, Table(_VERIFY_COLUMNS, rows))
    damaged = [row for row in rows if row["problemCount"]]
    for row in damaged:
        for problem in row["problems"]:
            output.note(f"{row['file']}: {problem}")
    if damaged:
        output.note(
            f"{len(damaged)} of {len(rows)} files are damaged: a start of the node cuts a torn "
            "tail off; for other damage restore the partition from a copy"
        )
        raise Finished(EXIT_FAILED)


def _verify_file(
    path: str, decode: bool, compacted: bool, progress: Progress, before: int
) -> dict[str, Any]:
    batches = records = count = 0
    first: int | None = None
    following: int | None = None
    problems: list[str] = []
    reported = time.monotonic()
    with mapped(path) as data:
        size = len(data)
        for batch in inspect_segment(
            data, decode=decode, gaps_allowed=compacted, first_offset=offset_in_name(path)
        ):
            if batch.problem:
                count += 1
                if len(problems) < _PROBLEMS_SHOWN_MAX:
                    problems.append(f"at byte {batch.position}: {batch.problem}")
            if batch.header is not None:
                batches += 1
                records += batch.header.record_count
                first = batch.header.base_offset if first is None else first
                following = batch.header.next_offset
            if time.monotonic() - reported > _PROGRESS_PERIOD_S:
                reported = time.monotonic()
                progress.set(before + batch.end)
    return {
        "file": path,
        "batches": batches,
        "records": records,
        "bytes": size,
        "firstOffset": first,
        "nextOffset": following,
        "problemCount": count,
        "problems": problems,
    }


def batch_object(batch: InspectedBatch) -> dict[str, Any]:
    """The batch with the field names of the proto."""
    header = batch.header
    if header is None:
        return {"position": batch.position, "problem": batch.problem}
    return {
        "position": batch.position,
        "bytes": batch.end - batch.position,
        "baseOffset": header.base_offset,
        "lastOffset": header.last_offset,
        "recordCount": header.record_count,
        "codec": CODEC_NAMES.get(header.codec, str(header.codec)),
        "leaderEpoch": header.leader_epoch,
        "appendTimestampMs": header.append_timestamp_ms,
        "appendTime": format_moment(header.append_timestamp_ms),
        "baseTimestampMs": header.base_timestamp_ms,
        "maxTimestampMs": header.max_timestamp_ms,
        "producerId": header.producer_id,
        "producerEpoch": header.producer_epoch,
        "baseSequence": header.base_sequence,
        "syncedEndOffset": header.synced_end_offset,
        "attributes": header.attributes,
        "problem": batch.problem,
    }


def expand(files: Sequence[str]) -> list[str]:
    """The files, and the segment files of folders, by name. Raises CommandError."""
    out = []
    for path in files:
        if not os.path.isdir(path):
            if not os.path.exists(path):
                raise CommandError(f"there is no file {path}")
            out.append(path)
            continue
        found = [
            os.path.join(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if name.endswith(LOG_SUFFIX)
        ]
        if not found:
            raise CommandError(f"{path} holds no segment files (*{LOG_SUFFIX})")
        out.extend(sorted(found))
    return out


def offset_in_name(path: str) -> int | None:
    """The first offset that the file's name claims; None if the name is not a number."""
    name = os.path.basename(path).partition(".")[0]
    return int(name) if name.isdigit() else None


@contextmanager
def mapped(path: str) -> Iterator[memoryview]:
    """The content of a file without reading it all into memory. Raises OSError."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield memoryview(b"")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            view = memoryview(whole)
            try:
                yield view
            finally:
                view.release()
