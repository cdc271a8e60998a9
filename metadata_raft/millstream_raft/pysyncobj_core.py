"""One voter on PySyncObj, driven from outside: without a thread, sockets, files or pickles of its
own.

Methods are overridden by their mangled names: ``__doApplyCommand`` (unpickles commands) and
``__parseChangeClusterRequest`` (unpickles membership). What else of the library could reach a
pickle stays closed from outside: the codec knows no message that carries one, dynamic membership is
off, and an entry never reaches the size that the library would send in pickled pieces.
"""

from collections.abc import Callable, Collection
from typing import Any, NoReturn

from millstream_raft.farewell import farewells
from millstream_raft.journal import Journal
from millstream_raft.library import (
    INSTANCE_ATTRIBUTES,
    UnsupportedLibrary,
    VoterNode,
    enter_environment,
    library,
    replaced_parts,
)
from millstream_raft.library_journal import LibraryJournal
from millstream_raft.library_messages import from_library, to_library
from millstream_raft.library_snapshots import LibrarySnapshots
from millstream_raft.message_filter import MessageFilter, NodeView
from millstream_raft.ports import Clock, FailStop, Random
from millstream_raft.raft_config import RaftConfig
from millstream_raft.raft_messages import (
    KIND_BATCH,
    KIND_NOTHING,
    AppendEntries,
    EntriesLost,
    Envelope,
    InstallSnapshot,
    LeaderLeaves,
    Message,
    RequestVote,
)
from millstream_raft.rules import ALL_RULES, Rule
from millstream_raft.silence import Silence, shows_loss
from millstream_raft.snapshot_file import Snapshot, SnapshotFile
from millstream_raft.vote import VoteFile


class _LibraryTransport(library.Transport):  # type: ignore[misc]
    """Hands the library's messages to its core, which sends them."""

    def __init__(self, node: "_LibraryNode", me: VoterNode, others: Collection[VoterNode]) -> None:
        super().__init__(node, me, others)
        self._core = node.core

    def send(self, node: VoterNode, message: dict[str, Any]) -> bool:
        return self._core.send_from_library(node.id, message)


class _LibraryNode(library.SyncObj):  # type: ignore[misc]
    """The library's node with everything that unpickles overridden."""

    def __init__(self, core: "RaftCore", me: VoterNode, others: list[VoterNode], conf: Any) -> None:
        self.core = core
        super().__init__(me, others, conf, transportClass=_LibraryTransport)

    def _SyncObj__doApplyCommand(self, command: bytes) -> list[bytes] | None:
        return self.core.apply(self.raftLastApplied + 1, command)

    def _SyncObj__parseChangeClusterRequest(self, command: bytes) -> None:
        return None


#: Called once for a proposal that was applied (its result) or displaced by another leader's entry
#: (None); never called if the node loses track of it.
ProposalDone = Callable[[list[bytes] | None], None]


class RaftCore:
    """One voter. Every method must be called from one thread at a time, and none of them waits
    for anything but the disk. ``apply``, ``dump``, ``restore`` and ``send`` are called back from
    within."""

    def __init__(
        self,
        node_id: int,
        voter_ids: Collection[int],
        *,
        journal: Journal,
        votes: VoteFile,
        snapshots: SnapshotFile,
        apply: Callable[[int, bytes], list[bytes]],
        dump: Callable[[], bytes],
        restore: Callable[[int, bytes], None],
        send: Callable[[int, Envelope], bool],
        config: RaftConfig,
        clock: Clock,
        random: Random,
        fail_stop: FailStop,
        rules: frozenset[Rule] = ALL_RULES,
    ) -> None:
        self.node_id = node_id
        self._fail_stop = fail_stop
        self._failure: str | None = None
        self._journal = journal
        self._votes = votes
        self._silence = Silence(node_id, votes, self.fail)
        self._snapshots = snapshots
        self._apply, self._dump, self._restore = apply, dump, restore
        self._send = send
        self._config = config
        self._clock, self._random = clock, random
        self._filter = MessageFilter(rules)
        self._nodes = {voter: VoterNode(voter) for voter in voter_ids if voter != node_id}
        self._connected: set[int] = set()
        self._leader_heard_ms: int | None = None
        self._installing = False
        # The term in which this node gave up the leadership, since it stops.
        self._left_term: int | None = None
        self._enter()
        self._node = self._make_node()
        for name in INSTANCE_ATTRIBUTES:
            if not hasattr(self._node, name):
                raise UnsupportedLibrary(f"pysyncobj lacks {name}")
        if snapshots.last is not None:
            began_ms = clock.monotonic_ms()
            self._node._SyncObj__loadDumpFile(clearJournal=False)
            self._fail_again()
            self._excuse_ms(clock.monotonic_ms() - began_ms)

    def _make_node(self) -> Any:
        conf = library.SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=False,
            commandsWaitLeader=False,
            dynamicMembershipChange=False,
            useFork=False,
            commandsQueueSize=0,
            appendEntriesPeriod=self._config.heartbeat_interval_ms / 1000,
            appendEntriesBatchSizeBytes=self._config.append_bytes_max,
            raftMinTimeout=self._config.election_timeout_min_ms / 1000,
            raftMaxTimeout=self._config.election_timeout_max_ms / 1000,
            connectionTimeout=self._config.election_timeout_max_ms / 1000,
            leaderFallbackTimeout=self._config.leader_fallback_ms / 1000,
            logCompactionMinEntries=self._config.snapshot_entries,
            logCompactionMinTime=10**9,
        )
        last = self._snapshots.last
        committed_index = 1 if last is None else last.index
        with replaced_parts(
            lambda path: LibraryJournal(self._journal, self._votes, committed_index),
            lambda *_: LibrarySnapshots(
                self._snapshots, self.dump, self.restore, self.fail, self._config
            ),
        ):
            return _LibraryNode(self, VoterNode(self.node_id), list(self._nodes.values()), conf)

    # What the driver does.

    def tick(self) -> None:
        """Do what is due: elections, heartbeats, commits, applying, snapshots."""
        self._enter()
        if self._silence.lasts(self.commit_index) or self._left_term is not None:
            # Stand for election never, so never soon.
            self._node._SyncObj__raftElectionDeadline = (
                self._clock.monotonic_ms() + self._config.election_timeout_max_ms
            ) / 1000
        if self._journal.size_bytes > self._config.snapshot_journal_bytes:
            self._node.forceLogCompaction()
        self._node.doTick(0)

    def receive(self, sender: int, envelope: Envelope) -> None:
        """Take a message from another voter."""
        node = self._nodes.get(sender)
        if node is None:
            return
        self._enter()
        match envelope.message:
            case EntriesLost(index):
                if index > self.commit_index:  # else the news is old
                    self._silence.begin(sender, index, self._journal.last_index)
                return
            case RequestVote() if self._silence.until:
                return
            case LeaderLeaves(stand):
                if (envelope.sender_term, sender) == (self.term, self.leader_id):
                    self._leader_heard_ms = None
                    if stand:
                        self.campaign()
                return
        arrival = self._filter.arrive(sender, envelope, self._view(node))
        if arrival.message is not None:
            self._deliver(node, arrival.message)
        for reply in arrival.replies:
            self._send_message(sender, reply)
        if self.leads and shows_loss(envelope, self.term, self.peer(sender)[1]):
            self._send_message(sender, EntriesLost(self._journal.last_index))

    def connected(self, peer: int) -> None:
        """Messages can be handed to a voter from now on."""
        self._enter()
        self._connected.add(peer)
        self._node._SyncObj__transport._onNodeConnected(self._nodes[peer])

    def disconnected(self, peer: int) -> None:
        """Messages can no longer be handed to a voter."""
        self._enter()
        self._connected.discard(peer)
        self._node._SyncObj__transport._onNodeDisconnected(self._nodes[peer])

    def propose(self, content: bytes, done: ProposalDone) -> None:
        """Put an entry into the log at the next tick, if this node still leads then."""
        self._enter()

        def answered(result: list[bytes] | None, reason: int) -> None:
            # Nothing is ever forwarded to a leader elsewhere, so every failure is definite.
            done(result if reason == library.FAIL_REASON.SUCCESS else None)

        self._node._applyCommand(bytes([KIND_BATCH]) + content, answered)

    def forget_proposals(self) -> None:
        """Never answer the proposals under way; for a node that no longer leads (S9: the library
        would keep some of them for ever)."""
        self._node._SyncObj__commandsWaitingCommit.clear()

    def campaign(self) -> None:
        """Stand for election at the next tick."""
        self._node._SyncObj__raftElectionDeadline = 0

    def leave(self) -> None:
        """Give the leadership up for good, for this node stops."""
        self._enter()
        self._left_term = self.term if self.leads else None
        matches = {peer: self.peer(peer)[1] for peer in self._connected if self.leads}
        for peer, message in farewells(matches):
            self._send_message(peer, message)

    def compact(self) -> None:
        """Write a snapshot at the next tick."""
        self._node.forceLogCompaction()

    def close(self) -> None:
        """Sync and close the journal."""
        self._enter()
        self._node.destroy()

    # What can be asked.

    @property
    def leads(self) -> bool:
        """True in the role of the leader, whether or not earlier terms are applied."""
        return bool(self._node._isLeader())

    @property
    def leads_and_is_current(self) -> bool:
        """True once a leader has applied the first entry of its own term, hence all before it."""
        first_own = self._node._SyncObj__noopIDx
        return self.leads and first_own is not None and self.applied_index >= first_own

    @property
    def leader_id(self) -> int | None:
        """The leader this node follows or is."""
        leader = self._node._getLeader()
        return None if leader is None else int(leader.id)

    @property
    def term(self) -> int:
        """Current term."""
        return int(self._node.raftCurrentTerm)

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        return int(self._node.raftCommitIndex)

    @property
    def applied_index(self) -> int:
        """Highest index that was applied."""
        return int(self._node.raftLastApplied)

    @property
    def silent_until(self) -> int:
        """The index up to which the log must be committed before this node votes; 0: it votes."""
        return self._silence.until

    def peer(self, peer: int) -> tuple[bool, int]:
        """Whether a voter is connected, and the highest index known to be on its disk."""
        match = self._node._SyncObj__raftMatchIndex.get(self._nodes[peer], 0) if self.leads else 0
        return peer in self._connected, int(match)

    def due_ms(self) -> int | None:
        """Milliseconds until the next tick is due; None if only events make work."""
        self._enter()
        if self.leads:
            if not self._nodes:
                return None
            due_s = self._node._SyncObj__newAppendEntriesTime
        elif self._nodes and not self._connected:
            return None  # the library stands for election only when connected
        else:
            due_s = self._node._SyncObj__raftElectionDeadline
        # The library compares strictly, so the next millisecond is the first that counts.
        return max(0, int(due_s * 1000) + 1 - self._clock.monotonic_ms())

    # What the library calls.

    def fail(self, reason: str) -> NoReturn:
        """Stop the process."""
        self._failure = reason
        self._fail_stop(reason)

    def _fail_again(self) -> None:
        """The library swallows every exception while it loads a snapshot; a fail-stop that raises
        instead of ending the process must not get lost there."""
        if self._failure is not None:
            self._fail_stop(self._failure)

    def apply(self, index: int, command: bytes) -> list[bytes] | None:
        """Apply a committed entry."""
        if command[:1] == bytes([KIND_NOTHING]):
            return None
        if command[:1] != bytes([KIND_BATCH]):
            self.fail(f"the log holds a command of unknown kind {command[:1]!r} at {index}")
        try:
            return self._apply(index, command[1:])
        except Exception as error:  # noqa: BLE001 - whatever it is, this copy would differ
            self.fail(f"applying entry {index} raised {error!r}")

    def dump(self) -> bytes:
        """The state for a snapshot."""
        try:
            return self._dump()
        except Exception as error:  # noqa: BLE001 - the state cannot be trusted any more
            self.fail(f"dumping the state raised {error!r}")

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the state."""
        try:
            self._restore(snapshot.last.index, snapshot.state)
        except Exception as error:  # noqa: BLE001 - the library would go on without a state
            self.fail(f"restoring the snapshot up to {snapshot.last.index} raised {error!r}")

    def send_from_library(self, peer: int, message: dict[str, Any]) -> bool:
        """Send one of the library's messages, if it is one that voters send here."""
        value = from_library(message)
        if self._left_term == self.term and isinstance(value, AppendEntries | InstallSnapshot):
            return False  # it would keep the others from voting
        return value is not None and self._send_message(peer, value)

    def _send_message(self, peer: int, message: Message) -> bool:
        # Nothing leaves that could let others rely on entries that this disk does not hold.
        self._journal.sync()
        return self._send(peer, Envelope(self.term, message))

    def _deliver(self, node: VoterNode, message: Message) -> None:
        from_leader = (
            isinstance(message, AppendEntries | InstallSnapshot) and message.term >= self.term
        )
        began_ms = self._clock.monotonic_ms()
        self._node._SyncObj__transport._onMessageReceived(node, to_library(message))
        self._fail_again()
        if from_leader:
            self._leader_heard_ms = self._clock.monotonic_ms()
            self._excuse_ms(self._leader_heard_ms - began_ms)

    def _excuse_ms(self, busy_ms: int) -> None:
        """Put off the next election by the time in which this voter could not listen. To load a
        large snapshot may take an election time-out, in which the leader was not silent: what it
        sent waits to be read. The library counts from before the load."""
        self._node._SyncObj__raftElectionDeadline += busy_ms / 1000

    def _view(self, node: VoterNode) -> NodeView:
        heard = self._leader_heard_ms
        return NodeView(
            term=self.term,
            is_leader=self.leads and self._left_term != self.term,
            leader_heard=heard is not None
            and self._clock.monotonic_ms() - heard < self._config.election_timeout_min_ms,
            last_applied=self.applied_index,
            next_index=self._node._SyncObj__raftNextIndex.get(node, 0),
        )

    def _enter(self) -> None:
        enter_environment(self._clock, self._random)
