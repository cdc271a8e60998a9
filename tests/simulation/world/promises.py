"""Whether the faults outdid what an acknowledgement promised, by the durability that it named.

- On the disks of a quorum: never, but for an operator who has somebody elected.
- In the memory of a quorum: if since the record was sent as many of the partition's brokers as
  must be in sync were gone at a time, and one of them lost what it had in memory. The others are
  not asked for what they still have, since nobody can tell that they lost nothing (rule 7).
- By a leader alone: if the partition had another leader since.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from millstream_raft.image import Image, PartitionState
from tests.checker.history import Send
from tests.simulation.world.logs_on_disk import LogKey
from tests.simulation.world.nodes import BrokerMachine
from tests.simulation.world.plan import TopicPlan
from tests.simulation.world.world import World

# A deposed leader may acknowledge until its session is over.
_DEPOSED_S = 5.0
_ALWAYS = 1 << 62


class _Event(NamedTuple):
    """A broker is gone, or has come back into an in-sync set."""

    at: float
    node_id: int
    # Of its registration: who joins under a later one has all that is committed.
    node_epoch: int
    joins: bool = False
    lossy: bool = False


class Promises:
    """Told of brokers that end, by the fault injector, and of every step of the metadata."""

    def __init__(self, world: World, topics: Sequence[TopicPlan]) -> None:
        self._world = world
        self._topics = {topic.name: topic for topic in topics}
        self._names: dict[bytes, str] = {}
        self._gone: list[_Event] = []
        self._joined: dict[LogKey, list[_Event]] = defaultdict(list)
        # What happened to a partition, in order, while it was so much.
        self._sorted: dict[LogKey, tuple[tuple[int, int, int], list[_Event]]] = {}
        # Every broker that ever was to have the partition.
        self._replicas: dict[LogKey, set[int]] = defaultdict(set)
        # When it had a new leader, and when an operator had one elected.
        self._led_at: dict[LogKey, float] = {}
        self._operated_at: dict[LogKey, float] = {}
        self._died_at: dict[int, float] = {}
        # Brokers whose disks are bad: what they do not end in order, they may have lost.
        self.bad_disks: set[int] = set()
        world.decisions.observers.append(self._stepped)
        world.broker_observers.append(self._broker_starts)

    # What happens

    def lost_memory(self, machine: BrokerMachine) -> None:
        """What the machine had not synced is gone. It is down."""
        self._note_gone(machine.node_id, lossy=True)

    def disk_damaged(self, machine: BrokerMachine) -> None:
        """Something that was on its disk is gone, and may be found missing at any time."""
        self.bad_disks.add(machine.node_id)
        now = self._world.loop.now
        self._gone.append(_Event(now, machine.node_id, _ALWAYS, lossy=True))

    def operator_elects(self, key: LogKey) -> None:
        """An operator has a leader elected, come what may."""
        self._operated_at[key] = self._world.loop.now

    def _broker_starts(self, machine: BrokerMachine) -> None:
        directory = machine.app.directory
        if directory.previous_node_epoch and not directory.clean_shutdown:
            self._note_gone(machine.node_id, lossy=machine.node_id in self.bad_disks)
        process = machine.process
        assert process is not None
        process.on_death(lambda: self._died(machine))

    def _died(self, machine: BrokerMachine) -> None:
        self._died_at[machine.node_id] = self._world.loop.now
        if not machine.stopped_cleanly:
            self._note_gone(machine.node_id, lossy=False)

    def _note_gone(self, node_id: int, *, lossy: bool) -> None:
        """What is sent after a broker died is not on it: so the time is that of its death."""
        newest = self._world.decisions.newest
        node = newest.nodes.get(node_id) if newest is not None else None
        at = self._died_at.get(node_id, self._world.loop.now)
        self._gone.append(_Event(at, node_id, node.epoch if node else 0, lossy=lossy))

    def _stepped(self, before: Image, after: Image) -> None:
        for node in after.nodes.values():
            known = before.nodes.get(node.node_id)
            if node.log_dir_offline and known is not None and not known.log_dir_offline:
                event = _Event(self._world.loop.now, node.node_id, node.epoch)
                self._gone.append(event)
        for topic_id, topic in after.topics.items():
            old = before.topics.get(topic_id)
            if old is topic or topic.name not in self._topics:
                continue
            self._names[topic_id] = topic.name
            for state in topic.partitions:
                was = old.partitions[state.number] if old is not None else None
                self._partition_stepped((topic_id, state.number), was, state, after)

    def _partition_stepped(
        self, key: LogKey, was: PartitionState | None, now: PartitionState, after: Image
    ) -> None:
        at = self._world.loop.now
        self._replicas[key] |= set(now.replicas)
        if was is None or was.leader_epoch != now.leader_epoch:
            self._led_at[key] = at
        for node_id in set(now.isr) - set(was.isr if was is not None else ()):
            event = _Event(at, node_id, after.nodes[node_id].epoch, joins=True)
            self._joined[key].append(event)

    # What follows from it

    @property
    def keys(self) -> Iterable[LogKey]:
        """The partitions that there are."""
        return self._replicas

    def outdone(self, key: LogKey, sent_at: float = 0.0) -> bool:
        """True if what was in the memory of a quorum then, or later, may be lost."""
        topic = self._topics[self._names[key[0]]]
        gone: dict[int, _Event] = {}
        lossy: set[int] = set()
        for event in self._events(key):
            known = gone.get(event.node_id)
            if event.joins:
                if known is not None and event.node_epoch > known.node_epoch:
                    del gone[event.node_id]
                    lossy.discard(event.node_id)
                continue
            if event.at < sent_at:
                continue
            if known is None or event.node_epoch > known.node_epoch:
                gone[event.node_id] = event
            if event.lossy:
                lossy.add(event.node_id)
            if lossy and len(gone) >= topic.min_in_sync:
                return True
        return False

    def _events(self, key: LogKey) -> list[_Event]:
        replicas, joined = self._replicas[key], self._joined[key]
        size = len(self._gone), len(joined), len(replicas)
        before = self._sorted.get(key)
        if before is not None and before[0] == size:
            return before[1]
        events = sorted([one for one in self._gone if one.node_id in replicas] + joined)
        self._sorted[key] = size, events
        return events

    def needs_operator(self, key: LogKey) -> bool:
        """True if the rules allow that the partition waits for an operator: nothing else is
        promised where replicas lose their places while a bad disk takes another's."""
        return bool(self.bad_disks & self._replicas[key])

    def excuses(self, key: LogKey, send: Send) -> bool:
        """True if an acknowledged record may be lost."""
        if send.invoked_at <= self._operated_at.get(key, -1.0):
            return True
        topic = self._topics[self._names[key[0]]]
        if send.durability.startswith("LEADER") and topic.replication_factor > 1:
            return self._led_at[key] > send.invoked_at - _DEPOSED_S
        return send.durability.endswith("MEMORY") and self.outdone(key, send.invoked_at)

    def broken(self) -> set[LogKey]:
        """Partitions that may have lost what a quorum acknowledged."""
        return {
            key
            for key in self._replicas
            if key in self._operated_at
            or (not self._topics[self._names[key[0]]].fsync and self.outdone(key))
        }
