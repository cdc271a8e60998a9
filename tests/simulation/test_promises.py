"""What an acknowledgement promised is excused only where the faults outdid it."""

from types import SimpleNamespace
from typing import Any

import pytest

from millstream_raft.image import Image, PartitionState, TopicState
from tests.checker.history import Send
from tests.simulation.world.decisions import Decisions
from tests.simulation.world.plan import TopicPlan
from tests.simulation.world.promises import Promises

KEY = (bytes(16), 0)
DISK, MEMORY, LEADER = "REPLICATED_DISK", "REPLICATED_MEMORY", "LEADER_DISK"


class Cluster:
    """One partition of three brokers, two of which must be in sync; told what happens to them."""

    def __init__(self) -> None:
        self._loop = SimpleNamespace(now=0.0)
        self.decisions = Decisions()
        self.decisions.newest = self._image = Image(version=1, controller_epoch=1)
        world: Any = SimpleNamespace(loop=self._loop, decisions=self.decisions, broker_observers=[])
        self._starts = world.broker_observers
        topic = TopicPlan("t", 1, 3, (("flush.mode", "page_cache"),))
        self.promises = Promises(world, [topic])
        self._epochs = {1: 1, 2: 2, 3: 3}
        self._offline: set[int] = set()
        self.in_sync(1.0, 1, 2, 3)

    def in_sync(self, at: float, *members: int, leader_epoch: int = 1) -> None:
        """The metadata make a step."""
        self._loop.now = at
        nodes: Any = {
            number: SimpleNamespace(
                node_id=number, epoch=epoch, log_dir_offline=number in self._offline
            )
            for number, epoch in self._epochs.items()
        }
        partition = PartitionState(0, members[0], leader_epoch, 1, (1, 2, 3), members, min_isr=2)
        topic = TopicState("t", KEY[0], internal=False, configs={}, partitions=(partition,))
        before = self._image
        self._image = Image(version=1, controller_epoch=1, nodes=nodes, topics={KEY[0]: topic})
        self.decisions.newest = self._image
        for observer in self.decisions.observers:
            observer(before, self._image)

    def register(self, node_id: int) -> None:
        """A broker is known by another epoch from now on."""
        self._epochs[node_id] += 10

    def disk_fails(self, at: float, node_id: int, *members: int) -> None:
        """A broker's log directory goes offline."""
        self._offline.add(node_id)
        self.in_sync(at, *members)

    def loses_memory(self, at: float, node_id: int) -> None:
        """Power is cut."""
        self._loop.now = at
        machine: Any = SimpleNamespace(node_id=node_id)
        self.promises.lost_memory(machine)

    def starts_uncleanly(self, at: float, node_id: int) -> None:
        """A broker starts that was killed."""
        self._starts_as(at, node_id, previous_node_epoch=1, clean_shutdown=False)

    def runs_and_ends(self, at: float, node_id: int, *, cleanly: bool) -> None:
        """A new broker starts, and ends at this time."""
        end = self._starts_as(0.0, node_id, previous_node_epoch=0, clean_shutdown=True)
        self._loop.now = at
        end.stopped_cleanly = cleanly
        end.process.deaths[0]()

    def _starts_as(self, at: float, node_id: int, **directory: object) -> Any:
        self._loop.now = at
        deaths: list[object] = []
        machine: Any = SimpleNamespace(
            node_id=node_id,
            app=SimpleNamespace(directory=SimpleNamespace(**directory)),
            process=SimpleNamespace(on_death=deaths.append, deaths=deaths),
        )
        for observer in self._starts:
            observer(machine)
        return machine

    def excuses(self, durability: str, sent_at: float = 2.0) -> bool:
        """True if a record may be lost."""
        send = Send(1, ("t", 0), "1.1", True, 1, sent_at, durability=durability)
        return self.promises.excuses(KEY, send)


def test_memory_of_a_quorum_survives_one_broker_and_not_two() -> None:
    cluster = Cluster()
    cluster.loses_memory(3.0, 1)
    assert not cluster.excuses(MEMORY)
    cluster.loses_memory(4.0, 2)
    assert cluster.excuses(MEMORY)
    # Sent later, a record is on the others.
    assert not cluster.excuses(MEMORY, sent_at=3.5)
    assert not cluster.excuses(DISK)
    assert cluster.promises.broken() == {KEY}


def test_who_was_killed_counts_once_another_lost_its_memory() -> None:
    cluster = Cluster()
    for node_id in (1, 2, 3):
        cluster.starts_uncleanly(3.0, node_id)
    assert not cluster.excuses(MEMORY)
    cluster.loses_memory(4.0, 3)
    assert cluster.excuses(MEMORY)


@pytest.mark.parametrize("cleanly", [False, True])
def test_who_died_counts_though_it_is_not_back_yet(*, cleanly: bool) -> None:
    cluster = Cluster()
    cluster.runs_and_ends(3.0, 1, cleanly=cleanly)
    cluster.loses_memory(4.0, 3)
    assert cluster.excuses(MEMORY) is not cleanly


def test_whose_disk_failed_counts() -> None:
    cluster = Cluster()
    cluster.disk_fails(3.0, 1, 2, 3)
    assert not cluster.excuses(MEMORY)
    cluster.loses_memory(4.0, 3)
    assert cluster.excuses(MEMORY)


@pytest.mark.parametrize("registered", [False, True])
def test_who_is_in_sync_again_under_another_epoch_has_it_again(*, registered: bool) -> None:
    cluster = Cluster()
    cluster.loses_memory(3.0, 1)
    cluster.in_sync(4.0, 2, 3)
    if registered:
        cluster.register(1)
    cluster.in_sync(5.0, 2, 3, 1)
    cluster.loses_memory(6.0, 2)
    assert cluster.excuses(MEMORY) is not registered


def test_a_leader_alone_promises_until_another_leads() -> None:
    cluster = Cluster()
    assert not cluster.excuses(LEADER, sent_at=10.0)
    cluster.in_sync(12.0, 2, 3, leader_epoch=2)
    assert cluster.excuses(LEADER, sent_at=10.0)
    # Whoever led before may not know yet.
    assert cluster.excuses(LEADER, sent_at=13.0)
    assert not cluster.excuses(LEADER, sent_at=18.0)


def test_what_an_operator_does_excuses_what_was_before() -> None:
    cluster = Cluster()
    assert not cluster.promises.needs_operator(KEY)
    cluster.promises.bad_disks.add(3)
    assert cluster.promises.needs_operator(KEY)
    cluster.in_sync(9.0, 1)
    cluster.promises.operator_elects(KEY)
    assert cluster.excuses(DISK)
    assert not cluster.excuses(DISK, sent_at=9.5)


def test_damage_of_a_disk_outlasts_a_return() -> None:
    cluster = Cluster()
    machine: Any = SimpleNamespace(node_id=1)
    cluster.promises.disk_damaged(machine)
    cluster.register(1)
    cluster.in_sync(4.0, 2, 3)
    cluster.in_sync(5.0, 2, 3, 1)
    cluster.loses_memory(6.0, 2)
    assert cluster.excuses(MEMORY, sent_at=0.5)
