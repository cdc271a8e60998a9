"""A witness of a simulated quorum: it sees every step of every voter, says when a promise of Raft
is broken, and names the cause from the steps that led there.

What counts as broken is never that suspicious code ran, only one of these effects:

* a leader committed an entry that a majority does not hold;
* a voter applied an entry that is not the committed one, or that a majority does not hold;
* an entry that was committed is held by a minority only.

The name comes from what was seen to happen to the voters concerned, S1 to S6 as in
``tests/simulation/raft``: how an entry left a journal, which message raised a commit index, in
which term an acknowledgement was given that a leader counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from millstream_raft.raft_messages import (
    AppendEntries,
    AppendReply,
    Envelope,
    InstallSnapshot,
    LogEntry,
    Message,
    Position,
)
from tests.fakes.raft_views import View

#: A message removed entries that conflict with nothing in it.
TRUNCATED = "S1"
#: A commit index rose over entries that the message had not compared.
UNVERIFIED = "S2"
#: A leader counted an acknowledgement that was given in an older term.
STALE_ACK = "S3"
#: A restart found a journal that did not begin at its snapshot, and wiped the tail that matches.
WIPED_AT_START = "S6"
#: Refusals move a leader's position forward and back for ever.
ALTERNATES = "S11"
WIPED_BY_SNAPSHOT = "matching tail wiped by a snapshot that arrived"
LOST_IN_CRASH = "lost in a crash"
REPLACED = "replaced by a conflicting entry"
UNEXPLAINED = "unexplained"


class Violation(Exception):
    """What a schedule broke."""

    def __init__(self, name: str, detail: str = "") -> None:
        super().__init__(f"{name}: {detail}" if detail else name)
        #: The cause, or the effect if the cause was not seen: the same for the same fault.
        self.name = name


class QuorumWitness:
    """See ``Witness``. ``views`` are the voters as they begin, by node."""

    def __init__(self, views: Mapping[int, View]) -> None:
        #: The voters as they are; of one that is down, what its disk holds.
        self.views = dict(views)
        #: Entries known to be committed, by index; and who called them so without a comparison.
        self._committed: dict[int, int] = {}
        self._unverified: dict[int, set[Position]] = {node: set() for node in views}
        self._left: dict[int, dict[Position, str]] = {node: {} for node in views}
        #: By leader and voter: in which term the acknowledgement was given that counts now.
        self._acknowledged_in: dict[tuple[int, int], int] = {}
        #: How many refusals moved a leader's position forward.
        self.refused_forward = 0

    def stepped(self, node: int, after: View, sender: int, envelope: Envelope | None) -> None:
        """A voter ticked (no envelope) or took a message. Raises Violation."""
        message = envelope and envelope.message
        before, self.views[node] = self.views[node], after
        self._note_commit(node, before, after, message)
        if envelope and after.matches.get(sender, 0) > before.matches.get(sender, 0):
            self._acknowledged_in[(node, sender)] = envelope.sender_term
        if isinstance(message, AppendReply) and message.reset:
            self.refused_forward += after.nexts.get(sender, 0) > before.nexts.get(sender, 0) > 0
        self._removed(node, before, after, why_removed(before, after, message))
        if message is None and after.leads and after.commit_index > before.commit_index:
            self._check_commit(node, after)
        self._check_applied(node, before, after, message)

    def crashed(self, node: int, on_disk: Sequence[LogEntry]) -> None:
        """A voter is down; these entries are what is left. Raises Violation."""
        before = self.views[node]
        after = replace(before, leads=False, entries=list(on_disk), matches={}, nexts={})
        self.views[node] = after
        self._removed(node, before, after, LOST_IN_CRASH)

    def restarted(self, node: int, after: View) -> None:
        """A voter is up again and has loaded its files. Raises Violation."""
        before = self.views[node]
        self.views[node] = after
        self._removed(node, before, after, WIPED_AT_START if _wiped(before, after) else UNEXPLAINED)

    def _removed(self, node: int, before: View, after: View, cause: str) -> None:
        for position in _missing(before, after):
            self._left[node][position] = cause
            if self._committed.get(position.index) != position.term:
                continue
            if not self._majority_holds(position):
                blamed = [cause] if cause != REPLACED else self._who_committed(position)
                raise Violation(
                    _joined(blamed), f"only a minority holds {position}, gone from voter {node}"
                )

    def _note_commit(self, node: int, before: View, after: View, message: Message | None) -> None:
        verified = _verified(before, after, message)
        for index in range(max(before.commit_index, verified) + 1, after.commit_index + 1):
            term = after.term_at(index)
            if term is not None and message is not None:
                self._unverified[node].add(Position(index, term))

    def _check_commit(self, leader: int, view: View) -> None:
        position = _position(view, view.commit_index)
        if position is None or self._majority_holds(position):
            return
        blamed = []
        for voter, match in view.matches.items():
            if match < position.index or self.views[voter].holds(position):
                continue
            stale = self._acknowledged_in.get((leader, voter), view.term) < view.term
            otherwise = STALE_ACK if stale else UNEXPLAINED
            blamed.append(self._left[voter].get(position, otherwise))
        raise Violation(
            _joined(blamed), f"leader {leader} commits {position}, which only a minority holds"
        )

    def _check_applied(self, node: int, before: View, after: View, message: Message | None) -> None:
        first = before.applied_index + 1 if message is None else after.applied_index
        for index in range(max(first, before.applied_index + 1), after.applied_index + 1):
            source = before if message is None and before.term_at(index) is not None else after
            position = _position(source, index)
            if position is None:
                continue
            known = self._committed.setdefault(index, position.term)
            if known == position.term and self._majority_holds(position):
                continue
            other = Position(index, known)
            blamed = self._who_committed(position) + (
                self._who_committed(other) if known != position.term else []
            )
            raise Violation(
                _joined(blamed),
                f"voter {node} applies {position}, but "
                + ("only a minority holds it" if other == position else f"{other} is committed"),
            )

    def _who_committed(self, position: Position) -> list[str]:
        unverified = any(position in positions for positions in self._unverified.values())
        return [UNVERIFIED] if unverified else []

    def _majority_holds(self, position: Position) -> bool:
        return sum(view.holds(position) for view in self.views.values()) * 2 > len(self.views)


def why_removed(before: View, after: View, message: Message | None) -> str:
    """How the entries went that a step removed from a journal, if it did."""
    match message:
        case AppendEntries(entries=entries):
            conflict = any(
                before.term_at(entry.index) not in (None, entry.term) for entry in entries
            )
            return REPLACED if conflict else TRUNCATED
        case InstallSnapshot() if len(after.entries) > 1:
            last = Position(after.entries[1].index, after.entries[1].term)
            return WIPED_BY_SNAPSHOT if before.holds(last) else REPLACED
    return UNEXPLAINED


def _wiped(before: View, after: View) -> bool:
    """True if a restart left nothing but a snapshot's two entries, which the journal held."""
    return (
        len(after.entries) == 2
        and before.entries[:2] != after.entries
        and before.holds(Position(after.entries[1].index, after.entries[1].term))
    )


def _missing(before: View, after: View) -> list[Position]:
    """Entries that a voter held before and no longer holds."""
    if after.entries[: len(before.entries)] == before.entries:
        return []
    positions = (Position(entry.index, entry.term) for entry in before.entries)
    return [position for position in positions if not after.holds(position)]


def _verified(before: View, after: View, message: Message | None) -> int:
    """Up to which index a message has shown a journal to be its sender's."""
    match message:
        case AppendEntries(previous=Position(index=index), entries=entries):
            return index + len(entries)
        case InstallSnapshot() if after.entries[:2] != before.entries[:2]:
            return after.entries[1].index
    return 0


def _position(view: View, index: int) -> Position | None:
    term = view.term_at(index)
    return None if term is None else Position(index, term)


def _joined(names: Sequence[str]) -> str:
    return " + ".join(sorted(set(names))) or UNEXPLAINED
