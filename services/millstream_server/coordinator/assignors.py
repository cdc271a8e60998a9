"""Who should own which partition: the assignors. Pure functions of subscriptions and topics.

``uniform`` (default) keeps what members have, as far as that is balanced: the counts of two members
differ by at most one wherever a partition could move from one to the other, so by at most one among
members with the same subscription. ``range`` gives each topic's partitions in runs, the same
numbers of every topic to the same member, for joining topics with equal keys.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from millstream_server.coordinator.records import NO_PARTITIONS, Partition, Partitions
from millstream_server.coordinator.topics import TopicInfo

DEFAULT_ASSIGNOR = "uniform"


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A member as an assignor sees it."""

    member_id: str
    # Of the topics subscribed to; all of them exist.
    topic_ids: frozenset[bytes]
    rack: str = ""
    # What it should own so far.
    previous: Partitions = NO_PARTITIONS
    # Static members are ordered by this, so that a restart moves nothing.
    instance_id: str = ""


Assignor = Callable[[Collection[Subscriber], Mapping[bytes, TopicInfo]], dict[str, Partitions]]


def assign_uniform(
    subscribers: Collection[Subscriber], topics: Mapping[bytes, TopicInfo]
) -> dict[str, Partitions]:
    """Balanced, with as few moves as that allows."""
    draft = _Draft(subscribers, topics)
    draft.keep_previous()
    alike = len({subscriber.topic_ids for subscriber in subscribers}) <= 1
    if alike:
        draft.trim_to_quota()
    draft.fill()
    if not alike:
        draft.balance()
    return {member: frozenset(owned) for member, owned in draft.owned.items()}


def assign_range(
    subscribers: Collection[Subscriber], topics: Mapping[bytes, TopicInfo]
) -> dict[str, Partitions]:
    """Runs of partitions in the order of instance ids and member ids; the first members get one
    more where a topic does not divide evenly."""
    owned: dict[str, set[Partition]] = {one.member_id: set() for one in subscribers}
    ordered = sorted(subscribers, key=lambda one: (one.instance_id or one.member_id, one.member_id))
    for topic_id in sorted(set().union(*(one.topic_ids for one in subscribers))):
        sharing = [one.member_id for one in ordered if topic_id in one.topic_ids]
        share, extra = divmod(topics[topic_id].partition_count, len(sharing))
        begin = 0
        for index, member_id in enumerate(sharing):
            end = begin + share + (index < extra)
            owned[member_id].update((topic_id, number) for number in range(begin, end))
            begin = end
    return {member_id: frozenset(some) for member_id, some in owned.items()}


ASSIGNORS: Mapping[str, Assignor] = {DEFAULT_ASSIGNOR: assign_uniform, "range": assign_range}


def preferred_assignor(asked: Iterable[str]) -> str:
    """The assignor that most members ask for; the default wins a tie, then the first by name."""
    votes: dict[str, int] = defaultdict(int)
    for name in asked:
        votes[name or DEFAULT_ASSIGNOR] += 1
    return min(
        votes,
        key=lambda name: (-votes[name], name != DEFAULT_ASSIGNOR, name),
        default=DEFAULT_ASSIGNOR,
    )


class _Draft:
    """A uniform assignment in the making. Orders everything, so that equal input gives equal
    output on every node."""

    def __init__(
        self, subscribers: Collection[Subscriber], topics: Mapping[bytes, TopicInfo]
    ) -> None:
        self.subscribers = sorted(subscribers, key=lambda one: one.member_id)
        self.owned: dict[str, set[Partition]] = {one.member_id: set() for one in self.subscribers}
        self._racks = {one.member_id: one.rack for one in self.subscribers}
        self._sharing: dict[bytes, list[str]] = defaultdict(list)
        for one in self.subscribers:
            for topic_id in one.topic_ids:
                self._sharing[topic_id].append(one.member_id)
        self._topics = {topic_id: topics[topic_id] for topic_id in sorted(self._sharing)}
        self._owner: dict[Partition, str] = {}

    def keep_previous(self) -> None:
        """Begin with what members should own so far, where that still makes sense."""
        for one in self.subscribers:
            for partition in sorted(one.previous):
                topic = self._topics.get(partition[0])
                fits = topic is not None and partition[1] < topic.partition_count
                if fits and partition[0] in one.topic_ids and partition not in self._owner:
                    self._give(partition, one.member_id)

    def trim_to_quota(self) -> None:
        """Where all subscribe alike, take from each member what is beyond its fair share; those
        who own most keep the larger shares."""
        total = sum(topic.partition_count for topic in self._topics.values())
        share, extra = divmod(total, max(1, len(self.subscribers)))
        for member in sorted(self.owned, key=lambda member: (-len(self.owned[member]), member)):
            quota = share
            if extra and len(self.owned[member]) > share:
                extra -= 1
                quota += 1
            for partition in self._keeping_order(member)[quota:]:
                self._take(partition)

    def fill(self) -> None:
        """Give what nobody owns to those who own least; to one in the partition's rack first,
        where racks are known, as long as that costs no balance."""
        for topic_id, topic in self._topics.items():
            free = [
                (topic_id, number)
                for number in range(topic.partition_count)
                if (topic_id, number) not in self._owner
            ]
            if not free:
                continue
            heap = [(len(self.owned[member]), member) for member in self._sharing[topic_id]]
            heapify(heap)
            for partition in free:
                count, member = heappop(heap)
                near = self._near(topic, partition, count, member, heap)
                if near is not None:
                    heap[heap.index((count, near))] = (count, member)
                    heapify(heap)
                    member = near
                self._give(partition, member)
                heappush(heap, (count + 1, member))

    def balance(self) -> None:
        """Move partitions from those who own two more than another who could take them, until
        there are none; the sum of squares falls with each move, so this ends."""
        moved = True
        while moved:
            moved = False
            for topic_id in self._topics:
                while self._move_one(topic_id):
                    moved = True

    def _move_one(self, topic_id: bytes) -> bool:
        sharing = self._sharing[topic_id]
        taker = min(sharing, key=lambda member: (len(self.owned[member]), member))
        least = len(self.owned[taker])
        if max(len(self.owned[member]) for member in sharing) - least < 2:
            return False
        for giver in sorted(sharing, key=lambda member: (-len(self.owned[member]), member)):
            if len(self.owned[giver]) - least < 2:
                return False
            of_topic = [some for some in self.owned[giver] if some[0] == topic_id]
            if of_topic:
                partition = max(of_topic)
                self._take(partition)
                self._give(partition, taker)
                return True
        return False

    def _near(
        self,
        topic: TopicInfo,
        partition: Partition,
        count: int,
        first: str,
        heap: list[tuple[int, str]],
    ) -> str | None:
        """Another member that owns as little as the first one, in a rack of the partition."""
        if not topic.racks or self._racks[first] in topic.racks[partition[1]]:
            return None
        racks = topic.racks[partition[1]]
        near = [member for other, member in heap if other == count and self._racks[member] in racks]
        return min(near, default=None)

    def _keeping_order(self, member: str) -> list[Partition]:
        """What a member owns, in the order in which it would rather keep it: its rack's first,
        then one of each topic before the second of any."""
        seen: dict[bytes, int] = defaultdict(int)
        keys = []
        for partition in sorted(self.owned[member]):
            racks = self._topics[partition[0]].racks
            far = bool(racks) and self._racks[member] not in racks[partition[1]]
            keys.append((far, seen[partition[0]], partition))
            seen[partition[0]] += 1
        return [partition for _, _, partition in sorted(keys)]

    def _give(self, partition: Partition, member: str) -> None:
        self._owner[partition] = member
        self.owned[member].add(partition)

    def _take(self, partition: Partition) -> None:
        self.owned[self._owner.pop(partition)].discard(partition)
