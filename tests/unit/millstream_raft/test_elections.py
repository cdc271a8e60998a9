"""What becomes of partitions when nodes end, stop, fail and come back (invariants 2, 3, 5 to 7)."""

import pytest

from millstream_raft.image import Image, PartitionState
from millstream_server.v1 import metadata_command_pb2 as pb
from tests.fakes import metadata_images as images


def partition(image: Image, number: int = 0) -> PartitionState:
    return image.topics[images.topic_id(1)].partitions[number]


def cluster(*replicas: int, min_isr: int = 1, flush_mode: str = "fsync") -> Image:
    image = images.image_with(1, 2, 3)
    return images.after(
        image, images.add_topic(1, replicas, min_isr=min_isr, flush_mode=flush_mode)
    )


def fenced(image: Image, *node_ids: int) -> Image:
    for node_id in node_ids:
        image = images.after(image, images.fence(image, node_id))
    return image


def restarted(
    image: Image,
    node_id: int,
    *,
    previous_epoch: int | None = None,
    clean: bool = False,
    directory: int | None = None,
) -> Image:
    known = image.nodes[node_id].epoch
    command = images.register(
        node_id,
        incarnation=image.version + 1,
        previous_epoch=known if previous_epoch is None else previous_epoch,
        clean=clean,
        directory=directory,
    )
    image = images.after(image, command)
    return images.after(image, images.unfence(image, node_id))


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
    assert partition(restarted(fenced(image, 1), 1)).recovering
    again = restarted(fenced(restarted(fenced(image, 1), 1), 1), 1)
    assert not partition(again).recovering


def test_an_epoch_that_never_served_need_not_be_on_the_disk() -> None:
    image = fenced(cluster(1), 1)
    image = images.after(image, images.register(1, incarnation=50, previous_epoch=1))
    image = restarted(image, 1, previous_epoch=1)
    assert not partition(image).recovering


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


def test_draining_leaves_every_lead() -> None:
    image = cluster(1, 2)
    image = images.after(image, images.command(drain_node=pb.DrainNode(node_id=1, node_epoch=1)))
    assert partition(image).leader_id == 2
    assert partition(image).isr == (2,)


def change(image: Image, isr: tuple[int, ...], epoch: int, leader: int | None = None) -> str:
    command = images.command(
        change_partition=pb.ChangePartition(
            topic_id=images.topic_id(1),
            partition=0,
            expected_partition_epoch=epoch,
            in_sync_replica_ids=isr,
            leader_id=leader,
        )
    )
    return images.apply(image, command).result.reason


def test_partitions_change_only_by_compare_and_set() -> None:
    image = cluster(1, 2, 3)
    assert change(image, (1,), 0) == ""
    assert change(image, (1,), 1) == "VERSION_CONFLICT"
    assert change(image, (4,), 0) == "INVALID_REQUEST"
    assert change(image, (), 0) == "INVALID_REQUEST"
    assert change(image, (1, 2), 0, leader=3) == "INVALID_REQUEST"
    down = fenced(image, 2)
    assert change(down, (1, 2, 3), 1) == "NOT_ENOUGH_REPLICAS", "a fenced replica is not in sync"


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
