"""Elections that somebody asked for: preferred leaders, and orders that may lose records."""

import pytest

from millstream.v1 import errors_pb2
from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.commands import Applied
from millstream_raft.decide_elections import ELECTIONS_MAX, balancing, relieving, unbalanced
from millstream_raft.delta import CLEAN, PREFERRED, RECOVERED, UNCLEAN, LossyElection
from millstream_raft.image import Image, PartitionState
from millstream_raft.refusal import Refused
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb
from tests.fakes import metadata_images as images
from tests.fakes.metadata_requests import execute

TOPIC = images.topic_id(1)


def cluster(*replicas: tuple[int, ...], min_isr: int = 1, flush_mode: str = "fsync") -> Image:
    return images.after(
        images.image_with(1, 2, 3),
        images.add_topic(1, *replicas, min_isr=min_isr, flush_mode=flush_mode),
    )


def partition(image: Image, number: int = 0) -> PartitionState:
    return image.topics[TOPIC].partitions[number]


def fenced(image: Image, *node_ids: int) -> Image:
    for node_id in node_ids:
        image = images.after(image, images.fence(image, node_id))
    return image


def unfenced(image: Image, *node_ids: int) -> Image:
    for node_id in node_ids:
        image = images.after(image, images.unfence(image, node_id))
    return image


def elect(kind: str, *targets: tuple[int, int | None]) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(
        elect_leaders=public.ElectLeadersRequest(
            kind=public.ElectionKind.Value(f"ELECTION_KIND_{kind}"),
            partitions=[
                public.ElectionTarget(topic_id=TOPIC, partition=number, replica_id=replica_id)
                for number, replica_id in targets
            ],
        )
    )


def errors(reply: pb.ExecuteResponse) -> list[str]:
    return [
        errors_pb2.ErrorReason.Name(one.error).removeprefix("ERROR_REASON_")
        for one in reply.elect_leaders.results
    ]


def in_sync(image: Image, number: int, *isr: int) -> Image:
    return images.after(image, images.in_sync(image, 1, number, *isr))


def moved_away() -> Image:
    """Partitions that 1 prefers to lead: led by 2 with 1 in sync, by 2 without it, and by 1."""
    image = unfenced(fenced(cluster((1, 2, 3), (1, 2, 3), (1, 3, 2)), 1), 1)
    image = in_sync(image, 0, 2, 3, 1)
    image = in_sync(image, 2, 3, 2, 1)
    image, _ = execute(image, elect("PREFERRED", (2, None)))
    return image


def test_the_preferred_replica_leads_again_where_it_is_in_sync() -> None:
    image = moved_away()
    assert [one.number for _, one in unbalanced(image)] == [0]
    before = partition(image)
    after, reply = execute(image, elect("PREFERRED"))
    assert [(one.partition, one.leader_id) for one in reply.elect_leaders.results] == [(0, 1)]
    state = partition(after)
    assert (state.leader_id, state.isr) == (1, (2, 3, 1))
    assert state.leader_epoch == before.leader_epoch + 1
    assert state.partition_epoch == before.partition_epoch + 1
    assert not state.recovering
    assert execute(after, elect("PREFERRED"))[0] is after


def test_each_named_partition_is_answered() -> None:
    image, reply = execute(
        moved_away(),
        elect("PREFERRED", (0, None), (1, None), (2, None), (9, None), (0, None), (1, 2)),
    )
    assert errors(reply) == [
        "UNSPECIFIED",
        "ELIGIBLE_LEADERS_NOT_AVAILABLE",
        "ELECTION_NOT_NEEDED",
        "UNKNOWN_PARTITION",
        "INVALID_REQUEST",
        "INVALID_REQUEST",
    ]
    assert [one.leader_id for one in reply.elect_leaders.results] == [1, 2, 1, 0, 0, 0]
    assert partition(image).leader_id == 1


def test_a_request_says_what_it_wants_and_is_bounded() -> None:
    image = cluster((1,))
    for request in (elect("UNSPECIFIED"), elect("PREFERRED", *[(0, None)] * 1001)):
        with pytest.raises(Refused) as caught:
            execute(image, request)
        assert caught.value.reason == "INVALID_REQUEST"


def test_more_elections_than_one_call_makes_are_left_for_the_next() -> None:
    image = cluster(*[(1, 2)] * (ELECTIONS_MAX + 5))
    image = unfenced(fenced(image, 1), 1)
    changes = [
        images.command(
            change_partition=command_pb.ChangePartition(
                topic_id=TOPIC,
                partition=one.number,
                expected_partition_epoch=one.partition_epoch,
                in_sync_replica_ids=[2, 1],
                added=[command_pb.ReplicaRegistration(node_id=1, node_epoch=1)],
            )
        )
        for one in image.topics[TOPIC].partitions
    ]
    image = images.after(image, *changes)
    assert len(balancing(image)) == ELECTIONS_MAX
    image, reply = execute(image, elect("PREFERRED"))
    assert (len(reply.elect_leaders.results), reply.elect_leaders.remaining) == (ELECTIONS_MAX, 5)
    image, reply = execute(image, elect("PREFERRED"))
    assert (len(reply.elect_leaders.results), reply.elect_leaders.remaining) == (5, 0)
    assert not balancing(image)


def lost() -> Image:
    """The last in-sync replica, 1, is gone; 2 and 3 are up and behind."""
    image = in_sync(cluster((1, 2, 3)), 0, 1)
    return fenced(image, 1)


def test_an_order_elects_a_replica_that_may_miss_records_and_keeps_no_place() -> None:
    image = lost()
    assert (partition(image).leader_id, partition(image).elr) == (None, (1,))
    image, reply = execute(image, elect("UNCLEAN", (0, 3)))
    assert errors(reply) == ["UNSPECIFIED"]
    state = partition(image)
    assert (state.leader_id, state.isr, state.elr, state.last_known_elr) == (3, (3,), (), ())
    assert state.recovering
    image = unfenced(image, 1)
    assert partition(image).leader_id == 3
    assert partition(image).elr == ()


def test_without_a_name_the_first_available_replica_is_taken() -> None:
    image, reply = execute(lost(), elect("UNCLEAN"))
    assert [one.leader_id for one in reply.elect_leaders.results] == [2]
    assert partition(image).leader_id == 2


def test_without_a_name_the_longest_log_known_is_taken() -> None:
    image = fenced(cluster((1, 2, 3), min_isr=2, flush_mode="page_cache"), 1, 2, 3)
    for node_id in (2, 3):
        known = image.nodes[node_id].epoch
        image = images.after(image, images.register(node_id, incarnation=5, previous_epoch=known))
        image = unfenced(image, node_id)
    note = command_pb.NoteRecoveredLog(
        topic_id=TOPIC,
        expected_partition_epoch=partition(image).partition_epoch,
        replica=command_pb.ReplicaRegistration(node_id=3, node_epoch=image.nodes[3].epoch),
        synced_end_offset=1,
    )
    image = images.after(image, images.command(note_recovered_log=note))
    image = fenced(unfenced(image, 1), 2)
    assert partition(image).leader_id is None
    image, _ = execute(image, elect("UNCLEAN"))
    assert partition(image).leader_id == 3


def test_an_order_is_refused_where_it_is_not_needed_or_cannot_help() -> None:
    image = lost()
    _, reply = execute(image, elect("UNCLEAN", (0, 9)))
    assert errors(reply) == ["INVALID_REPLICA_ASSIGNMENT"]
    _, reply = execute(image, elect("UNCLEAN", (0, 1)))
    assert errors(reply) == ["ELIGIBLE_LEADERS_NOT_AVAILABLE"]
    _, reply = execute(cluster((1, 2)), elect("UNCLEAN", (0, 2)))
    assert errors(reply) == ["ELECTION_NOT_NEEDED"]
    _, reply = execute(fenced(image, 2, 3), elect("UNCLEAN", (0, None)))
    assert errors(reply) == ["ELIGIBLE_LEADERS_NOT_AVAILABLE"]


def test_a_damaged_sole_copy_leads_only_by_an_order_that_names_it() -> None:
    image = cluster((1,))
    damage = command_pb.RemoveDamagedReplica(
        topic_id=TOPIC, replica=command_pb.ReplicaRegistration(node_id=1, node_epoch=1)
    )
    image = images.after(image, images.command(remove_damaged_replica=damage))
    same, reply = execute(image, elect("UNCLEAN"))
    assert same is image
    assert not reply.elect_leaders.results
    _, reply = execute(image, elect("UNCLEAN", (0, None)))
    assert errors(reply) == ["ELIGIBLE_LEADERS_NOT_AVAILABLE"]
    image, _ = execute(image, elect("UNCLEAN", (0, 1)))
    state = partition(image)
    assert (state.leader_id, state.isr, state.recovering, state.damaged) == (1, (1,), True, ())


def applied(image: Image, command: command_pb.MetadataCommand) -> Applied:
    result = images.apply(image, command)
    assert not result.result.reason
    return result


def test_elections_are_counted_by_kind_and_lossy_ones_are_named() -> None:
    image = cluster((1, 2), (1, 2), (1,))
    delta = applied(image, images.fence(image, 1)).delta
    assert delta.elections == {CLEAN: 2}
    assert delta.lossy_elections == ()
    image = moved_away()
    (balance,) = balancing(image)
    assert applied(image, balance).delta.elections == {PREFERRED: 1}
    order = command_pb.ElectLeader(
        topic_id=TOPIC,
        expected_partition_epoch=partition(lost()).partition_epoch,
        leader_id=2,
        unclean=True,
    )
    delta = applied(lost(), images.command(elect_leader=order)).delta
    assert delta.elections == {UNCLEAN: 1}
    assert delta.lossy_elections == (LossyElection(TOPIC, 0, 2, UNCLEAN, possible_loss=True),)
    image = fenced(cluster((1,), flush_mode="page_cache"), 1)
    image = images.after(image, images.register(1, incarnation=5, previous_epoch=1))
    delta = applied(image, images.unfence(image, 1)).delta
    assert delta.elections == {RECOVERED: 1}
    assert delta.lossy_elections == (LossyElection(TOPIC, 0, 1, RECOVERED, possible_loss=True),)


def test_each_election_that_may_lose_records_is_counted_also_while_recovering() -> None:
    image = fenced(cluster((1,), flush_mode="page_cache"), 1)
    for incarnation in (5, 6):
        known = image.nodes[1].epoch
        image = images.after(
            image, images.register(1, incarnation=incarnation, previous_epoch=known)
        )
        up = applied(image, images.unfence(image, 1))
        assert up.delta.elections == {RECOVERED: 1}
        image = fenced(up.image, 1)
    image = unfenced(image, 1)
    assert partition(image).recovering, "its leader did nothing yet"


def test_an_election_decided_on_an_older_state_is_refused() -> None:
    image = moved_away()
    (balance,) = balancing(image)
    later = in_sync(image, 0, 2, 3)
    assert images.apply(later, balance).result.reason == "VERSION_CONFLICT"
    down = images.apply(fenced(image, 1), balance)
    assert down.result.reason == "VERSION_CONFLICT"


def test_leads_go_from_a_disk_that_refuses_appends_to_one_in_sync_that_does_not() -> None:
    image = cluster((1, 2, 3), (1, 3, 2), (1, 2), (2, 1, 3))
    image = in_sync(image, 2, 1)
    assert relieving(image, ()) == ()
    commands = relieving(image, {1: 5, 2: 6})
    found = [(one.elect_leader.partition, one.elect_leader.leader_id) for one in commands]
    assert found == [(0, 3), (1, 3), (3, 3)]
    assert not any(one.elect_leader.unclean for one in commands)
    after = images.after(image, *commands)
    assert relieving(after, {1: 5, 2: 6}) == ()
    # The sole one in sync goes on leading: it can be read from.
    assert partition(after, 2).leader_id == 1


def test_no_lead_is_given_back_to_a_disk_that_refuses_appends() -> None:
    image = moved_away()
    assert balancing(image, refusing={1: 5}) == ()
    assert len(balancing(image)) == 1


def test_all_disks_full_moves_nothing() -> None:
    assert relieving(cluster((1, 2, 3)), {1: 1, 2: 2, 3: 3}) == ()
