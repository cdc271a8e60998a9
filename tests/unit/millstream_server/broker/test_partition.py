"""The replica's state machine: acknowledgements, epochs, high watermark."""

from dataclasses import replace

import pytest

from millstream_raft.image import PartitionState
from millstream_server.broker.partition import (
    TRANSITIONS,
    Event,
    IllegalTransitionError,
    Partition,
    Role,
)
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.waiting_appends import Outcome, Waiter

TOPIC = bytes(16)
ALONE = PartitionState(
    number=0, leader_id=1, leader_epoch=5, partition_epoch=7, replicas=(1,), isr=(1,)
)
THREE = replace(ALONE, replicas=(1, 2, 3), isr=(1, 2, 3), min_isr=2)


def leading(state: PartitionState = ALONE, end: int = 10) -> Partition:
    partition = Partition(TOPIC, "logs", 0, 1)
    partition.elect(state, end, end)
    partition.begin_epoch(state.leader_epoch, end, end, end)
    return partition


def waiter(last_offset: int, *, acks_all: bool = True, deadline_ms: int = 1000) -> Waiter:
    return Waiter(last_offset, 5, acks_all, deadline_ms, lambda *_: None)


def append(partition: Partition, count: int, **options: bool) -> Waiter:
    partition.appended(partition.end_offset + count)
    waiting = waiter(partition.end_offset - 1, **options)
    assert not partition.await_ack(waiting)
    return waiting


def report(
    partition: Partition, node_id: int, leader_epoch: int, end: int, synced: int, now_ms: int = 0
) -> list[Outcome]:
    return partition.follower_reported(
        node_id,
        leader_epoch,
        end,
        synced,
        node_epoch=node_id * 10,
        begun_at=partition.in_sync.partition_epoch,
        now_ms=now_ms,
    )


def refused(outcomes: list[Outcome]) -> list[str]:
    return [outcome.failure.reason if outcome.failure else "" for outcome in outcomes]


def test_a_new_replica_serves_nobody() -> None:
    partition = Partition(TOPIC, "logs", 0, 1)
    with pytest.raises(Refusal, match="LEADER_NOT_AVAILABLE"):
        partition.check_epoch(None)


def test_an_elected_leader_waits_for_its_epoch_to_be_durable() -> None:
    partition = Partition(TOPIC, "logs", 0, 1)
    partition.elect(ALONE, 10, 10)
    with pytest.raises(Refusal, match="LEADER_NOT_AVAILABLE"):
        partition.check_produce(5, True)
    partition.begin_epoch(5, 10, 10, 10)
    partition.check_produce(5, True)
    assert partition.epoch_start_offset == 10
    assert partition.high_watermark == 10


def test_a_begun_epoch_that_was_overtaken_changes_nothing() -> None:
    partition = Partition(TOPIC, "logs", 0, 1)
    partition.elect(ALONE, 10, 10)
    partition.elect(replace(ALONE, leader_epoch=6, partition_epoch=8), 10, 10)
    partition.begin_epoch(5, 10, 10, 10)
    assert partition.role is Role.STARTING


def test_an_illegal_event_raises_and_changes_nothing() -> None:
    partition = leading()
    with pytest.raises(IllegalTransitionError):
        partition._step(Event.EPOCH_BEGUN)
    assert partition.role is Role.LEADING


def test_every_role_can_be_left_and_reached() -> None:
    for role in Role:
        assert any(source is role for source, _ in TRANSITIONS)
        assert role in TRANSITIONS.values()


def test_in_fsync_mode_all_waits_for_the_sync() -> None:
    partition = leading()
    waiting = append(partition, 5)
    assert partition.written(15, 12) == []
    assert partition.high_watermark == 12
    assert partition.written(15, 15) == [Outcome(waiting, None)]


def test_in_page_cache_mode_the_written_end_counts() -> None:
    partition = leading(replace(ALONE, flush_mode="page_cache"))
    waiting = append(partition, 5)
    assert partition.written(15, 10) == [Outcome(waiting, None)]
    assert partition.high_watermark == 15


def test_all_waits_for_every_in_sync_replica_and_leader_does_not() -> None:
    partition = leading(THREE)
    of_all = append(partition, 1)
    of_leader = append(partition, 1, acks_all=False)
    assert partition.written(12, 12) == [Outcome(of_leader, None)]
    assert report(partition, 2, 5, 12, 12) == []
    assert report(partition, 3, 5, 12, 10) == []  # received, not synced
    assert report(partition, 3, 5, 12, 11) == [Outcome(of_all, None)]
    assert partition.high_watermark == 11


def test_reports_of_another_epoch_count_for_nothing() -> None:
    partition = leading(THREE)
    append(partition, 1)
    partition.written(11, 11)
    report(partition, 2, 4, 11, 11)
    report(partition, 3, 4, 11, 11)
    assert partition.high_watermark == 0


def test_after_an_election_the_end_is_unknown_until_the_mark_reaches_the_epoch_start() -> None:
    partition = leading(THREE)
    with pytest.raises(Refusal, match="OFFSET_NOT_AVAILABLE"):
        partition.readable_end()
    report(partition, 2, 5, 10, 10)
    report(partition, 3, 5, 10, 10)
    assert partition.readable_end() == 10


def test_losing_leadership_fails_every_waiter_for_good() -> None:
    partition = leading(THREE)
    append(partition, 1)
    append(partition, 1, acks_all=False)
    outcomes = partition.follow(replace(THREE, leader_id=2, leader_epoch=6, partition_epoch=8))
    assert refused(outcomes) == ["NOT_LEADER", "NOT_LEADER"]
    assert all(outcome.failure and outcome.failure.indeterminate for outcome in outcomes)
    # A later mark of another epoch completes nothing (invariant 11).
    assert partition.written(12, 12) == []
    with pytest.raises(Refusal, match="NOT_LEADER"):
        partition.check_produce(None, True)


def test_re_election_of_the_same_leader_fails_waiters_too() -> None:
    partition = leading(THREE)
    append(partition, 1)
    outcomes = partition.elect(replace(THREE, leader_epoch=6, partition_epoch=8), 11, 11)
    assert refused(outcomes) == ["NOT_LEADER"]


def test_epochs_are_compared_both_ways() -> None:
    partition = leading()
    with pytest.raises(Refusal, match="FENCED_LEADER_EPOCH"):
        partition.check_epoch(4)
    with pytest.raises(Refusal, match="UNKNOWN_LEADER_EPOCH"):
        partition.check_epoch(6)
    partition.check_epoch(5)


def test_below_the_minimum_all_is_refused_before_the_append() -> None:
    partition = leading(replace(THREE, isr=(1,)))
    with pytest.raises(Refusal, match="NOT_ENOUGH_REPLICAS") as caught:
        partition.check_produce(None, True)
    assert not caught.value.indeterminate
    partition.check_produce(None, False)


def test_falling_below_the_minimum_fails_what_waits_as_indeterminate() -> None:
    partition = leading(THREE)
    append(partition, 1)
    outcomes = partition.update(replace(THREE, isr=(1,), partition_epoch=8))
    assert refused(outcomes) == ["NOT_ENOUGH_REPLICAS_AFTER_APPEND"]
    assert outcomes[0].failure
    assert outcomes[0].failure.indeterminate


def test_a_shrink_counts_when_the_image_has_it() -> None:
    partition = leading(THREE)
    waiting = append(partition, 1)
    partition.written(11, 11)
    report(partition, 2, 5, 11, 11)
    partition.propose_in_sync((1, 2))
    assert partition.high_watermark == 0
    outcomes = partition.update(replace(THREE, isr=(1, 2), partition_epoch=8))
    assert outcomes == [Outcome(waiting, None)]


def test_a_joiner_counts_from_its_proposal() -> None:
    state = replace(THREE, isr=(1, 2))
    partition = leading(state)
    report(partition, 2, 5, 10, 10)
    report(partition, 3, 5, 10, 10)
    assert partition.may_join(3)
    partition.propose_in_sync((1, 2, 3))
    append(partition, 1)
    partition.written(11, 11)
    report(partition, 2, 5, 11, 11)
    assert partition.high_watermark == 10


def test_an_older_image_is_ignored() -> None:
    partition = leading(THREE)
    partition.update(replace(THREE, isr=(1,), partition_epoch=6))
    assert partition.in_sync.committed == {1, 2, 3}


def test_deadlines_fail_only_what_is_late() -> None:
    partition = leading(THREE)
    partition.appended(12)
    late, later = waiter(10, deadline_ms=100), waiter(11, deadline_ms=200)
    partition.await_ack(late)
    partition.await_ack(later)
    outcomes = partition.expire(100)
    assert [outcome.waiter for outcome in outcomes] == [late]
    assert refused(outcomes) == ["TIMED_OUT"]
    assert partition.waiting == 1


def test_a_repeat_of_something_acknowledged_is_acknowledged_at_once() -> None:
    assert leading().await_ack(waiter(9))


def test_a_repeat_of_something_earlier_is_answered_before_what_is_later() -> None:
    partition = leading()
    newest = append(partition, 5)
    repeat = waiter(11)
    assert not partition.await_ack(repeat)
    assert partition.written(15, 12) == [Outcome(repeat, None)]
    assert partition.written(15, 15) == [Outcome(newest, None)]


def test_a_failed_append_is_taken_back_alone() -> None:
    partition = leading()
    kept = append(partition, 5)
    failed = append(partition, 5)
    repeat = waiter(failed.last_offset)
    assert not partition.await_ack(repeat)
    full = Refusal("DISK_FULL", "no room")
    assert partition.cut(15, full) == [Outcome(failed, full), Outcome(repeat, full)]
    assert partition.end_offset == 15
    assert not partition.forget(failed)
    assert partition.forget(kept)


def test_the_mark_never_goes_back_within_an_epoch_and_never_passes_the_end() -> None:
    partition = leading()
    append(partition, 5)
    partition.written(15, 15)
    with pytest.raises(ValueError, match="below the mark"):
        partition.cut(14, Refusal("DISK_FULL", "no room"))
    with pytest.raises(ValueError, match="went back"):
        partition.appended(14)
    with pytest.raises(ValueError, match="passes the log end"):
        partition.written(20, 20)


def test_the_leader_is_never_behind_itself() -> None:
    partition = leading(THREE)
    report(partition, 2, 5, 7, 7)
    assert partition.lag_records(1) == 0
    assert partition.lag_records(2) == 3


def test_rule_9_a_new_leader_epoch_knows_no_follower_and_starts_at_the_log_end() -> None:
    partition = leading(THREE)
    report(partition, 2, 5, 10, 10)
    report(partition, 3, 5, 10, 10)
    partition.elect(replace(THREE, leader_epoch=6, partition_epoch=8), 12, 12)
    partition.begin_epoch(6, 12, 12, 12)
    assert partition.epoch_start_offset == 12
    report(partition, 2, 6, 12, 12)
    assert partition.high_watermark == 10  # what node 3 said before counts no more
    report(partition, 3, 6, 12, 12)
    assert partition.high_watermark == 12


def test_rule_9_nothing_is_answered_before_the_epoch_is_durable() -> None:
    partition = leading(THREE)
    partition.elect(replace(THREE, leader_epoch=6, partition_epoch=8), 10, 10)
    assert report(partition, 2, 6, 10, 10) == []
    with pytest.raises(Refusal, match="LEADER_NOT_AVAILABLE"):
        partition.check_epoch(6)


def test_rule_10_the_own_end_counts_when_it_is_synced() -> None:
    partition = leading(THREE)
    append(partition, 2)
    partition.written(12, 10)  # pushed from here on, not counted
    report(partition, 2, 5, 12, 12)
    report(partition, 3, 5, 12, 12)
    assert partition.high_watermark == 10
    partition.written(12, 12)
    assert partition.high_watermark == 12


def test_rule_10_a_change_to_fsync_counts_what_followers_synced() -> None:
    relaxed = replace(THREE, flush_mode="page_cache")
    partition = leading(relaxed)
    append(partition, 2)
    report(partition, 2, 5, 12, 10)
    report(partition, 3, 5, 12, 10)
    partition.written(11, 11)
    assert partition.high_watermark == 11
    partition.update(replace(THREE, partition_epoch=8))
    partition.written(12, 12)
    assert partition.high_watermark == 11
    report(partition, 2, 5, 12, 12)
    report(partition, 3, 5, 12, 12)
    assert partition.high_watermark == 12


def test_rule_10_an_end_that_went_back_does_not_take_the_mark_back() -> None:
    partition = leading(THREE)
    report(partition, 2, 5, 10, 10)
    report(partition, 3, 5, 10, 10)
    report(partition, 3, 5, 4, 4)
    assert partition.high_watermark == 10
    append(partition, 1)
    partition.written(11, 11)
    report(partition, 2, 5, 11, 11)
    assert partition.high_watermark == 10


def test_rule_11_below_the_minimum_nothing_is_acknowledged_by_what_was_committed_before() -> None:
    partition = leading(THREE)
    report(partition, 2, 5, 10, 10)
    report(partition, 3, 5, 10, 10)
    partition.update(replace(THREE, isr=(1,), partition_epoch=8))
    repeat = waiter(9)
    assert not partition.await_ack(repeat)
    partition.update(replace(THREE, isr=(1, 2), partition_epoch=9))
    assert partition.waiting == 0


def test_rule_12_only_replicas_of_the_partition_count() -> None:
    partition = leading(THREE)
    assert report(partition, 9, 5, 10, 10) == []
    assert not partition.may_join(9)


def test_rule_18_the_end_is_unknown_until_the_mark_reaches_the_epoch_start_whoever_joins() -> None:
    partition = leading(replace(THREE, isr=(1,)))
    with pytest.raises(Refusal, match="OFFSET_NOT_AVAILABLE"):
        partition.readable_end()
    report(partition, 2, 5, 10, 10)
    partition.update(replace(THREE, isr=(1, 2), partition_epoch=8))
    assert partition.readable_end() == 10


def test_rule_21_a_repeat_waits_for_the_mark_like_the_append_itself() -> None:
    partition = leading(THREE)
    first = append(partition, 1)
    partition.written(11, 11)
    repeat = waiter(10)
    assert not partition.await_ack(repeat)
    report(partition, 2, 5, 11, 11)
    assert report(partition, 3, 5, 11, 11) == [Outcome(first, None), Outcome(repeat, None)]


def test_rule_11_a_repeat_fails_with_the_leadership_that_accepted_it() -> None:
    partition = leading(THREE)
    append(partition, 1)
    assert not partition.await_ack(waiter(10))
    outcomes = partition.follow(replace(THREE, leader_id=2, leader_epoch=6, partition_epoch=8))
    assert refused(outcomes) == ["NOT_LEADER", "NOT_LEADER"]
