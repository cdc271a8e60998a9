"""Compares what was read back with what was sent and acknowledged. Pure.

A record's key decides its partition, and ids ascend in the order of sending; so within a partition
the ids that are read must ascend, and each must stand at the offset of its acknowledgement.

    lost           an acknowledged record that no member got as it was sent
    duplicated     one sent record at a second offset, or a record that was never sent
    redelivered    one offset delivered once more (allowed after the kill of a coordinator)
    out_of_order   a record after a later one of its partition, or not at its acknowledged offset
    committed_lag  records between the committed offset and the end of the log
"""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.cluster.demo.ledger import UNKNOWN, Delivery, SentRecords

_SAMPLES_MAX = 12


@dataclass
class PartitionTally:
    """The figures of one partition."""

    partition: int
    acknowledged: int = 0
    # Records read, repeated deliveries of one offset not counted.
    consumed: int = 0
    lost: int = 0
    duplicated: int = 0
    redelivered: int = 0
    out_of_order: int = 0
    committed: int = 0
    end: int = 0

    @property
    def committed_lag(self) -> int:
        """Records between the committed offset and the end of the log."""
        return self.end - self.committed


@dataclass(frozen=True)
class Comparison:
    """Figures of each partition, and samples of what went wrong for people."""

    partitions: tuple[PartitionTally, ...]
    samples: tuple[str, ...]
    # Deliveries once more that a kill excuses; not among those of the partitions.
    redeliveries_excused: int

    def total(self, name: str) -> int:
        """Sum of one figure over the partitions."""
        return sum(int(getattr(tally, name)) for tally in self.partitions)

    @property
    def is_clean(self) -> bool:
        """True if every figure that should be zero is zero."""
        names = ("lost", "duplicated", "redelivered", "out_of_order", "committed_lag")
        return not any(self.total(name) for name in names)


def compare(
    sent: SentRecords,
    deliveries: Iterable[Delivery],
    committed: Mapping[int, int],
    ends: Mapping[int, int],
    *,
    excuse_redelivery: bool = False,
) -> Comparison:
    """Compare. ``deliveries`` are in the order of reading within each partition; ``committed`` and
    ``ends`` are offsets by partition; a partition without a committed offset counts from 0."""
    reading = _Reading(sent)
    for delivery in deliveries:
        reading.take(delivery)
    for record_id in range(len(sent)):
        if sent.is_acknowledged(record_id):
            tally = reading.tally(sent.partitions[record_id])
            tally.acknowledged += 1
            if not reading.was_read(record_id):
                tally.lost += 1
                place = f"{sent.partitions[record_id]}:{sent.offsets[record_id]}"
                reading.report(f"lost: record {record_id}, acknowledged at {place}")
    for partition, end in ends.items():
        tally = reading.tally(partition)
        tally.end = end
        tally.committed = committed.get(partition, 0)
    tallies = tuple(reading.tallies[number] for number in sorted(reading.tallies))
    excused = 0
    if excuse_redelivery:
        excused = sum(tally.redelivered for tally in tallies)
        for tally in tallies:
            tally.redelivered = 0
    return Comparison(tallies, tuple(reading.samples), excused)


class _Reading:
    """Follows the deliveries."""

    def __init__(self, sent: SentRecords) -> None:
        self._sent = sent
        # Where each record was read first.
        self._partitions = array("q", [UNKNOWN]) * len(sent)
        self._offsets = array("q", [UNKNOWN]) * len(sent)
        self._highest: dict[int, int] = {}
        self.tallies: dict[int, PartitionTally] = {}
        self.samples: list[str] = []

    def tally(self, partition: int) -> PartitionTally:
        return self.tallies.setdefault(partition, PartitionTally(partition))

    def was_read(self, record_id: int) -> bool:
        return self._offsets[record_id] != UNKNOWN

    def report(self, text: str) -> None:
        if len(self.samples) < _SAMPLES_MAX:
            self.samples.append(text)

    def take(self, delivery: Delivery) -> None:
        partition, offset, record_id, fingerprint = delivery
        tally = self.tally(partition)
        what = f"record {record_id} at {partition}:{offset}"
        if not 0 <= record_id < len(self._sent):
            tally.consumed += 1
            tally.duplicated += 1
            self.report(f"duplicated: {what} was never sent")
            return
        if fingerprint != self._sent.fingerprints[record_id]:
            tally.consumed += 1
            self.report(f"altered: {what} is not what was sent")
            return  # and so it stays unread: lost
        if self.was_read(record_id):
            if (self._partitions[record_id], self._offsets[record_id]) == (partition, offset):
                tally.redelivered += 1
                self.report(f"redelivered: {what}")
            else:
                tally.consumed += 1
                tally.duplicated += 1
                first = f"{self._partitions[record_id]}:{self._offsets[record_id]}"
                self.report(f"duplicated: {what} stands at {first} as well")
            return
        tally.consumed += 1
        self._partitions[record_id] = partition
        self._offsets[record_id] = offset
        self._check_order(tally, delivery, what)

    def _check_order(self, tally: PartitionTally, delivery: Delivery, what: str) -> None:
        highest = self._highest.get(delivery.partition, UNKNOWN)
        self._highest[delivery.partition] = max(highest, delivery.record_id)
        promised = self._sent.offsets[delivery.record_id]
        if delivery.record_id < highest:
            tally.out_of_order += 1
            self.report(f"out of order: {what} comes after record {highest}")
        elif promised != UNKNOWN and (
            promised != delivery.offset
            or self._sent.partitions[delivery.record_id] != delivery.partition
        ):
            tally.out_of_order += 1
            self.report(f"out of order: {what} was acknowledged at offset {promised}")
