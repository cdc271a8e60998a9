"""How many replicas topics have, and how many of them must be in sync."""

import pytest

from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.decision import ClusterDefaults
from millstream_raft.image import Image
from millstream_raft.refusal import Refused
from millstream_server.v1 import controller_service_pb2 as pb
from tests.fakes import metadata_images as images
from tests.fakes.metadata_requests import NEW_TOPIC_ID, execute

ENSURE = pb.ExecuteRequest(ensure_offsets_topic=pb.EnsureOffsetsTopic())


def create(name: str = "logs", **fields: object) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(
        create_topic=public.CreateTopicRequest(name=name, **fields)  # type: ignore[arg-type]
    )


def refusal(image: Image, request: pb.ExecuteRequest) -> Refused:
    with pytest.raises(Refused) as caught:
        execute(image, request)
    return caught.value


@pytest.mark.parametrize(("brokers", "factor", "min_isr"), [(1, 1, 1), (2, 2, 1), (4, 3, 2)])
def test_unless_told_a_topic_has_three_replicas_or_all_brokers(
    brokers: int, factor: int, min_isr: int
) -> None:
    image = images.image_with(*range(1, brokers + 1))
    image, _ = execute(image, create())
    offsets, _ = execute(images.image_with(*range(1, brokers + 1)), ENSURE)
    for made in (image, offsets):
        for partition in made.topics[NEW_TOPIC_ID].partitions:
            assert len(partition.replicas) == len(partition.isr) == factor
            assert partition.min_isr == min_isr


def test_a_broker_that_is_down_counts_for_the_automatic_factor_and_is_waited_for() -> None:
    image = images.image_with(1, 2, 3)
    image = images.after(image, images.fence(image, 3))
    assert refusal(image, create()).reason == "INVALID_REPLICATION_FACTOR"
    assert refusal(image, ENSURE).reason == "LEADER_NOT_AVAILABLE", "groups try again"
    explicit = ClusterDefaults(replication_factor=2, offsets_topic_replication_factor=2)
    for request in (create(), ENSURE):
        made, _ = execute(image, request, defaults=explicit)
        assert {len(one.replicas) for one in made.topics[NEW_TOPIC_ID].partitions} == {2}


def test_the_topics_own_minimum_wins_and_may_not_exceed_its_replicas() -> None:
    image = images.image_with(1, 2, 3)
    own = {"min.insync.replicas": "3"}
    image, _ = execute(image, create(partition_count=1, configs=own))
    (partition,) = image.topics[NEW_TOPIC_ID].partitions
    assert partition.min_isr == 3
    too_many = create("b", replication_factor=2, configs=own)
    assert refusal(image, too_many).reason == "INVALID_CONFIG"

    def alter(**changes: object) -> pb.ExecuteRequest:
        request = public.AlterConfigsRequest(topic="logs", **changes)  # type: ignore[arg-type]
        return pb.ExecuteRequest(alter_configs=request)

    image, _ = execute(image, alter(unset=["min.insync.replicas"]))
    changed = image.topics[NEW_TOPIC_ID].partitions[0]
    assert (changed.min_isr, changed.partition_epoch) == (2, partition.partition_epoch + 1)
    image, _ = execute(image, alter(set={"flush.mode": "page_cache"}))
    assert image.topics[NEW_TOPIC_ID].partitions[0].partition_epoch == partition.partition_epoch + 2
    image, _ = execute(image, alter(set={"retention.ms": "7"}))
    assert image.topics[NEW_TOPIC_ID].partitions[0].partition_epoch == partition.partition_epoch + 2
