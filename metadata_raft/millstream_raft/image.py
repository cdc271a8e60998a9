"""The metadata of a cluster at one version, as immutable values.

An ``Image`` is made only by ``commands.apply_entry`` and ``image_codec.decode_image``. A new
version shares everything that did not change with the one before, so that the raft thread may
make the next one while the event loop still reads this one. Mappings are plain dicts for speed;
nobody but the builder of a new image may write to them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import attrgetter
from typing import Any
from zlib import crc32

OFFSETS_TOPIC = "__consumer_offsets"
FLUSH_FSYNC = "fsync"
FLUSH_PAGE_CACHE = "page_cache"


@dataclass(frozen=True, slots=True)
class NodeState:
    """The registration of a broker or coordinator."""

    node_id: int
    # Counter stepped at each new incarnation's registration (invariant 3).
    epoch: int
    incarnation_id: bytes
    # Subset of "broker", "metadata", "coordinator".
    roles: frozenset[str]
    host: str
    port: int
    rack: str
    # Version of the software.
    version: str
    # Random id of the log directory, 16 bytes; empty for nodes without one.
    directory_id: bytes
    # True until the node follows the image, and after its session ended: leads nothing.
    fenced: bool
    # The node wants to stop: leads nothing and owns no shard.
    shutting_down: bool = False
    # The log directory failed: leads nothing until a new incarnation registers.
    log_dir_offline: bool = False
    # The log directory was closed cleanly under the epoch before this one.
    clean_shutdown: bool = False
    # Highest epoch under which the node was unfenced; what its disk must remember (invariant 7).
    served_epoch: int = 0
    # Version of the image that first held this registration, or the end of its last session: the
    # node is not unfenced before its own image has that.
    registered_version: int = 0
    # Session time-out granted, milliseconds. A new controller must wait as long as any before it
    # granted, or it could fence a node that is still within its session.
    session_timeout_ms: int = 0
    # The broker gets no new replicas, and loses those that it has.
    decommissioning: bool = False

    @property
    def address(self) -> str:
        """``host:port`` as gRPC takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def may_lead(self) -> bool:
        """True if partitions of this node may be led by it now."""
        return (
            "broker" in self.roles
            and not self.fenced
            and not self.shutting_down
            and not self.log_dir_offline
        )

    @property
    def may_coordinate(self) -> bool:
        """True if shards may be leased to this node now."""
        return "coordinator" in self.roles and not self.fenced and not self.shutting_down


@dataclass(frozen=True, slots=True)
class RecoveredLog:
    """How far the log of a last known eligible replica reaches (invariant 7)."""

    # Leader epoch of the last batch, and the offset behind the last synced record.
    last_epoch: int
    synced_end_offset: int
    node_id: int

    @property
    def end(self) -> tuple[int, int]:
        """What logs are compared by."""
        return self.last_epoch, self.synced_end_offset


@dataclass(frozen=True, slots=True)
class Reassignment:
    """Where a partition goes. Meanwhile it has the replicas from before and those added."""

    # Node ids in the end; the first is the preferred leader then.
    target: tuple[int, ...]
    # Node ids that had no replica before; they stand behind all others. Some may be of a target
    # that was given up, and leave again.
    added: tuple[int, ...]
    # Least in-sync replicas in the end.
    min_isr: int


@dataclass(frozen=True, slots=True)
class PartitionState:
    """A partition. Terms of invariants 1-7."""

    number: int
    # None: no leader at present.
    leader_id: int | None
    # Grows on every change of leader, to None as well (invariant 2).
    leader_epoch: int
    # Grows on every change (invariant 1).
    partition_epoch: int
    # Node ids; the first is the preferred leader.
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    # Eligible leader replicas: out of the ISR, yet known to hold everything acknowledged.
    elr: tuple[int, ...] = ()
    # Who may lead after an unclean restart of all (invariant 7).
    last_known_elr: tuple[int, ...] = ()
    min_isr: int = 1
    # FLUSH_FSYNC or FLUSH_PAGE_CACHE.
    flush_mode: str = FLUSH_FSYNC
    # Node epochs up to this one may have served the partition in page-cache mode (invariant 7).
    fsync_after_node_epoch: int = 0
    # Led by a replica that may miss records, until the leader's first change (invariant 7).
    recovering: bool = False
    # What members of ``last_known_elr`` told of their logs since they registered.
    recovered_logs: tuple[RecoveredLog, ...] = ()
    # Replicas with damaged logs, until they are in sync again: they lead only by an operator's
    # order that names them (invariant 34).
    damaged: tuple[int, ...] = ()
    # None: the replicas are where they belong.
    reassignment: Reassignment | None = None
    # What was acknowledged may be missing from the log of the leader, while ``recovering``, or of
    # whoever is elected from ``last_known_elr`` (invariants 5 and 7).
    possible_loss: bool = False
    # Serialised field of a TopicRecord, kept by the codec so that a snapshot is a join.
    encoded: bytes = field(default=b"", compare=False, repr=False)

    @property
    def adding(self) -> tuple[int, ...]:
        """Node ids that a reassignment adds."""
        return tuple(one for one in self._added if one in self.target)

    @property
    def removing(self) -> tuple[int, ...]:
        """Node ids that leave when the reassignment is finished."""
        target = self.target
        return tuple(one for one in self.replicas if one not in target)

    @property
    def target(self) -> tuple[int, ...]:
        """Node ids in the end; the replicas, unless the partition is reassigned."""
        return self.replicas if self.reassignment is None else self.reassignment.target

    @property
    def target_in_sync_min(self) -> int:
        """How many of the target must be in sync before the others leave: all of them; but the
        least that the partition needs where all of them were there before, and the others came by
        a reassignment since. The leader waits for all that run (see ``in_sync_changes``)."""
        if self._added and self.target == self.settled:
            return min(self.min_isr, len(self.target))
        return len(self.target)

    @property
    def settled(self) -> tuple[int, ...]:
        """Node ids of the replicas that a reassignment did not add."""
        added = self._added
        return tuple(one for one in self.replicas if one not in added)

    @property
    def _added(self) -> tuple[int, ...]:
        return self.reassignment.added if self.reassignment is not None else ()

    @property
    def preferred_leader_id(self) -> int:
        """The replica that leads when everything is well."""
        return self.target[0]

    @property
    def under_replicated(self) -> bool:
        """True while a replica is not in sync, other than those that a reassignment adds."""
        return any(one not in self.isr for one in self.settled)


#: All of a partition but its number and its serialised form; ``PartitionState(number, *shape)`` is
#: the partition. Few shapes make up even a large image, so what depends on nothing else is worked
#: out once for each: the end of a session, which changes thousands, must not hold up the quorum.
shape_of: Callable[[PartitionState], tuple[Any, ...]] = attrgetter(
    *(one.name for one in fields(PartitionState)[1:-1])
)


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic with its partitions, by number."""

    name: str
    # 16 bytes; a topic created again under the same name has another one.
    topic_id: bytes
    internal: bool
    # What was set on the topic itself; effective values: ``topic_config.effective``.
    configs: Mapping[str, str]
    partitions: tuple[PartitionState, ...]
    # Serialised TopicRecord, kept by the codec so that a snapshot is a join.
    encoded: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ShardLease:
    """Who coordinates the groups of one partition of ``__consumer_offsets`` (invariant 28)."""

    # Number of the partition.
    shard: int
    # None: no coordinator is available.
    owner_id: int | None
    # Grows with every change of owner; also the producer epoch of the shard's writes.
    shard_epoch: int
    # The only producer id that may write the shard's partition; never changes.
    producer_id: int


@dataclass(frozen=True, slots=True)
class RequestSession:
    """The last answers given to one client, for exactly-once writes (invariant 1b)."""

    session_id: int
    # Highest sequence whose answer was dropped; it and lower ones are refused.
    forgotten_sequence: int = 0
    # (sequence, serialised ExecuteResponse), oldest answer first.
    replies: tuple[tuple[int, bytes], ...] = ()
    # Version of the last use.
    used_version: int = 0

    def reply(self, sequence: int) -> bytes | None:
        """The answer given to a sequence, None if there is none any more or yet."""
        return next((reply for number, reply in self.replies if number == sequence), None)


@dataclass(frozen=True)
class Image:
    """All metadata at one version. Keys are topic ids; names are resolved once, at the edge."""

    # Stepped by one per command.
    version: int = 0
    # Empty until the first controller was elected.
    cluster_id: str = ""
    # Feature level of commands and records in use.
    metadata_version: int = 1
    # Node id of the elected controller, 0 for none yet, and its epoch (invariant 1a).
    controller_id: int = 0
    controller_epoch: int = 0
    # Next numbers to hand out; none is ever handed out twice.
    next_node_epoch: int = 1
    next_producer_id: int = 1
    next_session_id: int = 1
    nodes: Mapping[int, NodeState] = field(default_factory=dict)
    topics: Mapping[bytes, TopicState] = field(default_factory=dict)
    topic_ids: Mapping[str, bytes] = field(default_factory=dict)
    # By shard number, one per partition of ``__consumer_offsets``.
    shards: tuple[ShardLease, ...] = ()
    sessions: Mapping[int, RequestSession] = field(default_factory=dict)
    # Bytes per second that a leader copies to replicas that are being added; 0: no limit.
    reassignment_bytes_per_s: int = 0

    def topic(self, name: str) -> TopicState | None:
        """The topic of a name, None if there is none."""
        topic_id = self.topic_ids.get(name)
        return None if topic_id is None else self.topics[topic_id]

    def partition(self, topic_id: bytes, number: int) -> PartitionState | None:
        """A partition, None if the topic or the number is unknown."""
        topic = self.topics.get(topic_id)
        if topic is None or not 0 <= number < len(topic.partitions):
            return None
        return topic.partitions[number]

    def node(self, node_id: int | None) -> NodeState | None:
        """The registration of a node, None if there is none."""
        return None if node_id is None else self.nodes.get(node_id)

    def shard_of_group(self, group_id: str) -> int | None:
        """Shard that holds a group; None while ``__consumer_offsets`` does not exist."""
        return shard_of_group(group_id, len(self.shards)) if self.shards else None

    def partitions_of_node(self, node_id: int) -> Iterator[tuple[TopicState, PartitionState]]:
        """Every partition with a replica on the node. Walks the whole image."""
        for topic in self.topics.values():
            for partition in topic.partitions:
                if node_id in partition.replicas:
                    yield topic, partition

    def partitions_led_by(self, node_id: int) -> Iterator[tuple[TopicState, PartitionState]]:
        """Every partition that the node leads. Walks the whole image."""
        for topic in self.topics.values():
            for partition in topic.partitions:
                if partition.leader_id == node_id:
                    yield topic, partition

    def shards_owned_by(self, node_id: int) -> tuple[ShardLease, ...]:
        """The leases of a coordinator."""
        return tuple(lease for lease in self.shards if lease.owner_id == node_id)

    @cached_property
    def partition_count(self) -> int:
        """Number of partitions of all topics."""
        return sum(len(topic.partitions) for topic in self.topics.values())


EMPTY_IMAGE = Image()


def shard_of_group(group_id: str, shard_count: int) -> int:
    """Shard of a group: CRC-32 of its UTF-8 bytes, modulo the number of shards."""
    return crc32(group_id.encode()) % shard_count
