"""Handing records out, and knowing at every moment which of them the application is done with.

What was handed out counts as processed when the application comes back for more. While records
leave one by one, only the last one is still in hand.

Pure.
"""

from collections.abc import Container, Iterator
from itertools import islice

from millstream._consumer.record import ConsumerBatch, ConsumerRecord, TopicPartition
from millstream._fetch.fetcher import Fetcher
from millstream._fetch.partition import Chunk, Partition

Records = dict[TopicPartition, list[ConsumerRecord]]


class Delivery:
    """The chunk that is being handed out, and the partitions touched since the last step."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._chunk: Chunk | None = None
        self._touched: dict[TopicPartition, Partition] = {}

    @property
    def has_ready(self) -> bool:
        """True if there may be something to hand out."""
        return self._chunk is not None or self._fetcher.has_ready

    def step(self) -> None:
        """The application came back: everything handed out is processed."""
        self.settle()
        for partition in self._touched.values():
            partition.processed = partition.position
        self._touched.clear()

    def settle(self) -> None:
        """Bring the position of the partition being handed out up to date."""
        chunk = self._chunk
        if chunk is None:
            return
        handed = chunk.handed()
        if handed:
            self._touched[chunk.partition.name] = chunk.partition
            chunk.partition.position = chunk.mark_at(handed)
        if handed == len(chunk.records):
            self._chunk = None

    def withdraw(self, names: Container[TopicPartition] | None = None) -> None:
        """Stop handing out these partitions, or whichever it is, at the next record. What is left
        comes again if the partition stays; the record in hand is not processed yet."""
        chunk = self._chunk
        if chunk is None or (names is not None and chunk.partition.name not in names):
            return
        self._chunk = None
        rest = chunk.withdraw()
        handed = len(chunk.records) - len(rest)
        partition = chunk.partition
        if handed:
            in_hand = chunk.mark_at(handed - 1)
            processed = partition.processed
            if chunk.in_hand and (processed is None or in_hand.offset > processed.offset):
                partition.processed = in_hand
            partition.position = chunk.mark_at(handed)
            self._touched[partition.name] = partition
        if rest:
            self._fetcher.put_back(partition, Chunk(partition, rest, chunk.next_mark))

    def undo(self) -> None:
        """Go back to what was processed; it is fetched again."""
        self.withdraw()
        for partition in self._touched.values():
            if partition.processed is not None:
                self._fetcher.seek(partition, partition.processed)
        self._touched.clear()

    def forget(self, name: TopicPartition) -> None:
        """The partition is read no more."""
        self._touched.pop(name, None)

    def take(self, records_max: int) -> Records:
        """Up to so many records, by partition, each in order."""
        out: Records = {}
        left = records_max
        while left > 0:
            chunk = self._next()
            if chunk is None:
                break
            chunk.in_hand = False
            records = list(islice(chunk.iterator, left))
            left -= len(records)
            partition = chunk.partition
            before = out.get(partition.name)
            if before is None:
                out[partition.name] = records
            else:
                before += records
            self.settle()
        return {name: records for name, records in out.items() if records}

    def take_columns(self) -> ConsumerBatch | None:
        """The rest of one batch as columns; None: nothing is ready."""
        self.withdraw()
        taken = self._fetcher.next_columns()
        if taken is None:
            return None
        partition, columns, mark = taken
        partition.position = mark
        self._touched[partition.name] = partition
        return columns

    def iterate(self) -> Iterator[ConsumerRecord] | None:
        """An iterator over the next records; it ends early when they are withdrawn. None: nothing
        is ready."""
        chunk = self._next()
        if chunk is None:
            return None
        chunk.in_hand = True
        self._touched[chunk.partition.name] = chunk.partition
        return chunk.iterator

    def _next(self) -> Chunk | None:
        self.settle()
        if self._chunk is None:
            self._chunk = self._fetcher.next_chunk()
        return self._chunk
