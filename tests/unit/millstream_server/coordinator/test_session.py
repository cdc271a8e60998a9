"""Members over gRPC: share, hand over, come back after the coordinator did."""

from collections.abc import AsyncIterator

import pytest

from millstream.v1 import group_coordinator_service_pb2 as pb
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
