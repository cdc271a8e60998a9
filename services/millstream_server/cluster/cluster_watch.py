"""One client's ``WatchCluster``: what it was told, and what it has to be told next. Pure.

Changes are not queued but gathered: a slow client gets one message with the newest state of
everything that changed meanwhile, so a watch is bounded by what it watches.
"""

from collections.abc import Iterable, Sequence

from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.delta import Delta
from millstream_raft.image import Image, TopicState
from millstream_server.cluster.public_messages import (
    metadata_node_message,
    node_message,
    node_messages,
    topic_message,
)


class ClusterWatch:
    """Watches all topics, or those of some names."""

    def __init__(
        self, names: Iterable[str], *, all_topics: bool, voters: Sequence[tuple[int, str]]
    ) -> None:
        self._names = frozenset(names)
        self._all_topics = all_topics
        self._voters = dict(voters)
        self._changed_nodes: set[int] = set()
        self._removed_nodes: set[int] = set()
        self._changed_topics: set[bytes] = set()
        self._removed_topics: set[bytes] = set()

    def first(self, image: Image) -> public.WatchClusterResponse:
        """Everything watched, as it is now; begins the watch anew."""
        for pending in (
            self._changed_nodes,
            self._removed_nodes,
            self._changed_topics,
            self._removed_topics,
        ):
            pending.clear()
        topics = [topic for topic in image.topics.values() if self._wants(topic)]
        return public.WatchClusterResponse(
            version=image.version,
            complete=True,
            cluster_id=image.cluster_id,
            nodes=node_messages(image, self._voters.items()),
            topics=[
                topic_message(topic, with_isr=False)
                for topic in sorted(topics, key=lambda one: one.name)
            ],
            missing_topics=sorted(self._names - image.topic_ids.keys()),
        )

    def note(self, delta: Delta) -> bool:
        """Remember a change; True if it is one that the client is told."""
        self._changed_nodes |= delta.changed_node_ids
        self._removed_nodes |= {node.node_id for node in delta.removed_nodes}
        for topic_id in delta.changed_topic_ids:
            topic = delta.image.topics[topic_id]
            if self._wants(topic) and _differs(delta.previous.topics.get(topic_id), topic):
                self._changed_topics.add(topic_id)
        self._removed_topics |= {
            topic.topic_id for topic in delta.removed_topics if self._wants(topic)
        }
        return bool(
            self._changed_nodes
            or self._removed_nodes
            or self._changed_topics
            or self._removed_topics
        )

    def take(self, image: Image) -> public.WatchClusterResponse:
        """What changed since the last message, as it is now."""
        response = public.WatchClusterResponse(version=image.version, cluster_id=image.cluster_id)
        for node_id in sorted(self._changed_nodes | self._removed_nodes):
            node = image.nodes.get(node_id)
            if node is not None:
                response.nodes.append(node_message(node))
            elif node_id in self._voters:
                response.nodes.append(metadata_node_message(node_id, self._voters[node_id]))
            else:
                response.removed_node_ids.append(node_id)
        for topic_id in sorted(self._changed_topics | self._removed_topics):
            topic = image.topics.get(topic_id)
            if topic is not None:
                response.topics.append(topic_message(topic, with_isr=False))
            else:
                response.removed_topic_ids.append(topic_id)
        self._changed_nodes.clear()
        self._removed_nodes.clear()
        self._changed_topics.clear()
        self._removed_topics.clear()
        return response

    def _wants(self, topic: TopicState) -> bool:
        return self._all_topics or topic.name in self._names


def _differs(before: TopicState | None, after: TopicState) -> bool:
    """True if a client would see a difference: its messages hold no in-sync replicas."""
    if (
        before is None
        or before.configs != after.configs
        or len(before.partitions) != len(after.partitions)
    ):
        return True
    return any(
        old is not new
        and (old.leader_id, old.leader_epoch, old.replicas)
        != (new.leader_id, new.leader_epoch, new.replicas)
        for old, new in zip(before.partitions, after.partitions, strict=True)
    )
