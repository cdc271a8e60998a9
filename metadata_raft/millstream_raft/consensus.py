"""Consensus as the metadata plane sees it: propose bytes, learn what was committed, ask who leads.

Everything behind this interface may be replaced: production runs ``PySyncObjConsensus``, unit tests
an instant single node, the simulator a faulty model. Nothing here knows of a library, a thread or
a network.

The life of a proposal::

    propose(entry) -> waiting -> taken into a batch -> committed and applied -> result
                        |              |
                        |              +-- leadership lost, deadline -> OutcomeUnknown
                        +-- not the leader, queue full, deadline -> NotProposed

Several proposals travel in one log entry (group commit), so an index may be shared by several
entries. Versions and epochs must therefore be counters inside the state machine, stepped per
entry; an index only orders (invariant 1a).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

#: Largest entry that may be proposed, bytes. Far below the size from which the library under
#: ``PySyncObjConsensus`` would send an entry as a pickle.
ENTRY_BYTES_MAX = 1 << 20


class ConsensusError(Exception):
    """A proposal or a barrier did not end in a result.

    ConsensusError
    ├── NotProposed     definite: the entry is not in the log and never will be
    └── OutcomeUnknown  the entry may or may not be applied, now or later
    """

    def __init__(self, message: str, leader_id: int | None = None) -> None:
        super().__init__(message)
        #: The node that leads, as far as this one knows; where to try next.
        self.leader_id = leader_id


class NotProposed(ConsensusError):
    """The entry was not proposed and will never be applied: this node does not lead, its queue is
    full, the entry is too large, or the deadline passed while it waited. Trying again is safe."""


class OutcomeUnknown(ConsensusError):
    """The entry was handed to the log and its fate is not known. Trying again may apply it twice
    unless the state machine recognises the repetition (invariant 1b)."""


class StateMachine(Protocol):
    """What is replicated. All calls come from one thread, which is not the event loop's."""

    def apply(self, index: int, entry: bytes) -> bytes:
        """Apply a committed entry and return its result. Must be a function of the state and the
        entry alone. Must not raise: a refusal is a result. An exception stops the process, since
        going on would make this copy differ from the others.

        ``index`` never goes back; entries that were committed together share one."""

    def dump(self) -> bytes:
        """The whole state. Called between two entries; must be quick (< 100 ms), since no message
        is answered meanwhile."""

    def restore(self, snapshot: bytes) -> None:
        """Replace the whole state by one that ``dump`` returned here or on another node. Raises
        on damaged input, which stops the process."""


class CommitListener(Protocol):
    """Learns, on the event loop and in order, what the state machine went through."""

    def committed(self, index: int, entry: bytes, result: bytes) -> None:
        """An entry was applied with this result. Called before the ``propose`` that brought it
        returns. At start-up it is called for every entry after the last snapshot."""

    def restored(self, index: int, snapshot: bytes) -> None:
        """The whole state was replaced by this snapshot, which holds everything up to ``index``:
        at start-up, or when the node had fallen too far behind."""


@dataclass(frozen=True, slots=True)
class VoterStatus:
    """Another voter as this node sees it."""

    node_id: int
    #: True while messages can be handed to it.
    connected: bool
    #: Highest index known to be on its disk. Known only to the leader; 0 elsewhere.
    match_index: int


@dataclass(frozen=True, slots=True)
class ConsensusStatus:
    """A moment of the quorum as one node sees it. Different nodes may disagree for a while."""

    node_id: int
    #: None while no leader is known.
    leader_id: int | None
    is_leader: bool
    term: int
    #: Highest index known to be committed; re-learned from the leader after a start.
    commit_index: int
    applied_index: int
    last_index: int
    #: Index that the newest snapshot on disk reaches; 0 without one.
    snapshot_index: int
    #: Bytes of the journal on disk.
    journal_bytes: int
    #: Proposals that wait or are under way.
    proposals_pending: int
    #: fdatasync calls on the journal since the start.
    journal_syncs: int
    #: The other voters by node id.
    voters: Mapping[int, VoterStatus]
    #: This node lost entries that it had acknowledged, and does not vote until its log is committed
    #: up to this index; 0: it votes.
    silent_until: int


LeadershipCallback = Callable[[bool, int], None]


class Consensus(Protocol):
    """One voter. All methods are called on the event loop that ran ``start``."""

    @property
    def node_id(self) -> int:
        """This voter."""

    @property
    def leader_id(self) -> int | None:
        """The leader as far as this node knows; None while there is none."""

    @property
    def is_leader(self) -> bool:
        """True while this node believes that it leads **and** has applied every entry committed
        before its term. Another node may have been elected already: only a committed entry or a
        barrier proves leadership."""

    @property
    def term(self) -> int:
        """Current term; only grows."""

    def on_leadership(self, callback: LeadershipCallback) -> None:
        """Call ``callback(is_leader, term)`` on the event loop at every change of ``is_leader``,
        in order with the commit listener's calls."""

    def on_commit(self, listener: CommitListener) -> None:
        """Set the listener. Must be called before ``start``."""

    async def start(self) -> None:
        """Load what the disk holds and take part. Raises a RaftDirectoryError (see
        ``directory_errors.py``) when the folder must not be used."""

    async def stop(self) -> None:
        """Leave cleanly; waiting proposals end as NotProposed, those under way as
        OutcomeUnknown."""

    async def resign(self) -> bool:
        """Let another voter lead, since this node is about to stop. True if one does; False if
        this node did not lead, or nobody took over within an election time-out. Nothing may be
        proposed here afterwards."""

    async def propose(self, entry: bytes, timeout_ms: int) -> bytes:
        """Have an entry committed and return ``apply``'s result. Raises NotProposed or
        OutcomeUnknown; ends within ``timeout_ms`` in any case."""

    async def barrier(self, timeout_ms: int) -> int:
        """Prove leadership by a majority round begun after the call; return the index applied
        here then. Everything acknowledged anywhere before the call is in the state, and the
        listener knows it. Calls that wait at the same time share one round. Raises NotProposed
        or OutcomeUnknown (a failed barrier has no effect in either case)."""

    def status(self) -> ConsensusStatus:
        """The quorum as this node sees it."""
