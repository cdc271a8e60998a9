"""What a witness of a simulated quorum sees: voters from outside, before and after each step."""

from dataclasses import dataclass
from typing import Protocol

from millstream_raft.raft_messages import Envelope, LogEntry, Position


@dataclass(frozen=True, slots=True)
class View:
    """A voter at one moment."""

    term: int
    leads: bool
    #: The journal, from the last two entries of the snapshot on.
    entries: list[LogEntry]
    commit_index: int
    applied_index: int
    #: For a leader: the index up to which it believes each other voter to hold its log.
    matches: dict[int, int]
    #: For a leader: the index of what it sends next to each other voter.
    nexts: dict[int, int]

    @property
    def last_index(self) -> int:
        """Index of the last entry."""
        return self.entries[-1].index if self.entries else 0

    def term_at(self, index: int) -> int | None:
        """Term of the entry at an index; None if the journal does not hold one."""
        offset = index - self.entries[0].index if self.entries else -1
        return self.entries[offset].term if 0 <= offset < len(self.entries) else None

    def holds(self, position: Position) -> bool:
        """True if an entry is in the journal, or behind it in the snapshot."""
        # The library empties a journal that it trims behind its end.
        first_index = self.entries[0].index if self.entries else self.applied_index + 1
        if position.index < first_index:
            return True
        return self.term_at(position.index) == position.term


class Witness(Protocol):
    """Who is shown the steps."""

    def stepped(self, node: int, after: View, sender: int, envelope: Envelope | None) -> None:
        """A voter ticked (no envelope) or took a message. May raise."""
