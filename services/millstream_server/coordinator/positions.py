"""Committed positions: what a commit, a reset and time do to one (invariants 27 and 29).

A position is a set of offsets that are done: [0, offset) and disjoint ranges beyond. A commit is a
union with it, so it never takes anything back; only a reset replaces it, and counts up its
generation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from millstream_server.coordinator.records import CommittedPosition
from millstream_server.coordinator.refusal import Refusal

Ranges = tuple[tuple[int, int], ...]
_OFFSET_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class PositionCommit:
    """A position that somebody wants to commit."""

    topic_id: bytes
    partition: int
    offset: int
    leader_epoch: int | None = None
    metadata: str = ""
    # (begin, end) beyond ``offset``, disjoint and ascending.
    ranges: Ranges = ()


@dataclass(frozen=True, slots=True)
class LogBounds:
    """What is known of a log: its first offset and the offset after its last readable record."""

    start_offset: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class PositionLimits:
    """See ``CoordinatorConfig``."""

    metadata_bytes_max: int
    ranges_max: int


def committed(
    known: CommittedPosition | None,
    commit: PositionCommit,
    bounds: LogBounds | None,
    limits: PositionLimits,
    wall_ms: int,
) -> CommittedPosition:
    """The position after a commit. ``bounds``: None where the log's are not known.

    Raises Refusal INVALID_COMMIT_OFFSET or INVALID_REQUEST.
    """
    _check(commit, bounds, limits)
    if known is None:
        known = CommittedPosition(0)
    elif commit.offset < known.offset and not commit.ranges:
        raise Refusal(
            "INVALID_COMMIT_OFFSET",
            f"offset {commit.offset} is before the committed offset {known.offset}; "
            "only a reset moves it back",
        )
    offset, ranges = union(
        known.offset, known.ranges, commit.offset, commit.ranges, _clip(commit, known, bounds)
    )
    if len(ranges) > limits.ranges_max:
        raise Refusal(
            "INVALID_REQUEST",
            f"ranges: the position would have {len(ranges)} ranges beyond its offset, "
            f"at most {limits.ranges_max} are kept; commit a higher offset",
        )
    moved = commit.offset >= known.offset
    return CommittedPosition(
        offset,
        commit.leader_epoch if moved else known.leader_epoch,
        commit.metadata,
        wall_ms,
        known.generation,
        ranges,
    )


def reset(
    known: CommittedPosition | None,
    commit: PositionCommit,
    bounds: LogBounds | None,
    limits: PositionLimits,
    wall_ms: int,
) -> CommittedPosition:
    """The position after an explicit reset, forward or back.

    Raises Refusal INVALID_COMMIT_OFFSET or INVALID_REQUEST.
    """
    _check(commit, bounds, limits)
    offset, ranges = union(0, (), commit.offset, commit.ranges, 0)
    if len(ranges) > limits.ranges_max:
        raise Refusal("INVALID_REQUEST", f"ranges: at most {limits.ranges_max} are kept")
    generation = 1 if known is None else known.generation + 1
    return CommittedPosition(
        offset, commit.leader_epoch, commit.metadata, wall_ms, generation, ranges
    )


def union(
    offset: int, ranges: Ranges, other_offset: int, other_ranges: Ranges, clip_offset: int
) -> tuple[int, Ranges]:
    """Offset and ranges of the union of two positions, with everything before ``clip_offset``
    counted as done."""
    whole = [(0, max(offset, other_offset, clip_offset)), *ranges, *other_ranges]
    merged = merge(whole)
    return merged[0][1], tuple(merged[1:])


def merge(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same offsets as ascending ranges that neither overlap nor touch; empty ones, but for
    the first range of all, are gone."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def is_expired(
    position: CommittedPosition, unused_since_ms: int, retention_ms: int, wall_ms: int
) -> bool:
    """True if a position that no member uses is to be forgotten. Times are wall-clock
    milliseconds, because they must survive a change of the coordinator (invariant 36)."""
    return max(position.commit_timestamp_ms, unused_since_ms) + retention_ms <= wall_ms


def _clip(commit: PositionCommit, known: CommittedPosition, bounds: LogBounds | None) -> int:
    # A plain offset below the log's start is left alone: its consumer has to notice the gap. A
    # set would keep ranges for ever that nobody can fill any more.
    return bounds.start_offset if bounds is not None and (commit.ranges or known.ranges) else 0


def _check(commit: PositionCommit, bounds: LogBounds | None, limits: PositionLimits) -> None:
    size = len(commit.metadata.encode())
    if size > limits.metadata_bytes_max:
        raise Refusal(
            "INVALID_REQUEST",
            f"metadata: {size} bytes, at most {limits.metadata_bytes_max} are kept",
        )
    if commit.offset > _OFFSET_MAX:
        raise Refusal("INVALID_COMMIT_OFFSET", f"offset {commit.offset} is out of range")
    _check_ranges(commit.offset, commit.ranges)
    last = commit.ranges[-1][1] if commit.ranges else commit.offset
    if bounds is not None and last > bounds.end_offset:
        raise Refusal(
            "INVALID_COMMIT_OFFSET",
            f"offset {last} is beyond the end of the log, {bounds.end_offset}",
        )


def _check_ranges(offset: int, ranges: Sequence[tuple[int, int]]) -> None:
    before = offset
    for begin, end in ranges:
        if not before <= begin < end <= _OFFSET_MAX:
            raise Refusal(
                "INVALID_REQUEST",
                f"ranges: [{begin}, {end}) is empty, or overlaps or precedes what stands before",
            )
        before = end
