"""The decisions of a follower about its own log (invariants 13 to 15)."""

import pytest

from millstream_server.broker.replication.follower_rules import (
    TruncationBelowMarkError,
    check_truncation,
    continues,
    end_epoch,
    truncation_target,
)
from millstream_server.storage.epochs import EpochHistory, EpochStart

EPOCHS = EpochHistory([EpochStart(1, 0), EpochStart(3, 10), EpochStart(4, 25)])


@pytest.mark.parametrize(
    ("leader_says", "target"),
    [
        # The epoch ends earlier at the leader.
        ((3, 15), 15),
        # It ends later there: what follows here is of an epoch that the leader lacks (KIP-279).
        ((3, 40), 25),
        # An epoch between two of this log: the one before it counts.
        ((2, 30), 10),
        ((4, 26), 26),
    ],
)
def test_a_log_is_cut_at_the_lesser_end_of_the_epoch(
    leader_says: tuple[int, int], target: int
) -> None:
    assert truncation_target(*leader_says, EPOCHS, 0, 30) == target


def test_a_log_of_newer_epochs_only_is_cut_to_nothing() -> None:
    epochs = EpochHistory([EpochStart(5, 12)])
    assert truncation_target(4, 40, epochs, 12, 30) == 12
    assert truncation_target(4, 6, epochs, 12, 30) == 6


@pytest.mark.parametrize(
    ("push", "end", "fits"),
    [
        ((5, 2), (5, 2), True),
        ((5, 2), (5, 1), False),
        ((6, 2), (5, 2), False),
        ((4, 2), (5, 2), False),
        ((0, None), (0, None), True),
        # A leader whose log starts here has no record before it to tell the epoch of.
        ((5, None), (5, 2), True),
        ((5, 2), (5, None), True),
    ],
)
def test_a_push_continues_the_log_exactly(
    push: tuple[int, int | None], end: tuple[int, int | None], fits: bool
) -> None:
    assert continues(*push, *end) is fits


def test_the_epoch_of_an_empty_log_is_none() -> None:
    assert end_epoch(EPOCHS, 25, 25) is None
    assert end_epoch(EPOCHS, 0, 25) == 3


def test_nothing_below_the_mark_is_cut_but_while_recovering() -> None:
    check_truncation(10, 10, recovering=False)
    with pytest.raises(TruncationBelowMarkError):
        check_truncation(9, 10, recovering=False)
    check_truncation(9, 10, recovering=True)
