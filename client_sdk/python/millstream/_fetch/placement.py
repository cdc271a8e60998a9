"""Which partitions are read, and on which streams: each on the one to its leader, or to a nearer
replica.

Pure: time comes in as ``now_ms`` (monotonic milliseconds).
"""

from collections import deque
from collections.abc import Callable, Iterator

from millstream._client.retry import pause_ms
from millstream._consumer.record import TopicPartition
from millstream._fetch.nearest import AVOID_MS, Source
from millstream._fetch.partition import Mark, Partition
from millstream._fetch.session import FetchLimits, FetchSession, PartitionKey

# Time of a retry that waits for the application.
NEVER_MS = 1 << 62
# An unused stream is closed after this long; pausing and resuming keeps it.
IDLE_STREAM_MS_MAX = 10_000


# Finds where to read (topic id, partition), but not at a node to be avoided; None: there is no
# leader at present.
FindSource = Callable[[bytes, int, int | None], Source | None]


class FetchPlacement:
    """The partitions that a consumer reads, and the streams to their brokers."""

    def __init__(
        self,
        limits: FetchLimits,
        backoff_ms: int,
    ) -> None:
        self.partitions: dict[TopicPartition, Partition] = {}
        self.sessions: dict[int, FetchSession] = {}
        # True when something changed that `place`, or whoever looks offsets up, has to see.
        self.stirred = False
        self._by_key: dict[PartitionKey, Partition] = {}
        self._limits = limits
        self._backoff_ms = backoff_ms
        self._token = 0
        self._ready: deque[Partition] = deque()
        # Per node: when a stream may be opened again, and the tries since the last push.
        self._node_retry: dict[int, tuple[int, int]] = {}
        self._idle_since: dict[int, int] = {}

    # --- what is read -------------------------------------------------------------------------

    def assign(self, name: TopicPartition, topic_id: bytes) -> Partition:
        """Begin with a partition; nothing is read before its position is set, and its topic's id if
        that is empty."""
        partition = Partition(name, topic_id)
        self.partitions[name] = partition
        self._by_key[partition.key] = partition
        return partition

    def identify(self, partition: Partition, topic_id: bytes) -> None:
        """The id of a partition's topic became known, or the name means another topic now."""
        self._withdraw(partition)
        self._by_key.pop(partition.key, None)
        partition.topic_id = topic_id
        # What was committed belongs to the other topic.
        partition.committed = None
        self._by_key[partition.key] = partition

    def unassign(self, name: TopicPartition) -> None:
        """End with a partition: nothing of it is handed out any more."""
        partition = self.partitions.pop(name)
        if self._by_key.get(partition.key) is partition:
            del self._by_key[partition.key]
        partition.leaving = True
        self._withdraw(partition)
        partition.drop_buffer()

    def seek(self, partition: Partition, mark: Mark | None) -> None:
        """Read from a position; None: from one that is still to be looked up."""
        self._withdraw(partition)
        partition.drop_buffer()
        partition.move(mark)

    def pause(self, partition: Partition) -> None:
        """Hand out nothing of a partition. What is buffered is kept while it leaves half the
        window free for others."""
        partition.paused = True
        session = partition.session
        self._withdraw(partition)
        if session is None:
            return
        kept = sum(p.buffered_bytes() for p in self.partitions.values() if p.paused)
        if 2 * kept > self._limits.window_bytes:
            self._refetch(partition)

    def resume(self, partition: Partition) -> None:
        """Hand out a paused partition again."""
        partition.paused = False
        self._queue(partition)

    def _refetch(self, partition: Partition) -> None:
        """Forget the buffer and ask for the same records again later."""
        self._withdraw(partition)
        partition.drop_buffer()
        partition.fetched = partition.position

    def _withdraw(self, partition: Partition) -> None:
        session = partition.session
        if session is not None:
            if session.tokens.get(partition.key) == partition.token:
                session.remove(partition.key)
            partition.session = None
        partition.token = 0
        self.stirred = True

    # --- placing partitions on streams ----------------------------------------------------------

    def place(self, now_ms: int, find_source: FindSource) -> None:
        """Put every partition that should be read on the stream to its source."""
        for partition in self.partitions.values():
            if partition.placeable and partition.retry_at_ms <= now_ms:
                self._place(partition, now_ms, find_source)
        for session in self.sessions.values():
            if session.tokens:
                self._idle_since.pop(session.node_id, None)
            else:
                self._idle_since.setdefault(session.node_id, now_ms)

    def _place(self, partition: Partition, now_ms: int, find_source: FindSource) -> None:
        source = find_source(*partition.key, partition.avoided(now_ms))
        if source is None:
            self._retry_later(partition, now_ms)
            return
        retry_at_ms, _ = self._node_retry.get(source.node_id, (0, 0))
        if retry_at_ms > now_ms:
            partition.retry_at_ms = retry_at_ms
            return
        session = self.sessions.get(source.node_id)
        if session is None:
            session = self.sessions[source.node_id] = FetchSession(source.node_id, self._limits)
        assert partition.fetched is not None
        self._token += 1
        partition.token = self._token
        partition.session = session
        partition.leader_epoch = source.epoch
        mark = partition.fetched
        session.add(partition.key, self._token, mark.offset, mark.epoch, source.epoch)

    def leaders_changed(self, now_ms: int, find_source: FindSource) -> None:
        """Take partitions off streams to brokers that should not be asked any more; ``place``
        re-adds them where they stopped."""
        for partition in self.partitions.values():
            if partition.session is None:
                if partition.retry_at_ms != NEVER_MS:
                    partition.retry_at_ms = 0
                continue
            source = find_source(*partition.key, partition.avoided(now_ms))
            if source is None:
                continue
            moved = source.node_id != partition.session.node_id
            if moved or source.epoch > (partition.leader_epoch or 0):
                self._withdraw(partition)
                partition.retry_at_ms = 0

    def opened(self, session: FetchSession, stream_id: int) -> None:
        """The owner opened a stream for a session."""
        session.opened(stream_id)

    def unopened(self) -> Iterator[FetchSession]:
        """Sessions that need a stream."""
        for session in self.sessions.values():
            if not session.is_open and session.tokens:
                yield session

    def idle_sessions(self, now_ms: int) -> list[FetchSession]:
        """Open sessions that have read nothing for long."""
        return [
            self.sessions[node_id]
            for node_id, since in self._idle_since.items()
            if now_ms - since >= IDLE_STREAM_MS_MAX and self.sessions[node_id].is_open
        ]

    def broken(self, session: FetchSession, now_ms: int) -> None:
        """A stream ended; its partitions are placed again after a pause."""
        _, attempts = self._node_retry.get(session.node_id, (0, 0))
        delay_ms = self._delay_ms(attempts)
        self._node_retry[session.node_id] = (now_ms + delay_ms, attempts + 1)
        session.broken()
        for partition in self.partitions.values():
            if partition.session is session:
                partition.avoid(session.node_id, now_ms + AVOID_MS)
                partition.session = None
                partition.token = 0
                partition.retry_at_ms = now_ms + delay_ms
        self.stirred = True

    def _delay_ms(self, attempts: int) -> int:
        return pause_ms(self._backoff_ms, attempts)

    def _retry_later(self, partition: Partition, now_ms: int, delay_ms: int = 0) -> None:
        partition.retry_at_ms = now_ms + max(delay_ms, self._delay_ms(partition.attempts))
        partition.attempts += 1

    def next_retry_ms(self) -> int | None:
        """When ``place`` has something to do by itself; None: never."""
        times = [
            partition.retry_at_ms for partition in self.partitions.values() if partition.placeable
        ]
        return min(times, default=None)

    def _queue(self, partition: Partition) -> None:
        if partition.buffer and not partition.queued and partition.deliverable:
            partition.queued = True
            self._ready.append(partition)
