"""Random schedules on the real core: delays, losses, cuts, kills, power losses, snapshots and
elections at any moment, and an oracle that looks after every event.

No sequence is scripted. What makes schedules find faults is that each seed draws its own weights
(swarm testing: one seed partitions much and never crashes, another holds links back and compacts),
that entries come in bursts, that links may be stuck for long, and that calm periods in between let
entries be committed, so that there is something to lose.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import permutations
from random import Random
from typing import Any

from tests.fakes.crash_files import Crash
from tests.fakes.raft_cluster import Cluster, NodeStopped
from tests.fakes.raft_modes import drawn_weights
from tests.fakes.raft_witness import ALTERNATES, QuorumWitness, Violation

#: Of an election at each event while nobody leads a majority.
NEW_LEADER_CHANCE = 0.04


class Schedule:
    """One random run of a cluster. ``make`` makes a node, from the files of the one before;
    ``power_loss`` and ``overflow`` (a queue loses messages and the connection stays) say what its
    kind of node must endure."""

    #: How many things happen before it is healed.
    length = 400

    def __init__(
        self, seed: int, count: int, make: Callable[..., Any], *, power_loss: bool, overflow: bool
    ) -> None:
        self.chance = Random(seed)
        self.make = make
        # Many small messages make more interleavings than few large ones.
        batch_bytes = self.chance.choice((60, 60, 200))
        self.cluster = Cluster(
            make, count, seed=seed, append_bytes_max=batch_bytes, snapshot_part_bytes=64
        )
        self.witness = QuorumWitness({n: self.cluster[n].view() for n in self.cluster.ids})
        self.cluster.witness = self.witness
        self.power_loss = power_loss
        self.disks: dict[int, Any] = {}
        self.values = 0
        #: The node that was asked last for a snapshot.
        self.compacted = 0
        self.joined = {node: set(self.cluster.ids) - {node} for node in self.cluster.ids}
        #: By term: who led in it.
        self.leaders: dict[int, int] = {}
        self.longest: list[str] = []
        events: dict[Callable[[], None], float] = {
            self.deliver_some: 10,
            self.deliver_link: 4,
            self.tick: 8,
            self.put: 4,
            self.calm: 3,
            self.stand: 0.5,
            self.hold: 0.7,
            self.release: 0.7,
            self.trickle: 4,
            self.reset: 1.5,
            self.separate: 1.5,
            self.join: 1.5,
            self.compact: 1.5,
            self.crash_some: 0.4,
            self.start_some: 3,
        }
        if overflow:
            events[self.lose] = 1.5
        #: Links on which everything is old when it arrives.
        links = list(permutations(self.cluster.ids, 2))
        self.slow = set(self.chance.sample(links, self.chance.randint(0, count - 1)))
        self.cluster.network.held |= self.slow
        self.happened: Counter[str] = Counter()
        self.events = list(events)
        self.weights = drawn_weights(self.chance, events)
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

    @property
    def up(self) -> list[int]:
        return [node for node in self.cluster.ids if node not in self.disks]

    def some_link(self) -> tuple[int, int] | None:
        network = self.cluster.network
        busy = [
            link
            for link, queue in sorted(network.links.items())
            if queue and link[1] in network.receivers and link not in network.held
        ]
        return self.chance.choice(busy) if busy else None

    def some_node(self) -> int:
        """One that is up, and rather a leader: there faults tell most."""
        leaders = [node for node in self.up if self.cluster[node].leads]
        return self.chance.choice(leaders if leaders and self.chance.random() < 0.5 else self.up)

    def leads(self, node: int) -> bool:
        return node in self.up and self.cluster[node].leads

    def leads_many(self, node: int) -> bool:
        """True for a leader that is connected to a majority."""
        reached = len(self.joined[node]) + 1
        return self.cluster[node].leads and reached * 2 > len(self.cluster.ids)

    def deliver_some(self) -> None:
        if (link := self.some_link()) is not None:
            self.cluster.network.deliver(*link, self.chance.randint(1, 3))

    def deliver_link(self) -> None:
        if (link := self.some_link()) is not None:
            self.cluster.network.deliver(*link)

    def tick(self) -> None:
        self.cluster.tick_later(self.chance.choice(self.up), self.chance.choice((1, 60)))

    def calm(self) -> None:
        self.cluster.step(self.up, rounds=self.chance.randint(1, 4), wait_ms=60)

    def put(self) -> None:
        leaders = [node for node in self.up if self.cluster[node].leads]
        if leaders:
            leader = self.chance.choice(leaders)
            for _ in range(self.chance.choice((1, 1, 4, 12))):
                self.values += 1
                self.cluster[leader].put(f"v{self.values}")
            if self.chance.random() < 0.7:
                self.cluster.tick_later(leader, 1)

    def stand(self) -> None:
        able = [node for node in self.up if self.joined[node]]
        again = [node for node in able if node in self.leaders.values()]
        if again and self.chance.random() < 0.5:  # to these, messages may still be on the way
            able = again
        if able:
            self.cluster[self.chance.choice(able)].campaign()

    def stand_again(self) -> None:
        """Who was deposed stands for election, while messages to it are still on the way."""
        able = {node for node in self.leaders.values() if node in self.up and self.joined[node]}
        deposed = sorted(node for node in able if not self.cluster[node].leads)
        if deposed:
            self.cluster[self.chance.choice(deposed)].campaign()

    def hold(self) -> None:
        one, other = self.chance.sample(self.cluster.ids, 2)
        if self.chance.random() < 0.5:  # late messages tell most to a leader
            other = self.some_node()
        if one != other and len(self.cluster.network.held - self.slow) < len(self.joined) // 2:
            self.cluster.network.held.add((one, other))

    def release(self) -> None:
        held = sorted(self.cluster.network.held - self.slow)
        if held:
            self.cluster.network.held.discard(self.chance.choice(held))

    def trickle(self) -> None:
        # One message arrives on a slow link.
        network = self.cluster.network
        slow = [
            link
            for link in sorted(self.slow)
            if network.links.get(link) and link[1] in network.receivers
        ]
        if slow:
            network.deliver(*self.chance.choice(slow), 1)

    def lose(self) -> None:
        # A queue that ran over: messages go, the connection stays.
        if (link := self.some_link()) is not None:
            queue = self.cluster.network.links[link]
            first = self.chance.randrange(len(queue))
            del queue[first : first + self.chance.randint(1, len(queue))]

    def reset(self) -> None:
        # A connection breaks, with what is on it, and is there again.
        if (link := self.some_link()) is not None:
            self.disconnect(*link)
            self.connect(*link)

    def separate(self) -> None:
        if self.chance.random() < 0.8:  # else the rest falls apart further
            self.join_all()
        size = self.chance.randint(1, len(self.joined) // 2)
        group = self.chance.sample(self.cluster.ids, size)
        if self.chance.random() < 0.7:  # what a leader does in a minority must not last
            group[0] = self.some_node()
        late = [link for link in sorted(self.cluster.network.held) if self.leads(link[1])]
        if size > 1 and late and self.chance.random() < 0.5:
            group = list(self.chance.choice(late))
        self.cut(group, [node for node in self.cluster.ids if node not in group])

    def join(self) -> None:
        if self.chance.random() < 0.7:
            self.join_all()
        else:
            self.connect(*self.chance.sample(self.cluster.ids, 2))

    def join_all(self) -> None:
        for one in self.cluster.ids:
            self.connect_all(one)

    def compact(self) -> None:
        self.compacted = self.some_node()
        node = self.cluster[self.compacted]
        node.compact()
        if self.chance.random() < 0.5:
            self.cluster.clock.advance(1)
            node.tick()

    def crash_some(self) -> None:
        if len(self.up) == 1:
            return
        node = self.some_node()
        if self.compacted in self.up and self.chance.random() < 0.5:  # rather one that is busy
            node = self.compacted
        if self.power_loss and self.chance.random() < 0.5:  # in the middle of what it writes next
            files = self.cluster[node].files
            files.crash_at = len(files.operations) + self.chance.randrange(8)
        else:
            self.crash(node)

    def start_some(self) -> None:
        if self.disks:
            self.start(self.chance.choice(sorted(self.disks)))

    # How it happens.

    def cut(self, ones: Iterable[int], others: Iterable[int]) -> None:
        for one in ones:
            for other in others:
                self.disconnect(one, other)

    def disconnect(self, one: int, other: int) -> None:
        network = self.cluster.network
        network.cut |= {(one, other), (other, one)}
        for here, there in ((one, other), (other, one)):
            network.lose(here, there)
            if here not in self.disks and there in self.joined[here]:
                self.joined[here].discard(there)
                self.cluster[here].disconnected(there)

    def connect(self, one: int, other: int) -> None:
        if one == other or one in self.disks or other in self.disks:
            return
        network = self.cluster.network
        network.cut -= {(one, other), (other, one)}
        for here, there in ((one, other), (other, one)):
            if there not in self.joined[here]:
                network.lose(here, there)
                self.joined[here].add(there)
                self.cluster[here].connected(there)

    def connect_all(self, one: int) -> None:
        for other in self.cluster.ids:
            self.connect(one, other)

    def crash(self, node: int) -> None:
        """End a node: by power loss or by ``kill -9``, which leaves the page cache."""
        power_loss = self.power_loss and self.chance.random() < 0.5
        self.disks[node], entries = self.cluster[node].crash(self.chance if power_loss else None)
        self.witness.crashed(node, entries)
        self.cut([node], [other for other in self.cluster.ids if other != node])
        self.cluster.network.remove(node)

    def start(self, node: int) -> None:
        files = self.disks.pop(node)
        self.cluster.nodes[node] = self.make(self.cluster, node, files)
        self.witness.restarted(node, self.cluster[node].view())
        self.joined[node] = set(self.cluster.ids) - {node}
        self.cut([node], [other for other in self.cluster.ids if other != node])
        self.connect_all(node)

    def bury(self) -> None:
        for node in self.up:
            if self.cluster[node].files.crashed:
                self.crash(node)

    def event(self) -> None:
        """Let one thing happen; a node that crashed in it is down afterwards."""
        happens = self.chance.choices(self.events, self.weights)[0]
        if not self.up:
            happens = self.start_some
        elif self.chance.random() < NEW_LEADER_CHANCE and not any(map(self.leads_many, self.up)):
            happens = self.stand  # without a leader little happens that could go wrong
        self.happened[happens.__name__] += 1
        try:
            happens()
        except Crash:
            pass
        self.bury()

    # The oracle.

    def look(self) -> None:
        """Raise Violation for what must never be, not even for a moment."""
        for node in map(self.cluster.__getitem__, self.up):
            if node.leads and self.leaders.setdefault(node.term, node.node_id) != node.node_id:
                raise Violation("two leaders", f"in term {node.term}")
            if node.log[: len(self.longest)] != self.longest[: len(node.log)]:
                raise Violation("voters applied different entries")
            if len(node.log) > len(self.longest):
                self.longest = list(node.log)
            newest = node.term == max(self.leaders, default=0)  # older ones may not know yet
            if newest and node.is_current and self.cluster.lost_on(node.node_id):
                raise Violation("a leader lacks", f"{self.cluster.lost_on(node.node_id)}")
        if len(set(self.longest)) != len(self.longest):
            raise Violation("applied twice")

    # The end.

    def heal(self) -> None:
        """Everybody up and connected, until they agree."""
        for node in self.up:
            self.cluster[node].files.crash_at = None
        for node in list(self.disks):
            self.start(node)
        self.cluster.network.held.clear()
        self.cut(self.cluster.ids, self.cluster.ids[1:])
        for one in self.cluster.ids:
            self.connect_all(one)
        alternates = False
        for attempt in range(3 * len(self.cluster.ids)):
            # Elections are by hand here: each voter's time-out comes in turn.
            self.cluster[self.cluster.ids[attempt % len(self.cluster.ids)]].campaign()
            seen = []
            for _ in range(20):
                forward = self.witness.refused_forward
                # To go back along a long tail, entry by entry, takes the library some time.
                self.cluster.step(rounds=20)
                if self.settled():
                    return
                alternates |= self.witness.refused_forward > forward
                if self.positions() in seen:
                    break
                seen.append(self.positions())
        raise Violation(ALTERNATES if alternates else "never settled", str(self.positions()))

    def positions(self) -> list[tuple[object, ...]]:
        """Where everybody is; the same again after a while: nothing will come of it any more."""
        views = [self.cluster[node].view() for node in self.cluster.ids]
        return [
            (view.term, view.applied_index, view.last_index, tuple(view.nexts.values()))
            for view in views
        ]

    def settled(self) -> bool:
        """One leader, and everybody applied all of its log, which ends in its own term."""
        nodes = [self.cluster[node] for node in self.cluster.ids]
        leaders = [node for node in nodes if node.is_current]
        return (
            len(leaders) == 1
            and {node.applied_index for node in nodes} == {leaders[0].last_index}
            and {node.term for node in nodes} == {leaders[0].term}
        )


def play(seed: int, count: int, make: Callable[..., Any]) -> Schedule:
    """A whole schedule with all that may happen to a node, healed. Raises Violation."""
    return play_out(Schedule(seed, count, make, power_loss=True, overflow=True))


def play_out(schedule: Schedule) -> Schedule:
    """Let things happen, and heal. Raises Violation."""
    try:
        for _ in range(schedule.length):
            schedule.event()
            schedule.look()
        schedule.heal()
        schedule.look()
    except NodeStopped as stopped:
        raise Violation("a voter stopped", str(stopped)) from None
    finally:
        schedule.cluster.closing.close()
    for node in schedule.cluster.ids:
        if schedule.cluster[node].log != schedule.longest:
            raise Violation("voters differ")
    return schedule
