"""Partitions on their way to other replicas, and brokers that leave the cluster."""

from collections import Counter

import pytest

from millstream.v1 import errors_pb2
from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.decide_reassignments import decommissioning
from millstream_raft.decision import ClusterDefaults
from millstream_raft.image import Image, PartitionState
from millstream_raft.refusal import Refused
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb
from tests.fakes import metadata_images as images
from tests.fakes.metadata_requests import execute

TOPIC = images.topic_id(1)
DEFAULTS = ClusterDefaults()


def cluster(*replicas: tuple[int, ...], min_isr: int = 1) -> Image:
    return images.after(
        images.image_with(1, 2, 3, 4, 5), images.add_topic(1, *replicas, min_isr=min_isr)
    )


def partition(image: Image, number: int = 0) -> PartitionState:
    return image.topics[TOPIC].partitions[number]


def move(*replicas: int, number: int = 0, **fields: object) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(
        alter_partition_reassignments=public.AlterPartitionReassignmentsRequest(
            partitions=[
                public.PartitionReassignment(
                    topic_id=TOPIC,
                    partition=number,
                    replica_ids=replicas,
                    replication_factor=fields.pop("factor", 0),  # type: ignore[arg-type]
                )
            ],
            **fields,  # type: ignore[arg-type]
        )
    )


def error(reply: pb.ExecuteResponse) -> str:
    (result,) = reply.alter_partition_reassignments.results
    return errors_pb2.ErrorReason.Name(result.error).removeprefix("ERROR_REASON_")


def in_sync(image: Image, *isr: int, number: int = 0) -> Image:
    state = partition(image, number)
    change = command_pb.ChangePartition(
        topic_id=TOPIC,
        partition=number,
        expected_partition_epoch=state.partition_epoch,
        in_sync_replica_ids=isr,
        added=[
            command_pb.ReplicaRegistration(node_id=one, node_epoch=image.nodes[one].epoch)
            for one in isr
        ],
    )
    return images.after(image, images.command(change_partition=change))


def test_replicas_are_added_first_and_the_old_ones_leave_when_all_are_in_sync() -> None:
    image, reply = execute(cluster((1, 2, 3)), move(4, 5, 2))
    assert error(reply) == "UNSPECIFIED"
    state = partition(image)
    assert state.replicas == (1, 2, 3, 4, 5)
    assert (state.adding, state.removing, state.target) == ((4, 5), (1, 3), (4, 5, 2))
    assert (state.leader_id, state.isr, state.leader_epoch) == (1, (1, 2, 3), 0)
    assert not state.under_replicated
    image = in_sync(image, 1, 2, 3, 4)
    assert partition(image).reassignment is not None
    image = in_sync(image, 1, 2, 3, 4, 5)
    led = partition(image)
    assert (led.leader_id, led.leader_epoch, led.partition_epoch) == (4, 1, 3)
    assert led.isr == (1, 2, 3, 4, 5), "1 may not have heard that it leads no more"
    assert (led.adding, led.removing) == ((4, 5), (1, 3))
    assert partition(in_sync(image, 1, 2, 4, 5)).reassignment is not None, "1 has to leave, too"
    image = in_sync(image, 4, 5, 2)
    done = partition(image)
    assert (done.replicas, done.isr, done.reassignment) == ((4, 5, 2), (4, 5, 2), None)
    assert (done.leader_id, done.leader_epoch) == (4, 2)
    assert done.partition_epoch == 4
    assert done.min_isr == 2, "three replicas, and nobody set another minimum"


def test_a_finished_move_steps_the_leader_epoch_also_when_the_leader_stays() -> None:
    image, _ = execute(cluster((1, 2)), move(1, 3))
    image = in_sync(image, 1, 3)
    state = partition(image)
    assert (state.leader_id, state.leader_epoch, state.replicas) == (1, 1, (1, 3))


def test_another_order_is_there_at_once() -> None:
    image, _ = execute(cluster((1, 2, 3)), move(3, 1, 2))
    state = partition(image)
    assert (state.replicas, state.isr, state.reassignment) == ((3, 1, 2), (3, 1, 2), None)
    assert (state.leader_id, state.leader_epoch, state.partition_epoch) == (1, 1, 1)


def test_fewer_replicas_are_there_once_the_leader_has_put_the_others_out() -> None:
    image, _ = execute(cluster((1, 2, 3), min_isr=2), move(3, 1))
    state = partition(image)
    assert (state.replicas, state.removing, state.min_isr) == ((1, 2, 3), (2,), 2)
    state = partition(in_sync(image, 1, 3))
    assert (state.replicas, state.isr, state.reassignment) == ((3, 1), (3, 1), None)
    assert (state.leader_id, state.leader_epoch, state.partition_epoch) == (1, 1, 2)
    assert state.min_isr == 1, "of two replicas one may be lost"


def test_a_leader_that_cannot_be_replaced_keeps_the_lead() -> None:
    image, _ = execute(cluster((1, 2)), move(3))
    image = images.after(
        image, images.command(drain_node=command_pb.DrainNode(node_id=3, node_epoch=3))
    )
    state = partition(image)
    assert (state.leader_id, state.isr, state.leader_epoch) == (1, (1, 2), 0)
    image = in_sync(cluster((1, 2, 3)), 1, 2, 3)
    image = images.after(
        image, images.command(drain_node=command_pb.DrainNode(node_id=3, node_epoch=3))
    )
    image = images.after(image, images.fence(image, 2))
    assert partition(image).leader_id == 1


def test_a_leader_that_dies_before_it_heard_holds_nothing_up() -> None:
    image, _ = execute(cluster((1, 2)), move(2, 3))
    image = in_sync(image, 1, 2, 3)
    assert partition(image).leader_id == 2
    done = partition(images.after(image, images.fence(image, 1)))
    assert (done.replicas, done.isr, done.reassignment) == ((2, 3), (2, 3), None)
    assert (done.leader_id, done.leader_epoch) == (2, 2)


def test_no_replica_leaves_while_one_of_the_target_is_behind() -> None:
    image = in_sync(cluster((1, 2, 3)), 1, 3)
    image, _ = execute(image, move(1, 2))
    state = partition(image)
    assert (state.replicas, state.removing, state.isr) == ((1, 2, 3), (3,), (1, 3))


def test_a_cancelled_move_has_the_replicas_from_before() -> None:
    image, _ = execute(cluster((1, 2)), move(3, 4))
    image = in_sync(image, 1, 2, 3)
    image, reply = execute(image, move())
    assert list(reply.alter_partition_reassignments.results[0].replica_ids) == [1, 2]
    state = partition(image)
    assert (state.replicas, state.isr, state.leader_id) == ((1, 2), (1, 2), 1)
    assert state.reassignment is None
    assert error(execute(image, move())[1]) == "NO_REASSIGNMENT_IN_PROGRESS"


def test_a_leader_that_was_being_added_loses_the_lead_with_the_move() -> None:
    image, _ = execute(cluster((1, 2)), move(3, 4))
    image = in_sync(image, 1, 2, 3)
    for node_id in (1, 2):
        image = images.after(image, images.fence(image, node_id))
    assert partition(image).leader_id == 3
    image, reply = execute(image, move())
    assert list(reply.alter_partition_reassignments.results[0].replica_ids) == [1, 2]
    state = partition(image)
    assert (state.leader_id, state.isr) == (3, (3,)), "3 alone has it all"
    assert (state.replicas, state.adding, state.removing) == ((1, 2, 3), (), (3,))
    assert execute(image, move())[0] is image, "it is cancelled"
    for node_id in (1, 2):
        image = images.after(image, images.unfence(image, node_id))
    epoch = partition(image).leader_epoch
    image = in_sync(image, 3, 1, 2)
    state = partition(image)
    assert (state.leader_id, state.isr, state.leader_epoch) == (1, (3, 1, 2), epoch + 1)
    state = partition(in_sync(image, 1, 2))
    assert (state.replicas, state.isr, state.leader_epoch) == ((1, 2), (1, 2), epoch + 2)


def test_no_replica_goes_while_its_log_has_to_be_compared() -> None:
    image, _ = execute(cluster((1, 2), min_isr=2), move(4, 5))
    image = in_sync(image, 1, 2, 4)
    for node_id in (1, 2, 4):
        image = images.after(image, images.fence(image, node_id))
    for node_id in (2, 4):
        image = images.after(image, images.register(node_id, incarnation=node_id + 100))
        image = images.after(image, images.unfence(image, node_id))
    assert partition(image).last_known_elr == (2, 4)
    for request in (move(), move(1, 2), move(2, 5)):
        same, reply = execute(image, request)
        assert error(reply) == "INVALID_REPLICA_ASSIGNMENT", "4 may have the longest log"
        assert same is image
    leaving = command_pb.ChangeDecommissioning(node_id=4, decommissioning=True)
    image = images.after(image, images.command(change_decommissioning=leaving))
    assert decommissioning(image, DEFAULTS, 9) == ()
    image, reply = execute(image, move(4, 3))
    assert error(reply) == "UNSPECIFIED"
    assert partition(image).last_known_elr == (2, 4)


def test_an_election_finishes_a_move_whose_target_is_all_that_is_left() -> None:
    image = in_sync(cluster((1, 2, 3), min_isr=3), 1, 3)
    image, _ = execute(image, move(2))
    for node_id in (1, 3):
        image = images.after(image, images.fence(image, node_id))
    state = partition(image)
    assert (state.leader_id, state.replicas, state.isr) == (2, (2,), (2,))
    assert (state.min_isr, state.elr, state.reassignment) == (1, (), None)


def test_a_new_move_keeps_what_the_former_one_added_if_it_wants_it() -> None:
    image, _ = execute(cluster((1, 2)), move(3, 4))
    image = in_sync(image, 1, 2, 3)
    for node_id in (1, 2):
        image = images.after(image, images.fence(image, node_id))
    image, reply = execute(image, move(3, 5))
    assert error(reply) == "UNSPECIFIED"
    state = partition(image)
    assert (state.replicas, state.isr, state.adding) == ((1, 2, 3, 5), (3,), (3, 5))
    image, _ = execute(image, move(4, 5))
    state = partition(image)
    assert (state.replicas, state.isr, state.leader_id) == ((1, 2, 4, 5, 3), (3,), 3)
    assert (state.adding, state.removing, state.settled) == ((4, 5), (1, 2, 3), (1, 2))
    image = images.after(image, images.fence(image, 3))
    assert error(execute(image, move(4, 5))[1]) == "UNSPECIFIED", "it is on its way there"
    assert error(execute(image, move(4))[1]) == "INVALID_REPLICA_ASSIGNMENT", "3 alone has it all"


def test_a_new_move_replaces_one_that_is_under_way() -> None:
    image, _ = execute(cluster((1, 2)), move(3, 4))
    image = in_sync(image, 1, 2, 3)
    image, _ = execute(image, move(1, 5))
    state = partition(image)
    assert (state.replicas, state.adding, state.isr) == ((1, 2, 5), (5,), (1, 2))
    same, reply = execute(image, move(1, 5))
    assert same is image
    assert error(reply) == "UNSPECIFIED"


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


def request(node_id: int, *, cancel: bool = False) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(
        decommission_broker=public.DecommissionBrokerRequest(node_id=node_id, cancel=cancel)
    )


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
