"""The records of a topic's partitions as queues, and which partition takes records without a key.

Pure; the accumulator fills these queues, the sender empties them.
"""

from collections import deque

from millstream._client.cluster import TopicInfo
from millstream._client.retry import Chance
from millstream._producer.batch import Batch


class PartitionQueue:
    """The records of one partition, from open batch to acknowledgement."""

    __slots__ = (
        "in_flight",
        "leader_epoch",
        "next_sequence",
        "number",
        "open",
        "outstanding",
        "producer",
        "retry_at_ms",
        "retrying",
        "room",
        "sealed",
        "topic",
    )

    def __init__(self, topic: "TopicQueues", number: int) -> None:
        self.topic = topic
        self.number = number
        # The batch that records are appended to, and how many bytes were granted to it and left.
        self.open: Batch | None = None
        self.room = 0
        # Full batches that were not sent yet, in order.
        self.sealed: deque[Batch] = deque()
        # Batches that were sent and whose fate is not known, in order of their sequences.
        self.in_flight: list[Batch] = []
        self.outstanding = 0
        # Sequence of the next batch, under this (producer id, epoch).
        self.next_sequence = 0
        self.producer = (0, 0)
        # Something failed: nothing new is sent until all in flight was sent again.
        self.retrying = False
        self.retry_at_ms = 0
        # Leader epoch at the last send: a newer one ends the wait before a retry.
        self.leader_epoch = -1

    def batches(self) -> list[Batch]:
        """All batches, in order."""
        last = [] if self.open is None else [self.open]
        return [*self.in_flight, *self.sealed, *last]

    @property
    def idle(self) -> bool:
        """True if no record waits here."""
        return self.open is None and not self.sealed and not self.in_flight


class TopicQueues:
    """The partitions of one topic."""

    __slots__ = ("by_key", "info", "name", "partitions", "sticky", "used_ms")

    def __init__(self, info: TopicInfo) -> None:
        self.name = info.name
        # Monotonic time of the last batch that was begun.
        self.used_ms = 0
        self.info = info
        self.partitions = [PartitionQueue(self, n) for n in range(len(info.partitions))]
        # The partition of keys seen lately.
        self.by_key: dict[bytes | None, PartitionQueue] = {}
        # The partition that records without a key go to until its batch is sealed.
        self.sticky = self.partitions[0]

    def update(self, info: TopicInfo) -> None:
        """Take newer metadata; new partitions change where keys go, as in Kafka."""
        self.info = info
        count = len(info.partitions)
        if count > len(self.partitions):
            start = len(self.partitions)
            self.partitions += [PartitionQueue(self, n) for n in range(start, count)]
            self.by_key.clear()

    def choose_sticky(self, chance: Chance) -> None:
        """Let records without a key go to another partition, one with a leader if there is."""
        led = [p.partition for p in self.info.partitions if p.leader_id is not None]
        numbers = led or range(len(self.partitions))
        others = [n for n in numbers if n != self.sticky.number] or list(numbers)
        self.sticky = self.partitions[others[int(chance.uniform(0, len(others))) % len(others)]]
