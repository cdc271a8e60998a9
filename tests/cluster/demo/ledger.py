"""What was sent, and what was read: columns of numbers, so that millions of records fit. Pure."""

from array import array
from collections.abc import Iterator
from typing import NamedTuple

UNKNOWN = -1


class Delivery(NamedTuple):
    """One delivery of a record to a member of the group."""

    partition: int
    offset: int
    # The id in the record's header; UNKNOWN if it has none.
    record_id: int
    # CRC-32 of key, value and source line, as computed from what was read.
    fingerprint: int


class SentRecords:
    """One entry per record, by id: 0, 1, 2, … in the order of sending."""

    def __init__(self) -> None:
        self.fingerprints = array("L")
        # UNKNOWN until the acknowledgement.
        self.partitions = array("q")
        self.offsets = array("q")
        self._acknowledged = bytearray()

    def __len__(self) -> int:
        return len(self.fingerprints)

    def add(self, fingerprint: int) -> int:
        """Note a record that is about to be sent; return its id."""
        self.fingerprints.append(fingerprint)
        self.partitions.append(UNKNOWN)
        self.offsets.append(UNKNOWN)
        self._acknowledged.append(0)
        return len(self.fingerprints) - 1

    def acknowledge(self, record_id: int, partition: int, offset: int | None) -> None:
        """Note an acknowledgement; an offset of None is not known any more."""
        self.partitions[record_id] = partition
        self.offsets[record_id] = UNKNOWN if offset is None else offset
        self._acknowledged[record_id] = 1

    def is_acknowledged(self, record_id: int) -> bool:
        """True once the record was acknowledged."""
        return bool(self._acknowledged[record_id])

    @property
    def acknowledged(self) -> int:
        """Number of acknowledged records."""
        return self._acknowledged.count(1)


class Deliveries:
    """Everything that was read, in order within each partition."""

    def __init__(self) -> None:
        self._columns = (array("q"), array("q"), array("q"), array("L"))

    def __len__(self) -> int:
        return len(self._columns[0])

    def __iter__(self) -> Iterator[Delivery]:
        return map(Delivery._make, zip(*self._columns, strict=True))

    def __getitem__(self, index: int) -> Delivery:
        return Delivery._make(column[index] for column in self._columns)

    def add(self, delivery: Delivery) -> None:
        """Add a delivery at the end."""
        for column, number in zip(self._columns, delivery, strict=True):
            column.append(number)
