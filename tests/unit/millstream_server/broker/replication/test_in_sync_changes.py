"""Which in-sync set a leader asks for."""

from dataclasses import replace

from millstream_raft.image import PartitionState, Reassignment
from millstream_server.broker.partition import Partition
from millstream_server.broker.replication.in_sync_changes import Brokers, wanted_in_sync

STATE = PartitionState(
    number=0,
    leader_id=1,
    leader_epoch=5,
    partition_epoch=7,
    replicas=(1, 2, 3),
    isr=(1, 2, 3),
    min_isr=2,
)
ELIGIBLE = {1: 10, 2: 20, 3: 30}
LAG_MS = 100


def leading(end: int = 10, **changes: object) -> Partition:
    state = replace(STATE, **changes)  # type: ignore[arg-type]
    partition = Partition(bytes(16), "logs", 0, 1)
    partition.elect(state, end, end)
    partition.begin_epoch(state.leader_epoch, end, end, end)
    look(partition, 0)
    return partition


def look(partition: Partition, now_ms: int) -> None:
    partition.look_at_followers(ELIGIBLE, now_ms, LAG_MS)


def report(
    partition: Partition,
    node_id: int,
    end: int,
    synced: int | None = None,
    *,
    now_ms: int = 0,
    leader_epoch: int = 5,
    node_epoch: int | None = None,
    begun_at: int | None = None,
) -> None:
    partition.follower_reported(
        node_id,
        leader_epoch,
        end,
        end if synced is None else synced,
        node_epoch=node_id * 10 if node_epoch is None else node_epoch,
        begun_at=partition.in_sync.partition_epoch if begun_at is None else begun_at,
        now_ms=now_ms,
    )


def wanted(
    partition: Partition, now_ms: int = 0, eligible: dict[int, int] = ELIGIBLE
) -> tuple[int, ...] | None:
    return wanted_in_sync(partition, Brokers(eligible), now_ms, LAG_MS)


def test_rule_12_who_lags_too_long_leaves() -> None:
    partition = leading()
    report(partition, 2, 10)
    report(partition, 3, 9)
    assert wanted(partition, 100) is None
    assert wanted(partition, 101) == (1, 2)


def test_rule_12_who_never_reported_leaves_after_the_same_time() -> None:
    partition = leading()
    report(partition, 2, 10)
    assert wanted(partition, 101) == (1, 2)


def test_rule_3_who_never_reported_may_lead_still_within_a_session() -> None:
    partition = leading()
    report(partition, 2, 10)
    report(partition, 3, 9)
    brokers = Brokers(ELIGIBLE, session_ms={3: 300})
    assert wanted_in_sync(partition, brokers, 101, LAG_MS) == (1, 2), "3 knows who leads"
    partition = leading()
    report(partition, 2, 10)
    assert wanted_in_sync(partition, brokers, 300, LAG_MS) is None
    assert wanted_in_sync(partition, brokers, 301, LAG_MS) == (1, 2)


def test_rule_3_who_is_drained_leaves_once_it_copies() -> None:
    partition = leading()
    report(partition, 2, 10)
    brokers = Brokers({1: 10, 2: 20}, draining=frozenset((3,)))
    assert wanted_in_sync(partition, brokers, 0, LAG_MS) is None
    report(partition, 3, 10)
    assert wanted_in_sync(partition, brokers, 0, LAG_MS) == (1, 2)


def moved(*target: int, **changes: object) -> Partition:
    added = tuple(one for one in target if one not in STATE.replicas)
    replicas = (*STATE.replicas, *added)
    return leading(reassignment=Reassignment(target, added, 1), replicas=replicas, **changes)


def test_rule_3_who_is_to_go_leaves_once_it_copies_and_the_target_is_in_sync() -> None:
    partition = moved(1, 4)
    report(partition, 2, 10)
    report(partition, 4, 9)
    eligible = {**ELIGIBLE, 4: 40}
    assert wanted(partition, eligible=eligible) is None
    report(partition, 4, 10)
    assert wanted(partition, eligible=eligible) == (1, 3, 4), "3 may not have heard who leads"
    report(partition, 3, 10)
    assert wanted(partition, eligible=eligible) == (1, 4)


def test_who_came_by_a_cancelled_move_leaves_though_one_of_the_others_is_gone() -> None:
    moved = Reassignment((1, 2, 3), (4,), 2)
    partition = leading(isr=(1, 2, 4), replicas=(1, 2, 3, 4), reassignment=moved)
    report(partition, 2, 10)
    report(partition, 4, 10)
    assert wanted(partition, eligible={1: 10, 2: 20, 4: 40}) == (1, 2)
    assert wanted(partition, eligible={**ELIGIBLE, 4: 40}) is None, "3 is there, and catches up"


def test_a_leader_that_is_to_go_puts_nobody_out() -> None:
    partition = moved(2, 3)
    report(partition, 2, 10)
    report(partition, 3, 10)
    assert wanted(partition) is None


def test_who_is_to_go_does_not_come_back_into_a_finished_set() -> None:
    partition = moved(1, 2, isr=(1, 2))
    report(partition, 2, 10)
    report(partition, 3, 10)
    assert wanted(partition) is None


def test_rule_12_only_what_is_synced_counts_in_fsync_mode() -> None:
    partition = leading()
    report(partition, 2, 10)
    report(partition, 3, 10, 9)
    assert wanted(partition, 101) == (1, 2)
    relaxed = leading(flush_mode="page_cache")
    report(relaxed, 2, 10)
    report(relaxed, 3, 10, 9)
    assert wanted(relaxed, 101) is None


def test_rule_12_who_has_the_mark_and_the_epochs_start_joins() -> None:
    partition = leading(isr=(1, 2))
    report(partition, 2, 10)
    report(partition, 3, 9)
    assert wanted(partition) is None
    report(partition, 3, 10)
    assert wanted(partition) == (1, 2, 3)


def test_rule_12_joiners_need_synced_ends_in_fsync_mode() -> None:
    partition = leading(isr=(1, 2))
    report(partition, 2, 10)
    report(partition, 3, 10, 9)
    assert wanted(partition) is None


def test_rule_12_reports_of_another_epoch_or_registration_do_not_join() -> None:
    partition = leading(isr=(1, 2))
    report(partition, 2, 10)
    report(partition, 3, 10, leader_epoch=4)
    assert wanted(partition) is None
    report(partition, 3, 10, node_epoch=29)
    assert wanted(partition) is None
    report(partition, 3, 10)
    assert wanted(partition, eligible={1: 10, 2: 20}) is None  # fenced, or shutting down
    assert wanted(partition) == (1, 2, 3)


def test_one_may_leave_while_another_joins() -> None:
    partition = leading(isr=(1, 2))
    report(partition, 3, 10)
    assert wanted(partition, 101) == (1, 3)


def test_the_leader_stays_alone_rather_than_leave() -> None:
    partition = leading()
    assert wanted(partition, 101) == (1,)


def test_rule_7_recovery_ends_when_the_followers_that_are_there_agree_with_the_log() -> None:
    partition = leading(isr=(1,), recovering=True)
    assert wanted(partition) is None
    report(partition, 2, 10)
    assert wanted(partition) is None
    report(partition, 3, 8)
    # Rule 4: nobody else may be asked in by the same change.
    assert wanted(partition) == (1,)


def test_rule_7_recovery_does_not_wait_for_who_is_not_there_or_never_agrees() -> None:
    partition = leading(isr=(1,), recovering=True)
    report(partition, 2, 10)
    assert wanted(partition, eligible={1: 10, 2: 20}) == (1,)
    assert wanted(partition, 100) is None
    assert wanted(partition, 101) == (1,)


def test_rule_18_joins_go_on_below_the_minimum_or_a_leader_would_never_get_out() -> None:
    partition = leading(isr=(1,))
    assert partition.high_watermark == 0
    report(partition, 2, 10)
    assert wanted(partition) == (1, 2)
    partition.propose_in_sync((1, 2))
    partition.update(replace(STATE, isr=(1, 2), partition_epoch=8))
    assert partition.high_watermark == 10


def test_rule_10_the_mark_waits_for_no_replica_that_is_taken_away() -> None:
    partition = leading(isr=(1, 2))
    report(partition, 3, 10)
    look(partition, 0)
    assert partition.in_sync.maximal == {1, 2, 3}
    partition.update(replace(STATE, isr=(1, 2), replicas=(1, 2), partition_epoch=8))
    look(partition, 0)
    assert partition.in_sync.maximal == {1, 2}


def test_rule_10_the_mark_waits_for_a_follower_that_copies_closely() -> None:
    partition = leading(isr=(1, 2))
    report(partition, 2, 10)
    report(partition, 3, 10)
    look(partition, 0)
    partition.appended(12)
    partition.written(12, 12)
    report(partition, 2, 12, now_ms=10)
    assert partition.high_watermark == 10
    look(partition, 101)  # for as long as it does
    assert partition.high_watermark == 12


def test_what_was_told_before_the_partition_epoch_stepped_brings_nobody_back() -> None:
    partition = leading(isr=(1,), partition_epoch=4)
    report(partition, 2, 10)
    partition.update(replace(STATE, isr=(1,), partition_epoch=5))
    assert wanted(partition) is None, "2 may have lost its place and its log meanwhile"
    report(partition, 2, 10, begun_at=4)
    assert wanted(partition) is None, "told in the same round"
    report(partition, 2, 10)
    assert wanted(partition) == (1, 2)


def test_who_lags_joins_only_once_it_has_caught_up() -> None:
    partition = leading(isr=(1,))  # fewer than the minimum: the high watermark stands still
    partition.appended(20)
    partition.written(20, 20)
    report(partition, 2, 12)
    assert wanted(partition, 100) == (1, 2)
    assert wanted(partition, 101) is None
    report(partition, 2, 20, now_ms=102)
    assert wanted(partition, 102) == (1, 2)
