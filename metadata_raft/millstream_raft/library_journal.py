"""The journal and the vote in the words that PySyncObj uses for them."""

from typing import Any

from millstream_raft.journal import Journal
from millstream_raft.raft_messages import LogEntry
from millstream_raft.vote import VoteFile

#: How often it is noted how much of the journal is synced: bounds what may be cut off its end
#: without a trace. Costs a replaced file each time, unless nothing was written.
_MARK_EVERY_S = 10


class LibraryJournal:
    """What the library takes for its ``Journal``."""

    def __init__(self, journal: Journal, votes: VoteFile, committed_index: int) -> None:
        self._journal = journal
        self._committed_index = committed_index
        self._votes = votes
        self._entries = journal.entries
        self._boundary: list[LogEntry] | None = None
        self._seconds = 0

    def add(self, command: bytes, idx: int, term: int) -> None:
        entry = LogEntry(command, idx, term)
        if self._boundary is None:
            self._journal.append(entry)
            return
        self._boundary.append(entry)  # clear, add, add: the library begins at a snapshot
        if len(self._boundary) == 2:
            previous, last = self._boundary
            self._boundary = None
            self._journal.restart_at(previous, last)

    def clear(self) -> None:
        self._boundary = []

    def deleteEntriesFrom(self, position: int) -> None:
        self._journal.truncate_from(position)

    def deleteEntriesTo(self, position: int) -> None:
        self._journal.trim_to(position)

    def __getitem__(self, item: Any) -> Any:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def setRaftCommitIndex(self, index: int) -> None:
        self._journal.sync()  # what is called committed here is on this disk

    def getRaftCommitIndex(self) -> int:
        # What the snapshot holds is committed; the rest is learned anew from the leader. To begin
        # at 1 would be safe too, but a new leader counts from there, entry by entry.
        return self._committed_index

    def setCurrentTerm(self, term: int, voted_for: int | None) -> None:
        self._votes.store(term, voted_for, self._journal.mark)

    def getCurrentTerm(self) -> int:
        return self._votes.term

    def getVotedForNodeId(self) -> int | None:
        return self._votes.voted_for

    def onOneSecondTimer(self) -> None:
        if self._seconds % _MARK_EVERY_S == 0:  # at once after a start, too
            self._votes.mark_journal(self._journal.mark)
        self._seconds += 1

    def _destroy(self) -> None:
        self._journal.close()
        self._votes.mark_journal(self._journal.mark)
