"""What a member owns, what it should own, and what it is giving up.

Pure.
"""

from collections.abc import Iterable, Mapping, Sequence

from millstream._consumer.record import TopicPartition
from millstream._group.types import GroupConfig, Owned
from millstream.v1 import group_coordinator_service_pb2 as pb


class Ownership:
    """Partitions of one member, each with the id of its topic."""

    def __init__(self) -> None:
        # Everything that may be in use; it goes into heartbeats.
        self.owned: Owned = {}
        # Owned, but being given up.
        self.revoking: set[TopicPartition] = set()
        self._target: Owned = {}

    def assign(self, target: Owned) -> tuple[Owned, Owned]:
        """The coordinator named a new target; see ``reconcile``."""
        self._target = target
        return self.reconcile()

    def reconcile(self) -> tuple[Owned, Owned]:
        """(to give up, taken over), by comparing what is owned with what should be. An owned
        partition whose topic id changed is given up before it is taken over."""
        added = {name: id_ for name, id_ in self._target.items() if name not in self.owned}
        leaving = {
            name: id_
            for name, id_ in self.owned.items()
            if self._target.get(name) != id_ and name not in self.revoking
        }
        self.revoking |= leaving.keys()
        self.owned.update(added)
        return leaving, added

    def release(self, names: Iterable[TopicPartition]) -> Owned:
        """These are not in use any more. Returns those that were granted again meanwhile: they
        were never left out of a heartbeat, and stay."""
        kept: Owned = {}
        for name in names:
            if name not in self.revoking:
                continue
            self.revoking.discard(name)
            if self._target.get(name) == self.owned.get(name):
                kept[name] = self.owned[name]
            else:
                self.owned.pop(name, None)
        return kept

    def drop(self) -> Owned:
        """Own nothing any more; returns what was owned."""
        lost = dict(self.owned)
        self.owned.clear()
        self.revoking.clear()
        self._target = {}
        return lost


def by_topic(owned: Mapping[TopicPartition, bytes]) -> list[pb.TopicPartitions]:
    """Partitions as the wire has them, by topic."""
    grouped: dict[tuple[str, bytes], list[int]] = {}
    for (topic, partition), topic_id in sorted(owned.items()):
        grouped.setdefault((topic, topic_id), []).append(partition)
    return [
        pb.TopicPartitions(topic=topic, topic_id=topic_id, partitions=partitions)
        for (topic, topic_id), partitions in grouped.items()
    ]


def from_topics(topics: Iterable[pb.TopicPartitions]) -> Owned:
    """The reverse of ``by_topic``."""
    return {
        TopicPartition(entry.topic, partition): entry.topic_id
        for entry in topics
        for partition in entry.partitions
    }


def join_message(
    config: GroupConfig,
    member_id: str,
    member_epoch: int,
    owned: Owned,
    topics: Sequence[str],
    pattern: str,
) -> pb.Join:
    """A join with everything that a coordinator needs to know."""
    return pb.Join(
        group_id=config.group_id,
        member_id=member_id,
        member_epoch=member_epoch,
        instance_id=config.instance_id,
        client_id=config.client_id,
        rack=config.rack,
        topics=topics,
        topic_pattern=pattern,
        assignor=config.assignor,
        session_timeout_ms=config.session_timeout_ms,
        rebalance_timeout_ms=config.poll_interval_ms_max,
        owned=by_topic(owned),
    )
