"""Where to begin: committed offsets, and the reset policy where there is none.

Pure: time comes in as ``now_ms`` (monotonic milliseconds).
"""

from collections.abc import Iterable

from millstream._client import methods
from millstream._consumer.effects import Call
from millstream._consumer.lookups import EARLIEST, LATEST, OffsetLookups
from millstream._consumer.record import TopicPartition
from millstream._errors import MillstreamError, NoCommittedOffsetError, OffsetOutOfRangeError
from millstream._fetch.fetcher import Fetcher
from millstream._fetch.partition import Mark, Partition, Phase
from millstream._group.ownership import by_topic
from millstream.v1 import broker_service_pb2, group_coordinator_service_pb2

_POLICIES = {"earliest": EARLIEST, "latest": LATEST}


class Positions:
    """Partitions that wait for their position."""

    def __init__(
        self,
        fetcher: Fetcher,
        lookups: OffsetLookups,
        *,
        group_id: str,
        reset_policy: str,
        backoff_ms: int,
        call_timeout_ms: int,
    ) -> None:
        self._fetcher = fetcher
        self._lookups = lookups
        self._group_id = group_id
        self._reset_policy = reset_policy
        self._backoff_ms = backoff_ms
        self._call_timeout_ms = call_timeout_ms
        # Partitions whose committed offset is wanted.
        self._wanted: dict[TopicPartition, Partition] = {}
        self._under_way = False
        self._retry_at_ms = 0

    def begin(self, partition: Partition, now_ms: int) -> None:
        """Find the position of a partition: the committed offset, else the reset policy."""
        if self._group_id:
            self._wanted[partition.name] = partition
        else:
            self.reset(partition, now_ms)

    def reset(
        self, partition: Partition, now_ms: int, cause: OffsetOutOfRangeError | None = None
    ) -> None:
        """Apply auto.offset.reset; ``none`` fails the partition."""
        position = _POLICIES.get(self._reset_policy)
        if position is not None:
            self.look_up(partition, position, now_ms)
        else:
            place = f"{partition.name.topic}-{partition.name.partition}"
            partition.fail(
                cause
                or NoCommittedOffsetError(f"{place} has no committed offset (auto.offset.reset)")
            )

    def look_up(
        self, partition: Partition, position: broker_service_pb2.Position, now_ms: int
    ) -> None:
        """Seek to the beginning, the end, or a time (the end if no record is so new)."""
        self._fetcher.seek(partition, None)
        self._wanted.pop(partition.name, None)
        partition.seeks += 1
        seek = partition.seeks

        def found(
            answer: broker_service_pb2.OffsetAnswer | None, error: MillstreamError | None
        ) -> None:
            if partition.seeks != seek or partition.phase is not Phase.AWAITING:
                return  # the application has moved on meanwhile
            if answer is None:
                partition.fail(error or NoCommittedOffsetError("no offset was found"))
            elif not answer.HasField("offset"):
                self.look_up(partition, LATEST, now_ms)
            else:
                self._fetcher.seek(partition, Mark(answer.offset))

        self._lookups.add(partition.name, partition.topic_id, position, found, now_ms)

    def forget(self, name: TopicPartition) -> None:
        """The partition is read no more, or got its position otherwise."""
        self._wanted.pop(name, None)

    def next_tick_ms(self) -> int | None:
        """When ``take`` has something to do; None: never."""
        return self._retry_at_ms if self._wanted and not self._under_way else None

    def take(self, now_ms: int) -> Call | None:
        """The call to make now for the committed offsets."""
        if not self._wanted or self._under_way or now_ms < self._retry_at_ms:
            return None
        asked = dict(self._wanted)
        self._under_way = True
        request = group_coordinator_service_pb2.FetchOffsetsRequest(
            group_id=self._group_id,
            partitions=by_topic({name: one.topic_id for name, one in asked.items()}),
        )

        def answered(
            response: group_coordinator_service_pb2.FetchOffsetsResponse | None,
            error: MillstreamError | None,
            now_ms: int,
        ) -> None:
            self._under_way = False
            waiting = [one for name, one in asked.items() if self._wanted.get(name) is one]
            if response is not None:
                self._start(waiting, response.offsets, now_ms)
            elif error is not None and error.retriable:
                self._retry_at_ms = now_ms + max(self._backoff_ms, error.retry_after_ms)
            elif error is not None:
                for partition in waiting:
                    self._wanted.pop(partition.name, None)
                    partition.fail(error)

        return Call(methods.FETCH_OFFSETS, request, True, self._call_timeout_ms, answered)

    def _start(
        self,
        waiting: Iterable[Partition],
        offsets: Iterable[group_coordinator_service_pb2.CommittedOffset],
        now_ms: int,
    ) -> None:
        known: dict[tuple[bytes | str, int], group_coordinator_service_pb2.CommittedOffset] = {
            (one.topic_id or one.topic, one.partition): one for one in offsets
        }
        for partition in waiting:
            self._wanted.pop(partition.name, None)
            if partition.phase is not Phase.AWAITING:
                continue
            committed = known.get(partition.key) or known.get(partition.name)
            if committed is None:
                self.reset(partition, now_ms)
                continue
            epoch = committed.leader_epoch if committed.HasField("leader_epoch") else None
            self._fetcher.seek(partition, Mark(committed.offset, epoch))
            partition.committed = committed.offset
