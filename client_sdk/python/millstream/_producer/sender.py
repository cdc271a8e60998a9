"""What to send, what to send again, and when to give up: the producer's decisions.

The owner asks ``collect`` for requests, hands their answers to ``on_response`` and breaks of
streams to ``on_broken``. Per partition:

- at most ``max.in.flight`` batches are unanswered; a batch keeps its sequence across retries
  (invariant 23), and nothing new is sent while something has to be sent again, so order holds;
- a definite failure that leaves a gap in the sequences, or a partition that forgot this producer,
  calls for a new producer epoch. It begins only when the fate of every batch in flight, on every
  partition, is known (KAFKA-14034, KAFKA-12152); until then nothing new is sent;
- a batch that may have been appended is never sent under another epoch: it fails as
  indeterminate instead of being written twice.

Pure: time comes in as milliseconds; not locked.
"""

from millstream._client.cluster import ClusterCache, ClusterChange
from millstream._client.config import ProducerConfig
from millstream._client.retry import Chance
from millstream._errors import UnknownTopicError
from millstream._producer.accumulator import Accumulator
from millstream._producer.batch import Batch
from millstream._producer.call import PRODUCER_EPOCH_MAX, ProduceCall, ProducerIdentity
from millstream._producer.partition_queue import PartitionQueue, TopicQueues
from millstream._producer.settlement import Settlement
from millstream.record.batch import SEQUENCE_MODULUS

# Requests near this size are the fastest to move.
_REQUEST_BYTES_TARGET = 256 * 1024


class Sender(Settlement):
    """Decides about the batches of one producer; see the module."""

    def __init__(
        self,
        config: ProducerConfig,
        accumulator: Accumulator,
        cluster: ClusterCache,
        chance: Chance,
    ) -> None:
        super().__init__(config, accumulator, chance)
        self._cluster = cluster
        self._in_flight_max = config.max_in_flight_requests_per_connection
        self._last_correlation_id = 0
        self.identity = ProducerIdentity()
        # More than zero: send open batches at once.
        self.flushing = 0
        # When `collect` has something to do again by itself; None: not before something happens.
        self.wake_at_ms: int | None = None

    # ---- sending

    @property
    def needs_producer_id(self) -> bool:
        """True if a producer id has to be allocated before anything can be sent."""
        waiting = self._config.idempotent and self.identity.producer_id == 0
        return waiting and bool(self._accumulator.active) and self.fatal is None

    def collect(self, now_ms: int) -> list[ProduceCall]:
        """The requests to send now, in order per node; their batches are in flight from now on."""
        self.wake_at_ms = None
        if self.epoch_is_spent:
            self._begin_epoch()
        if self.needs_producer_id or self.fatal is not None:
            return []
        calls: dict[int, list[ProduceCall]] = {}
        active = self._accumulator.active
        for queue in list(active):
            self._collect_queue(queue, now_ms, calls)
            if queue.idle:
                active.pop(queue, None)
        return [call for of_node in calls.values() for call in of_node]

    def _collect_queue(
        self, queue: PartitionQueue, now_ms: int, calls: dict[int, list[ProduceCall]]
    ) -> None:
        leader_id = queue.topic.info.partitions[queue.number].leader_id
        if leader_id is None or leader_id not in self._cluster.nodes:
            return
        of_node = calls.setdefault(leader_id, [])
        at = 0
        if queue.retrying:
            if queue.outstanding:
                return
            if now_ms < queue.retry_at_ms:
                self._wake_at(queue.retry_at_ms)
                return
            queue.retrying = False
            for batch in queue.in_flight:
                if not batch.held:
                    at = self._put(queue, batch, leader_id, now_ms, of_node, at)
        while not self.epoch_is_spent and len(queue.in_flight) < self._in_flight_max:
            taken = self._next_batch(queue, now_ms)
            if taken is None:
                return
            self._assign_sequence(queue, taken)
            queue.in_flight.append(taken)
            at = self._put(queue, taken, leader_id, now_ms, of_node, at)

    def _next_batch(self, queue: PartitionQueue, now_ms: int) -> Batch | None:
        if not queue.sealed and queue.open is not None:
            due_ms = queue.open.created_ms + self._linger_ms(queue)
            if now_ms < due_ms and not self.flushing:
                self._wake_at(int(due_ms) + 1)
                return None
            self._accumulator.seal(queue)
        return queue.sealed.popleft() if queue.sealed else None

    def _linger_ms(self, queue: PartitionQueue) -> float:
        """As Nagle's algorithm (RFC 896): while something is unanswered, small batches gather. Many
        of them under way make the longest queue where the machine is busy, and wait in it. But not
        for long: on long ways a round trip is more than a batch should wait."""
        if not queue.in_flight:
            return self._config.linger_ms
        return max(self._config.linger_ms, self._config.linger_in_flight_ms)

    def _assign_sequence(self, queue: PartitionQueue, batch: Batch) -> None:
        """Number the batch; under a new producer id or epoch every partition begins at 0."""
        if batch.base_sequence >= 0:
            return
        producer = (self.identity.producer_id, self.identity.epoch)
        if queue.producer != producer:
            queue.producer = producer
            queue.next_sequence = 0
        batch.base_sequence = queue.next_sequence
        queue.next_sequence = (queue.next_sequence + batch.count) % SEQUENCE_MODULUS

    def _put(
        self,
        queue: PartitionQueue,
        batch: Batch,
        node_id: int,
        now_ms: int,
        of_node: list[ProduceCall],
        at: int,
    ) -> int:
        """Put a batch into a request, ``at`` or later, so that batches keep their order.

        Returns where the partition's next batch may go.
        """
        while at < len(of_node) and of_node[at].bytes + batch.bytes > _REQUEST_BYTES_TARGET:
            at += 1
        if at >= len(of_node):
            self._last_correlation_id += 1
            call = ProduceCall(self._last_correlation_id, node_id, now_ms, self.identity)
            self._calls[call.correlation_id] = call
            of_node.append(call)
            at = len(of_node) - 1
        of_node[at].add(queue, batch)
        batch.outstanding = True
        batch.attempts += 1
        queue.outstanding += 1
        queue.leader_epoch = queue.topic.info.partitions[queue.number].leader_epoch
        return at + 1

    def _wake_at(self, moment_ms: int) -> None:
        if self.wake_at_ms is None or moment_ms < self.wake_at_ms:
            self.wake_at_ms = moment_ms

    # ---- epochs

    def set_producer_id(self, producer_id: int, epoch: int) -> None:
        """Use a freshly allocated producer id."""
        self.identity = ProducerIdentity(producer_id, epoch)

    def _begin_epoch(self) -> None:
        """Begin a new producer epoch, if the fate of every batch in flight is known."""
        active = self._accumulator.active
        for queue in active:
            for batch in queue.in_flight:
                if batch.outstanding or batch.indeterminate:
                    return
        for queue in active:
            for batch in reversed(queue.in_flight):
                batch.base_sequence = -1
                batch.held = False
                queue.sealed.appendleft(batch)
            queue.in_flight.clear()
            queue.retrying = False
        identity = self.identity
        if identity.epoch >= PRODUCER_EPOCH_MAX:
            self.identity = ProducerIdentity()
        else:
            self.identity = ProducerIdentity(identity.producer_id, identity.epoch + 1)
        self.epoch_is_spent = False

    # ---- metadata

    def on_cluster_change(self, change: ClusterChange) -> None:
        """Take in new metadata: leaders, partitions, deleted topics."""
        for info in change.removed_topics:
            queues = self._accumulator.topics.get(info.name)
            if queues is not None and queues.info.topic_id == info.topic_id:
                del self._accumulator.topics[info.name]
                error = UnknownTopicError(f"the topic {info.name!r} was deleted")
                for queue in queues.partitions:
                    self.fail_queue(queue, error)
        for info in change.topics:
            queues = self._accumulator.topics.get(info.name)
            if queues is not None and queues.info.topic_id == info.topic_id:
                queues.update(info)
                self._end_waits(queues)

    def _end_waits(self, queues: TopicQueues) -> None:
        """A newer leader epoch than at the last attempt: try again now."""
        for queue, partition in zip(queues.partitions, queues.info.partitions, strict=False):
            if queue.retrying and partition.leader_epoch > queue.leader_epoch:
                queue.retry_at_ms = 0
