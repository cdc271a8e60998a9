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
        if self.chance.random() < 0.5:  # the way back is as slow
            self.slow |= {(other, one) for one, other in self.slow}
            self.cluster.network.held |= self.slow
        self.events.append(self.stand_again)
        self.weights.append(1.5 * 4 ** self.chance.uniform(-1, 1))
        # What disturbs much hides what needs time: each seed leaves some of it out.
        disturbing = (self.calm, self.hold, self.reset, self.separate, self.crash_some, self.lose)
        for at, event in enumerate(self.events):
            if event in disturbing and self.chance.random() < 0.25:
                self.weights[at] = 0

    # What can happen.

    def stand_again(self) -> None:
        """Who was deposed stands for election, while messages to it are still on the way."""
        able = {node for node in self.leaders.values() if node in self.up and self.joined[node]}
        deposed = sorted(node for node in able if not self.cluster[node].leads)
        if deposed:
            self.cluster[self.chance.choice(deposed)].campaign()

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
        links.update((link, queue) for link, queue in arrived.items() if link[1] not in self.disks)

    def beginning(self, link: tuple[int, int]) -> list[Any]:
        """As much as may have arrived of what is on a link."""
        queue = self.cluster.network.links.get(link, [])
        return queue[: self.chance.randint(0, len(queue))]

    # The oracle.

    def look(self) -> None:
        super().look()
        down = {node: self.witness.views[node] for node in self.disks}
        up = {node: self.cluster[node] for node in self.up}
        for broken in self.invariants.broken(up, down):
            raise Violation(*broken)
