"""Voters on a clock and a network that a scenario moves by hand: the library's real core, stock or
behind the layer, so that every result is an interleaving that TCP and crashes allow.

Links are FIFO; a scenario delays (``held``), loses (``cut``, ``lose``) or delivers what is on them.
"""

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from millstream_raft.directory import format_node
from millstream_raft.group_commit import decode_batch
from millstream_raft.journal import Journal
from millstream_raft.library import VoterNode, enter_environment, library
from millstream_raft.pysyncobj_core import RaftCore
from millstream_raft.raft_codec import decode, encode
from millstream_raft.raft_config import RaftConfig
from millstream_raft.raft_messages import Envelope
from millstream_raft.rules import ALL_RULES, Rule
from millstream_raft.snapshot_file import SnapshotFile
from millstream_raft.vote import VoteFile
from millstream_server.v1 import raft_pb2 as wire
from millstream_server.v1 import raft_storage_pb2 as storage
from tests.fakes.crash_files import CrashFiles

NEVER_MS = 10**9
#: Entries are padded to this, so that a few of them fill the small messages of the scenarios.
ENTRY_BYTES = 40
#: Elections happen when a scenario asks, so a rule that keeps voters with their leader would only
#: be in the way; its own scenarios switch it on.
SCENARIO_RULES = ALL_RULES - {Rule.STAY_WITH_LEADER}


class NodeStopped(Exception):
    """Stands for the end of the process."""


def stop_node(reason: str) -> Any:
    """A ``FailStop`` for tests."""
    raise NodeStopped(reason)


class SteppedClock:
    """Time moved by hand. It also passes a little while it is read, since the library has loops
    that end by the clock only."""

    def __init__(self) -> None:
        self._now_us = 1_000_000_000

    def monotonic_ms(self) -> int:
        self._now_us += 100
        return self._now_us // 1000

    def advance(self, milliseconds: int) -> None:
        self._now_us += milliseconds * 1000


class Network:
    """FIFO links between the nodes that are up."""

    def __init__(self) -> None:
        self.links: dict[tuple[int, int], list[Any]] = {}
        self.cut: set[tuple[int, int]] = set()
        self.held: set[tuple[int, int]] = set()
        self.receivers: dict[int, Callable[[int, Any], None]] = {}

    def send(self, source: int, target: int, message: Any) -> bool:
        if (source, target) in self.cut or target not in self.receivers:
            return False
        self.links.setdefault((source, target), []).append(message)
        return True

    def deliver(self, source: int, target: int, count: int | None = None) -> None:
        queue = self.links.get((source, target), [])
        for _ in range(len(queue) if count is None else min(count, len(queue))):
            self.receivers[target](source, queue.pop(0))

    def deliver_all(self) -> None:
        for source, target in sorted(self.links):
            if (source, target) not in self.held and target in self.receivers:
                self.deliver(source, target)

    def lose(self, source: int, target: int) -> None:
        self.links[(source, target)] = []

    def isolate(self, node: int, nodes: Iterable[int]) -> None:
        for other in nodes:
            if other != node:
                self.cut |= {(node, other), (other, node)}
                self.lose(node, other)
                self.lose(other, node)

    def heal(self) -> None:
        self.cut.clear()

    def remove(self, node: int) -> None:
        """The process is gone, with what was on the way to and from it."""
        self.receivers.pop(node, None)
        for link in self.links:
            if node in link:
                self.links[link] = []


class StockNode:
    """The library as it is shipped, on a memory journal unless given files."""

    def __init__(self, cluster: "Cluster", node_id: int, **conf: Any) -> None:
        self.cluster, self.node_id = cluster, node_id
        self.log: list[str] = []
        self._enter()
        settings = {
            "raftMinTimeout": NEVER_MS,
            "raftMaxTimeout": 2 * NEVER_MS,
            "connectionTimeout": 3 * NEVER_MS,
            "leaderFallbackTimeout": NEVER_MS,
            "logCompactionMinTime": NEVER_MS,
            "appendEntriesBatchSizeBytes": cluster.append_bytes_max,
            "logCompactionBatchSize": cluster.snapshot_part_bytes,
            "useFork": False,
            **conf,
        }
        others = [VoterNode(other) for other in cluster.ids if other != node_id]
        self.core = _StockCore(
            self, VoterNode(node_id), others, library.SyncObjConf(autoTick=False, **settings)
        )
        cluster.network.receivers[node_id] = self.receive
        for other in others:
            self.core._SyncObj__transport._onNodeConnected(other)

    def receive(self, sender: int, message: dict[str, Any]) -> None:
        self._enter()
        self.core._SyncObj__transport._onMessageReceived(VoterNode(sender), dict(message))

    def tick(self) -> None:
        self._enter()
        self.core.doTick(0)

    def campaign(self) -> None:
        self.core._SyncObj__raftElectionDeadline = 0
        self.tick()

    def put(self, value: str) -> None:
        self._enter()
        acks = self.cluster.acks
        self.core.put(value, callback=lambda _, reason: acks.__setitem__(value, reason == 0))

    def compact(self) -> None:
        self.core.forceLogCompaction()

    @property
    def leads(self) -> bool:
        return bool(self.core._isLeader())

    @property
    def term(self) -> int:
        return int(self.core.raftCurrentTerm)

    @property
    def is_current(self) -> bool:
        first_own = self.core._SyncObj__noopIDx
        return self.leads and first_own is not None and self.applied_index >= first_own

    @property
    def applied_index(self) -> int:
        return int(self.core.raftLastApplied)

    @property
    def last_index(self) -> int:
        return self.entries()[-1][0]

    def connected(self, other: int) -> None:
        self._enter()
        self.core._SyncObj__transport._onNodeConnected(VoterNode(other))

    def disconnected(self, other: int) -> None:
        self._enter()
        self.core._SyncObj__transport._onNodeDisconnected(VoterNode(other))

    def entries(self) -> list[tuple[int, int]]:
        journal = self.core._SyncObj__raftLog
        return [(journal[at][1], journal[at][2]) for at in range(len(journal))]

    def _enter(self) -> None:
        enter_environment(self.cluster.clock, self.cluster.chance)


class _StockTransport(library.Transport):  # type: ignore[misc]
    def __init__(self, core: Any, me: VoterNode, others: Any) -> None:
        super().__init__(core, me, others)
        self._network, self._me = core.owner.cluster.network, me.id

    def send(self, node: VoterNode, message: dict[str, Any]) -> bool:
        return bool(self._network.send(self._me, node.id, dict(message)))


class _StockCore(library.SyncObj):  # type: ignore[misc]
    def __init__(self, owner: StockNode, me: VoterNode, others: Any, conf: Any) -> None:
        self.owner = owner
        super().__init__(me, others, conf, transportClass=_StockTransport)
        self.values: list[str] = []  # named after construction, hence part of a dump
        owner.log = self.values

    @library.replicated
    def put(self, value: str) -> None:
        if self.values is not self.owner.log:
            self.owner.log = self.values  # a loaded dump replaced the list
        self.values.append(value)


class LayeredNode:
    """The library behind the layer, with messages through the codec and files that can crash."""

    def __init__(
        self,
        cluster: "Cluster",
        node_id: int,
        files: CrashFiles | None = None,
        rules: frozenset[Rule] = SCENARIO_RULES,
        **config: Any,
    ) -> None:
        self.cluster, self.node_id = cluster, node_id
        self.log: list[str] = []
        if files is None:
            files = CrashFiles()
            format_node("/raft", "sim", node_id, cluster.ids, files)
        self.files = files
        settings = {
            "heartbeat_interval_ms": 50,
            "election_timeout_min_ms": NEVER_MS,
            "election_timeout_max_ms": 2 * NEVER_MS,
            "leader_fallback_ms": NEVER_MS,
            "append_bytes_max": cluster.append_bytes_max,
            "snapshot_part_bytes": cluster.snapshot_part_bytes,
            **config,
        }
        self.journal = Journal("/raft", files, stop_node, rules)
        self.snapshots = SnapshotFile("/raft", files, stop_node)
        self.snapshots.check_reaches(self.journal.entries[0])
        self.core = RaftCore(
            node_id,
            cluster.ids,
            journal=self.journal,
            votes=VoteFile("/raft", files, stop_node),
            snapshots=self.snapshots,
            apply=self.apply,
            dump=lambda: "\n".join(self.log).encode(),
            restore=self.restore,
            send=self.send,
            config=RaftConfig(**settings),
            clock=cluster.clock,
            random=cluster.chance,
            fail_stop=stop_node,
            rules=rules,
        )
        cluster.network.receivers[node_id] = self.receive
        for other in cluster.ids:
            if other != node_id:
                self.core.connected(other)

    def apply(self, index: int, content: bytes) -> list[bytes]:
        values = [entry.decode().rstrip(".") for entry in decode_batch(content)]
        self.log.extend(values)
        return [value.encode() for value in values]

    def restore(self, index: int, state: bytes) -> None:
        self.log[:] = state.decode().split("\n") if state else []

    def send(self, peer: int, envelope: Envelope) -> bool:
        return self.cluster.network.send(self.node_id, peer, encode(envelope).SerializeToString())

    def receive(self, sender: int, message: bytes) -> None:
        self.core.receive(sender, decode(wire.RaftMessage.FromString(message)))

    def tick(self) -> None:
        self.core.tick()

    def campaign(self) -> None:
        self.core.campaign()
        self.tick()

    def put(self, value: str) -> None:
        acks = self.cluster.acks
        content = storage.RaftEntryBatch(entries=[value.ljust(ENTRY_BYTES, ".").encode()])

        def done(results: list[bytes] | None) -> None:
            if not self.files.crashed:
                acks[value] = results is not None

        self.core.propose(content.SerializeToString(), done)

    def compact(self) -> None:
        self.core.compact()

    @property
    def leads(self) -> bool:
        return self.core.leads

    @property
    def term(self) -> int:
        return self.core.term

    @property
    def is_current(self) -> bool:
        return self.core.leads_and_is_current

    @property
    def applied_index(self) -> int:
        return self.core.applied_index

    @property
    def last_index(self) -> int:
        return self.journal.last_index

    def connected(self, other: int) -> None:
        self.core.connected(other)

    def disconnected(self, other: int) -> None:
        self.core.disconnected(other)

    def entries(self) -> list[tuple[int, int]]:
        return [(entry.index, entry.term) for entry in self.journal.entries]


Node = StockNode | LayeredNode
NodeFactory = Callable[["Cluster", int], Node]


class Cluster:
    """Nodes 1 to ``count``, a network and a clock."""

    def __init__(
        self,
        make: NodeFactory,
        count: int = 3,
        *,
        append_bytes_max: int = 1 << 16,
        snapshot_part_bytes: int = 1 << 16,
        seed: int = 1,
    ) -> None:
        self.ids = tuple(range(1, count + 1))
        self.append_bytes_max = append_bytes_max
        self.snapshot_part_bytes = snapshot_part_bytes
        self.clock = SteppedClock()
        self.chance = Random(seed)
        self.network = Network()
        #: By value: True acknowledged, False refused, missing not answered.
        self.acks: dict[str, bool] = {}
        self.nodes: dict[int, Node] = {}
        for node_id in self.ids:
            self.nodes[node_id] = make(self, node_id)

    def __getitem__(self, node_id: int) -> Any:
        return self.nodes[node_id]

    def step(self, nodes: Iterable[int] | None = None, rounds: int = 6, wait_ms: int = 200) -> None:
        """Tick these nodes, or all, and deliver everything, some times over."""
        for _ in range(rounds):
            self.clock.advance(wait_ms)
            for node_id in self.ids if nodes is None else nodes:
                self.nodes[node_id].tick()
            self.network.deliver_all()

    def tick_later(self, node_id: int, wait_ms: int = 1_000) -> None:
        """Let time pass, then tick one node."""
        self.clock.advance(wait_ms)
        self.nodes[node_id].tick()

    def acknowledged(self) -> list[str]:
        """Values whose proposers were told that they are safe."""
        return [value for value, success in self.acks.items() if success]

    def lost_on(self, node_id: int) -> list[str]:
        """Acknowledged values that a node, leading and current, does not have."""
        return [value for value in self.acknowledged() if value not in self.nodes[node_id].log]
