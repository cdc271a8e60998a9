"""The partitions on this broker, and what they share: disk, session, clocks, limits, counters."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from millstream_server.broker.append_expiry import AppendExpiry
from millstream_server.broker.config import BrokerConfig
from millstream_server.broker.counters import BrokerCounters
from millstream_server.broker.disk_room import DiskRoom
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replica import Replica, is_disk_full, refusal_of
from millstream_server.broker.replication.added_copies import AddedCopies
from millstream_server.cluster.metadata_plane import NodePlane
from millstream_server.runtime.ports import Clock, Executor, T
from millstream_server.storage.directory import LogDirectory
from millstream_server.storage.errors import DiskRefusedError, StorageError
from millstream_server.storage.writer import DirectoryWriter

_log = structlog.get_logger()


class ReadPool:
    """Threads for reads of older data; a job goes to the one with the least to do."""

    def __init__(self, executors: Sequence[Executor]) -> None:
        self._executors = executors

    def submit(
        self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """See ``Executor``."""
        min(self._executors, key=lambda executor: executor.pending()).submit(job, done)

    def close(self) -> None:
        """Finish the jobs submitted so far, then end."""
        for executor in self._executors:
            executor.close()


class HostedPartitions:
    """All replicas by (topic id, partition)."""

    def __init__(
        self,
        config: BrokerConfig,
        node_id: int,
        *,
        clock: Clock,
        counters: BrokerCounters,
        cluster: NodePlane,
        directory: LogDirectory,
        writer: DirectoryWriter,
        reads: ReadPool,
        checks: Executor,
    ) -> None:
        self.config = config
        self.node_id = node_id
        self.clock = clock
        self.counters = counters
        self.cluster = cluster
        self.directory = directory
        self.writer = writer
        self.reads = reads
        # One thread: the payloads of compressed batches are checked there, in order.
        self.checks = checks
        self.replicas: dict[tuple[bytes, int], Replica] = {}
        # The whole log directory failed; nothing here works any more (invariant 32).
        self.offline: StorageError | None = None
        # Told of every log that failed, by (topic id, partition).
        self.on_log_failed: Callable[[tuple[bytes, int]], None] = _nobody
        self._room = DiskRoom(
            config.disk_reserve_bytes, config.disk_retry_ms, config.disk_look_after_bytes
        )
        self._looking = False
        self.added_copies = AddedCopies()
        self._loop = asyncio.get_running_loop()
        self.loop_time = self._loop.time
        # ``call_later(seconds, callback)``
        self.call_later = self._loop.call_later
        self.expiry = AppendExpiry(
            cluster,
            clock,
            interval_ms=config.expiry_interval_ms,
            stall_ms=config.stall_ms,
            call_later=self.call_later,
        )

    def find(self, topic_id: bytes, partition: int) -> Replica:
        """The replica if it may serve as leader. Raises Refusal with the reason if not."""
        replica = self.find_any(topic_id, partition)
        replica.check_readable()
        return replica

    def find_any(self, topic_id: bytes, partition: int) -> Replica:
        """The replica, whatever its role. Raises Refusal if it is not here."""
        replica = self.replicas.get((topic_id, partition))
        if replica is not None:
            return replica
        image = self.cluster.image
        topic = image.topics.get(topic_id)
        if topic is None:
            raise Refusal("UNKNOWN_TOPIC", f"there is no topic with id {topic_id.hex()}")
        state = image.partition(topic_id, partition)
        if state is None:
            raise Refusal(
                "UNKNOWN_PARTITION",
                f"topic {topic.name!r} has no partition {partition}, only {len(topic.partitions)}",
            )
        if state.leader_id is None:
            raise Refusal("LEADER_NOT_AVAILABLE", "the partition has no leader at present")
        if state.leader_id == self.node_id:
            raise Refusal("LEADER_NOT_AVAILABLE", "the leader is opening the partition")
        raise Refusal("NOT_LEADER", f"node {state.leader_id} leads the partition")

    def newest_epoch(self, topic_id: bytes, partition: int) -> int:
        """Newest leader epoch known here; 0 for a partition that is not known."""
        replica = self.replicas.get((topic_id, partition))
        state = self.cluster.image.partition(topic_id, partition)
        return max(
            replica.state.leader_epoch if replica is not None else 0,
            state.leader_epoch if state is not None else 0,
        )

    def check_session(self) -> None:
        """Refuse outside of the session: another leader may exist already (invariant 3)."""
        if not self.cluster.in_session():
            raise Refusal(
                "NOT_LEADER", "this broker has lost touch with the controller; it may be replaced"
            )

    # The disk

    def take_room(self, size_bytes: int, *, essential: bool) -> None:
        """Refuse at once while the disk is known to be full; see ``DiskRoom``."""
        self._room.check(self.clock.monotonic_ms(), essential=essential)
        if self._room.note_append(size_bytes) and not self._looking:
            self._looking = True
            self.reads.submit(self.directory.disk_usage, self._usage_looked_at)

    def _usage_looked_at(self, usage: tuple[int, int] | None, error: BaseException | None) -> None:
        self._looking = False
        if usage is not None:
            self.note_usage(usage)

    def note_usage(self, usage: tuple[int, int]) -> None:
        """Learn (total, free) bytes of the disk."""
        if self._room.note_usage(*usage):
            _log.warning("room on the disk changed", free_bytes=usage[1], total_bytes=usage[0])

    @property
    def disk_refuses(self) -> bool:
        """True while appends are refused for want of room or rights: others should lead."""
        return self._room.refuses(self.clock.monotonic_ms())

    def note_disk_refusal(self, error: StorageError) -> bool:
        """Learn that the disk refused something for want of room or rights, if the error says so;
        true if it does."""
        now_ms = self.clock.monotonic_ms()
        if is_disk_full(error):
            if self._room.note_full(str(error), now_ms):
                _log.warning("disk is full, appends are refused", error=str(error))
            return True
        if isinstance(error, DiskRefusedError):
            self._room.note_refused(now_ms)
            return True
        return False

    def note_failure(self, replica: Replica, error: StorageError) -> Refusal:
        """Draw the consequences of an error of the storage; returns what to tell the caller."""
        refusal = replica.refusal_of(error)
        if self.note_disk_refusal(error):
            if is_disk_full(error):
                refusal.retry_after_ms = self.config.disk_retry_ms
        elif self.directory.offline_reason is not None:
            self.go_offline(self.directory.offline_reason)
        elif replica.log.failure is not None:
            _log.error(
                "log is offline",
                topic=replica.state.topic,
                partition=replica.state.number,
                error=str(replica.log.failure),
            )
            lost = replica.refusal_of(replica.log.failure)
            replica.lose_readers(lost)
            # What waits was appended, and may be read from another replica later.
            waiting = Refusal(lost.reason, lost.message, indeterminate=True)
            replica.deliver(replica.state.fail_waiting(waiting))
            self.on_log_failed((replica.state.topic_id, replica.state.number))
        return refusal

    def go_offline(self, error: StorageError) -> None:
        """The log directory failed: lead nothing, acknowledge nothing any more (invariant 32)."""
        if self.offline is not None:
            return
        self.offline = error
        _log.error("log directory is offline", error=str(error))
        self.cluster.report_log_dir_offline()
        for replica in self.replicas.values():
            replica.deliver(replica.state.fail_waiting(refusal_of(error)))
            replica.lose_readers(refusal_of(error))

    def close(self) -> None:
        """Stop the timer."""
        self.expiry.close()


def _nobody(_: tuple[bytes, int]) -> None:
    """Until somebody listens."""
