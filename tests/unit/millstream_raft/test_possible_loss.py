"""When the election of a replica that had lost its place may lose records (invariants 5 and 7)."""

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


def test_synced_logs_that_were_all_compared_lost_nothing() -> None:
    image = power_cut(1, 2, 3, flush_mode="fsync")
    assert not partition(image).possible_loss
    led = partition(told(told(image, 2, 4, 90), 3, 4, 80))
    assert (led.leader_id, led.recovering, led.possible_loss) == (2, True, False)


def test_a_log_that_cannot_be_compared_any_more_may_have_been_the_longest() -> None:
    image = power_cut(1, 2, 3, flush_mode="fsync")
    for left in (damaged(image, 3), restarted(fenced(image, 3), 3, directory=9)):
        led = partition(left)
        assert (led.leader_id, led.recovering, led.possible_loss) == (2, True, True)
        alone = pb.ChangePartition(
            topic_id=images.topic_id(1),
            expected_partition_epoch=led.partition_epoch,
            in_sync_replica_ids=[2],
        )
        after = images.after(left, images.command(change_partition=alone))
        assert not partition(after).possible_loss, "from now on its log is what counts"


def test_a_possible_loss_is_none_where_an_eligible_replica_leads() -> None:
    image = restarted(fenced(cluster(1, 2, min_isr=2), 1, 2), 1, previous_epoch=0)
    image = damaged(image, 1)
    assert partition(image).possible_loss, "should 2 lose its place as well"
    led = partition(restarted(image, 2))
    assert (led.leader_id, led.recovering, led.possible_loss) == (2, False, False)


def test_what_was_acknowledged_in_page_cache_mode_may_be_lost_in_fsync_mode() -> None:
    image = cluster(1, flush_mode="page_cache")
    mode = pb.ChangeTopicConfigs(topic_id=images.topic_id(1), min_isr=1, flush_mode="fsync")
    image = images.after(image, images.command(change_topic_configs=mode))
    led = partition(restarted(fenced(image, 1), 1))
    assert (led.leader_id, led.recovering, led.possible_loss) == (1, True, True)
