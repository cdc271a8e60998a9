"""What becomes of partitions when nodes end, stop, fail and come back (invariants 2, 3, 5 to 7)."""

import pytest

from millstream_raft.decide_nodes import CUT_LOGS_MAX, decide_registration
from millstream_raft.image import Image
from millstream_server.v1 import controller_service_pb2 as controller_pb
from millstream_server.v1 import metadata_command_pb2 as pb
from tests.fakes import metadata_images as images
from tests.fakes.election_images import (
    cluster,
    damaged,
    fenced,
    partition,
    power_cut,
    restarted,
    told,
)


def test_a_sole_copy_has_no_leader_until_its_broker_returns() -> None:
    before = cluster(1)
    alone = partition(fenced(before, 1))
    assert (alone.leader_id, alone.isr, alone.elr) == (None, (), (1,))
    assert alone.leader_epoch == partition(before).leader_epoch + 1
    back = fenced(before, 1)
    back = images.after(back, images.unfence(back, 1))
    led = partition(back)
    assert (led.leader_id, led.isr, led.elr) == (1, (1,), ())
    assert led.leader_epoch == alone.leader_epoch + 1
    assert led.partition_epoch == alone.partition_epoch + 1
    assert not led.recovering


def test_fencing_moves_the_lead_to_the_next_in_sync_replica_in_the_same_command() -> None:
    image = fenced(cluster(1, 2, 3), 1)
    moved = partition(image)
    assert (moved.leader_id, moved.isr, moved.elr) == (2, (2, 3), ())
    assert (moved.leader_epoch, moved.partition_epoch) == (1, 1)


def test_below_the_minimum_those_who_leave_stay_eligible() -> None:
    image = fenced(cluster(1, 2, 3, min_isr=2), 1, 2, 3)
    assert partition(image).elr == (2, 3)
    assert partition(image).isr == ()
    image = images.after(image, images.unfence(image, 1))
    assert partition(image).leader_id is None, "a replica outside of ISR and ELR is not elected"
    image = images.after(image, images.unfence(image, 3))
    assert partition(image).leader_id == 3
    assert partition(image).elr == (2,)


@pytest.mark.parametrize(
    ("flush_mode", "clean", "stale", "recovering"),
    [
        ("fsync", False, False, False),
        ("fsync", True, False, False),
        ("fsync", True, True, True),
        ("page_cache", True, False, False),
        ("page_cache", False, False, True),
    ],
)
def test_a_restart_keeps_its_place_only_with_proof(
    flush_mode: str, clean: bool, stale: bool, recovering: bool
) -> None:
    image = fenced(cluster(1, flush_mode=flush_mode), 1)
    image = restarted(image, 1, clean=clean, previous_epoch=0 if stale else None)
    led = partition(image)
    assert led.leader_id == 1
    assert led.recovering is recovering


def test_fsync_counts_only_where_it_was_on_for_the_whole_epoch() -> None:
    image = cluster(1, flush_mode="page_cache")
    image = images.after(
        image,
        images.command(
            change_topic_configs=pb.ChangeTopicConfigs(
                topic_id=images.topic_id(1), min_isr=1, flush_mode="fsync"
            )
        ),
    )
    image = restarted(fenced(image, 1), 1)
    assert partition(image).recovering
    over = pb.ChangePartition(
        topic_id=images.topic_id(1),
        expected_partition_epoch=partition(image).partition_epoch,
        in_sync_replica_ids=[1],
    )
    image = images.after(image, images.command(change_partition=over))
    assert not partition(image).recovering
    assert not partition(restarted(fenced(image, 1), 1)).recovering


def test_an_epoch_that_never_served_need_not_be_on_the_disk() -> None:
    image = fenced(cluster(1), 1)
    image = images.after(image, images.register(1, incarnation=50, previous_epoch=1))
    image = restarted(image, 1, previous_epoch=1)
    assert not partition(image).recovering


def cut(image: Image, node_id: int, *numbers: int, named: int = 0) -> Image:
    """The image after a restart whose recovery cut the logs of these partitions."""
    registration = controller_pb.Registration(
        cluster_id=image.cluster_id,
        node_id=node_id,
        incarnation_id=b"after the crash.",
        roles=[1],
        directory_id=image.nodes[node_id].directory_id,
        previous_epoch=image.nodes[node_id].epoch,
        cut_logs=[
            pb.PartitionId(topic_id=images.topic_id(1), partition=number) for number in numbers
        ]
        + [pb.PartitionId(topic_id=b"?" * 16)] * named,
    )
    commands = decide_registration(
        image, registration, predecessor_is_dead=True, session_timeout_ms=3000
    )
    return images.after(image, *commands)


def test_a_log_that_recovery_cut_keeps_no_place_the_others_do() -> None:
    image = images.after(
        images.image_with(1, 2, 3), images.add_topic(1, (1, 2), (1, 2), (1,), min_isr=2)
    )
    image = cut(fenced(image, 2, 1), 1, 0, 2, 99)
    assert [partition(image, one).elr for one in range(3)] == [(2,), (2, 1), ()]
    assert [partition(image, one).last_known_elr for one in range(3)] == [(1,), (), (1,)]
    image = images.after(image, images.unfence(image, 1))
    assert [partition(image, one).leader_id for one in range(3)] == [None, 1, 1]
    assert [partition(image, one).recovering for one in range(3)] == [False, False, True]


def test_too_many_cut_logs_to_name_cost_every_place() -> None:
    image = images.after(images.image_with(1, 2, 3), images.add_topic(1, (1, 2), (1, 2), min_isr=2))
    image = cut(fenced(image, 2, 1), 1, 0, named=CUT_LOGS_MAX)
    assert [partition(image, one).elr for one in range(2)] == [(2,), (2,)]


def test_a_changed_directory_never_leads() -> None:
    image = restarted(fenced(cluster(1), 1), 1, directory=99)
    lost = partition(image)
    assert (lost.leader_id, lost.isr, lost.elr, lost.last_known_elr) == (None, (), (), ())


def test_a_failed_directory_leads_nothing_until_a_new_start_recovers_it() -> None:
    image = cluster(1)
    offline = images.command(
        take_log_directory_offline=pb.TakeLogDirectoryOffline(node_id=1, node_epoch=1)
    )
    image = images.after(image, offline)
    assert partition(image).leader_id is None
    assert partition(image).last_known_elr == (1,)
    image = fenced(image, 1)
    image = images.after(image, images.unfence(image, 1))
    assert partition(image).leader_id is None, "the same start of the process"
    image = restarted(fenced(image, 1), 1)
    assert partition(image).leader_id == 1
    assert partition(image).recovering


def test_with_other_copies_a_failed_directory_loses_every_place() -> None:
    image = images.after(
        cluster(1, 2, min_isr=2),
        images.command(
            take_log_directory_offline=pb.TakeLogDirectoryOffline(node_id=1, node_epoch=1)
        ),
    )
    left = partition(image)
    assert (left.leader_id, left.isr, left.elr, left.last_known_elr) == (2, (2,), (), ())


def drained(image: Image, node_id: int = 1) -> Image:
    epoch = image.nodes[node_id].epoch
    drain = pb.DrainNode(node_id=node_id, node_epoch=epoch)
    return images.after(image, images.command(drain_node=drain))


def test_a_drained_leader_stays_in_sync_until_the_next_one_has_heard_of_it() -> None:
    led = partition(drained(cluster(1, 2)))
    assert (led.leader_id, led.isr) == (2, (1, 2))


def test_a_drained_follower_may_have_led_a_moment_ago_and_stays_in_sync_too() -> None:
    led = partition(drained(cluster(2, 1)))
    assert (led.leader_id, led.isr) == (2, (2, 1))


def test_a_drained_leader_that_nobody_can_replace_leaves_the_lead_empty() -> None:
    led = partition(drained(cluster(1)))
    assert (led.leader_id, led.isr, led.elr) == (None, (), (1,))


def test_of_all_that_are_drained_the_first_to_come_back_leads() -> None:
    image = drained(drained(cluster(1, 2)), 2)
    led = partition(image)
    assert (led.leader_id, led.isr, led.elr) == (None, (), (1, 2))
    image = images.after(image, images.fence(image, 2))
    image = images.after(image, images.register(2, incarnation=9, clean=True, previous_epoch=2))
    led = partition(images.after(image, images.unfence(image, 2)))
    assert (led.leader_id, led.isr, led.elr) == (2, (2, 1), ())


def test_who_takes_over_from_a_drained_leader_and_dies_leads_again_when_it_is_back() -> None:
    image = drained(cluster(1, 2))
    image = images.after(image, images.fence(image, 2))
    led = partition(image)
    assert (led.leader_id, led.isr, led.elr) == (None, (), (1, 2))
    image = images.after(image, images.register(2, incarnation=9, clean=True, previous_epoch=2))
    assert partition(images.after(image, images.unfence(image, 2))).leader_id == 2


def test_damage_of_the_last_leader_that_is_not_drained_lets_an_eligible_one_lead() -> None:
    image = fenced(cluster(1, 2, 3, min_isr=3), 2)
    assert (partition(image).isr, partition(image).elr) == ((1, 3), (2,))
    image = drained(image, 3)
    offline = pb.TakeLogDirectoryOffline(node_id=1, node_epoch=1)
    image = images.after(image, images.command(take_log_directory_offline=offline))
    assert partition(image).leader_id is None
    image = images.after(image, images.register(2, incarnation=9, clean=True, previous_epoch=2))
    led = partition(images.after(image, images.unfence(image, 2)))
    assert (led.leader_id, led.isr) == (2, (2, 3))


def test_an_eligible_leader_begins_with_the_eligible_ones_that_are_there() -> None:
    image = cluster(1, 2, min_isr=2)
    image = images.after(image, images.fence(image, 2))
    assert (partition(image).isr, partition(image).elr) == ((1,), (2,))
    image = images.after(image, images.register(2, incarnation=9, clean=True, previous_epoch=2))
    image = images.after(image, images.unfence(image, 2))
    led = partition(drained(image))
    assert (led.leader_id, led.isr, led.elr) == (2, (2, 1), ()), "1 may not have heard"
    led = partition(images.after(image, images.fence(image, 1)))
    assert (led.leader_id, led.isr, led.elr) == (2, (2,), (1,))


def change(image: Image, isr: tuple[int, ...], epoch: int, **added: int) -> str:
    command = images.command(
        change_partition=pb.ChangePartition(
            topic_id=images.topic_id(1),
            partition=0,
            expected_partition_epoch=epoch,
            in_sync_replica_ids=isr,
            added=[
                pb.ReplicaRegistration(node_id=int(name[1:]), node_epoch=node_epoch)
                for name, node_epoch in added.items()
            ],
        )
    )
    return images.apply(image, command).result.reason


def test_in_sync_replicas_change_only_by_compare_and_set() -> None:
    image = cluster(1, 2, 3)
    assert change(image, (1,), 0) == ""
    assert change(image, (1,), 1) == "VERSION_CONFLICT"
    assert change(image, (1, 4), 0) == "INVALID_REQUEST"
    assert change(image, (1, 1), 0) == "INVALID_REQUEST"
    assert change(image, (), 0) == "INVALID_REQUEST"
    assert change(image, (2, 3), 0) == "INVALID_REQUEST", "the leader stays in sync"


def test_a_joiner_is_in_sync_only_under_the_registration_that_was_seen() -> None:
    down = fenced(cluster(1, 2, 3), 2)
    epoch = down.nodes[2].epoch
    assert change(down, (1, 2, 3), 1, n2=epoch) == "VERSION_CONFLICT", "it is fenced"
    up = images.after(down, images.unfence(down, 2))
    assert change(up, (1, 2, 3), 1) == "VERSION_CONFLICT", "it has to be named"
    assert change(up, (1, 2, 3), 1, n2=epoch + 50) == "VERSION_CONFLICT"
    assert change(up, (1, 2, 3), 1, n2=epoch) == ""
    anew = restarted(down, 2)
    assert partition(anew).partition_epoch == 1, "its registration changed nothing in the partition"
    assert change(anew, (1, 2, 3), 1, n2=epoch) == "VERSION_CONFLICT"
    assert change(anew, (1, 2, 3), 1, n2=anew.nodes[2].epoch) == ""


def test_a_new_minimum_is_a_change_of_the_partition() -> None:
    image = fenced(cluster(1, 2, 3, min_isr=3), 3)
    assert partition(image).elr == (3,)
    image = images.after(
        image,
        images.command(
            change_topic_configs=pb.ChangeTopicConfigs(
                topic_id=images.topic_id(1), min_isr=2, flush_mode="fsync"
            )
        ),
    )
    assert partition(image).elr == ()
    assert partition(image).partition_epoch == 2
    assert partition(image).leader_epoch == 0


def test_after_a_power_cut_the_longest_log_leads_once_all_are_known() -> None:
    image = power_cut(1, 2, 3)
    state = partition(image)
    assert (state.leader_id, state.isr, state.elr) == (None, (), ())
    assert sorted(state.last_known_elr) == [2, 3], "1 had left before the others stopped"
    image = told(image, 2, 4, 90)
    assert partition(image).leader_id is None
    image = told(image, 3, 5, 70)
    led = partition(image)
    assert (led.leader_id, led.isr, led.last_known_elr, led.recovered_logs) == (3, (3,), (), ())
    assert led.recovering
    assert led.leader_epoch == state.leader_epoch + 1


def test_of_equal_logs_the_preferred_one_leads() -> None:
    image = told(told(power_cut(1, 3, 2), 2, 4, 90), 3, 4, 90)
    assert partition(image).leader_id == 3


def test_a_report_is_void_when_its_node_registers_again() -> None:
    image = told(power_cut(1, 2, 3), 2, 4, 90)
    image = restarted(fenced(image, 2), 2)
    assert partition(image).recovered_logs == ()
    image = told(image, 3, 4, 80)
    assert partition(image).leader_id is None
    assert partition(told(image, 2, 4, 70)).leader_id == 3


def test_the_longest_log_is_waited_for_when_its_node_is_gone_again() -> None:
    image = fenced(told(power_cut(1, 2, 3), 2, 4, 90), 2)
    image = told(image, 3, 4, 80)
    assert partition(image).leader_id is None
    assert partition(images.after(image, images.unfence(image, 2))).leader_id == 2


def test_an_eligible_replica_that_kept_its_place_wins_over_all_that_lost_theirs() -> None:
    image = fenced(cluster(1, 2, 3, min_isr=2, flush_mode="page_cache"), 1, 2, 3)
    image = restarted(image, 2)
    assert partition(image).last_known_elr == (2,)
    image = restarted(image, 3, clean=True)
    led = partition(image)
    assert (led.leader_id, led.recovering, led.last_known_elr) == (3, False, ())


def test_recovering_ends_with_the_leaders_first_change_not_with_its_next_restart() -> None:
    image = told(told(power_cut(1, 2, 3), 2, 4, 90), 3, 4, 80)
    image = restarted(fenced(image, 2), 2, clean=True)
    state = partition(image)
    assert (state.leader_id, state.isr, state.recovering) == (2, (2,), True)
    two = {"n3": image.nodes[3].epoch}
    assert change(image, (2, 3), state.partition_epoch, **two) == "INVALID_REQUEST"
    alone = pb.ChangePartition(
        topic_id=images.topic_id(1),
        expected_partition_epoch=state.partition_epoch,
        in_sync_replica_ids=[2],
    )
    image = images.after(image, images.command(change_partition=alone))
    assert not partition(image).recovering
    assert change(image, (2, 3), state.partition_epoch + 1, **two) == ""


def test_a_damaged_replica_leaves_every_set_and_returns_by_copying() -> None:
    image = damaged(cluster(1, 2, 3, min_isr=3), 1)
    state = partition(image)
    assert (state.leader_id, state.isr, state.elr, state.damaged) == (2, (2, 3), (), (1,))
    image = restarted(fenced(image, 1), 1, clean=True)
    assert partition(image).elr == ()
    joined = pb.ChangePartition(
        topic_id=images.topic_id(1),
        expected_partition_epoch=state.partition_epoch,
        in_sync_replica_ids=[1, 2, 3],
        added=[pb.ReplicaRegistration(node_id=1, node_epoch=image.nodes[1].epoch)],
    )
    image = images.after(image, images.command(change_partition=joined))
    assert partition(image).isr == (1, 2, 3)
    assert partition(image).damaged == ()


def test_a_damaged_sole_copy_stays_without_a_leader() -> None:
    image = damaged(cluster(1), 1)
    for clean in (True, False):
        image = restarted(fenced(image, 1), 1, clean=clean)
        state = partition(image)
        assert (state.leader_id, state.isr, state.elr, state.last_known_elr) == (None, (), (), ())
        assert state.damaged == (1,)


def test_when_damage_leaves_one_log_to_compare_that_one_leads() -> None:
    image = damaged(power_cut(1, 2, 3), 3)
    led = partition(image)
    assert (led.leader_id, led.recovering, led.damaged) == (2, True, (3,))


def test_a_log_that_lost_its_place_does_not_lead_in_the_stead_of_an_eligible_one() -> None:
    image = restarted(fenced(cluster(1, 2, min_isr=2), 1, 2), 1, previous_epoch=0)
    assert (partition(image).elr, partition(image).last_known_elr) == ((2,), (1,))
    for left in (restarted(image, 2, directory=9), damaged(image, 2)):
        lost = partition(restarted(fenced(left, 1), 1))
        assert (lost.leader_id, lost.elr, lost.last_known_elr) == (None, (), ()), "by order only"
