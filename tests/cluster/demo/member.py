"""One member of the group, as a process of its own: reads in order, writes down, commits.

    python -m tests.cluster.demo.member BOOTSTRAP TOPIC GROUP ROWS_FILE STATUS_FILE

SIGTERM makes it commit, leave the group and end. The status file tells how many partitions it owns.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from millstream import Consumer, MillstreamError
from tests.cluster.demo.delivery_file import Row, encode_rows
from tests.cluster.demo.ledger import UNKNOWN
from tests.cluster.demo.log_lines import HEADER_ID, HEADER_LINE, fingerprint

_POLL_S = 0.2
_RECORDS_PER_POLL = 2000
_COMMIT_PERIOD_S = 0.5
_LAST_COMMIT_TIMEOUT_S = 30.0
_RETRY_PAUSE_S = 0.2


def row_of(record: Any, polled_ns: int) -> Row:
    """What is written down of a record."""
    headers = dict(record.headers)
    record_id = headers.get(HEADER_ID) or b""
    return Row(
        record.partition,
        record.offset,
        int(record_id) if record_id.isdigit() else UNKNOWN,
        fingerprint(record.key, record.value, headers.get(HEADER_LINE) or b""),
        polled_ns,
    )


class Member:
    """Reads until told to stop."""

    def __init__(self, consumer: Consumer, rows: BinaryIO, status_path: Path) -> None:
        self._consumer = consumer
        self._rows = rows
        self._status_path = status_path
        self._stopping = False
        self._owned = -1
        self._committed_at = time.monotonic()
        self._uncommitted = False

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM."""
        self._stopping = True

    def on_revoke(self, partitions: object) -> None:
        """Commit before a partition goes to the other member, so that it is not read twice."""
        self._commit()

    def run(self) -> None:
        """Read until told to stop, then commit what was read."""
        while not self._stopping:
            self._tell_owned()
            records = self._consumer.consume(_RECORDS_PER_POLL, _POLL_S)
            if records:
                polled_ns = time.monotonic_ns()
                # Written before the commit: what is committed was surely written down.
                self._rows.write(encode_rows(row_of(record, polled_ns) for record in records))
                self._rows.flush()
                self._uncommitted = True
            if time.monotonic() - self._committed_at >= _COMMIT_PERIOD_S:
                self._commit()
        deadline = time.monotonic() + _LAST_COMMIT_TIMEOUT_S
        while not self._commit() and time.monotonic() < deadline:
            time.sleep(_RETRY_PAUSE_S)

    def _commit(self) -> bool:
        """Commit what was read; False if the coordinator is away, a later commit holds it all."""
        self._committed_at = time.monotonic()
        if not self._uncommitted:
            return True
        try:
            self._consumer.commit()
        except MillstreamError as error:
            print(f"commit failed, goes on: {error}", file=sys.stderr, flush=True)
            return False
        self._uncommitted = False
        return True

    def _tell_owned(self) -> None:
        owned = len(self._consumer.assignment())
        if owned != self._owned:
            self._owned = owned
            partial = self._status_path.with_suffix(".new")
            partial.write_text(str(owned))
            os.replace(partial, self._status_path)


def main(arguments: Sequence[str]) -> None:
    """Run the member."""
    bootstrap, topic, group, rows_path, status_path = arguments
    with (
        open(rows_path, "ab") as rows,
        Consumer.from_config(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "client.id": Path(rows_path).stem,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": "false",
            }
        ) as consumer,
    ):
        member = Member(consumer, rows, Path(status_path))
        signal.signal(signal.SIGTERM, member.stop)
        consumer.subscribe([topic], listener=member)
        member.run()


if __name__ == "__main__":
    main(sys.argv[1:])
