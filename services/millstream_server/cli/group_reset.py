"""Where a reset would move the committed offsets of a group. Pure.

As Kafka's tool does it: whatever is asked for is moved into the bounds of the log, and a shift
counts from the committed offset.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

ResetKind = Literal["earliest", "latest", "current", "offset", "shift", "time"]


@dataclass(frozen=True)
class ResetTarget:
    """What was asked for."""

    kind: ResetKind
    # Offset, signed number of records or milliseconds since 1970, as the kind says.
    number: int = 0


@dataclass(frozen=True)
class PartitionBounds:
    """What is known of a partition."""

    topic: str
    partition: int
    # Committed offset; None: none.
    committed: int | None
    beginning: int
    end: int
    # First offset at or after the time asked for; None: no record is as new.
    at_time: int | None = None


@dataclass(frozen=True)
class PlannedReset:
    """One line of the plan."""

    topic: str
    partition: int
    committed: int | None
    offset: int
    # Why the offset is not the one asked for; empty: it is.
    note: str = ""


def plan_resets(target: ResetTarget, partitions: Iterable[PartitionBounds]) -> list[PlannedReset]:
    """The new offset of each partition. A shift or "current" leaves out partitions that have no
    committed offset."""
    plan = []
    for bounds in partitions:
        wanted = _wanted(target, bounds)
        if wanted is None:
            continue
        offset = min(max(wanted, bounds.beginning), bounds.end)
        note = ""
        if wanted < bounds.beginning:
            note = f"{wanted} is before the start of the log"
        elif wanted > bounds.end:
            note = f"{wanted} is beyond the end of the log"
        plan.append(PlannedReset(bounds.topic, bounds.partition, bounds.committed, offset, note))
    return plan


def _wanted(target: ResetTarget, bounds: PartitionBounds) -> int | None:
    if target.kind == "earliest":
        return bounds.beginning
    if target.kind == "latest":
        return bounds.end
    if target.kind == "offset":
        return target.number
    if target.kind == "time":
        return bounds.end if bounds.at_time is None else bounds.at_time
    if bounds.committed is None:
        return None
    return bounds.committed + (target.number if target.kind == "shift" else 0)


def parse_topic_choice(text: str) -> tuple[str, list[int] | None]:
    """Read ``topic`` or ``topic:0,1`` (None: all partitions). Raises ValueError."""
    topic, colon, numbers = text.partition(":")
    if not topic or (colon and not all(part.strip().isdigit() for part in numbers.split(","))):
        raise ValueError(f"{text!r} is not a topic: write topic or topic:0,1,2")
    return topic, [int(part) for part in numbers.split(",")] if colon else None
