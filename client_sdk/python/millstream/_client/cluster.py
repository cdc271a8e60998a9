"""What a client knows of the cluster: nodes, topics, leaders; fed by ``WatchCluster`` messages.

Pure: the owner feeds messages in and gets told what changed. Everything remembers the metadata
version at which it was last heard of, and older news never replace newer ones: a client that
reconnects to a broker that lags behind does not go back to former leaders (invariant 3).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from millstream._errors import LeaderNotAvailableError, UnknownPartitionError, UnknownTopicError
from millstream.v1 import metadata_service_pb2 as pb

_BROKER = pb.NODE_ROLE_BROKER
_COORDINATOR = pb.NODE_ROLE_COORDINATOR


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A process of the cluster."""

    node_id: int
    host: str
    port: int
    rack: str = ""
    roles: frozenset[str] = frozenset()
    epoch: int = 0
    fenced: bool = False
    version: str = ""
    shutting_down: bool = False
    decommissioning: bool = False

    @property
    def address(self) -> str:
        """``host:port`` as gRPC wants it."""
        host = f"[{self.host}]" if ":" in self.host and self.host[0] != "[" else self.host
        return f"{host}:{self.port}"

    @property
    def is_broker(self) -> bool:
        """True if the node holds partitions (and so answers metadata calls)."""
        return "broker" in self.roles


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """A partition; ``leader_id`` is None while it has no leader. What stands after the replicas is
    known from descriptions only."""

    partition: int
    leader_id: int | None
    leader_epoch: int
    partition_epoch: int = 0
    replica_ids: tuple[int, ...] = ()
    in_sync_replica_ids: tuple[int, ...] = ()
    eligible_leader_replica_ids: tuple[int, ...] = ()
    min_in_sync_replicas: int = 0
    under_replicated: bool = False
    under_min_in_sync_replicas: bool = False
    last_known_eligible_leader_ids: tuple[int, ...] = ()
    recovering: bool = False
    damaged_replica_ids: tuple[int, ...] = ()
    adding_replica_ids: tuple[int, ...] = ()
    removing_replica_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic; ``partitions[n]`` is partition n. ``configs`` holds what was set on the topic."""

    name: str
    topic_id: bytes
    partitions: tuple[PartitionInfo, ...]
    internal: bool
    configs: Mapping[str, str]

    @property
    def log_append_time(self) -> bool:
        """True if its records carry the time of the append instead of the producer's."""
        return self.configs.get("message.timestamp.type") == "LogAppendTime"


@dataclass(frozen=True, slots=True)
class ClusterChange:
    """What one message changed. A topic created again under its name is both removed (the old id)
    and in ``topics``."""

    version: int
    topics: tuple[TopicInfo, ...] = ()
    removed_topics: tuple[TopicInfo, ...] = ()
    missing_topics: frozenset[str] = frozenset()
    nodes_changed: bool = False


Listener = Callable[[ClusterChange], None]

_ROLE_NAMES = {
    pb.NODE_ROLE_BROKER: "broker",
    pb.NODE_ROLE_METADATA: "metadata",
    pb.NODE_ROLE_COORDINATOR: "coordinator",
}


def node_from_proto(node: pb.Node) -> NodeInfo:
    """A node as clients see it."""
    roles = frozenset(_ROLE_NAMES[role] for role in node.roles if role in _ROLE_NAMES)
    return NodeInfo(
        node.node_id, node.host, node.port, node.rack, roles, node.epoch, node.fenced,
        node.version, node.shutting_down, node.decommissioning,
    )  # fmt: skip


def topic_from_proto(topic: pb.Topic) -> TopicInfo:
    """A topic as clients see it."""
    partitions = tuple(
        PartitionInfo(
            p.partition,
            p.leader_id if p.HasField("leader_id") else None,
            p.leader_epoch,
            p.partition_epoch,
            tuple(p.replica_ids),
            tuple(p.in_sync_replica_ids),
            tuple(p.eligible_leader_replica_ids),
            p.min_in_sync_replicas,
            p.under_replicated,
            p.under_min_in_sync_replicas,
            tuple(p.last_known_eligible_leader_ids),
            p.recovering,
            tuple(p.damaged_replica_ids),
            tuple(p.adding_replica_ids),
            tuple(p.removing_replica_ids),
        )
        for p in topic.partitions
    )
    return TopicInfo(topic.name, topic.topic_id, partitions, topic.internal, dict(topic.configs))


class ClusterCache:
    """The client's picture of the cluster. Not locked: one owner feeds it, and dictionaries are
    replaced by key, so readers in other threads see whole values."""

    def __init__(self) -> None:
        self.cluster_id = ""
        self.version = 0
        # True once a first message has arrived.
        self.known = False
        self.nodes: dict[int, NodeInfo] = {}
        self.topics: dict[str, TopicInfo] = {}
        self.topics_by_id: dict[bytes, TopicInfo] = {}
        # Names asked for that do not exist, with the version at which that was so.
        self.missing: dict[str, int] = {}
        self._topic_versions: dict[str, int] = {}
        self._node_versions: dict[int, int] = {}
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` after every change; returns the way to stop that."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def apply(self, message: pb.WatchClusterResponse) -> ClusterChange:
        """Take in one message of a watch, then tell the listeners what changed."""
        if message.complete and self.cluster_id and message.cluster_id != self.cluster_id:
            self._forget()
        if message.cluster_id:
            self.cluster_id = message.cluster_id
        version = message.version
        nodes_changed = self._apply_nodes(message, version)
        removed = self._apply_removed_topics(message, version)
        changed = self._apply_topics(message, version, removed)
        missing = frozenset(
            name for name in message.missing_topics if self._topic_versions.get(name, 0) <= version
        )
        for name in missing:
            if name in self.topics:
                removed.append(self._drop(self.topics[name], version))
            self.missing[name] = version
        self.version = max(self.version, version)
        self.known = True
        change = ClusterChange(version, tuple(changed), tuple(removed), missing, nodes_changed)
        for listener in tuple(self._listeners):
            listener(change)
        return change

    def _forget(self) -> None:
        """Another cluster answers now: nothing that was known holds."""
        self.version = 0
        for known in (
            self.nodes, self.topics, self.topics_by_id, self.missing,
            self._topic_versions, self._node_versions,
        ):  # fmt: skip
            known.clear()

    def _apply_nodes(self, message: pb.WatchClusterResponse, version: int) -> bool:
        before = dict(self.nodes)
        named = {node.node_id for node in message.nodes}
        gone = set(message.removed_node_ids)
        if message.complete:
            gone |= self.nodes.keys() - named
        for node_id in gone:
            if self._node_versions.get(node_id, 0) <= version:
                self.nodes.pop(node_id, None)
                self._node_versions.pop(node_id, None)
        for node in message.nodes:
            if self._node_versions.get(node.node_id, 0) <= version:
                self.nodes[node.node_id] = node_from_proto(node)
                self._node_versions[node.node_id] = version
        return before != self.nodes

    def _apply_removed_topics(
        self, message: pb.WatchClusterResponse, version: int
    ) -> list[TopicInfo]:
        removed = []
        for topic_id in message.removed_topic_ids:
            topic = self.topics_by_id.get(topic_id)
            if topic is not None and self._topic_versions.get(topic.name, 0) <= version:
                removed.append(self._drop(topic, version))
        return removed

    def _apply_topics(
        self, message: pb.WatchClusterResponse, version: int, removed: list[TopicInfo]
    ) -> list[TopicInfo]:
        changed = []
        for raw in message.topics:
            if self._topic_versions.get(raw.name, 0) > version:
                continue
            topic = topic_from_proto(raw)
            known = self.topics.get(topic.name)
            if known is not None and known.topic_id != topic.topic_id:
                removed.append(self._drop(known, version))
            self.missing.pop(topic.name, None)
            self._topic_versions[topic.name] = version
            self.topics[topic.name] = topic
            self.topics_by_id[topic.topic_id] = topic
            if topic != known:
                changed.append(topic)
        return changed

    def _drop(self, topic: TopicInfo, version: int) -> TopicInfo:
        self.topics.pop(topic.name, None)
        self.topics_by_id.pop(topic.topic_id, None)
        self._topic_versions[topic.name] = version
        return topic

    def forget_topics(self, names: Iterable[str]) -> None:
        """Forget topics that are watched no more."""
        for name in names:
            topic = self.topics.pop(name, None)
            if topic is not None:
                self.topics_by_id.pop(topic.topic_id, None)
            self._topic_versions.pop(name, None)
            self.missing.pop(name, None)

    def topic(self, name: str) -> TopicInfo:
        """A topic by name. Raises UnknownTopicError."""
        found = self.topics.get(name)
        if found is None:
            raise UnknownTopicError(f"no topic is named {name!r}")
        return found

    def leader(self, topic_id: bytes, partition: int) -> tuple[NodeInfo, int]:
        """(node, leader epoch) of a partition.

        Raises UnknownTopicError, UnknownPartitionError or LeaderNotAvailableError.
        """
        topic = self.topics_by_id.get(topic_id)
        if topic is None:
            raise UnknownTopicError(f"no topic has the id {topic_id.hex()}")
        if not 0 <= partition < len(topic.partitions):
            raise UnknownPartitionError(
                f"{topic.name} has {len(topic.partitions)} partitions, not {partition + 1}"
            )
        info = topic.partitions[partition]
        node = None if info.leader_id is None else self.nodes.get(info.leader_id)
        if node is None:
            raise LeaderNotAvailableError(f"{topic.name}-{partition} has no leader at present")
        return node, info.leader_epoch

    def brokers(self) -> list[NodeInfo]:
        """The brokers that are in session."""
        return [node for node in self.nodes.values() if node.is_broker and not node.fenced]
