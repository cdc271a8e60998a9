"""``Admin``: manages topics, groups and records, without an event loop."""

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from millstream._admin import groups as _groups
from millstream._admin import logs as _logs
from millstream._admin import replicas as _replicas
from millstream._admin import topics as _topics
from millstream._admin.flow import Ask, Flow, Pause, RequestSession
from millstream._admin.types import (
    BrokerInfo,
    ClusterDescription,
    ConfigValue,
    GroupDescription,
    GroupListing,
    GroupOffset,
    LogDirInfo,
    NewTopic,
    OffsetInfo,
    OffsetSpec,
    PartitionReassignments,
    QuorumDescription,
)
from millstream._client.clock import Clock
from millstream._client.cluster import TopicInfo
from millstream._client.config import AdminConfig
from millstream._client.retry import Chance
from millstream._client.sync_io import SyncClient
from millstream._consumer.record import OffsetAndMetadata, TopicPartition
from millstream._errors import MillstreamError, TimedOutError

T = TypeVar("T")


class Admin:
    """Manages a cluster.

    Connects when it is made; use it as a context, or ``close`` it. Thread-safe. Calls about
    several things try all of them; then the first error is raised, with all in ``failures``. Every
    call may also raise TimedOutError after default.api.timeout.ms, and ClientClosedError.

    Raises InvalidConfigError; UnavailableError or TimedOutError if no broker answers.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        /,
        *,
        clock: Clock | None = None,
        chance: Chance | None = None,
        **options: Any,
    ) -> None:
        self._config = AdminConfig.resolve(config, **options)
        self._client = SyncClient(self._config, clock=clock, chance=chance)
        self._session = RequestSession()
        self._client.start()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options: Any) -> Self:
        """An admin client from a mapping with Kafka's keys."""
        return cls(config, **options)

    def close(self) -> None:
        """Close all connections. May be called twice."""
        self._client.close()

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _run(self, flow: Flow[T], timeout: float | None = None) -> T:
        """Drive a flow to its end."""
        limit_ms = self._config.default_api_timeout_ms if timeout is None else int(timeout * 1000)
        deadline_ms = self._client.now_ms() + limit_ms
        try:
            step = next(flow)
            while True:
                try:
                    answer = self._answer(step, deadline_ms)
                except MillstreamError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    def _answer(self, step: Ask | Pause, deadline_ms: int) -> Any:
        client = self._client
        left_ms = deadline_ms - client.now_ms()
        if left_ms <= 0:
            raise TimedOutError("no time is left for the call", indeterminate=False)
        if isinstance(step, Pause):
            client.sleep(min(step.delay_ms, left_ms))
            return None
        if step.group_id is not None:
            return client.call_group(step.group_id, step.method, step.request, timeout_ms=left_ms)
        return client.call(step.method, step.request, address=step.address, timeout_ms=left_ms)

    def create_topics(
        self, topics: Iterable[NewTopic | str], *, validate_only: bool = False
    ) -> list[TopicInfo]:
        """Create topics; names alone take the cluster's defaults. Returns them with their ids.

        Raises TopicAlreadyExistsError, InvalidTopicNameError, InvalidPartitionCountError,
        InvalidReplicationFactorError or InvalidConfigError.
        """
        return self._run(_topics.create_topics(self._session, topics, validate_only))

    def delete_topics(self, names: Iterable[str]) -> None:
        """Delete topics with their records. Raises UnknownTopicError."""
        self._run(_topics.delete_topics(self._session, names))

    def list_topics(self, *, include_internal: bool = False) -> list[TopicInfo]:
        """All topics, by name."""
        return self._run(_topics.list_topics(include_internal))

    def describe_topics(self, names: Iterable[str]) -> list[TopicInfo]:
        """The topics named, in that order, with all replicas. Raises UnknownTopicError."""
        return self._run(_topics.describe_topics(names))

    def create_partitions(
        self, totals: Mapping[str, int], *, validate_only: bool = False
    ) -> list[TopicInfo]:
        """Let topics grow to ``totals[name]`` partitions in all.

        Raises UnknownTopicError or InvalidPartitionCountError.
        """
        return self._run(_topics.create_partitions(self._session, totals, validate_only))

    def describe_configs(self, topics: Iterable[str]) -> dict[str, dict[str, ConfigValue]]:
        """Every configuration key of the topics, by topic and key. Raises UnknownTopicError."""
        return self._run(_topics.describe_configs(topics))

    def alter_configs(
        self,
        changes: Mapping[str, Mapping[str, object | None]],
        *,
        validate_only: bool = False,
    ) -> None:
        """Set configuration keys of topics, or unset those given as None; others stay as they are.

        Raises UnknownTopicError or InvalidConfigError; per topic all keys change or none.
        """
        self._run(_topics.alter_configs(self._session, changes, validate_only))

    def describe_cluster(self) -> ClusterDescription:
        """The nodes and the active controller."""
        return self._run(_topics.describe_cluster())

    def unregister_node(self, node_id: int) -> None:
        """Forget a broker or coordinator that will not come back. Raises UnknownNodeError, and
        NodeInUseError while it is in its session, has replicas or owns shards."""
        self._run(_topics.unregister_node(self._session, node_id))

    def elect_leaders(
        self,
        kind: str = "preferred",
        partitions: Mapping[TopicPartition, int | None] | Iterable[TopicPartition] | None = None,
    ) -> dict[TopicPartition, int]:
        """Elect leaders of the partitions (None: of all that need it); returns their leaders.

        "preferred" lets the first replicas lead where they are in sync. "unclean" lets any replica
        lead a partition without a leader, although acknowledged records may be lost; a mapping
        names the replica. Raises EligibleLeadersNotAvailableError, and ElectionNotNeededError for
        unclean elections of partitions with a leader.
        """
        return self._run(_replicas.elect_leaders(self._session, kind, partitions))

    def alter_partition_reassignments(
        self,
        targets: Mapping[TopicPartition, Sequence[int] | int | None],
        *,
        throttle_bytes_per_s: int | None = None,
        validate_only: bool = False,
    ) -> dict[TopicPartition, tuple[int, ...]]:
        """Move partitions to these brokers, or to so many of the cluster's choice; None stops a
        move. Returns the replicas in the end. The throttle (bytes/s and leader; 0: none) holds for
        all moves of the cluster, and stays as it is with None.

        Raises InvalidReplicaAssignmentError, InvalidReplicationFactorError or
        NoReassignmentInProgressError.
        """
        return self._run(
            _replicas.alter_partition_reassignments(
                self._session, targets, throttle_bytes_per_s, validate_only
            )
        )

    def list_partition_reassignments(self, topics: Iterable[str] = ()) -> PartitionReassignments:
        """The partitions that are being moved, of the topics (none: all)."""
        return self._run(_replicas.list_partition_reassignments(topics))

    def describe_brokers(self) -> list[BrokerInfo]:
        """The brokers with what they hold, by id."""
        return self._run(_replicas.describe_brokers())

    def decommission_broker(self, node_id: int, *, cancel: bool = False) -> int:
        """Take a broker out of the cluster: it gets no new replicas, and those that it has are
        moved away bit by bit; ``describe_brokers`` tells how many are left. ``cancel`` stops that.
        Returns how many it has. Raises UnknownNodeError or InvalidReplicationFactorError.
        """
        return self._run(_replicas.decommission_broker(self._session, node_id, cancel))

    def drain_broker(self, node_id: int) -> None:
        """Move all leaders and shards away from a node, until it is started again. Raises
        UnknownNodeError."""
        self._run(_replicas.drain_broker(self._session, node_id))

    def describe_quorum(self) -> QuorumDescription:
        """The metadata quorum: leader, term, and the log of each node."""
        return self._run(_topics.describe_quorum())

    def describe_log_dirs(
        self, node_ids: Iterable[int] | None = None, *, topics: Iterable[str] = ()
    ) -> list[LogDirInfo]:
        """The log directories of brokers (None: all), with the logs of the topics (none: all)."""
        return self._run(_logs.describe_log_dirs(node_ids, topics))

    def list_groups(self, states: Iterable[str] = ()) -> list[GroupListing]:
        """The consumer groups, by id; ``states`` such as "stable" narrow the list."""
        return self._run(_groups.list_groups(states))

    def describe_groups(self, group_ids: Iterable[str]) -> list[GroupDescription]:
        """The groups with their members, in that order. Raises UnknownGroupError."""
        return self._run(_groups.describe_groups(group_ids))

    def delete_groups(self, group_ids: Iterable[str]) -> None:
        """Delete groups with their offsets. Raises UnknownGroupError or GroupNotEmptyError."""
        self._run(_groups.delete_groups(group_ids))

    def list_group_offsets(
        self, group_id: str, partitions: Iterable[TopicPartition] | None = None
    ) -> dict[TopicPartition, GroupOffset]:
        """The group's committed offsets (None: all); partitions without one are left out."""
        return self._run(_groups.list_group_offsets(group_id, partitions))

    def alter_group_offsets(
        self, group_id: str, offsets: Mapping[TopicPartition, int | OffsetAndMetadata]
    ) -> None:
        """Move committed offsets of a group without members, forward or back.

        Raises GroupNotEmptyError, UnknownTopicError or InvalidCommitOffsetError.
        """
        self._run(_groups.alter_group_offsets(group_id, offsets))

    def reset_group_offsets(
        self, group_id: str, positions: Mapping[TopicPartition, OffsetSpec | int]
    ) -> dict[TopicPartition, int]:
        """Move committed offsets to positions like ``OffsetSpec.earliest()``; returns them.

        A time after the last record means the end. Raises as ``alter_group_offsets``.
        """
        return self._run(_groups.reset_group_offsets(group_id, positions))

    def delete_group_offsets(self, group_id: str, partitions: Iterable[TopicPartition]) -> None:
        """Forget committed offsets. Raises GroupNotEmptyError if a member uses the topic."""
        self._run(_groups.delete_group_offsets(group_id, partitions))

    def delete_records(
        self, before: Mapping[TopicPartition, int | None]
    ) -> dict[TopicPartition, int]:
        """Delete the records before an offset (None: all that may be read); returns the log starts.

        Raises OffsetOutOfRangeError or UnknownTopicError.
        """
        return self._run(_logs.delete_records(before))

    def list_offsets(
        self, positions: Mapping[TopicPartition, OffsetSpec]
    ) -> dict[TopicPartition, OffsetInfo]:
        """Look offsets up. Raises UnknownTopicError or UnknownPartitionError."""
        return self._run(_logs.list_offsets(positions))

    def wait_for_topics(
        self, names: Iterable[str], *, timeout: float | None = None
    ) -> list[TopicInfo]:
        """Wait until the topics exist and all their partitions have leaders.

        Raises TimedOutError after ``timeout`` seconds (None: default.api.timeout.ms).
        """
        return self._run(_topics.wait_for_topics(names), timeout)
