"""What the admin clients take and give: frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from millstream._client.cluster import NodeInfo, PartitionInfo, TopicInfo
from millstream._consumer.record import OffsetAndMetadata, TopicPartition


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic to create. Zero counts: the cluster's defaults."""

    name: str
    partitions: int = 0
    replication_factor: int = 0
    configs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConfigValue:
    """A configuration key in force. ``source`` is "topic", "cluster" or "default"."""

    key: str
    value: str
    source: str
    documentation: str = ""


@dataclass(frozen=True, slots=True)
class ClusterDescription:
    """The cluster. ``controller_id`` is None while no controller is known."""

    cluster_id: str
    controller_id: int | None
    controller_epoch: int
    nodes: tuple[NodeInfo, ...]
    version: int


@dataclass(frozen=True, slots=True)
class BrokerInfo:
    """A broker and what it holds: partitions led, replicas, and those of them not in sync."""

    node: NodeInfo
    leader_count: int
    replica_count: int
    out_of_sync_count: int


@dataclass(frozen=True, slots=True)
class ReassignmentInfo:
    """A partition that is being moved; finished when all of the target are in sync."""

    topic: str
    partition: int
    target_replica_ids: tuple[int, ...]
    adding_replica_ids: tuple[int, ...]
    removing_replica_ids: tuple[int, ...]
    in_sync_replica_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PartitionReassignments:
    """The partitions that are being moved. ``throttle_bytes_per_s`` holds for each leader; 0: no
    limit."""

    reassignments: tuple[ReassignmentInfo, ...]
    throttle_bytes_per_s: int


@dataclass(frozen=True, slots=True)
class QuorumNodeInfo:
    """A metadata node. ``last_index`` and ``lag`` are None where they are not known."""

    node_id: int
    address: str
    last_index: int | None
    lag: int | None
    connected: bool


@dataclass(frozen=True, slots=True)
class QuorumDescription:
    """The metadata quorum. ``leader_id`` is None while there is no leader."""

    leader_id: int | None
    term: int
    commit_index: int
    nodes: tuple[QuorumNodeInfo, ...]


@dataclass(frozen=True, slots=True)
class LogDirPartitionInfo:
    """One log on a broker's disk. Sizes in bytes."""

    topic: str
    topic_id: bytes
    partition: int
    size_bytes: int
    segment_count: int
    log_start_offset: int
    log_end_offset: int
    synced_end_offset: int
    offline_reason: str


@dataclass(frozen=True, slots=True)
class LogDirInfo:
    """One log directory of a broker. ``offline_reason`` is empty while it is online."""

    node_id: int
    path: str
    total_bytes: int
    free_bytes: int
    offline_reason: str
    partitions: tuple[LogDirPartitionInfo, ...]


@dataclass(frozen=True, slots=True)
class GroupListing:
    """A consumer group in a list. ``state`` is "empty", "assigning", "reconciling" or "stable"."""

    group_id: str
    state: str
    member_count: int
    coordinator_id: int


@dataclass(frozen=True, slots=True)
class MemberDescription:
    """A member of a group: what it owns, and what it should own."""

    member_id: str
    instance_id: str
    client_id: str
    client_host: str
    member_epoch: int
    owned: tuple[TopicPartition, ...]
    target: tuple[TopicPartition, ...]
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """A consumer group with its members."""

    group_id: str
    state: str
    group_epoch: int
    assignor: str
    members: tuple[MemberDescription, ...]
    shard: int
    coordinator: NodeInfo


@dataclass(frozen=True, slots=True)
class GroupOffset:
    """A committed offset of a group."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int | None
    metadata: str
    commit_timestamp_ms: int
    generation: int


@dataclass(frozen=True, slots=True)
class OffsetSpec:
    """Which offset to look up: use one of the three makers."""

    kind: str
    timestamp_ms: int = 0

    @classmethod
    def earliest(cls) -> "OffsetSpec":
        """The first record of the log."""
        return cls("earliest")

    @classmethod
    def latest(cls) -> "OffsetSpec":
        """The end of what may be read."""
        return cls("latest")

    @classmethod
    def at(cls, timestamp_ms: int) -> "OffsetSpec":
        """The first record at or after a time, milliseconds since 1970 UTC."""
        return cls("timestamp", timestamp_ms)


@dataclass(frozen=True, slots=True)
class OffsetInfo:
    """An offset that was looked up; None: no record is as new as the time asked for."""

    offset: int | None
    timestamp_ms: int | None
    leader_epoch: int


__all__ = [
    "ClusterDescription",
    "ConfigValue",
    "GroupDescription",
    "GroupListing",
    "GroupOffset",
    "LogDirInfo",
    "LogDirPartitionInfo",
    "MemberDescription",
    "NewTopic",
    "NodeInfo",
    "OffsetAndMetadata",
    "OffsetInfo",
    "OffsetSpec",
    "PartitionInfo",
    "QuorumDescription",
    "QuorumNodeInfo",
    "TopicInfo",
    "TopicPartition",
]
