"""The consumer without its network: subscription, rebalances, positions, delivery, commits.

A driver (asyncio or threads) owns one core. It reports what happens, carries out what
``take_effects`` hands out, and calls ``tick`` when ``next_tick_ms`` says so. The application's
calls become *steps*: ``begin_step`` … ``next_event`` … hand out … ``end_step``.

Pure: time comes in as ``now_ms`` (monotonic milliseconds). Not locked.
"""

from collections.abc import Iterable, Mapping

from millstream._cluster import ClusterCache, ClusterChange
from millstream._config import ConsumerConfig
from millstream._consumer_announcements import Announcements
from millstream._consumer_commits import AutoCommit, Commits
from millstream._consumer_delivery import Delivery
from millstream._consumer_effects import (
    CloseFetch,
    CloseGroup,
    Effect,
    OpenFetch,
    OpenGroup,
    SeekCoordinator,
    SendFetch,
    SendGroup,
    UseTopic,
)
from millstream._consumer_lookups import EARLIEST, OffsetLookups
from millstream._consumer_positions import Positions
from millstream._errors import InvalidRequestError, MillstreamError, OffsetOutOfRangeError
from millstream._fetch_decode import Deserializers
from millstream._fetch_partition import Mark, Partition, Phase
from millstream._fetch_placement import Leader
from millstream._fetch_session import FetchLimits, FetchSession
from millstream._fetcher import Fetcher, MakeError
from millstream._group_commits import CommitTicket
from millstream._group_session import GroupSession
from millstream._group_types import (
    Assigned,
    CloseStream,
    Failed,
    FindCoordinator,
    GroupConfig,
    GroupState,
    Lost,
    OpenStream,
    Owned,
    Revoking,
    SendToGroup,
)
from millstream._record import OffsetAndMetadata, TopicPartition
from millstream._subscription import Change, Mode, RebalanceEvent, Subscription
from millstream.v1.broker_service_pb2 import Position


class ConsumerCore:
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
        self.fetcher.leaders_changed(self._find_leader)
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

    def _find_leader(self, topic_id: bytes, partition: int) -> Leader | None:
        topic = self._cluster.topics_by_id.get(topic_id)
        if topic is None or partition >= len(topic.partitions):
            return None
        info = topic.partitions[partition]
        if info.leader_id is None or info.leader_id not in self._cluster.nodes:
            return None
        return Leader(info.leader_id, info.leader_epoch)

    # --- the application's steps ----------------------------------------------------------------

    def begin_step(self, now_ms: int) -> None:
        """The application asks for records: all that it got before is processed."""
        self.delivery.step()
        self.group.polled(now_ms, waiting=True)
        self.group.check_session(now_ms)
        self.auto_commit.step(self._is_member, now_ms)
        self._drain_group(now_ms)

    def breathe(self, now_ms: int) -> None:
        """Between two records of an iteration: is the session still alive?"""
        self.group.polled(now_ms, waiting=False)
        self.group.check_session(now_ms)
        self._drain_group(now_ms)

    def commit_processed(self, names: Iterable[TopicPartition], now_ms: int) -> CommitTicket | None:
        """Commit what is processed of these partitions, with auto-commit; None: nothing to do."""
        ticket = self.auto_commit.commit_now(names, self._is_member, now_ms)
        self._stirred = True
        return ticket

    def undo_step(self) -> None:
        """The application did not get what was handed out in this step: hand it out again."""
        self.delivery.undo()
        self._stirred = True

    def end_step(self, now_ms: int) -> None:
        """The application goes to work."""
        self.group.polled(now_ms, waiting=False)

    def next_event(self) -> RebalanceEvent | None:
        """The next change to tell the application; then call ``event_told``."""
        return self._announcements.next()

    def event_told(self, event: RebalanceEvent, now_ms: int) -> None:
        """The application knows; revoked partitions are committed and then given up."""
        if event.change is not Change.REVOKED:
            return
        names = [name for name in event.partitions if name in self.fetcher.partitions]
        ticket = self.auto_commit.commit_now(names, self._is_member, now_ms)
        if ticket is None or ticket.done:
            self._releasable.append(names)
        else:
            ticket.listeners.append(lambda _: self._releasable.append(names))
        self._stirred = True

    def failure(self) -> Exception | None:
        """What to raise when nothing was handed out; None: nothing is wrong."""
        return self.fatal or self.fetcher.first_failure()

    @property
    def has_events(self) -> bool:
        """True if there is a change to tell the application."""
        return bool(self._announcements)

    @property
    def has_news(self) -> bool:
        """True if a waiting application should look again."""
        return bool(
            self._announcements
            or self.delivery.has_ready
            or self.fatal
            or self.fetcher.first_failure() is not None
        )

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
        """Commit these offsets, or the positions of everything that is read."""
        self.delivery.settle()
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

    # --- the network ------------------------------------------------------------------------------

    def fetched(self, stream_id: int, response: object, now_ms: int) -> None:
        """A push arrived on a fetch stream."""
        session = self._fetch_streams.get(stream_id)
        if session is not None:
            self.fetcher.received(session, response, now_ms)

    def fetch_broken(self, stream_id: int, now_ms: int) -> None:
        """A fetch stream ended."""
        session = self._fetch_streams.pop(stream_id, None)
        if session is not None:
            self.fetcher.broken(session, now_ms)
            self._stirred = True

    def stir(self) -> None:
        """Something changed that the next ``take_effects`` has to look at."""
        self._stirred = True

    def tick(self, now_ms: int) -> None:
        """Do what is due."""
        self.group.tick(now_ms)
        if self.auto_commit.tick(self.group.polling, self._is_member, now_ms):
            # The application is at work: make it come back for the next record.
            self.delivery.withdraw()
        self._stirred = True

    def next_tick_ms(self) -> int | None:
        """When ``tick`` is due; None: not before something else happens."""
        times = (
            self.group.next_tick_ms(),
            self.lookups.next_tick_ms(),
            self.positions.next_tick_ms(),
            self.fetcher.next_retry_ms(),
            self.commits.next_tick_ms(),
            self.auto_commit.next_tick_ms(),
        )
        return min((time for time in times if time is not None), default=None)

    def take_effects(self, now_ms: int) -> list[Effect]:
        """What to do now, in order."""
        if self.stirred:
            self._stirred = self.fetcher.stirred = False
            self._settle(now_ms)
        for stream_id, session in self._fetch_streams.items():
            request = session.take_request()
            if request is not None:
                self._effects.append(SendFetch(stream_id, request))
        effects, self._effects = self._effects, []
        return effects

    @property
    def stirred(self) -> bool:
        """True if the time of the next tick may have changed."""
        return self._stirred or self.fetcher.stirred

    def _settle(self, now_ms: int) -> None:
        self._drain_group(now_ms)
        for partition, error in self.fetcher.take_out_of_range():
            self.positions.reset(partition, now_ms, error)
        for call in (
            self.positions.take(now_ms),
            self.lookups.take(now_ms),
            self.commits.take(now_ms),
        ):
            if call is not None:
                self._effects.append(call)
        self.fetcher.place(now_ms, self._find_leader)
        for session in self.fetcher.unopened():
            self._stream_count += 1
            self.fetcher.opened(session, self._stream_count)
            self._fetch_streams[self._stream_count] = session
            address = self._cluster.nodes[session.node_id].address
            self._effects.append(OpenFetch(self._stream_count, address))
        for session in self.fetcher.idle_sessions(now_ms):
            if session.stream_id is not None:
                self._fetch_streams.pop(session.stream_id, None)
                self._effects.append(CloseFetch(session.stream_id))
                session.broken()

    # --- the group --------------------------------------------------------------------------------

    def _drain_group(self, now_ms: int) -> None:
        while True:
            releasable, self._releasable = self._releasable, []
            for names in releasable:
                self._end_partitions(names)
                self.group.released(names, now_ms)
            outputs = self.group.take()
            if not outputs and not self._releasable:
                return
            for output in outputs:
                match output:
                    case FindCoordinator():
                        timeout_ms = max(1000, self.config.session_timeout_ms // 2)
                        self._effects.append(SeekCoordinator(timeout_ms))
                    case OpenStream(stream_id):
                        self._effects.append(OpenGroup(stream_id))
                    case SendToGroup(stream_id, request):
                        self._effects.append(SendGroup(stream_id, request))
                    case CloseStream(stream_id):
                        self._effects.append(CloseGroup(stream_id))
                    case Assigned(partitions):
                        self._assigned(partitions, now_ms)
                    case Revoking(partitions):
                        self._revoking(list(partitions))
                    case Lost(partitions):
                        self._lost(list(partitions))
                    case Failed(error):
                        self.fatal = error
            self._stirred = True

    def _assigned(self, partitions: Owned, now_ms: int) -> None:
        for name, topic_id in partitions.items():
            partition = self.fetcher.assign(name, topic_id)
            self._effects.append(UseTopic(name.topic))
            self.positions.begin(partition, now_ms)
        self._announcements.assigned(partitions)

    def _revoking(self, names: list[TopicPartition]) -> None:
        self.delivery.withdraw(names)
        self.fetcher.leave(names)
        for name in names:
            self.positions.forget(name)
        untold = self._announcements.revoked(names)
        if untold:
            self._releasable.append(untold)

    def _lost(self, names: list[TopicPartition]) -> None:
        self._announcements.lost(names)
        self._end_partitions(names)

    @property
    def left(self) -> bool:
        """True if the group knows that this member is gone, or cannot be told."""
        return self.group.state in (GroupState.IDLE, GroupState.FAILED, GroupState.AWAY)


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
