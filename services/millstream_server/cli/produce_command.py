"""``millstream produce``: lines of stdin or of a file become records."""

import os
import stat
import sys
from collections import deque
from typing import Annotated, Any, BinaryIO

import typer

from millstream_server.cli.failures import CommandError, UsageError, exit_code_of, sentence_of
from millstream_server.cli.invocation import Invocation, command
from millstream_server.cli.output import Progress
from millstream_server.cli.record_format import unescape
from millstream_server.cli.record_input import Headers, LineReader, parse_headers

_CODECS = ("none", "lz4", "zstd")
_ACKS = ("all", "-1", "1", "0")
# Receipts kept; beyond it the oldest is waited for, so that memory stays bounded.
_PENDING_MAX = 20_000


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "produce", aliases=("pub",))(produce)


def produce(
    invocation: Invocation,
    topic: Annotated[str, typer.Argument(metavar="TOPIC")],
    file: Annotated[
        str, typer.Option("-f", "--file", metavar="FILE", help="Read lines from here; -: stdin.")
    ] = "-",
    key: Annotated[str | None, typer.Option("-k", "--key", help="Key of every record.")] = None,
    key_delimiter: Annotated[
        str | None,
        typer.Option("-K", "--key-delimiter", help="Splits each line into key and value."),
    ] = None,
    headers: Annotated[
        list[str] | None,
        typer.Option("-H", "--header", metavar="NAME=VALUE", help="A header of every record."),
    ] = None,
    partition: Annotated[
        int | None, typer.Option("-p", "--partition", help="Default: by the key.", min=0)
    ] = None,
    codec: Annotated[
        str, typer.Option("-z", "--compression", help=f"One of {', '.join(_CODECS)}.")
    ] = "none",
    acks: Annotated[
        str, typer.Option("--acks", help="all, 1 (the leader has it) or 0 (no answer).")
    ] = "all",
    empty_is_null: Annotated[
        bool, typer.Option("-Z", "--null", help="Empty keys and values become null.")
    ] = False,
) -> None:
    """Send lines as records, one each; with --format json tell where each went."""
    if codec not in _CODECS:
        raise UsageError(f"-z {codec} is unknown: there are {', '.join(_CODECS)}")
    if acks not in _ACKS:
        raise UsageError(f"--acks {acks} is unknown: there are all, 1 and 0")
    try:
        delimiter = None if key_delimiter is None else unescape(key_delimiter)
        shared_headers = parse_headers(headers or ())
    except ValueError as error:
        raise UsageError(str(error)) from None
    if delimiter == b"":
        raise UsageError("-K needs a delimiter, such as -K : or -K '\\t'")
    key_bytes = None if key is None else key.encode("utf-8", "surrogateescape")
    reader = LineReader(key_bytes, delimiter, empty_is_null)
    config = {"acks": acks, "compression.type": codec}
    with _open(file) as lines:
        size = _size(lines)
        with (
            invocation.output.progress(f"sending to {topic}", size, "bytes") as progress,
            invocation.producer(config) as producer,
        ):
            sending = _Sending(invocation, producer, topic, partition, shared_headers, progress)
            sending.send_lines(lines, reader)
    sending.report()


class _Sending:
    """Sends records and follows their fate in order."""

    def __init__(
        self,
        invocation: Invocation,
        producer: Any,
        topic: str,
        partition: int | None,
        headers: Headers,
        progress: Progress,
    ) -> None:
        self._invocation = invocation
        self._producer = producer
        self._topic = topic
        self._partition = partition
        self._headers = headers
        self._progress = progress
        self._pending: deque[Any] = deque()
        self._delivered = 0
        self._failed = 0
        self._first_error: Any = None

    def send_lines(self, lines: BinaryIO, reader: LineReader) -> None:
        """Send every line, then wait for all answers."""
        if self._invocation.dry_run:
            self._delivered = sum(1 for _ in lines)
            return
        headers = self._headers or None
        for line in lines:
            key, value = reader.read(line)
            receipt = self._producer.send(
                self._topic, value=value, key=key, headers=headers, partition=self._partition
            )
            self._pending.append(receipt)
            self._progress.advance(len(line))
            self._settle(_PENDING_MAX)
        self._producer.flush()
        self._settle(0)

    def _settle(self, pending_max: int) -> None:
        """Take finished receipts, and wait for the oldest ones beyond ``pending_max``."""
        from millstream import MillstreamError

        pending = self._pending
        while pending and (len(pending) > pending_max or pending[0].done()):
            try:
                place = pending.popleft().result()
            except MillstreamError as error:
                self._failed += 1
                self._first_error = self._first_error or error
                continue
            self._delivered += 1
            if not self._invocation.output.for_people:
                self._invocation.output.json_line(
                    {
                        "topic": place.topic,
                        "partition": place.partition,
                        "offset": place.offset,
                        "timestampMs": place.timestamp_ms,
                    }
                )

    def report(self) -> None:
        """Say what was done. Raises CommandError if a record was not delivered."""
        if self._failed:
            text = sentence_of(self._first_error, self._invocation.bootstrap_servers)
            raise CommandError(
                f"{self._failed} of {self._failed + self._delivered} records were not sent: {text}",
                exit_code_of(self._first_error),
            )
        verb = "would send" if self._invocation.dry_run else "sent"
        noun = "record" if self._delivered == 1 else "records"
        self._invocation.output.note(f"{verb} {self._delivered} {noun} to {self._topic}")


def _open(path: str) -> BinaryIO:
    if path != "-":
        return open(path, "rb")
    # A duplicate, so that closing it leaves the process its stdin.
    return os.fdopen(os.dup(sys.stdin.fileno()), "rb")


def _size(file: BinaryIO) -> int | None:
    found = os.fstat(file.fileno())
    return found.st_size if stat.S_ISREG(found.st_mode) else None
