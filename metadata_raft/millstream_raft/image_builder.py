"""The next image in the making: collects the changes of one entry, shares everything else.

A builder lives for one entry. What an entry does not touch is taken over by reference; a mapping
is copied once when it is first written to. Partitions and topics are sealed (serialised) once, at
the end, however often they changed.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from millstream_raft.delta import CLEAN, RECOVERED, UNCLEAN, Delta, LossyElection
from millstream_raft.image import (
    Image,
    NodeState,
    PartitionState,
    RequestSession,
    TopicState,
    shape_of,
)
from millstream_raft.image_codec import seal_partitions, sealed_topic
from millstream_raft.placement import lease_shards
from millstream_raft.reassignments import carried_on

PartitionChange = Callable[[PartitionState], PartitionState]
Shape = tuple[Any, ...]


class ImageBuilder:
    """Reads see the changes made so far. Scalars are plain attributes, to be written directly."""

    def __init__(self, base: Image) -> None:
        self.base = base
        self.version = base.version
        self.cluster_id = base.cluster_id
        self.controller_id = base.controller_id
        self.controller_epoch = base.controller_epoch
        self.next_node_epoch = base.next_node_epoch
        self.next_producer_id = base.next_producer_id
        self.next_session_id = base.next_session_id
        self.reassignment_bytes_per_s = base.reassignment_bytes_per_s
        self.shards = base.shards
        # Number that the last command handed out.
        self.number = 0
        self._nodes = dict(base.nodes)
        self._sessions: dict[int, RequestSession] | None = None
        self._topics: dict[bytes, TopicState] | None = None
        self._topic_ids: dict[str, bytes] | None = None
        # Partitions of the topics touched, as lists that may be written to.
        self._partitions: dict[bytes, list[PartitionState]] = {}
        self._changed_topics: set[bytes] = set()
        self._changed_nodes: set[int] = set()
        self._removed_nodes: list[NodeState] = []
        self._changed_partitions: set[tuple[bytes, int]] = set()
        self._removed_topics: list[TopicState] = []
        self._elections: Counter[str] = Counter()
        self._lossy_elections: list[LossyElection] = []

    @property
    def nodes(self) -> dict[int, NodeState]:
        """Registrations by node id. Write by ``put_node`` only."""
        return self._nodes

    def put_node(self, node: NodeState) -> None:
        """Add or replace a registration."""
        self._nodes[node.node_id] = node
        self._changed_nodes.add(node.node_id)

    def remove_node(self, node: NodeState) -> None:
        """Remove a known registration."""
        del self._nodes[node.node_id]
        self._changed_nodes.discard(node.node_id)
        if (before := self.base.nodes.get(node.node_id)) is not None:
            self._removed_nodes.append(before)

    def session(self, session_id: int) -> RequestSession | None:
        """An open session."""
        sessions = self.base.sessions if self._sessions is None else self._sessions
        return sessions.get(session_id)

    def session_count(self) -> int:
        """Number of open sessions."""
        return len(self.base.sessions if self._sessions is None else self._sessions)

    def put_session(self, session: RequestSession) -> None:
        """Add or replace a session."""
        self._own_sessions()[session.session_id] = session

    def drop_session(self, session_id: int) -> None:
        """End an open session."""
        del self._own_sessions()[session_id]

    def topic(self, topic_id: bytes) -> TopicState | None:
        """A topic; its ``partitions`` may be old: see ``partitions``."""
        topics = self.base.topics if self._topics is None else self._topics
        return topics.get(topic_id)

    def has_name(self, name: str) -> bool:
        """True if a topic has this name."""
        return name in (self.base.topic_ids if self._topic_ids is None else self._topic_ids)

    def partitions(self, topic_id: bytes) -> tuple[PartitionState, ...] | list[PartitionState]:
        """The partitions of a known topic, by number."""
        own = self._partitions.get(topic_id)
        if own is not None:
            return own
        topic = self.topic(topic_id)
        return topic.partitions if topic is not None else ()

    def put_topic(self, topic: TopicState, partitions: list[PartitionState] | None = None) -> None:
        """Add a topic, or replace it; ``partitions`` unless they stay as they are."""
        self._own_topics()[topic.topic_id] = topic
        self._own_topic_ids()[topic.name] = topic.topic_id
        self._changed_topics.add(topic.topic_id)
        if partitions is not None:
            known = len(self.partitions(topic.topic_id))
            self._partitions[topic.topic_id] = partitions
            self._changed_partitions.update(
                (topic.topic_id, number) for number in range(known, len(partitions))
            )

    def remove_topic(self, topic: TopicState) -> None:
        """Remove a known topic."""
        del self._own_topics()[topic.topic_id]
        del self._own_topic_ids()[topic.name]
        self._partitions.pop(topic.topic_id, None)
        self._changed_topics.discard(topic.topic_id)
        self._changed_partitions = {
            key for key in self._changed_partitions if key[0] != topic.topic_id
        }
        if (before := self.base.topics.get(topic.topic_id)) is not None:
            self._removed_topics.append(before)

    def put_partition(
        self, topic_id: bytes, partition: PartitionState, *, election: str = CLEAN
    ) -> None:
        """Replace a partition of a known topic; ``election`` is why it has another leader, if it
        has."""
        self._put_partitions(topic_id, [partition], election)

    def change_partitions_of(self, node_id: int, change: PartitionChange) -> None:
        """Apply ``change`` to every partition with a replica on the node. Partitions of the same
        shape are changed alike: it must not look at the number."""
        results: dict[Shape, Shape] = {}
        for topic_id in list(self.base.topics if self._topics is None else self._topics):
            changed: list[PartitionState] = []
            for partition in self.partitions(topic_id):
                if node_id in partition.replicas:
                    shape = shape_of(partition)
                    result = results.get(shape)
                    if result is None:
                        result = results[shape] = shape_of(change(partition))
                    if result is not shape and result != shape:
                        changed.append(PartitionState(partition.number, *result))
            if changed:
                self._put_partitions(topic_id, changed, CLEAN)

    def has_replicas(self, node_id: int) -> bool:
        """True if a partition has a replica on the node."""
        topics = self.base.topics if self._topics is None else self._topics
        return any(
            node_id in partition.replicas
            for topic_id in topics
            for partition in self.partitions(topic_id)
        )

    def owns_shards(self, node_id: int) -> bool:
        """True if a shard is leased to the node."""
        return any(lease.owner_id == node_id for lease in self.shards)

    def lease_shards(self) -> None:
        """Give every shard an owner that is able, evenly, after coordinators came or went."""
        if self.shards:
            self.shards = lease_shards(self.shards, self._nodes)

    def build(self) -> tuple[Image, Delta]:
        """The next image, and what it changed."""
        seal_partitions(
            self._partitions[topic_id][number] for topic_id, number in self._changed_partitions
        )
        for topic_id in self._changed_topics:
            topic = self._own_topics()[topic_id]
            own = self._partitions.get(topic_id)
            if own is not None:
                topic = replace(topic, partitions=tuple(own))
            self._own_topics()[topic_id] = sealed_topic(topic)
        base = self.base
        image = replace(
            base,
            version=self.version,
            cluster_id=self.cluster_id,
            controller_id=self.controller_id,
            controller_epoch=self.controller_epoch,
            next_node_epoch=self.next_node_epoch,
            next_producer_id=self.next_producer_id,
            next_session_id=self.next_session_id,
            nodes=self._nodes if self._changed_nodes or self._removed_nodes else base.nodes,
            topics=base.topics if self._topics is None else self._topics,
            topic_ids=base.topic_ids if self._topic_ids is None else self._topic_ids,
            shards=self.shards,
            reassignment_bytes_per_s=self.reassignment_bytes_per_s,
            sessions=base.sessions if self._sessions is None else self._sessions,
        )
        return image, self._delta(image)

    def _delta(self, image: Image) -> Delta:
        before = self.base.shards
        return Delta(
            previous=self.base,
            image=image,
            changed_node_ids=frozenset(self._changed_nodes),
            removed_nodes=tuple(self._removed_nodes),
            changed_topic_ids=frozenset(self._changed_topics),
            removed_topics=tuple(self._removed_topics),
            changed_partitions=frozenset(self._changed_partitions),
            changed_shards=frozenset(
                lease.shard
                for lease in image.shards
                if lease.shard >= len(before) or lease != before[lease.shard]
            ),
            controller_changed=image.controller_epoch != self.base.controller_epoch,
            elections=dict(self._elections),
            lossy_elections=tuple(self._lossy_elections),
        )

    def _put_partitions(
        self, topic_id: bytes, changed: list[PartitionState], election: str
    ) -> None:
        own = self._partitions.get(topic_id)
        if own is None:
            own = self._partitions[topic_id] = list(self.partitions(topic_id))
        for partition in changed:
            before = own[partition.number]
            after = own[partition.number] = carried_on(before, partition, self._nodes)
            if after.leader_id not in (None, before.leader_id):
                self._note_election(topic_id, after, before, election)
        self._changed_topics.add(topic_id)
        self._changed_partitions.update([(topic_id, one.number) for one in changed])

    def _note_election(
        self, topic_id: bytes, partition: PartitionState, before: PartitionState, kind: str
    ) -> None:
        had_a_place = partition.leader_id in before.isr or partition.leader_id in before.elr
        if kind == CLEAN and partition.recovering and not had_a_place:
            kind = RECOVERED
        self._elections[kind] += 1
        if kind in (RECOVERED, UNCLEAN) and partition.leader_id is not None:
            self._lossy_elections.append(
                LossyElection(
                    topic_id,
                    partition.number,
                    partition.leader_id,
                    kind,
                    partition.possible_loss,
                )
            )

    def _own_topics(self) -> dict[bytes, TopicState]:
        if self._topics is None:
            self._topics = dict(self.base.topics)
        return self._topics

    def _own_topic_ids(self) -> dict[str, bytes]:
        if self._topic_ids is None:
            self._topic_ids = dict(self.base.topic_ids)
        return self._topic_ids

    def _own_sessions(self) -> dict[int, RequestSession]:
        if self._sessions is None:
            self._sessions = dict(self.base.sessions)
        return self._sessions
