"""Committed positions against a model: a set of offsets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream_server.coordinator.positions import (
    LogBounds,
    PositionCommit,
    PositionLimits,
    committed,
    is_expired,
    reset,
)
from millstream_server.coordinator.records import CommittedPosition
from millstream_server.coordinator.refusal import Refusal

LIMITS = PositionLimits(metadata_bytes_max=16, ranges_max=4)
WIDE = PositionLimits(metadata_bytes_max=16, ranges_max=100)
TOPIC = b"t" * 16


def commit_of(offset: int, *ranges: tuple[int, int], **fields: object) -> PositionCommit:
    return PositionCommit(TOPIC, 0, offset, ranges=ranges, **fields)  # type: ignore[arg-type]


@st.composite
def commits(draw: st.DrawFn) -> PositionCommit:
    bounds = sorted(draw(st.lists(st.integers(0, 30), min_size=1, max_size=7, unique=True)))
    offset, *rest = bounds
    pairs = tuple(zip(rest[::2], rest[1::2], strict=False))
    return commit_of(offset, *pairs)


def done(position: CommittedPosition) -> set[int]:
    offsets = set(range(position.offset))
    for begin, end in position.ranges:
        offsets |= set(range(begin, end))
    return offsets


def meant(commit: PositionCommit) -> set[int]:
    return done(CommittedPosition(commit.offset, ranges=commit.ranges))


@given(st.lists(commits(), max_size=8))
def test_commits_union_into_the_position_and_never_take_back(many: list[PositionCommit]) -> None:
    position: CommittedPosition | None = None
    model: set[int] = set()
    for commit in many:
        if position is not None and commit.offset < position.offset and not commit.ranges:
            with pytest.raises(Refusal, match="INVALID_COMMIT_OFFSET"):
                committed(position, commit, None, WIDE, 5)
            continue
        position = committed(position, commit, None, WIDE, 5)
        model |= meant(commit)
        assert done(position) == model
        before = position.offset
        for begin, end in position.ranges:
            assert before < begin < end
            before = end


@given(st.lists(commits(), max_size=5), commits())
def test_a_reset_replaces_the_position_and_counts(
    many: list[PositionCommit], last: PositionCommit
) -> None:
    position: CommittedPosition | None = None
    for commit in many:
        position = reset(position, commit, None, WIDE, 5)
    after = reset(position, last, None, WIDE, 5)
    assert done(after) == meant(last)
    assert after.generation == len(many) + 1
    with pytest.raises(Refusal, match="INVALID_COMMIT_OFFSET"):
        committed(after, commit_of(after.offset - 1), None, WIDE, 5) if after.offset else reset(
            after, commit_of(2**63), None, WIDE, 5
        )


def test_a_commit_keeps_generation_and_stores_epoch_metadata_and_time() -> None:
    first = reset(None, commit_of(10), None, LIMITS, 1)
    second = committed(first, commit_of(12, leader_epoch=7, metadata="x"), None, LIMITS, 2)
    assert second == CommittedPosition(12, 7, "x", 2, generation=1)


def test_the_same_commit_again_is_fine() -> None:
    once = committed(None, commit_of(10), None, LIMITS, 1)
    assert committed(once, commit_of(10), None, LIMITS, 2).offset == 10


def test_a_commit_beyond_the_end_is_refused_where_the_end_is_known() -> None:
    bounds = LogBounds(0, 9)
    with pytest.raises(Refusal, match="beyond the end"):
        committed(None, commit_of(10), bounds, LIMITS, 1)
    with pytest.raises(Refusal, match="beyond the end"):
        reset(None, commit_of(3, (5, 10)), bounds, LIMITS, 1)
    assert committed(None, commit_of(9), bounds, LIMITS, 1).offset == 9
    assert committed(None, commit_of(10), None, LIMITS, 1).offset == 10


def test_ranges_are_clipped_at_the_start_of_the_log_but_a_plain_offset_is_not() -> None:
    bounds = LogBounds(20, 100)
    assert committed(None, commit_of(3), bounds, LIMITS, 1).offset == 3
    position = committed(None, commit_of(3, (5, 8), (30, 40)), bounds, LIMITS, 1)
    assert (position.offset, position.ranges) == (20, ((30, 40),))


def test_limits_are_named() -> None:
    with pytest.raises(Refusal, match="metadata: 17 bytes"):
        committed(None, commit_of(1, metadata="x" * 17), None, LIMITS, 1)
    many = [(n, n + 1) for n in range(2, 12, 2)]
    with pytest.raises(Refusal, match="5 ranges beyond"):
        committed(None, commit_of(0, *many), None, LIMITS, 1)
    with pytest.raises(Refusal, match="overlaps or precedes"):
        committed(None, commit_of(5, (3, 8)), None, LIMITS, 1)


def test_expiry_counts_from_the_later_of_commit_and_end_of_use() -> None:
    position = CommittedPosition(1, commit_timestamp_ms=100)
    assert is_expired(position, 0, 50, 150)
    assert not is_expired(position, 0, 50, 149)
    assert not is_expired(position, 120, 50, 150)
