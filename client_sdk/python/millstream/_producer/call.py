"""One produce request, and who sends it: the batches it carries and those still unanswered."""

from dataclasses import dataclass

from millstream._producer.batch import Batch
from millstream._producer.partition_queue import PartitionQueue
from millstream._producer.wire import ProduceEntry, encode_produce_request
from millstream.record import build_batch

# After this epoch a new producer id is used.
PRODUCER_EPOCH_MAX = 32_767


@dataclass(slots=True)
class ProducerIdentity:
    """Producer id and epoch; id 0: none, not idempotent or not allocated yet."""

    producer_id: int = 0
    epoch: int = 0


class ProduceCall:
    """A request to one node. Its batches are settled one by one, in any order."""

    __slots__ = ("_producer", "bytes", "correlation_id", "entries", "node_id", "sent_ms", "waiting")

    def __init__(
        self, correlation_id: int, node_id: int, sent_ms: int, identity: ProducerIdentity
    ) -> None:
        self.correlation_id = correlation_id
        self.node_id = node_id
        self.sent_ms = sent_ms
        self.bytes = 0
        self.entries: list[tuple[PartitionQueue, Batch]] = []
        # Unanswered batches by (topic id, partition).
        self.waiting: dict[tuple[bytes, int], tuple[PartitionQueue, Batch]] = {}
        self._producer = (identity.producer_id, identity.epoch)

    def add(self, queue: PartitionQueue, batch: Batch) -> None:
        """Carry a batch too. A partition may appear only once."""
        key = (queue.topic.info.topic_id, queue.number)
        assert key not in self.waiting
        self.waiting[key] = (queue, batch)
        self.entries.append((queue, batch))
        self.bytes += batch.bytes

    def encode(self, acks: int, timeout_ms: int, codec: int) -> bytes:
        """The request as bytes. Needs no lock: nobody else touches a batch that was collected."""
        producer_id, epoch = self._producer
        entries = []
        for queue, batch in self.entries:
            batch.encode(codec)
            data = build_batch(
                batch.payload,
                record_count=batch.count,
                base_timestamp_ms=batch.tick_ms[0],
                max_timestamp_ms=max(batch.tick_ms),
                attributes=batch.attributes,
                producer_id=producer_id,
                producer_epoch=epoch,
                base_sequence=batch.base_sequence if producer_id else 0,
            )
            entries.append(
                ProduceEntry(queue.topic.info.topic_id, queue.number, queue.leader_epoch, data)
            )
        return encode_produce_request(self.correlation_id, acks, timeout_ms, entries)
