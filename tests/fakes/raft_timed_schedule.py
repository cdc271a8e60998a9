"""Random schedules in which voters stand for election by themselves, with the production times.

Here links also break in one direction only: a voter's port is closed to some, while it still
reaches them by its own connections. What is looked for is an end of service, not a loss: where a
majority is connected and left alone, it must have one leader and keep it; and once everything is
connected, everybody must follow.
"""

from collections.abc import Callable
from itertools import combinations, permutations
from typing import Any

from tests.fakes.raft_layer_schedule import LayerSchedule
from tests.fakes.raft_witness import Violation

#: Of ``RaftConfig``, so that a leader is heard, and found missing, as in production.
TIMES = {
    "heartbeat_interval_ms": 80,
    "election_timeout_min_ms": 300,
    "election_timeout_max_ms": 600,
    "leader_fallback_ms": 1_000,
}
_STEP_MS = 25
#: Time in which a connected majority agrees on a leader, and then: how long it must keep it.
_AGREE_MS = 6_000
_KEEP_MS = 2_000
#: Time in which everybody follows it: to go back along a long tail takes a heartbeat per entry.
_FOLLOW_MS = 20_000


class TimedSchedule(LayerSchedule):
    """See above. ``make`` makes nodes with ``TIMES`` and all rules but those that are dropped."""

    length = 60

    def __init__(self, seed: int, count: int, make: Callable[..., Any]) -> None:
        super().__init__(seed, count, make)
        weights = dict(zip(self.events, self.weights, strict=True))
        del weights[self.stand]
        del weights[self.stand_again]
        del weights[self.tick]
        for event, weight in ((self.pass_time, 10), (self.deafen, 2)):
            weights[event] = weight * 4 ** self.chance.uniform(-1, 1)
        self.events, self.weights = list(weights), list(weights.values())

    def stand(self) -> None:
        """Nobody stands before its time."""
        self.pass_time()

    def calm(self) -> None:
        """Nothing but time."""
        self.run(self.chance.randint(50, 1_500))

    def pass_time(self) -> None:
        """A moment."""
        self.run(self.chance.randint(1, 10) * _STEP_MS)

    def deafen(self) -> None:
        """A voter no longer hears some of the others, or all."""
        deaf = self.some_node()
        others = [node for node in self.cluster.ids if node != deaf]
        for other in self.chance.sample(others, self.chance.randint(1, len(others))):
            self.break_one_way(other, deaf)

    def break_one_way(self, here: int, there: int) -> None:
        """The stream from ``here`` to ``there`` ends, and none can be opened."""
        self.cluster.network.cut.add((here, there))
        self.cluster.network.lose(here, there)
        if here not in self.disks and there in self.joined[here]:
            self.joined[here].discard(there)
            self.cluster[here].disconnected(there)

    def run(self, milliseconds: int) -> None:
        """Let time pass for everybody who is up."""
        for _ in range(max(1, milliseconds // _STEP_MS)):
            self.cluster.step(self.up, rounds=1, wait_ms=_STEP_MS)

    # The end.

    def heal(self) -> None:
        """First only time passes; then everybody is up and connected."""
        self.stop_leavers()
        for node in self.up:
            self.cluster[node].files.crash_at = None
        self.cluster.network.held.clear()
        if self.connected_majority():
            self.keep_one_leader()
        for node in list(self.disks):
            self.start(node)
        self.cut(self.cluster.ids, self.cluster.ids)
        for one in self.cluster.ids:
            self.connect_all(one)
        for _ in range(_FOLLOW_MS // _STEP_MS):
            self.run(_STEP_MS)
            if self.settled():
                return
        raise Violation("never settled")

    def connected_majority(self) -> bool:
        """True if enough voters are up of whom each reaches each other."""
        enough = len(self.cluster.ids) // 2 + 1
        cut = self.cluster.network.cut
        return any(
            cut.isdisjoint(permutations(group, 2)) for group in combinations(self.up, enough)
        )

    def keep_one_leader(self) -> None:
        """A leader that a majority hears must not be deposed by those who do not hear it, or who
        are not heard (section 4.2.3)."""
        self.run(_AGREE_MS)
        newest = self.newest_leader()
        if newest is None:
            raise Violation("a connected majority has no leader")
        for _ in range(_KEEP_MS // _STEP_MS):
            self.run(_STEP_MS)
            if self.newest_leader() != newest:
                raise Violation("a connected majority does not keep its leader")

    def newest_leader(self) -> tuple[int, int] | None:
        """The highest term that has a leader, and who that is."""
        leaders = [(self.cluster[node].term, node) for node in self.up if self.cluster[node].leads]
        return max(leaders, default=None)
