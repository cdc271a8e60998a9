"""Three voters that crash where they are told, start again, and are watched for broken promises.

What is checked beside lost acknowledgements: nobody votes twice in a term, every voter finds after
a start what it had promised by messages, and whatever it loads is what was once written.
"""

from collections.abc import Callable
from random import Random

from millstream_raft.directory import format_node, is_formatted
from millstream_raft.directory_errors import RaftDirectoryError
from millstream_raft.raft_messages import Envelope, RequestVote, VoteGranted
from tests.fakes.crash_files import Crash
from tests.fakes.raft_cluster import SCENARIO_RULES, Cluster, LayeredNode, NodeStopped
from tests.fakes.traced_files import Loss, Trace, TracedFiles

VOTERS = (1, 2, 3)
#: Small messages, so that appends and snapshots come in several pieces.
_SETTINGS = {"append_bytes_max": 400, "snapshot_part_bytes": 64}


class Watch:
    """What all voters ever promised and wrote."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.votes: dict[tuple[int, int], int] = {}
        self.leaders: dict[int, int] = {}
        self.written: dict[tuple[int, int], bytes] = {}
        self.states: dict[int, list[str]] = {}
        #: By voter: its term and the last entry of its log when it last sent something.
        self.promised: dict[int, tuple[int, tuple[int, int]]] = {}

    def blame(self, violation: str) -> None:
        """Note a violation."""
        self.violations.append(violation)

    def voted(self, node: int, term: int, candidate: int) -> None:
        """A vote left a voter."""
        if self.votes.setdefault((node, term), candidate) != candidate:
            self.blame(f"double vote of {node} in term {term}")

    def applied(self, node: int, index: int, state: list[str]) -> None:
        """A voter applied an entry or loaded a state."""
        if self.states.setdefault(index, list(state)) != state:
            self.blame(f"{node} has another state at {index}")

    def look(self, node: "CrashNode") -> None:
        """Note what a running voter wrote."""
        for entry in reversed(node.journal.entries):
            if (entry.index, entry.term) in self.written:
                break
            self.written[entry.index, entry.term] = entry.command
        if node.leads and self.leaders.setdefault(node.term, node.node_id) != node.node_id:
            self.blame(f"two leaders in term {node.term}")

    def loaded(self, node: "CrashNode") -> None:
        """Compare what a voter loaded with what was written and promised."""
        for entry in node.journal.entries:
            if self.written.get((entry.index, entry.term), entry.command) != entry.command:
                self.blame(f"{node.node_id} loaded another entry at {entry.index}")
        if node.node_id not in self.promised:
            return
        term, (index, entry_term) = self.promised[node.node_id]
        if node.term < term:
            self.blame(f"{node.node_id} forgot term {term}")
        kept = {entry.index: entry.term for entry in node.journal.entries}
        replaced = any(at <= index and found > entry_term for at, found in kept.items())
        in_snapshot = index <= node.journal.entries[0].index
        if not in_snapshot and kept.get(index) != entry_term and not replaced:
            self.blame(f"{node.node_id} forgot entry {index}")


class CrashNode(LayeredNode):
    """A voter whose promises are watched."""

    def __init__(self, cluster: Cluster, node_id: int, files: TracedFiles, watch: Watch) -> None:
        self.watch = watch
        self.joined: set[int] = set()
        super().__init__(cluster, node_id, files, SCENARIO_RULES)
        self.joined = set(cluster.ids) - {node_id}

    def send(self, peer: int, envelope: Envelope) -> bool:
        if self.files.crashed:
            return False
        match envelope.message:
            case VoteGranted(term):
                self.watch.voted(self.node_id, term, peer)
            case RequestVote(term, _, _):
                self.watch.voted(self.node_id, term, self.node_id)
        last = self.journal.entries[-1]
        self.watch.promised[self.node_id] = (envelope.sender_term, (last.index, last.term))
        return super().send(peer, envelope)

    def apply(self, index: int, content: bytes) -> list[bytes]:
        results = super().apply(index, content)
        self.watch.applied(self.node_id, index, self.log)
        return results

    def restore(self, index: int, state: bytes) -> None:
        super().restore(index, state)
        self.watch.applied(self.node_id, index, self.log)


class CrashWorld:
    """A cluster that goes on while voters crash. ``crash`` is (node, operation) or None; a
    test takes syncs out by ``skipped``."""

    def __init__(
        self,
        seed: int,
        crash: tuple[int, int] | None = None,
        loss: Loss = Loss.ALL,
        skipped: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self.chance = Random(seed)
        #: Decides what the crash does, apart from the script so as not to change it.
        self.fate = Random(f"{seed} {crash}")
        self.loss = loss
        self.watch = Watch()
        self.traces = {node: Trace(skipped=skipped) for node in VOTERS}
        self.down: dict[int, TracedFiles] = {}
        #: The voter that crashed at the chosen operation.
        self.crashed: int | None = None
        self._values = 0
        if crash is not None:
            self.traces[crash[0]].crash_at = crash[1]
        self.cluster = Cluster(self._make, len(VOTERS), seed=seed, **_SETTINGS)

    # What the script does.

    def up(self) -> list[CrashNode]:
        """The voters that run."""
        return [self.cluster[node] for node in VOTERS if node not in self.down]

    def put(self, count: int = 1, node: int | None = None) -> None:
        """Propose values at whoever leads, or at one that thinks it does."""
        for leader in self.up():
            if leader.leads and node in (None, leader.node_id):
                for _ in range(count):
                    self._values += 1
                    leader.put(f"v{self._values}")
                return

    def tick(self, node: int) -> None:
        """Let a voter do what is due."""
        if node not in self.down:
            self._guard(node, self.cluster[node].tick)

    def step(self, rounds: int = 6, nodes: tuple[int, ...] = VOTERS) -> None:
        """Tick these voters and deliver everything, some times over."""
        for _ in range(rounds):
            self.cluster.clock.advance(200)
            for node in nodes:
                self.tick(node)
            for link in sorted(self.cluster.network.links):
                if link not in self.cluster.network.held:
                    self.deliver(*link)

    def deliver(self, source: int, target: int) -> None:
        """Deliver what is on a link now."""
        network = self.cluster.network
        for _ in range(len(network.links.get((source, target), ()))):
            if target in self.down or not network.links[source, target]:
                return
            self._guard(target, lambda: network.deliver(source, target, 1))

    def campaign(self, node: int, rounds: int = 4) -> None:
        """Let a voter stand for election."""
        if node not in self.down:
            self.cluster[node].core.campaign()
            self.tick(node)
            self.step(rounds)

    def compact(self, node: int) -> None:
        """Let a voter write a snapshot at its next tick."""
        if node not in self.down:
            self.cluster[node].compact()

    def isolate(self, node: int) -> None:
        """Cut a voter off."""
        for other in VOTERS:
            if other != node:
                self._disconnect(node, other)

    def heal(self) -> None:
        """Connect everybody who runs."""
        self.cluster.network.held.clear()
        for one in VOTERS:
            for other in VOTERS:
                if one < other:
                    self._disconnect(one, other)
                    self._connect(one, other)

    def kill(self, node: int, loss: Loss) -> None:
        """Crash a voter between two operations."""
        if node not in self.down:
            self._bury(node, loss)

    def kill_in_next_write(self, node: int) -> None:
        """Let a voter be killed in the middle of what it writes next."""
        if node not in self.down:
            self.cluster[node].files.crash_in_write = True

    def start(self, node: int) -> None:
        """Start a voter that is down."""
        if node in self.down:
            self.cluster.nodes[node] = self._make(self.cluster, node)
            for other in VOTERS:
                if other != node:
                    self._disconnect(node, other)
                    self._connect(node, other)

    def settled(self) -> bool:
        """One leader, and everybody applied all of its log, which ends in its own term."""
        nodes = self.up()
        leaders = [node for node in nodes if node.core.leads_and_is_current]
        return (
            len(nodes) == len(VOTERS)
            and len(leaders) == 1
            and {node.core.applied_index for node in nodes} == {leaders[0].journal.last_index}
            and {node.term for node in nodes} == {leaders[0].term}
        )

    def broken(self) -> list[str]:
        """Every promise that was broken so far; to be asked once the cluster is settled."""
        violations = list(dict.fromkeys(self.watch.violations))
        if not self.settled():
            return [*violations, "never settled"]
        logs = [node.log for node in self.up()]
        if any(log != logs[0] for log in logs):
            violations.append("voters differ")
        if len(set(logs[0])) != len(logs[0]):
            violations.append("applied twice")
        return violations

    def lost(self) -> list[str]:
        """Acknowledged values that a settled cluster does not have."""
        return self.cluster.lost_on(VOTERS[0])

    # Crashes.

    def _make(self, cluster: Cluster, node: int) -> CrashNode:
        """Open a voter's folder, formatting it first if it is not; again if it crashes there."""
        files = self.down.pop(node, None) or TracedFiles(self.traces[node])
        while True:
            try:
                if not is_formatted("/raft", files):
                    format_node("/raft", "sim", node, VOTERS, files)
                made = CrashNode(cluster, node, files, self.watch)
            except Crash:
                files = self._next_life(node, files, self.loss)
                continue
            except (RaftDirectoryError, NodeStopped) as refusal:
                self.watch.blame(f"refused to start: {refusal}")
                raise
            self.watch.loaded(made)
            return made

    def _guard(self, node: int, act: Callable[[], None]) -> None:
        try:
            act()
        except Crash:
            pass
        except NodeStopped as stop:
            self.watch.blame(f"stopped: {stop}")
            raise
        files = self.cluster[node].files
        if files.crashed:
            scripted = files.crash_in_write and self.crashed is None
            self._bury(node, Loss.NOTHING if scripted else self.loss)
        else:
            self.watch.look(self.cluster[node])

    def _bury(self, node: int, loss: Loss) -> None:
        self.down[node] = self._next_life(node, self.cluster[node].files, loss)
        for other in VOTERS:
            if other != node:
                self._disconnect(node, other)
        self.cluster.network.remove(node)

    def _next_life(self, node: int, files: TracedFiles, loss: Loss) -> TracedFiles:
        trace = self.traces[node]
        if trace.crashes and self.crashed is None:
            self.crashed = node
            if self.fate.random() < 0.3:  # and once more while it recovers
                trace.crash_at = len(trace.operations) + self.fate.randrange(12)
        return files.next_life(loss, self.fate)

    def _disconnect(self, one: int, other: int) -> None:
        network = self.cluster.network
        network.cut |= {(one, other), (other, one)}
        for here, there in ((one, other), (other, one)):
            network.lose(here, there)
            if here not in self.down and there in self.cluster[here].joined:
                self.cluster[here].joined.discard(there)
                self.cluster[here].core.disconnected(there)

    def _connect(self, one: int, other: int) -> None:
        if one in self.down or other in self.down:
            return
        self.cluster.network.cut -= {(one, other), (other, one)}
        for here, there in ((one, other), (other, one)):
            if there not in self.cluster[here].joined:
                self.cluster[here].joined.add(there)
                self.cluster[here].core.connected(there)
