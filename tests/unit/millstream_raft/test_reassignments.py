"""Partitions on their way to other replicas."""

from millstream_raft.decide_reassignments import decommissioning
from millstream_server.v1 import metadata_command_pb2 as command_pb
from tests.fakes import metadata_images as images
from tests.fakes.metadata_requests import execute
from tests.fakes.moved_partitions import DEFAULTS, cluster, error, in_sync, move, partition, request


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


def test_a_lead_that_was_taken_away_is_kept_in_sync_through_a_further_move() -> None:
    image, _ = execute(cluster((1, 2)), move(3, 2))
    image = in_sync(image, 1, 2, 3)
    assert partition(image).leader_id == 3
    image, _ = execute(image, request(3))
    image = images.after(image, *decommissioning(image, DEFAULTS, 5))
    state = partition(image)
    assert state.target == (4, 2)
    assert state.isr == (1, 2, 3)


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
    assert (state.replicas, state.isr, state.leader_id) == ((1, 2, 3), (1, 2, 3), 1)
    assert state.removing == (3,), "it may have led a moment ago, and not have heard"
    assert execute(image, move())[0] is image, "it is cancelled"
    image = in_sync(image, 1, 2)
    assert (partition(image).replicas, partition(image).reassignment) == ((1, 2), None)
    assert error(execute(image, move())[1]) == "NO_REASSIGNMENT_IN_PROGRESS"


def test_a_cancelled_move_does_not_wait_for_replicas_that_are_gone() -> None:
    image, _ = execute(cluster((1, 2, 3), min_isr=2), move(1, 4, 5))
    image = images.after(in_sync(image, 1, 2, 3, 4), images.fence(image, 3))
    image, _ = execute(image, move())
    state = partition(image)
    assert (state.replicas, state.isr, state.target_in_sync_min) == ((1, 2, 3, 4), (1, 2, 4), 2)
    state = partition(in_sync(image, 1, 2))
    assert (state.replicas, state.isr, state.reassignment) == ((1, 2, 3), (1, 2), None)


def test_the_leader_epoch_stays_while_nobody_of_the_target_can_lead() -> None:
    image, _ = execute(cluster((1, 2)), move(3))
    image = in_sync(image, 1, 2, 3)
    image, _ = execute(image, move())
    for node_id in (1, 2):
        epoch = image.nodes[node_id].epoch
        drain = command_pb.DrainNode(node_id=node_id, node_epoch=epoch)
        image = images.after(image, images.command(drain_node=drain))
    before = partition(image)
    assert (before.leader_id, before.target) == (3, (1, 2))
    image = images.after(image, images.fence(image, 2))
    state = partition(image)
    assert (state.leader_id, state.leader_epoch) == (3, before.leader_epoch)
    assert state.partition_epoch == before.partition_epoch + 1


def test_a_cancelled_move_that_had_not_come_far_is_over_at_once() -> None:
    image, _ = execute(cluster((1, 2)), move(3, 4))
    image, _ = execute(image, move())
    state = partition(image)
    assert (state.replicas, state.isr, state.reassignment) == ((1, 2), (1, 2), None)


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
    for wanted in (move(), move(1, 2), move(2, 5)):
        same, reply = execute(image, wanted)
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
    image, _ = execute(image, move(4))
    state = partition(image)
    assert (state.replicas, state.elr) == ((1, 2, 4, 3), (3,)), "3 alone has it all"


def test_a_new_move_replaces_one_that_is_under_way() -> None:
    image, _ = execute(cluster((1, 2)), move(3, 4))
    image = in_sync(image, 1, 2, 3)
    image, _ = execute(image, move(1, 5))
    state = partition(image)
    assert (state.replicas, state.adding, state.isr) == ((1, 2, 5, 3), (5,), (1, 2, 3))
    same, reply = execute(image, move(1, 5))
    assert same is image
    assert error(reply) == "UNSPECIFIED"
