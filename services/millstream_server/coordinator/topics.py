"""The topics that groups can subscribe to, and who subscribes to which.

Made anew from each image that adds, removes or grows a topic; immutable.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from millstream_raft.image import Image
from millstream_server.coordinator.records import MemberMetadata
from millstream_server.coordinator.topic_pattern import TopicPattern


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """What assigning needs to know of a topic."""

    topic_id: bytes
    name: str
    partition_count: int
    # Topics of the system are subscribed to by name only, never by pattern.
    internal: bool = False
    # Racks of each partition's replicas; empty where racks are not known.
    racks: tuple[frozenset[str], ...] = ()


class TopicIndex:
    """Topics by name and id."""

    def __init__(self, topics: Iterable[TopicInfo] = ()) -> None:
        self.by_name: Mapping[str, TopicInfo] = {topic.name: topic for topic in topics}
        self.by_id: Mapping[bytes, TopicInfo] = {
            topic.topic_id: topic for topic in self.by_name.values()
        }
        self._matched: dict[str, frozenset[bytes]] = {}

    def subscribed(self, member: MemberMetadata) -> frozenset[bytes]:
        """Ids of the topics that a member subscribes to and that exist."""
        named = frozenset(
            topic.topic_id for name in member.topics if (topic := self.by_name.get(name))
        )
        if not member.topic_pattern:
            return named
        return named | self._match(member.topic_pattern)

    def fingerprint(self, members: Iterable[MemberMetadata]) -> int:
        """64 bits that change when what the members subscribe to appears, goes or grows."""
        distinct = {(member.topics, member.topic_pattern): member for member in members}
        ids: set[bytes] = set()
        for member in distinct.values():
            ids |= self.subscribed(member)
        digest = blake2b(digest_size=8)
        for topic_id in sorted(ids):
            digest.update(topic_id + self.by_id[topic_id].partition_count.to_bytes(4, "big"))
        return int.from_bytes(digest.digest(), "big")

    def _match(self, pattern: str) -> frozenset[bytes]:
        matched = self._matched.get(pattern)
        if matched is None:
            compiled = TopicPattern(pattern)
            matched = self._matched[pattern] = frozenset(
                topic.topic_id
                for topic in self.by_name.values()
                if not topic.internal and compiled.matches(topic.name)
            )
        return matched


def index_of(image: Image) -> TopicIndex:
    """The topics of an image."""
    racks = {node.node_id: node.rack for node in image.nodes.values() if node.rack}
    return TopicIndex(
        TopicInfo(
            topic.topic_id,
            topic.name,
            len(topic.partitions),
            topic.internal,
            tuple(
                frozenset(racks[node] for node in partition.replicas if node in racks)
                for partition in topic.partitions
            )
            if racks
            else (),
        )
        for topic in image.topics.values()
    )
