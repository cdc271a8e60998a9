"""Decisions on where replicas go, and brokers that leave the cluster."""

from collections import Counter

import pytest

from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.decide_reassignments import decommissioning
from millstream_raft.refusal import Refused
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb
from tests.fakes import metadata_images as images
from tests.fakes.metadata_requests import execute
from tests.fakes.moved_partitions import (
    DEFAULTS,
    TOPIC,
    cluster,
    error,
    in_sync,
    move,
    partition,
    request,
)


@pytest.mark.parametrize(
    ("replicas", "reason"),
    [
        ((1, 1), "INVALID_REPLICA_ASSIGNMENT"),
        ((1, 9), "INVALID_REPLICA_ASSIGNMENT"),
        ((1, 4), "INVALID_REPLICA_ASSIGNMENT"),
        ((1, 5), "INVALID_REPLICA_ASSIGNMENT"),
    ],
)
def test_replicas_that_cannot_be_are_refused(replicas: tuple[int, ...], reason: str) -> None:
    image = cluster((1, 2))
    image = images.after(image, images.fence(image, 4), decommission(5))
    same, reply = execute(image, move(*replicas))
    assert same is image
    assert error(reply) == reason


def decommission(node_id: int) -> command_pb.MetadataCommand:
    return images.command(
        change_decommissioning=command_pb.ChangeDecommissioning(
            node_id=node_id, decommissioning=True
        )
    )


def test_validating_moves_nothing() -> None:
    image = cluster((1, 2))
    same, reply = execute(image, move(factor=4, validate_only=True))
    assert same is image
    (result,) = reply.alter_partition_reassignments.results
    assert list(result.replica_ids) == [1, 2, 3, 4]


def test_the_throttle_is_the_clusters() -> None:
    image, _ = execute(cluster((1, 2)), move(3, 4, throttle_bytes_per_s=1000))
    assert image.reassignment_bytes_per_s == 1000
    image, _ = execute(image, move(3, 5))
    assert image.reassignment_bytes_per_s == 1000, "unset: as it is"
    image, _ = execute(image, move(throttle_bytes_per_s=0))
    assert image.reassignment_bytes_per_s == 0


def test_a_number_of_replicas_is_spread_over_racks() -> None:
    image = images.after(images.image_with(), images.register(1, rack="a"))
    for node_id, rack in ((2, "a"), (3, "b"), (4, "c")):
        image = images.after(image, images.register(node_id, rack=rack))
    for node_id in (1, 2, 3, 4):
        image = images.after(image, images.unfence(image, node_id))
    image = images.after(image, images.add_topic(1, (1,)))
    image, _ = execute(image, move(factor=3))
    assert partition(image).target == (1, 3, 4), "2 is in the rack of 1"
    image = in_sync(image, 1, 3, 4)
    image, _ = execute(image, move(factor=1))
    assert partition(image).target == (1,)
    _, reply = execute(image, move(factor=9))
    assert error(reply) == "INVALID_REPLICATION_FACTOR"


def test_fewer_replicas_are_those_in_sync() -> None:
    image = cluster((1, 2, 3))
    image = images.after(image, images.fence(image, 1))
    image, _ = execute(image, move(factor=2))
    assert partition(image).replicas == (2, 3)


def test_a_move_decided_on_an_older_state_is_refused() -> None:
    image = cluster((1, 2))
    command = images.command(
        reassign_partition=command_pb.ReassignPartition(
            topic_id=TOPIC, target_replica_ids=[3, 4], min_isr=1
        )
    )
    later = in_sync(image, 1)
    assert images.apply(later, command).result.reason == "VERSION_CONFLICT"
    command.reassign_partition.expected_partition_epoch = 1
    assert images.apply(later, command).result.reason == ""


def test_configuration_changed_on_the_way_is_right_before_and_after() -> None:
    image, _ = execute(cluster((1,), (1, 2, 3)), move(1, 2, 3))
    alter = pb.ExecuteRequest(
        alter_configs=public.AlterConfigsRequest(topic="topic-1", set={"retention.ms": "5"})
    )
    image, _ = execute(image, alter)
    assert [one.min_isr for one in image.topics[TOPIC].partitions] == [1, 2]
    assert partition(in_sync(image, 1, 2, 3)).min_isr == 2


def test_a_decommissioned_broker_gets_nothing_new_and_loses_all_in_batches() -> None:
    image = cluster(*[(1, 2), (2, 1), (3, 1)] * 4)
    image, reply = execute(image, request(1))
    assert reply.decommission_broker.replica_count == 12
    create = public.CreateTopicRequest(name="new", partition_count=20, replication_factor=2)
    image, _ = execute(image, pb.ExecuteRequest(create_topic=create))
    assert sum(1 for _ in image.partitions_of_node(1)) == 12
    rounds = 0
    while commands := decommissioning(image, DEFAULTS, 5):
        rounds += 1
        assert len(commands) <= 5
        image = images.after(image, *commands)
        assert not decommissioning(image, DEFAULTS, 5), "so many move at a time"
        for state in image.topics[TOPIC].partitions:
            if state.reassignment is not None:
                image = in_sync(image, *state.isr, *state.adding, number=state.number)
                image = in_sync(image, *state.target, number=state.number)
    assert rounds == 3
    assert not list(image.partitions_of_node(1))
    held = Counter(one for state in image.topics[TOPIC].partitions for one in state.replicas)
    assert all(len(state.replicas) == 2 for state in image.topics[TOPIC].partitions)
    assert held[4] > 0
    assert held[5] > 0


def test_a_move_that_only_waits_for_its_end_keeps_no_other_from_beginning() -> None:
    image, _ = execute(cluster((1, 2, 3), (3, 4)), move(1, 2))
    assert partition(image).reassignment is not None
    image, _ = execute(image, request(4))
    assert len(decommissioning(image, DEFAULTS, 1)) == 1


def test_a_broker_that_is_down_is_decommissioned_too() -> None:
    image = cluster((1, 2))
    image = images.after(image, images.fence(image, 1))
    image, _ = execute(image, request(1))
    image = images.after(image, *decommissioning(image, DEFAULTS, 5))
    state = partition(image)
    assert state.target == (3, 2)
    image = in_sync(image, 2, 3)
    assert partition(image).replicas == (3, 2)


def test_the_mark_outlives_a_restart_and_can_be_taken_back() -> None:
    image, _ = execute(cluster((1, 2)), request(1))
    same, _ = execute(image, request(1))
    assert same is image
    image = images.after(image, images.fence(image, 1))
    image = images.after(image, images.register(1, incarnation=9))
    assert image.nodes[1].decommissioning
    image, _ = execute(image, request(1, cancel=True))
    assert not image.nodes[1].decommissioning


def test_too_few_brokers_cannot_take_over() -> None:
    image = cluster((1, 2, 3, 4, 5))
    for node_id, reason in ((1, "INVALID_REPLICATION_FACTOR"), (9, "UNKNOWN_NODE")):
        with pytest.raises(Refused) as caught:
            execute(image, request(node_id))
        assert caught.value.reason == reason


def test_a_drained_broker_leads_nothing_until_it_registers_again() -> None:
    drain = pb.ExecuteRequest(drain_broker=public.DrainBrokerRequest(node_id=1))
    image, _ = execute(cluster((1, 2)), drain)
    assert partition(image).leader_id == 2
    assert image.nodes[1].shutting_down
    assert execute(image, drain)[0] is image
