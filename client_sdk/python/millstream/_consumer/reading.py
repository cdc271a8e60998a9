"""What a consumer reads: subscription, partitions, positions; the base of ``ConsumerCore``.

Pure: time comes in as ``now_ms`` (monotonic milliseconds). Not locked.
"""

from collections.abc import Iterable, Mapping

from millstream._client.cluster import ClusterCache, ClusterChange
from millstream._client.config import ConsumerConfig
from millstream._consumer.announcements import Announcements
from millstream._consumer.commits import AutoCommit, Commits
from millstream._consumer.delivery import Delivery
from millstream._consumer.effects import (
    Effect,
    UseTopic,
)
from millstream._consumer.lookups import EARLIEST, OffsetLookups
from millstream._consumer.positions import Positions
from millstream._consumer.record import OffsetAndMetadata, TopicPartition
from millstream._consumer.subscription import Mode, RebalanceEvent, Subscription
from millstream._errors import (
    InvalidRequestError,
    MillstreamError,
    OffsetOutOfRangeError,
    UnknownMemberError,
)
from millstream._fetch.decode import Deserializers
from millstream._fetch.fetcher import Fetcher, MakeError
from millstream._fetch.nearest import Source, choose_source
from millstream._fetch.partition import Mark, Partition, Phase
from millstream._fetch.session import FetchLimits, FetchSession
from millstream._group.commits import CommitTicket
from millstream._group.session import GroupSession
from millstream._group.types import (
    GroupConfig,
)
from millstream.v1.broker_service_pb2 import Position


class ConsumerReading:
    """See the module."""

    def __init__(
        self, config: ConsumerConfig, cluster: ClusterCache, make_error: MakeError
    ) -> None:
        self.config = config
        self.subscription = Subscription()
        self.fetcher = Fetcher(
            FetchLimits(
                window_bytes=config.fetch_max_bytes,
                partition_bytes_max=config.max_partition_fetch_bytes,
                bytes_min=config.fetch_min_bytes,
                wait_ms_max=config.fetch_max_wait_ms,
                rack=config.client_rack,
            ),
            make_error,
            check_crcs=config.check_crcs,
            backoff_ms=config.retry_backoff_ms,
            deserializers=Deserializers(config.key_deserializer, config.value_deserializer),
        )
        self.delivery = Delivery(self.fetcher)
        self.lookups = OffsetLookups(make_error, config.retry_backoff_ms, config.request_timeout_ms)
        self.positions = Positions(
            self.fetcher,
            self.lookups,
            group_id=config.group_id,
            reset_policy=config.auto_offset_reset,
            backoff_ms=config.retry_backoff_ms,
            call_timeout_ms=config.request_timeout_ms,
        )
        self.group = GroupSession(group_config(config), make_error)
        self.commits = Commits(self.fetcher, self.group, config, make_error)
        self.auto_commit = AutoCommit(self.commits, self.fetcher, config)
        # Set when the consumer cannot go on in its group.
        self.fatal: MillstreamError | None = None
        self._cluster = cluster
        self._announcements = Announcements()
        self._releasable: list[list[TopicPartition]] = []
        self._effects: list[Effect] = []
        self._stream_count = 0
        self._fetch_streams: dict[int, FetchSession] = {}
        self._stirred = True

    # --- what is read -------------------------------------------------------------------------

    def subscribe(
        self, topics: frozenset[str], pattern: str, listener: object, now_ms: int
    ) -> None:
        """Read topics: as a member of the group, or all their partitions if there is no group.

        Raises InvalidRequestError while partitions are assigned by hand.
        """
        subscription = self.subscription
        if subscription.mode is Mode.ASSIGNED:
            raise InvalidRequestError("unassign before you subscribe")
        if pattern and not self.config.group_id:
            raise InvalidRequestError("a pattern needs group.id")
        subscription.topics, subscription.pattern = topics, pattern
        subscription.listener = listener
        for topic in sorted(topics):
            self._effects.append(UseTopic(topic))
        if self.config.group_id:
            subscription.mode = Mode.GROUP
            self.group.subscribe(topics, pattern, now_ms)
        else:
            subscription.mode = Mode.ALL
            gone = [name for name in self.fetcher.partitions if name.topic not in topics]
            self._end_partitions(gone)
            subscription.seen_topics &= topics
            self._read_all(now_ms)
        self._stirred = True

    def assign(self, names: Iterable[TopicPartition], now_ms: int) -> None:
        """Read exactly these partitions. Raises InvalidRequestError while subscribed."""
        if self.subscription.mode in (Mode.GROUP, Mode.ALL):
            raise InvalidRequestError("unsubscribe before you assign")
        wanted = dict.fromkeys(TopicPartition(*name) for name in names)
        self.subscription.mode = Mode.ASSIGNED if wanted else Mode.NONE
        self._end_partitions([name for name in self.fetcher.partitions if name not in wanted])
        for name in wanted:
            if name not in self.fetcher.partitions:
                self.fetcher.assign(name, b"")
                self._effects.append(UseTopic(name.topic))
        self._identify(now_ms)
        self._stirred = True

    def forget_subscription(self, now_ms: int) -> None:
        """Read nothing; leave the group at once. What is to be committed was committed before."""
        self._end_partitions(list(self.fetcher.partitions))
        self.group.leave(now_ms, for_good=False)
        self.subscription = Subscription()
        self._announcements.clear()
        self.fatal = None
        self._stirred = True

    def revoke_all(self) -> RebalanceEvent | None:
        """Stop handing out; the event to tell the application before the subscription ends."""
        self.delivery.withdraw()
        self.fetcher.leave(list(self.fetcher.partitions))
        return self._announcements.revoke_all()

    def _end_partitions(self, names: Iterable[TopicPartition]) -> None:
        for name in names:
            self.delivery.withdraw((name,))
            self.delivery.forget(name)
            self.positions.forget(name)
            if name in self.fetcher.partitions:
                self.fetcher.unassign(name)
            self._announcements.ended(name)
        self._stirred = True

    # --- the cluster ----------------------------------------------------------------------------

    def cluster_changed(self, change: ClusterChange, now_ms: int) -> None:
        """Newer metadata arrived."""
        self.fetcher.leaders_changed(now_ms, self._find_source)
        if self.subscription.mode is Mode.ASSIGNED:
            self._identify(now_ms)
        elif self.subscription.mode is Mode.ALL:
            for topic in change.removed_topics:
                gone = [
                    n for n, p in self.fetcher.partitions.items() if p.topic_id == topic.topic_id
                ]
                self._end_partitions(gone)
                self.subscription.seen_topics.discard(topic.name)
            self._read_all(now_ms)
        self._stirred = True

    def _identify(self, now_ms: int) -> None:
        """Give assigned partitions the id of their topic; another id means another log."""
        for name, partition in self.fetcher.partitions.items():
            topic = self._cluster.topics.get(name.topic)
            if topic is None or topic.topic_id == partition.topic_id:
                continue
            before = partition.topic_id
            if before:
                self.delivery.withdraw((name,))
                self.fetcher.seek(partition, None)
            self.fetcher.identify(partition, topic.topic_id)
            if before:
                cause = OffsetOutOfRangeError(f"topic {name.topic} was deleted and made again")
                self.positions.reset(partition, now_ms, cause)
            elif partition.phase is Phase.AWAITING and not partition.seeks:
                self.positions.begin(partition, now_ms)

    def _read_all(self, now_ms: int) -> None:
        """Read every partition of the topics; those that appear later from their beginning."""
        seen = self.subscription.seen_topics
        added = []
        for topic_name in sorted(self.subscription.topics):
            topic = self._cluster.topics.get(topic_name)
            if topic is None:
                continue
            for info in topic.partitions:
                name = TopicPartition(topic_name, info.partition)
                if name in self.fetcher.partitions:
                    continue
                partition = self.fetcher.assign(name, topic.topic_id)
                added.append(name)
                if topic_name in seen:
                    self.positions.look_up(partition, EARLIEST, now_ms)
                else:
                    self.positions.begin(partition, now_ms)
            seen.add(topic_name)
        if added:
            self._announcements.assigned(added)

    def _find_source(self, topic_id: bytes, partition: int, avoided: int | None) -> Source | None:
        topic = self._cluster.topics_by_id.get(topic_id)
        if topic is None or partition >= len(topic.partitions):
            return None
        info = topic.partitions[partition]
        return choose_source(info, self._cluster.nodes, self.config.client_rack, avoided)

    # --- positions ------------------------------------------------------------------------------

    def partition(self, name: TopicPartition) -> Partition:
        """The state of an assigned partition. Raises InvalidRequestError."""
        found = self.fetcher.partitions.get(TopicPartition(*name))
        if found is None or found.leaving:
            raise InvalidRequestError(f"{name[0]}-{name[1]} is not assigned to this consumer")
        return found

    def assignment(self) -> set[TopicPartition]:
        """The partitions that are read."""
        return {name for name, one in self.fetcher.partitions.items() if not one.leaving}

    def seek(self, name: TopicPartition, mark: Mark) -> None:
        """Read a partition from an offset."""
        partition = self.partition(name)
        self.delivery.withdraw((partition.name,))
        self.positions.forget(partition.name)
        partition.seeks += 1
        self.fetcher.seek(partition, mark)
        self._stirred = True

    def seek_by(self, name: TopicPartition, position: Position | None, now_ms: int) -> None:
        """Read a partition from the beginning, the end, a time; None: the committed offset."""
        partition = self.partition(name)
        self.delivery.withdraw((partition.name,))
        if position is None:
            partition.seeks += 1
            self.fetcher.seek(partition, None)
            self.positions.begin(partition, now_ms)
        else:
            self.positions.look_up(partition, position, now_ms)
        self._stirred = True

    def set_paused(self, names: Iterable[TopicPartition], paused: bool) -> None:
        """Hand out nothing of these partitions, or again."""
        for partition in [self.partition(name) for name in names]:
            if partition.paused is paused:
                continue
            if paused:
                self.delivery.withdraw((partition.name,))
                self.fetcher.pause(partition)
            else:
                self.fetcher.resume(partition)
        self._stirred = True

    def commit(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata] | None,
        now_ms: int,
        deadline_ms: int,
    ) -> CommitTicket:
        """Commit these offsets, or the positions of everything that is read.

        Raises UnknownMemberError if the application means partitions that were lost meanwhile.
        """
        self.delivery.settle()
        lost = self._announcements.untold_losses()
        if offsets is None and lost:
            places = ", ".join(f"{name.topic}-{name.partition}" for name in lost)
            raise UnknownMemberError(f"this member lost {places}; their new owners read them again")
        chosen = self.commits.positions() if offsets is None else offsets
        known = {}
        for name, offset in chosen.items():
            partition = self.fetcher.partitions.get(name)
            topic = self._cluster.topics.get(name.topic)
            topic_id = partition.topic_id if partition else topic.topic_id if topic else b""
            known[name] = (topic_id, offset)
        ticket = self.commits.commit(known, self._is_member, now_ms, deadline_ms)
        self._stirred = True
        return ticket

    @property
    def _is_member(self) -> bool:
        return self.subscription.mode is Mode.GROUP


def group_config(config: ConsumerConfig) -> GroupConfig:
    """The part of the configuration that a group member needs."""
    return GroupConfig(
        group_id=config.group_id,
        instance_id=config.group_instance_id,
        client_id=config.client_id,
        rack=config.client_rack,
        assignor=config.partition_assignment_strategy,
        session_timeout_ms=config.session_timeout_ms,
        heartbeat_interval_ms=config.heartbeat_interval_ms,
        poll_interval_ms_max=config.max_poll_interval_ms,
        backoff_ms=config.retry_backoff_ms,
    )
