"""Members over gRPC: share, hand over, come back after the coordinator did."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from millstream.v1 import errors_pb2
from millstream.v1 import group_coordinator_service_pb2 as pb
from millstream_server.runtime.errors import error_of
from tests.fakes.coordinator_node import CoordinatorCluster, CoordinatorNode, Member

TOPIC = "logs"
ALL = {(TOPIC, number) for number in range(4)}


@pytest.fixture
async def cluster() -> CoordinatorCluster:
    made = CoordinatorCluster()
    made.metadata.create_topic(TOPIC, [99] * 4)
    return made


@pytest.fixture
async def node(cluster: CoordinatorCluster) -> AsyncIterator[CoordinatorNode]:
    async with CoordinatorNode(cluster) as made:
        yield made


async def committed(node: CoordinatorNode, group_id: str) -> dict[int, int]:
    response = await node.ask("FetchOffsets", pb.FetchOffsetsRequest(group_id=group_id))
    return {entry.partition: entry.offset for entry in response.offsets}


async def reason_of(call: Any) -> str:
    """Why a stream ended."""
    with pytest.raises(grpc.RpcError) as refused:
        await call.read()
    return error_of(refused.value).reason


async def test_two_members_share_then_one_leaves_and_commits_survive_a_restart(
    cluster: CoordinatorCluster,
) -> None:
    async with CoordinatorNode(cluster) as first:
        one = Member(first, "g", [TOPIC])
        await one.join()
        await one.wait_for(lambda member: member.owned == ALL)
        one.committing = {name: 10 + name[1] for name in ALL}
        two = Member(first, "g", [TOPIC])
        await two.join()
        await two.wait_for(lambda member: len(member.owned) == 2)
        assert one.owned | two.owned == ALL
        assert not one.owned & two.owned
        handed_over = {number for _, number in two.owned}
        assert await committed(first, "g") == {n: 10 + n for n in handed_over}
        await two.commit(dict.fromkeys(two.owned, 50))
        await two.leave()
        await one.wait_for(lambda member: member.owned == ALL)
        assert one.assignments[-1].reason == pb.ASSIGNMENT_REASON_MEMBER_LEFT
        await two.close()
        await one.close()
    async with CoordinatorNode(cluster) as second:
        assert await committed(second, "g") == dict.fromkeys(handed_over, 50)
        await one.join(second)
        await one.wait_for(
            lambda member: member.assignments[-1].reason == pb.ASSIGNMENT_REASON_RECONNECTED
        )
        assert one.owned == ALL
        assert not one.error
        described = await second.ask("DescribeGroup", pb.DescribeGroupRequest(group_id="g"))
        assert described.state == pb.GROUP_STATE_STABLE
        assert [member.member_id for member in described.members] == [one.member_id]
        await one.close()


async def test_a_member_hears_why_its_stream_ended(
    node: CoordinatorNode, cluster: CoordinatorCluster
) -> None:
    for fields, reason in (
        ({"assignor": "best"}, "UNSUPPORTED_ASSIGNOR"),
        ({"topic_pattern": "("}, "INVALID_REQUEST"),
        ({"group_id": "x" * 256}, "INVALID_GROUP_ID"),
    ):
        member = Member(node, "g", [TOPIC])
        await member.join(**fields)
        assert member.error == reason
        await member.close()
    stranger = Member(node, "g", [TOPIC])
    stranger.member_id, stranger.epoch = "nobody", 3
    await stranger.join()
    assert stranger.error == "UNKNOWN_MEMBER"
    await stranger.close()


async def test_a_stream_begins_with_a_join_and_carries_only_messages(node: CoordinatorNode) -> None:
    call = node.stub.Session()
    await call.write(pb.SessionRequest(heartbeat=pb.Heartbeat()))
    assert await reason_of(call) == "INVALID_REQUEST"
    raw = node.channel.stream_stream("/millstream.v1.GroupCoordinatorService/Session")()
    await raw.write(b"\xff\xff\xff")
    assert await reason_of(raw) == "INVALID_REQUEST"


async def test_calls_for_a_shard_of_another_node_are_refused(
    node: CoordinatorNode, cluster: CoordinatorCluster
) -> None:
    member = Member(node, "g", [TOPIC])
    await member.join()
    cluster.lease(2)
    await member.wait_for(lambda one: one.error)
    assert member.error == "NOT_COORDINATOR"
    with pytest.raises(grpc.RpcError) as refused:
        await node.ask("DescribeGroup", pb.DescribeGroupRequest(group_id="g"))
    assert error_of(refused.value).reason == "NOT_COORDINATOR"
    await member.close()


async def test_partial_failures_of_a_commit_stand_beside_their_offset(
    node: CoordinatorNode,
) -> None:
    request = pb.CommitOffsetsRequest(
        group_id="g",
        offsets=[
            pb.OffsetCommit(topic=TOPIC, partition=0, offset=4, leader_epoch=2, metadata="m"),
            pb.OffsetCommit(topic="none", partition=0, offset=4),
            pb.OffsetCommit(topic=TOPIC, partition=9, offset=4),
        ],
    )
    response = await node.ask("CommitOffsets", request)
    assert [result.error for result in response.results] == [
        0,
        errors_pb2.ERROR_REASON_UNKNOWN_TOPIC,
        errors_pb2.ERROR_REASON_UNKNOWN_PARTITION,
    ]
    wanted = pb.TopicPartitions(topic=TOPIC, partitions=[0, 1])
    found = await node.ask(
        "FetchOffsets", pb.FetchOffsetsRequest(group_id="g", partitions=[wanted])
    )
    (offset,) = found.offsets
    assert (offset.topic, offset.offset, offset.leader_epoch, offset.metadata) == (TOPIC, 4, 2, "m")


async def test_groups_are_reset_listed_and_deleted(node: CoordinatorNode) -> None:
    commit = pb.OffsetCommit(topic=TOPIC, partition=0, offset=4)
    await node.ask("CommitOffsets", pb.CommitOffsetsRequest(group_id="g", offsets=[commit]))
    commit.offset = 1
    await node.ask("ResetOffsets", pb.ResetOffsetsRequest(group_id="g", offsets=[commit]))
    assert await committed(node, "g") == {0: 1}
    listed = await node.ask("ListGroups", pb.ListGroupsRequest(states=[pb.GROUP_STATE_EMPTY]))
    assert [group.group_id for group in listed.groups] == ["g"]
    await node.ask(
        "DeleteOffsets",
        pb.DeleteOffsetsRequest(
            group_id="g", partitions=[pb.TopicPartitions(topic=TOPIC, partitions=[0])]
        ),
    )
    assert await committed(node, "g") == {}
    await node.ask("CommitOffsets", pb.CommitOffsetsRequest(group_id="g", offsets=[commit]))
    await node.ask("DeleteGroup", pb.DeleteGroupRequest(group_id="g"))
    with pytest.raises(grpc.RpcError) as refused:
        await node.ask("DeleteGroup", pb.DeleteGroupRequest(group_id="g"))
    assert error_of(refused.value).reason == "UNKNOWN_GROUP"


async def test_members_state_and_rebalances_are_measured(node: CoordinatorNode) -> None:
    member = Member(node, "g", [TOPIC])
    await member.join()
    await member.wait_for(lambda one: one.owned == ALL)
    group = {"group": "g"}
    prefix = "millstream_consumer_group_"
    value = node.metrics.get_sample_value
    assert value(prefix + "members", group) == 1
    assert value(prefix + "rebalances_total", group) == 1
    assert value(prefix + "rebalance_duration_seconds_count", group) == 1
    assert value(prefix + "state", {**group, "state": "stable"}) == 1
    assert value(prefix + "state", {**group, "state": "empty"}) == 0
    await member.close()


async def test_a_pattern_follows_new_topics(
    node: CoordinatorNode, cluster: CoordinatorCluster
) -> None:
    member = Member(node, "g", [])
    await member.join(topic_pattern="lo.*")
    await member.wait_for(lambda one: one.owned == ALL)
    cluster.metadata.create_topic("long", [99])
    await member.wait_for(lambda one: one.owned == ALL | {("long", 0)})
    assert member.assignments[-1].reason == pb.ASSIGNMENT_REASON_TOPICS_CHANGED
    await member.close()
