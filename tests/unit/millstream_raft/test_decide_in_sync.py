"""What leaders propose and brokers report, decided partition by partition (invariants 4, 6, 7)."""

from dataclasses import replace

import pytest

from millstream_raft.commands import apply_entry, encode_entry
from millstream_raft.decide import decide
from millstream_raft.decide_in_sync import PARTITIONS_PER_REQUEST_MAX
from millstream_raft.decision import ClusterDefaults
from millstream_raft.image import Image
from millstream_raft.refusal import Refused
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb
from tests.fakes import metadata_images as images

TOPIC = images.topic_id(1)


def cluster(*replicas: tuple[int, ...], flush_mode: str = "fsync") -> Image:
    replicas = replicas or ((1, 2, 3),)
    return images.after(
        images.image_with(1, 2, 3, 4),
        images.add_topic(1, *replicas, min_isr=2, flush_mode=flush_mode),
    )


def commands(image: Image, request: pb.ExecuteRequest) -> tuple[command_pb.MetadataCommand, ...]:
    return decide(image, request, topic_id=b"t" * 16, defaults=ClusterDefaults()).commands


def execute(image: Image, request: pb.ExecuteRequest) -> tuple[Image, list[str]]:
    """The image after a request, and the reasons given, by partition."""
    decision = decide(image, request, topic_id=b"t" * 16, defaults=ClusterDefaults())
    reply = decision.reply
    if decision.commands:
        applied = apply_entry(
            image,
            encode_entry(
                list(decision.commands),
                controller_epoch=image.controller_epoch,
                reply=reply.SerializeToString(),
            ),
        )
        assert not applied.result.reason, applied.result
        image, reply = applied.image, pb.ExecuteResponse.FromString(applied.result.reply)
    assert reply.version == image.version
    for answer in reply.altered_partitions.partitions:
        partition = image.partition(answer.topic_id, answer.partition)
        assert answer.partition_epoch == (partition.partition_epoch if partition else 0)
    return image, [answer.reason for answer in reply.altered_partitions.partitions]


def proposal(image: Image, *members: int, number: int = 0, **changes: int) -> pb.InSyncProposal:
    partition = image.topics[TOPIC].partitions[number]
    return pb.InSyncProposal(
        topic_id=TOPIC,
        partition=number,
        leader_epoch=partition.leader_epoch + changes.get("leader_epoch", 0),
        partition_epoch=partition.partition_epoch + changes.get("partition_epoch", 0),
        members=[
            pb.InSyncMember(
                node_id=one,
                node_epoch=(image.nodes[one].epoch if one in image.nodes else 0)
                + changes.get("member_epoch", 0),
            )
            for one in members
        ],
    )


def alter(image: Image, sender: int, *proposals: pb.InSyncProposal) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(
        alter_partitions=pb.AlterPartitions(
            node_id=sender, node_epoch=image.nodes[sender].epoch, proposals=proposals
        )
    )


def shrunk(*isr: int) -> Image:
    image = cluster()
    image, reasons = execute(image, alter(image, 1, proposal(image, *isr)))
    assert reasons == [""]
    return image


def test_a_leader_shrinks_and_expands_its_in_sync_replicas() -> None:
    image = shrunk(1)
    partition = image.topics[TOPIC].partitions[0]
    assert (partition.isr, partition.elr, partition.partition_epoch) == ((1,), (2, 3), 1)
    assert partition.leader_epoch == 0
    image, reasons = execute(image, alter(image, 1, proposal(image, 1, 3)))
    assert reasons == [""]
    partition = image.topics[TOPIC].partitions[0]
    assert (partition.isr, partition.elr, partition.partition_epoch) == ((1, 3), (), 2)


@pytest.mark.parametrize(
    ("sender", "changes", "members", "reason"),
    [
        (1, {"leader_epoch": -1}, (1, 2), "FENCED_LEADER_EPOCH"),
        (1, {"leader_epoch": 1}, (1, 2), "NOT_CONTROLLER"),
        (2, {}, (1, 2), "NOT_LEADER"),
        (1, {"partition_epoch": -1}, (1, 2), "INVALID_UPDATE_VERSION"),
        (1, {"partition_epoch": 1}, (1, 2), "NOT_CONTROLLER"),
        (1, {}, (1, 4), "INVALID_REQUEST"),
        (1, {}, (1, 9), "INVALID_REQUEST"),
        (1, {}, (2, 3), "INVALID_REQUEST"),
        (1, {}, (), "INVALID_REQUEST"),
        (1, {}, (1, 2, 2), "INVALID_REQUEST"),
        (1, {"member_epoch": -1}, (1, 2), "INELIGIBLE_REPLICA"),
        (1, {"member_epoch": 1}, (1, 2), "INELIGIBLE_REPLICA"),
    ],
)
def test_each_condition_of_a_proposal_is_checked(
    sender: int, changes: dict[str, int], members: tuple[int, ...], reason: str
) -> None:
    # Leader epoch 2 and partition epoch 3 leave room below; the ISR is 1 alone.
    image = cluster()
    for node_id in (1, 2, 3):
        image = images.after(image, images.fence(image, node_id))
    for node_id in (1, 2, 3):
        image = images.after(image, images.unfence(image, node_id))
    partition = image.topics[TOPIC].partitions[0]
    assert partition.leader_id == 2, "the last one standing but one was eligible"
    image, reasons = execute(image, alter(image, 2, proposal(image, 2, 1)))
    assert reasons == [""]
    image = images.after(image, images.fence(image, 2))
    image = images.after(image, images.unfence(image, 2))
    partition = image.topics[TOPIC].partitions[0]
    assert (partition.leader_id, partition.isr) == (1, (1,))
    request = alter(image, sender, proposal(image, *members, **changes))
    assert execute(image, request) == (image, [reason])


@pytest.mark.parametrize("state", ["fenced", "drained", "offline", "restarted"])
def test_a_replica_that_cannot_serve_joins_nothing(state: str) -> None:
    image = shrunk(1)
    request = alter(image, 1, proposal(image, 1, 2))
    event = {"node_id": 2, "node_epoch": image.nodes[2].epoch}
    if state == "drained":
        image = images.after(image, images.command(drain_node=command_pb.DrainNode(**event)))
    elif state == "offline":
        offline = command_pb.TakeLogDirectoryOffline(**event)
        image = images.after(image, images.command(take_log_directory_offline=offline))
    else:
        image = images.after(image, images.fence(image, 2))
    if state == "restarted":
        image = images.after(image, images.register(2, incarnation=7, previous_epoch=2))
        image = images.after(image, images.unfence(image, 2))
    for one in request.alter_partitions.proposals:
        one.partition_epoch = image.topics[TOPIC].partitions[0].partition_epoch
    assert execute(image, request)[1] == ["INELIGIBLE_REPLICA"]


def test_a_member_that_registers_anew_after_the_decision_does_not_get_in() -> None:
    image = shrunk(1)
    decided = commands(image, alter(image, 1, proposal(image, 1, 2)))
    image = images.after(image, images.fence(image, 2))
    image = images.after(image, images.register(2, incarnation=7, previous_epoch=2))
    image = images.after(image, images.unfence(image, 2))
    assert image.topics[TOPIC].partitions[0].partition_epoch == 1, "nothing else would tell"
    assert images.apply(image, *decided).result.reason == "VERSION_CONFLICT"


def test_one_partition_in_conflict_does_not_refuse_the_others() -> None:
    image = cluster((1, 2, 3), (1, 3, 2), (1, 2, 4), (2, 1, 3))
    request = alter(
        image,
        1,
        proposal(image, 1, 2, number=0),
        proposal(image, 1, number=1, partition_epoch=1),
        proposal(image, 1, 2, number=2),
        proposal(image, 1, number=3),
        pb.InSyncProposal(topic_id=TOPIC, partition=99),
        pb.InSyncProposal(topic_id=b"?" * 16),
        proposal(image, 1, number=0),
    )
    image, reasons = execute(image, request)
    assert reasons == [
        "",
        "NOT_CONTROLLER",
        "",
        "NOT_LEADER",
        "UNKNOWN_PARTITION",
        "UNKNOWN_TOPIC",
        "INVALID_REQUEST",
    ]
    partitions = image.topics[TOPIC].partitions
    assert [one.isr for one in partitions] == [(1, 2), (1, 3, 2), (1, 2), (2, 1, 3)]


def test_a_request_of_an_older_registration_is_refused_whole() -> None:
    image = cluster()
    for node_id, epoch in ((1, 99), (9, 1)):
        request = pb.ExecuteRequest(
            alter_partitions=pb.AlterPartitions(node_id=node_id, node_epoch=epoch)
        )
        with pytest.raises(Refused) as caught:
            commands(image, request)
        assert caught.value.reason == "STALE_NODE_EPOCH"


def test_a_request_is_bounded() -> None:
    image = cluster()
    many = [proposal(image, 1, 2)] * (PARTITIONS_PER_REQUEST_MAX + 1)
    with pytest.raises(Refused) as caught:
        commands(image, alter(image, 1, *many))
    assert caught.value.reason == "INVALID_REQUEST"
    largest = commands(cluster(*[(1, 2, 3)] * 1000), alter(image, 1, *many[:1]))
    assert len(largest) == 1


def recovered(image: Image, node_id: int, end: int) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(
        report_recovered_logs=pb.ReportRecoveredLogs(
            node_id=node_id,
            node_epoch=image.nodes[node_id].epoch,
            logs=[pb.RecoveredLog(topic_id=TOPIC, last_epoch=1, synced_end_offset=end)],
        )
    )


def test_reports_of_all_who_lost_their_place_elect_the_longest_log() -> None:
    image = cluster(flush_mode="page_cache")
    for node_id in (1, 2, 3):
        image = images.after(image, images.fence(image, node_id))
    for node_id in (1, 2, 3):
        known = image.nodes[node_id].epoch
        image = images.after(image, images.register(node_id, incarnation=9, previous_epoch=known))
        image = images.after(image, images.unfence(image, node_id))
    image, reasons = execute(image, recovered(image, 1, 500))
    assert reasons == ["UP_TO_DATE"], "1 had left the in-sync replicas before"
    image, reasons = execute(image, recovered(image, 2, 40))
    assert reasons == [""]
    assert execute(image, recovered(image, 2, 40)) == (image, ["UP_TO_DATE"])
    image, reasons = execute(image, recovered(image, 3, 41))
    partition = image.topics[TOPIC].partitions[0]
    assert (partition.leader_id, partition.isr, partition.recovering) == (3, (3,), True)


def damage(image: Image, node_id: int, *, partition_epoch: int | None = None) -> pb.ExecuteRequest:
    """A report by a node whose image is this one."""
    if partition_epoch is None:
        partition_epoch = image.topics[TOPIC].partitions[0].partition_epoch
    log = pb.DamagedLog(topic_id=TOPIC, reason="rot at 17", partition_epoch=partition_epoch)
    return pb.ExecuteRequest(
        report_damaged_logs=pb.ReportDamagedLogs(
            node_id=node_id, node_epoch=image.nodes[node_id].epoch, logs=[log]
        )
    )


def test_a_report_of_damage_costs_every_place() -> None:
    image, reasons = execute(cluster(), damage(cluster(), 1))
    assert reasons == [""]
    partition = image.topics[TOPIC].partitions[0]
    assert (partition.leader_id, partition.isr, partition.damaged) == (2, (2, 3), (1,))
    assert execute(image, damage(image, 4)) == (image, ["UP_TO_DATE"]), "it holds no replica"


def test_a_report_of_damage_outlives_proposals_that_are_on_their_way() -> None:
    image, _ = execute(cluster(), damage(cluster(), 3))
    under_way = alter(image, 1, proposal(image, 1, 2, 3))
    before = image.topics[TOPIC].partitions[0]
    image, reasons = execute(image, damage(image, 3))
    assert reasons == [""], "its copy is damaged again, and it has no place to lose"
    after = image.topics[TOPIC].partitions[0]
    assert after == replace(before, partition_epoch=before.partition_epoch + 1)
    assert execute(image, under_way) == (image, ["INVALID_UPDATE_VERSION"])


def test_a_report_of_damage_that_comes_again_does_not_hit_the_repaired_replica() -> None:
    image = cluster()
    report = damage(image, 3)
    image, _ = execute(image, report)
    image, reasons = execute(image, alter(image, 1, proposal(image, 1, 2, 3)))
    assert reasons == [""], "its log was copied anew"
    assert image.topics[TOPIC].partitions[0].damaged == ()
    assert execute(image, report) == (image, ["INVALID_UPDATE_VERSION"])


def test_a_report_of_damage_that_is_ahead_of_the_controller_is_to_be_told_again() -> None:
    image = cluster()
    ahead = image.topics[TOPIC].partitions[0].partition_epoch + 1
    report = damage(image, 1, partition_epoch=ahead)
    assert execute(image, report) == (image, ["NOT_CONTROLLER"])
