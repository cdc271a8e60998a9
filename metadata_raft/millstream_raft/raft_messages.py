"""The messages of the protocol and the entries of the log, as values."""

from dataclasses import dataclass
from typing import NamedTuple

#: First byte of an entry's command.
KIND_BATCH = 0
KIND_NOTHING = 1


class LogEntry(NamedTuple):
    """An entry of the log, in the library's own order of fields."""

    command: bytes
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    term: int


#: The first entry of every log, made by ``format``; so any two logs have an entry in common.
FIRST_ENTRY = LogEntry(bytes([KIND_NOTHING]), 1, 0)


class Position(NamedTuple):
    """An entry without its content. Index and term determine it and all before it (Raft §5.3)."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    term: int


@dataclass(frozen=True, slots=True)
class RequestVote:
    """A candidate asks for a vote."""

    term: int
    last_log_index: int
    last_log_term: int


@dataclass(frozen=True, slots=True)
class VoteGranted:
    """The vote is given."""

    term: int


@dataclass(frozen=True, slots=True)
class AppendEntries:
    """The leader sends entries, or none."""

    term: int
    commit_index: int
    #: None: the leader no longer has the entry before the first.
    previous: Position | None
    entries: tuple[LogEntry, ...]


@dataclass(frozen=True, slots=True)
class SnapshotPart:
    """A piece of a snapshot file."""

    last: Position
    #: Where in the file, bytes.
    position: int
    data: bytes
    complete: bool


@dataclass(frozen=True, slots=True)
class InstallSnapshot:
    """The leader sends a piece of its snapshot, or only shows that it lives."""

    term: int
    commit_index: int
    part: SnapshotPart | None


@dataclass(frozen=True, slots=True)
class AppendReply:
    """What the leader should send next, and whether everything before it is held durably."""

    next_index: int
    success: bool
    reset: bool


@dataclass(frozen=True, slots=True)
class TermNotice:
    """The receiver's term is over; the envelope says which one runs."""


@dataclass(frozen=True, slots=True)
class EntriesLost:
    """The receiver refused entries as if its log ended below what it acknowledged in this term."""

    leader_last_index: int


@dataclass(frozen=True, slots=True)
class LeaderLeaves:
    """The leader of this term stops; ``stand`` tells the receiver to stand for election."""

    stand: bool


Message = (
    RequestVote
    | VoteGranted
    | AppendEntries
    | InstallSnapshot
    | AppendReply
    | TermNotice
    | EntriesLost
    | LeaderLeaves
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with its sender's current term, which the library leaves out of replies."""

    sender_term: int
    message: Message
