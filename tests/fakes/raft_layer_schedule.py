"""Random schedules behind the layer: what its transport allows, and stricter eyes.

A connection that breaks loses only the end of what is on it. The beginning may have arrived and
wait to be taken, also from a voter that has crashed since; it is taken before anything that a later
connection brings (``RaftServicer`` lets only the newest stream of a voter count).
"""

from collections.abc import Callable
from typing import Any

from tests.fakes.raft_invariants import Invariants
from tests.fakes.raft_schedule import Schedule
from tests.fakes.raft_witness import Violation


class LayerSchedule(Schedule):
    """See above. Voters endure power loss, and queues run over."""

    def __init__(self, seed: int, count: int, make: Callable[..., Any]) -> None:
        super().__init__(seed, count, make, power_loss=True, overflow=True)
        self.invariants = Invariants()
        #: Who said farewell as a leader, and is still up.
        self.leaving: set[int] = set()
        for event, weight in ((self.leave, 0.7), (self.stop_leaver, 1.5)):
            self.events.append(event)
            self.weights.append(weight * 4 ** self.chance.uniform(-1, 1))

    # What can happen.

    def leave(self) -> None:
        """A leader is told to stop, and says farewell."""
        leaders = [node for node in self.up if self.cluster[node].leads]
        if leaders:
            node = self.chance.choice(leaders)
            self.cluster[node].leave()
            self.leaving.add(node)

    def stop_leaver(self) -> None:
        """Some time later its process ends."""
        if self.leaving:
            self.crash(self.chance.choice(sorted(self.leaving)))

    # How it happens.

    def disconnect(self, one: int, other: int) -> None:
        links = self.cluster.network.links
        arrived = {link: self.beginning(link) for link in ((one, other), (other, one))}
        super().disconnect(one, other)
        links.update(arrived)

    def connect(self, one: int, other: int) -> None:
        if one != other and one not in self.disks and other not in self.disks:
            for here, there in ((one, other), (other, one)):
                if there not in self.joined[here]:
                    self.cluster.network.deliver(here, there)
        super().connect(one, other)

    def crash(self, node: int) -> None:
        links = self.cluster.network.links
        arrived = {link: self.beginning(link) for link in links if link[0] == node}
        super().crash(node)
        self.leaving.discard(node)
        links.update((link, queue) for link, queue in arrived.items() if link[1] not in self.disks)

    def beginning(self, link: tuple[int, int]) -> list[Any]:
        """As much as may have arrived of what is on a link."""
        queue = self.cluster.network.links.get(link, [])
        return queue[: self.chance.randint(0, len(queue))]

    def heal(self) -> None:
        self.stop_leavers()
        super().heal()

    def stop_leavers(self) -> None:
        """Who left never stands for election, until it is started again."""
        for node in sorted(self.leaving):
            self.crash(node)

    # The oracle.

    def look(self) -> None:
        super().look()
        down = {node: self.witness.views[node] for node in self.disks}
        up = {node: self.cluster[node] for node in self.up}
        for broken in self.invariants.broken(up, down):
            raise Violation(*broken)
