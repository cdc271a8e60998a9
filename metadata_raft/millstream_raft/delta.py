"""What changed between two images, so that a follower need not compare everything."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from millstream_raft.image import Image, NodeState, TopicState

# Kinds of elections: by the rules, of the first replica, by an operator's order, and after all
# replicas had lost their place.
CLEAN, PREFERRED, UNCLEAN, RECOVERED = "clean", "preferred", "unclean", "recovered"
ELECTION_KINDS = (CLEAN, PREFERRED, UNCLEAN, RECOVERED)


@dataclass(frozen=True, slots=True)
class LossyElection:
    """An election of a replica that had no place."""

    topic_id: bytes
    partition: int
    leader_id: int
    # UNCLEAN or RECOVERED.
    kind: str
    # False where all logs that may hold what was acknowledged were compared, and a disk remembers
    # what was acknowledged (invariant 7).
    possible_loss: bool


@dataclass(frozen=True, slots=True)
class Delta:
    """The step from ``previous`` to ``image``. Everything changed is named, nothing else is."""

    previous: Image
    image: Image
    # Registrations added or changed, and those gone.
    changed_node_ids: frozenset[int] = frozenset()
    removed_nodes: tuple[NodeState, ...] = ()
    # Topics added or changed in any way; look them up in ``image.topics``.
    changed_topic_ids: frozenset[bytes] = frozenset()
    # Topics that are gone, as they were.
    removed_topics: tuple[TopicState, ...] = ()
    # (topic id, number) of partitions added or changed.
    changed_partitions: frozenset[tuple[bytes, int]] = frozenset()
    # Shards added or with another owner.
    changed_shards: frozenset[int] = frozenset()
    # Another controller was elected.
    controller_changed: bool = False
    # Number of leaders elected, by kind; only of a step by an entry.
    elections: Mapping[str, int] = field(default_factory=dict)
    lossy_elections: tuple[LossyElection, ...] = ()
    # True when the image was replaced by a snapshot instead of stepped by an entry.
    reset: bool = False

    @property
    def empty(self) -> bool:
        """True if nothing that nodes act upon changed."""
        return not (
            self.changed_node_ids
            or self.removed_nodes
            or self.changed_topic_ids
            or self.removed_topics
            or self.changed_shards
            or self.controller_changed
        )


def delta_between(previous: Image, image: Image, *, reset: bool = True) -> Delta:
    """The delta between any two images, by comparing them; linear in their size."""
    return Delta(
        previous=previous,
        image=image,
        changed_node_ids=frozenset(
            node_id for node_id, node in image.nodes.items() if previous.nodes.get(node_id) != node
        ),
        removed_nodes=tuple(
            node for node_id, node in previous.nodes.items() if node_id not in image.nodes
        ),
        changed_topic_ids=frozenset(
            topic_id
            for topic_id, topic in image.topics.items()
            if (old := previous.topics.get(topic_id)) is not topic and old != topic
        ),
        removed_topics=tuple(
            topic for topic_id, topic in previous.topics.items() if topic_id not in image.topics
        ),
        changed_partitions=frozenset(_changed_partitions(previous, image)),
        changed_shards=frozenset(
            lease.shard
            for lease in image.shards
            if lease.shard >= len(previous.shards) or previous.shards[lease.shard] != lease
        ),
        controller_changed=previous.controller_epoch != image.controller_epoch,
        reset=reset,
    )


def _changed_partitions(previous: Image, image: Image) -> list[tuple[bytes, int]]:
    changed = []
    for topic_id, topic in image.topics.items():
        old = previous.topics.get(topic_id)
        if old is topic:
            continue
        known = old.partitions if old is not None else ()
        for partition in topic.partitions:
            number = partition.number
            if number >= len(known) or known[number] != partition:
                changed.append((topic_id, number))
    return changed
