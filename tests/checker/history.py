"""What clients did and saw, in the order in which it happened. Pure: times come in.

A key is a partition, whatever names it; a value is unique per key. Every operation has a line: its
place in real-time order.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

Key: TypeAlias = Hashable
Value: TypeAlias = Hashable
#: (offset, value) of one record.
Read: TypeAlias = tuple[int, Value]


class Outcome(Enum):
    """How a send ended. An open one may still happen, as an unknown one may."""

    OPEN = "open"
    OK = "ok"
    FAIL = "fail"
    INFO = "info"


@dataclass(slots=True, eq=False)
class Send:
    """One record, from the call to the answer."""

    process: Hashable
    key: Key
    value: Value
    # The producer promises to write it at most once.
    idempotent: bool
    invoked_line: int
    invoked_at: float
    outcome: Outcome = Outcome.OPEN
    # Of an acknowledgement; None where the broker does not tell.
    offset: int | None = None
    # What the acknowledgement promises, as the broker names it.
    durability: str = ""
    error: str = ""
    completed_line: int = 0
    completed_at: float = 0.0
    # Sends with the same number were handed over by one call of their process, in this order.
    call: Hashable = None


@dataclass(frozen=True, slots=True)
class Poll:
    """Records that one consumer was given by one call."""

    process: Hashable
    reads: Mapping[Key, Sequence[Read]]
    line: int
    at: float
    # Polls of one process with the same number belong to the same assignment: between them
    # nothing may be skipped or repeated.
    assignment: int


@dataclass(frozen=True, slots=True)
class Position:
    """What a client was told of a partition: its end, or a committed position."""

    process: Hashable
    key: Key
    offset: int
    begun_line: int
    line: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """From here on a consumer reads these keys, from these offsets as far as they are known."""

    process: Hashable
    positions: Mapping[Key, int]
    line: int
    number: int


@dataclass(frozen=True, slots=True)
class Drained:
    """A consumer ended in order, after it had the time to read everything there was."""

    process: Hashable
    line: int
    at: float


@dataclass(frozen=True, slots=True)
class Ownership:
    """A consumer owned a partition from one line to another; None: to the end."""

    process: Hashable
    key: Key
    begin_line: int
    end_line: int | None


@dataclass
class History:
    """Filled by clients as they go."""

    sends: list[Send] = field(default_factory=list)
    polls: list[Poll] = field(default_factory=list)
    end_offsets: list[Position] = field(default_factory=list)
    commits: list[Position] = field(default_factory=list)
    owned: list[Ownership] = field(default_factory=list)
    # (line, process, "assign", "subscribe" or "crash", keys)
    other: list[tuple[int, Hashable, str, tuple[Key, ...]]] = field(default_factory=list)
    assignments: list[Assignment] = field(default_factory=list)
    drained: list[Drained] = field(default_factory=list)
    # Member → its group; who is in none reads and commits for itself.
    groups: dict[Hashable, Hashable] = field(default_factory=dict)
    # Anomalies that clients saw themselves: (name, text).
    noted: list[tuple[str, str]] = field(default_factory=list)
    _line: int = 0
    _assignments: dict[Hashable, int] = field(default_factory=dict)

    def next_line(self) -> int:
        """The place of what happens now."""
        self._line += 1
        return self._line

    def invoke_send(
        self,
        process: Hashable,
        key: Key,
        value: Value,
        at: float,
        idempotent: bool = True,
        call: Hashable = None,
    ) -> Send:
        """A send begins; ``call`` names the call that sends several records."""
        send = Send(process, key, value, idempotent, self.next_line(), at, call=call)
        self.sends.append(send)
        return send

    def acknowledge(self, send: Send, offset: int | None, durability: str, at: float) -> None:
        """It was answered well."""
        send.offset, send.durability = offset, durability
        self._complete(send, Outcome.OK, at)

    def fail(self, send: Send, error: str, at: float) -> None:
        """It definitely did not happen and never will."""
        send.error = error
        self._complete(send, Outcome.FAIL, at)

    def unknown(self, send: Send, error: str, at: float) -> None:
        """It may have happened."""
        send.error = error
        self._complete(send, Outcome.INFO, at)

    def _complete(self, send: Send, outcome: Outcome, at: float) -> None:
        if send.outcome is not Outcome.OPEN:
            raise ValueError(f"{send.value!r} was completed already")
        send.outcome = outcome
        send.completed_line, send.completed_at = self.next_line(), at

    def assign(
        self,
        process: Hashable,
        keys: Sequence[Key],
        *,
        subscribed: bool = False,
        positions: Mapping[Key, int] | None = None,
    ) -> None:
        """A consumer reads these from now on, from wherever unless ``positions`` tells; a new
        assignment begins."""
        number = self._assignments[process] = self._assignments.get(process, 0) + 1
        kind = "subscribe" if subscribed else "assign"
        line = self.next_line()
        self.other.append((line, process, kind, tuple(keys)))
        self.assignments.append(Assignment(process, positions or {}, line, number))

    def join(self, process: Hashable, group: Hashable) -> None:
        """A consumer is a member of a group, and commits for it."""
        self.groups[process] = group

    def drain(self, process: Hashable, at: float) -> None:
        """A consumer ends in order, with everything read."""
        self.drained.append(Drained(process, self.next_line(), at))

    def crash(self, process: Hashable) -> None:
        """The client is gone."""
        self.other.append((self.next_line(), process, "crash", ()))

    def poll(self, process: Hashable, reads: Mapping[Key, Sequence[Read]], at: float) -> None:
        """A consumer was given records."""
        assignment = self._assignments.get(process, 0)
        self.polls.append(Poll(process, reads, self.next_line(), at, assignment))

    def saw_end(self, process: Hashable, key: Key, offset: int, begun_line: int) -> None:
        """A client was told the end offset of a partition; it asked at ``begun_line``."""
        position = Position(process, key, offset, begun_line, self.next_line())
        self.end_offsets.append(position)

    def saw_commit(self, process: Hashable, key: Key, offset: int, begun_line: int) -> None:
        """A committed position was written or read."""
        self.commits.append(Position(process, key, offset, begun_line, self.next_line()))

    def owns(
        self, process: Hashable, key: Key, begin_line: int, end_line: int | None = None
    ) -> None:
        """A consumer may have processed records of a partition all that time."""
        self.owned.append(Ownership(process, key, begin_line, end_line))

    def note_anomaly(self, name: str, text: str) -> None:
        """A client saw with its own eyes what may not be."""
        self.noted.append((name, text))
