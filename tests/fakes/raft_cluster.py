"""Voters on a clock and a network that a scenario moves by hand: the library's real core, stock or
behind the layer, so that every result is an interleaving that TCP and crashes allow.

Links are FIFO; a scenario delays (``held``), loses (``cut``, ``lose``) or delivers what is on them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any

from millstream_raft.directory import format_node
from millstream_raft.group_commit import decode_batch
from millstream_raft.journal import FILE_NAME, Journal
from millstream_raft.journal_format import decode_file
from millstream_raft.pysyncobj_core import RaftCore
from millstream_raft.raft_codec import decode, encode
from millstream_raft.raft_config import RaftConfig
from millstream_raft.raft_messages import Envelope, LogEntry
from millstream_raft.rules import ALL_RULES, Rule
from millstream_raft.snapshot_file import SnapshotFile
from millstream_raft.vote import VoteFile
from millstream_server.v1 import raft_pb2 as wire
from millstream_server.v1 import raft_storage_pb2 as storage
from tests.fakes.crash_files import Crash, CrashFiles
from tests.fakes.raft_views import View, Witness

NEVER_MS = 10**9
#: Entries are padded to this, so that a few of them fill the small messages of the scenarios.
ENTRY_BYTES = 40
_JOURNAL = f"/raft/{FILE_NAME}"
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
        votes = VoteFile("/raft", files, stop_node)
        self.journal = Journal("/raft", files, stop_node, rules, votes.journal_mark)
        self.snapshots = SnapshotFile("/raft", files, stop_node)
        self.snapshots.check_reaches(self.journal.entries[0])
        self.core = RaftCore(
            node_id,
            cluster.ids,
            journal=self.journal,
            votes=votes,
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
        if self.files.crashed:
            raise Crash  # once more: the library swallows it while it loads a snapshot
        return self.cluster.network.send(self.node_id, peer, encode(envelope).SerializeToString())

    def receive(self, sender: int, message: bytes) -> None:
        envelope = decode(wire.RaftMessage.FromString(message))
        with self.cluster.watched(self, sender, envelope):
            self.core.receive(sender, envelope)

    def tick(self) -> None:
        with self.cluster.watched(self):
            self.core.tick()

    def campaign(self) -> None:
        self.core.campaign()
        self.tick()

    def leave(self) -> None:
        self.core.leave()

    def put(self, value: str) -> None:
        acks = self.cluster.acks
        content = storage.RaftEntryBatch(entries=[value.ljust(ENTRY_BYTES, ".").encode()])

        def done(results: list[bytes] | None) -> None:
            if not self.files.crashed:
                acks[value] = results is not None

        self.core.propose(content.SerializeToString(), done)

    def compact(self) -> None:
        self.core.compact()

    def crash(self, power: Random | None) -> tuple[CrashFiles, list[LogEntry]]:
        """The files after a ``kill -9``, or after power loss with this luck; and the entries that
        the journal there holds. The node must not be used any more."""
        files = self.files.after_kill() if power is None else self.files.after_power_loss(power)
        return files, decode_file(files.content(_JOURNAL), _JOURNAL).entries

    def view(self) -> View:
        library = self.core._node
        matches = library._SyncObj__raftMatchIndex if self.leads else {}
        nexts = library._SyncObj__raftNextIndex if self.leads else {}
        return View(
            term=self.term,
            leads=self.leads,
            entries=self.journal.entries[:],
            commit_index=self.core.commit_index,
            applied_index=self.core.applied_index,
            matches={int(node.id): index for node, index in matches.items()},
            nexts={int(node.id): index for node, index in nexts.items()},
        )

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


#: Makes a node like ``LayeredNode``.
NodeFactory = Callable[["Cluster", int], Any]


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
        #: What library code raised where its own thread would log it and go on.
        self.errors: list[str] = []
        #: What nodes hold of the machine, to be given back.
        self.closing = ExitStack()
        #: Sees every step of a node, if there is one.
        self.witness: Witness | None = None
        self.nodes: dict[int, Any] = {}
        for node_id in self.ids:
            self.nodes[node_id] = make(self, node_id)

    def __getitem__(self, node_id: int) -> Any:
        return self.nodes[node_id]

    @contextmanager
    def watched(
        self, node: Any, sender: int = 0, envelope: Envelope | None = None
    ) -> Iterator[None]:
        """Show the witness what a tick, or a message, makes of a node."""
        try:
            yield
        finally:  # also in the step that crashes it
            if self.witness is not None:
                self.witness.stepped(node.node_id, node.view(), sender, envelope)

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
