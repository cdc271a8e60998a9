"""The file to which a member of the group writes what it was given, row by row.

A row is five 64-bit numbers: partition, offset, record id, fingerprint, and the time of the poll
(monotonic, nanoseconds; one clock for all processes of a machine). A member writes the rows of a
poll before it commits them, so a row is missing only if its record was not committed either.
"""

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.cluster.demo.ledger import Deliveries, Delivery

ROW_NUMBERS = 5
ROW_BYTES = 8 * ROW_NUMBERS


class Row(NamedTuple):
    """A delivery with its time."""

    partition: int
    offset: int
    record_id: int
    fingerprint: int
    polled_ns: int


def encode_rows(rows: Iterable[Row]) -> bytes:
    """The bytes of rows."""
    numbers = array("q")
    for row in rows:
        numbers.extend(row)
    return numbers.tobytes()


class DeliveryFile:
    """Reads a member's file while it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers = array("q")

    def __len__(self) -> int:
        """Rows read so far."""
        return len(self._numbers) // ROW_NUMBERS

    def read_new(self) -> Sequence[int]:
        """Record ids of the rows that came since the last call; a row half written waits."""
        before = len(self)
        try:
            with open(self._path, "rb") as file:
                file.seek(before * ROW_BYTES)
                data = file.read()
        except FileNotFoundError:
            return ()
        self._numbers.frombytes(data[: len(data) // ROW_BYTES * ROW_BYTES])
        return self._numbers[before * ROW_NUMBERS + 2 :: ROW_NUMBERS]

    def rows(self) -> Iterable[Row]:
        """Everything read so far."""
        columns = [self._numbers[column::ROW_NUMBERS] for column in range(ROW_NUMBERS)]
        return map(Row._make, zip(*columns, strict=True))

    def partitions(self) -> set[int]:
        """The partitions from which the member was given records."""
        return set(self._numbers[0::ROW_NUMBERS])


def merge(files: Iterable[DeliveryFile]) -> Deliveries:
    """All deliveries in the order of the polls, so each partition's in the order of its reading
    also where it moved from one member to the other."""
    rows = [row for file in files for row in file.rows()]
    rows.sort(key=lambda row: row.polled_ns)
    out = Deliveries()
    for row in rows:
        out.add(Delivery(row.partition, row.offset, row.record_id, row.fingerprint))
    return out
