"""Where a transfer begins, and on which lane it goes."""

import pytest

from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replication.transfers import (
    BeginElsewhere,
    Lane,
    LaneBounds,
    LeaderLog,
    Transfer,
    divergence_of,
)
from millstream_server.storage.epochs import EpochEnd, EpochHistory, EpochStart

# Epoch 1 has 0-9, epoch 3 has 10-19, epoch 6 has 20-24.
LOG = LeaderLog(EpochHistory([EpochStart(1, 0), EpochStart(3, 10), EpochStart(6, 20)]), 0, 25)
BOUNDS = LaneBounds(enter=100, leave=25)


@pytest.mark.parametrize(
    ("last_epoch", "end", "found"),
    [
        (None, 0, None),
        (None, 25, None),
        (None, 26, EpochEnd(0, 25)),
        (6, 25, None),
        (6, 22, None),
        (6, 26, EpochEnd(6, 25)),
        (3, 20, None),
        (3, 15, None),
        (3, 21, EpochEnd(3, 20)),
        # Epochs that the leader never heard of: the largest before counts.
        (5, 20, EpochEnd(3, 20)),
        (2, 4, EpochEnd(1, 10)),
        (9, 25, EpochEnd(6, 25)),
        (1, 10, None),
        (1, 11, EpochEnd(1, 10)),
    ],
)
def test_rule_14_the_largest_epoch_of_both_says_where_logs_part(
    last_epoch: int | None, end: int, found: EpochEnd | None
) -> None:
    assert divergence_of(last_epoch, end, LOG) == found


def test_rule_14_where_all_epochs_are_newer_logs_meet_only_at_the_start() -> None:
    log = LeaderLog(EpochHistory([EpochStart(6, 20)]), 20, 25)
    assert divergence_of(3, 22, log) == EpochEnd(3, 20)
    for end in (20, 15):  # what is below may be anything
        with pytest.raises(BeginElsewhere) as caught:
            divergence_of(3, end, log)
        assert caught.value.offset == 20
    assert divergence_of(3, 20, log, complete=True) is None  # what was deleted here was committed
    with pytest.raises(BeginElsewhere):
        divergence_of(3, 15, log, complete=True)


def test_an_empty_log_at_the_beginning_agrees_with_everything() -> None:
    assert divergence_of(3, 0, LeaderLog(EpochHistory([EpochStart(6, 0)]), 0, 25)) is None


def test_a_transfer_far_behind_changes_its_lane_when_nothing_is_under_way() -> None:
    transfer = Transfer(1, 6, 0, 0)
    assert transfer.choose_lane(100, BOUNDS) is Lane.TAIL
    assert transfer.choose_lane(101, BOUNDS) is Lane.CATCH_UP
    transfer.pushed(5)
    assert transfer.choose_lane(26, BOUNDS) is Lane.CATCH_UP
    assert transfer.choose_lane(25, BOUNDS) is None
    transfer.reported(4, 0)
    assert transfer.choose_lane(25, BOUNDS) is None
    transfer.reported(5, 5)
    assert transfer.choose_lane(25, BOUNDS) is Lane.TAIL
    assert transfer.choose_lane(100, BOUNDS) is Lane.TAIL


@pytest.mark.parametrize(("end", "synced"), [(1, 1), (6, 2), (4, 5), (3, 1)])
def test_a_report_that_cannot_be_is_refused_and_changes_nothing(end: int, synced: int) -> None:
    transfer = Transfer(1, 6, 2, 2)
    transfer.pushed(5)
    transfer.reported(3, 2)
    with pytest.raises(Refusal, match="INVALID_REQUEST"):
        transfer.reported(end, synced)
    assert (transfer.reported_end, transfer.reported_synced_end) == (3, 2)


def test_pushes_go_forward_only() -> None:
    transfer = Transfer(1, 6, 2, 2)
    with pytest.raises(ValueError, match="not beyond"):
        transfer.pushed(2)
