"""What partitions of the same shape share: the work of changing them, and of serialising them."""

from dataclasses import replace

import pytest

from millstream_raft.elections import without_replica
from millstream_raft.image import PartitionState, shape_of
from millstream_raft.image_builder import ImageBuilder
from millstream_raft.image_codec import encode_partition, seal_partitions
from millstream_server.v1 import metadata_command_pb2 as pb
from tests.fakes import metadata_images as images

PARTITION = PartitionState(7, 1, 3, 4, (1, 2), (1,), (2,), (), 2, "page_cache", 5, recovering=True)


def protobuf_of(partition: PartitionState) -> bytes:
    record = pb.PartitionRecord(
        number=partition.number,
        leader_id=1,
        leader_epoch=3,
        partition_epoch=4,
        replica_ids=[1, 2],
        in_sync_replica_ids=[1],
        eligible_leader_replica_ids=[2],
        min_isr=2,
        page_cache=True,
        fsync_after_node_epoch=5,
        recovering=True,
    )
    topic = pb.TopicRecord(partitions=[record])
    return topic.SerializeToString(deterministic=True)


def test_a_shape_and_a_number_make_the_partition():
    assert PartitionState(7, *shape_of(PARTITION)) == PARTITION
    assert shape_of(replace(PARTITION, number=8, encoded=b"x")) == shape_of(PARTITION)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 16_383, 16_384, 1 << 21, (1 << 32) - 1])
def test_a_partition_is_serialised_as_protobuf_does_it(number):
    partition = replace(PARTITION, number=number)
    assert encode_partition(partition) == protobuf_of(partition)


def test_partitions_sealed_together_are_sealed_as_if_alone():
    partitions = [replace(PARTITION, number=number) for number in range(300)]
    partitions[5] = replace(partitions[5], leader_epoch=9)
    seal_partitions(partitions)
    assert [one.encoded for one in partitions] == [encode_partition(one) for one in partitions]


def test_a_change_is_worked_out_once_for_a_shape():
    image = images.image_with(1, 2)
    image = images.after(image, images.add_topic(1, *[(1,), (2,)] * 50))
    image = images.after(image, images.add_topic(2, *[(1,), (1, 2)] * 50))
    builder = ImageBuilder(image)
    asked = []

    def change(partition):
        asked.append(partition)
        return without_replica(partition, 1, {})

    builder.change_partitions_of(1, change)
    after, delta = builder.build()
    assert len(asked) == 2
    assert len(delta.changed_partitions) == 150
    for topic_id, topic in image.topics.items():
        for before, found in zip(topic.partitions, after.topics[topic_id].partitions, strict=True):
            wanted = without_replica(before, 1, {}) if 1 in before.replicas else before
            assert found == wanted
            assert found.encoded == encode_partition(wanted)


def test_partitions_that_do_not_change_are_not_replaced():
    image = images.image_with(1)
    image = images.after(image, images.add_topic(1, (1,), (1,)))
    builder = ImageBuilder(image)
    builder.change_partitions_of(1, lambda partition: partition)
    after, delta = builder.build()
    assert not delta.changed_partitions
    assert after.topics[images.topic_id(1)] is image.topics[images.topic_id(1)]
