"""What handlers return: records, a reply, pushes. ``Changes`` collects them.

A record is applied to the state in the moment in which it is emitted, by the same ``apply`` that
replay uses; so a handler sees its own changes, and checks everything before it emits the first.
Nothing of a result may leave the process before its records, and all before them, are stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from millstream_server.coordinator.records import Partitions, Record
from millstream_server.coordinator.refusal import Refusal
from millstream_server.coordinator.shard_state import ShardState

T = TypeVar("T")


class Reason(Enum):
    """Why an assignment changed; see ``AssignmentReason`` in the public proto."""

    MEMBER_JOINED = 1
    MEMBER_LEFT = 2
    MEMBER_FENCED = 3
    SUBSCRIPTION_CHANGED = 4
    TOPICS_CHANGED = 5
    PARTITION_RELEASED = 6
    RECONNECTED = 7


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by both clocks: monotonic for sessions, wall time for what is stored (invariant 36)."""

    monotonic_ms: int
    wall_ms: int


@dataclass(frozen=True, slots=True)
class AssignmentPush:
    """Tells a member what it should own from now on."""

    member_epoch: int
    partitions: Partitions
    # Will be granted when their owners let go.
    pending: Partitions
    reason: Reason
    group_epoch: int


@dataclass(frozen=True, slots=True)
class Push:
    """A message for a member's stream, or the stream's end."""

    # Number of the stream, as the shell counts them.
    stream: int
    message: AssignmentPush | Refusal


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """What a handler did. The reply and the pushes leave in this order once all is stored."""

    reply: T
    records: Sequence[Record] = ()
    pushes: Sequence[Push] = ()
    # True if the records need not be stored together.
    divisible: bool = False


class Changes:
    """A result in the making."""

    def __init__(self, state: ShardState) -> None:
        self._state = state
        self.records: list[Record] = []
        self.pushes: list[Push] = []

    def emit(self, record: Record) -> None:
        """Apply a record and remember to store it."""
        self._state.apply(record)
        self.records.append(record)

    def push(self, stream: int, message: AssignmentPush | Refusal) -> None:
        """Send a message on a stream, or end it."""
        self.pushes.append(Push(stream, message))

    def result(self, reply: T, *, divisible: bool = False) -> Result[T]:
        """The result so far."""
        return Result(reply, self.records, self.pushes, divisible)
