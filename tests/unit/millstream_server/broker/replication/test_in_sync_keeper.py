"""The leader asks the controller for in-sync sets; the controller is the test's."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millstream_server.broker.in_sync import InSyncSet
from millstream_server.runtime.errors import ServiceError, reason_name
from millstream_server.v1 import controller_service_pb2 as pb
from tests.fakes.broker_node import BrokerNode, with_config
from tests.fakes.cluster import FakeMetadata
from tests.fakes.scripted_follower import ScriptedFollower
from tests.fakes.waiting import until

CONFIG = with_config(in_sync_check_ms=20, in_sync_retry_ms=40, replica_lag_time_ms_max=10_000)


@pytest.fixture
async def node(metadata: FakeMetadata, tmp_path: Path) -> AsyncIterator[BrokerNode]:
    """Leads "logs" with node 2 in sync and node 3 not."""
    broker = BrokerNode(metadata, tmp_path / "node-1", config=CONFIG)
    await broker.start()
    metadata.register(2, 1, epoch=20)
    metadata.register(3, 1, epoch=30)
    metadata.create_topic("logs", [1], replicas=[(1, 2, 3)])
    metadata.change_partition("logs", 0, isr=(1, 2), min_isr=2)
    await broker.until_leading("logs")
    yield broker
    await broker.stop()


@pytest.fixture
async def joiner(node: BrokerNode) -> AsyncIterator[ScriptedFollower]:
    async with ScriptedFollower(node.channel, follower_id=3, epoch=30) as follower:
        yield follower


def topic_id(node: BrokerNode) -> bytes:
    return node.metadata.image.topic_ids["logs"]


def members(node: BrokerNode) -> tuple[int, ...]:
    state = node.metadata.image.partition(topic_id(node), 0)
    assert state is not None
    return state.isr


def in_sync(node: BrokerNode) -> InSyncSet:
    return node.replica("logs").state.in_sync


async def begin(node: BrokerNode, joiner: ScriptedFollower, *, leader_epoch: int = 1) -> None:
    """As a follower whose image is as new as the leader's."""
    epoch = in_sync(node).partition_epoch
    await joiner.begin(topic_id(node), leader_epoch=leader_epoch, partition_epoch=epoch)


def proposals(node: BrokerNode) -> list[pb.InSyncProposal]:
    return [
        proposal
        for request in node.view.executed
        for proposal in request.alter_partitions.proposals
    ]


async def test_rule_4_a_proposal_names_registrations_epochs_and_everybody_in_it(
    node: BrokerNode, joiner: ScriptedFollower
) -> None:
    await begin(node, joiner)
    await until(lambda: members(node) == (1, 2, 3))
    (proposal,) = proposals(node)
    assert [(one.node_id, one.node_epoch) for one in proposal.members] == [
        (1, 1),
        (2, 20),
        (3, 30),
    ]
    assert (proposal.leader_epoch, proposal.partition_epoch) == (1, 1)
    await until(lambda: in_sync(node).committed == {1, 2, 3})
    assert node.scrape("millstream_isr_expands_total") == 1
    assert node.scrape("millstream_isr_shrinks_total") == 1  # node 3, before it began


async def test_a_joiner_counts_while_the_answer_is_under_way_and_is_asked_for_once(
    node: BrokerNode, joiner: ScriptedFollower
) -> None:
    node.metadata.hold_alter = asyncio.Event()
    await begin(node, joiner)
    await until(lambda: bool(proposals(node)))
    assert in_sync(node).maximal == {1, 2, 3}
    for _ in range(3):
        await joiner.report(topic_id(node), 0)
    await asyncio.sleep(0.1)  # several looks of the keeper
    assert len(proposals(node)) == 1
    node.metadata.hold_alter.set()
    await until(lambda: in_sync(node).committed == {1, 2, 3})


async def test_a_definite_refusal_is_withdrawn_and_asked_for_again_later(
    node: BrokerNode, joiner: ScriptedFollower
) -> None:
    node.metadata.alter_refusals = ["INELIGIBLE_REPLICA"]
    seen: list[bool] = []
    node.metadata.hold_alter = asyncio.Event()
    await begin(node, joiner)
    await until(lambda: len(proposals(node)) == 1)
    node.metadata.hold_alter.set()
    await until(lambda: seen.append(in_sync(node).proposed) is None and not seen[-1])
    await until(lambda: members(node) == (1, 2, 3))
    assert len(proposals(node)) == 2


async def test_a_proposal_of_unknown_fate_stands_until_the_image_passes_it(
    node: BrokerNode, joiner: ScriptedFollower
) -> None:
    # Lost, then refused: perhaps because the lost one did it.
    node.metadata.alter_refusals = [
        ServiceError("QUORUM_UNAVAILABLE", "no answer"),
        "INVALID_UPDATE_VERSION",
        ServiceError("TIMED_OUT", "no answer"),
        "INELIGIBLE_REPLICA",
        ServiceError("TIMED_OUT", "no answer"),
    ]
    await begin(node, joiner)
    await until(lambda: in_sync(node).in_doubt)
    await until(lambda: len(proposals(node)) >= 4)
    assert in_sync(node).maximal == {1, 2, 3}
    await until(lambda: members(node) == (1, 2, 3))
    await until(lambda: not in_sync(node).in_doubt)
    assert {proposal.partition_epoch for proposal in proposals(node)} == {1}


@pytest.mark.parametrize("reason", ["INVALID_UPDATE_VERSION", "FENCED_LEADER_EPOCH"])
async def test_a_refusal_that_an_unheard_success_explains_withdraws_nothing(
    node: BrokerNode, joiner: ScriptedFollower, reason: str
) -> None:
    # A call is tried again by itself when its answer is lost: the first try may have done it, and
    # the joiner then is in sync by everybody's image but the leader's.
    node.metadata.alter_refusals = [reason]
    await begin(node, joiner)
    await until(lambda: in_sync(node).in_doubt)
    assert in_sync(node).maximal == {1, 2, 3}
    await until(lambda: members(node) == (1, 2, 3))


async def test_who_began_before_the_partition_epoch_stepped_is_not_asked_in(
    node: BrokerNode, joiner: ScriptedFollower
) -> None:
    await joiner.begin(topic_id(node), partition_epoch=in_sync(node).partition_epoch - 1)
    await until(lambda: node.replica("logs").state.followers.node_epoch(3) == 30)
    await joiner.report(topic_id(node), 0)
    await asyncio.sleep(0.05)
    assert proposals(node) == []
    await begin(node, joiner)
    await until(lambda: members(node) == (1, 2, 3))


async def test_who_knows_a_newer_partition_epoch_is_to_begin_again(
    node: BrokerNode, joiner: ScriptedFollower
) -> None:
    await joiner.begin(topic_id(node), partition_epoch=in_sync(node).partition_epoch + 1)
    answer = await joiner.next(news=False)
    assert reason_name(answer.error) == "UNKNOWN_LEADER_EPOCH"
    assert node.replica("logs").state.followers.node_epoch(3) == 0


async def test_who_is_fenced_is_not_asked_in_until_it_is_back(
    node: BrokerNode, joiner: ScriptedFollower
) -> None:
    node.metadata.change_node(3, fenced=True)
    await begin(node, joiner)
    await until(lambda: node.replica("logs").state.followers.node_epoch(3) == 30)
    await asyncio.sleep(0.05)
    assert proposals(node) == []
    node.metadata.change_node(3, fenced=False)
    await until(lambda: members(node) == (1, 2, 3))


async def test_recovery_ends_by_a_change_of_nothing_else(
    node: BrokerNode, joiner: ScriptedFollower
) -> None:
    node.metadata.change_node(2, fenced=True)
    node.metadata.change_partition("logs", 0, isr=(1,), recovering=True, leader_epoch=2)
    await node.until_leading("logs")
    await begin(node, joiner, leader_epoch=2)
    await until(lambda: not node.replica("logs").state.recovering)
    await begin(node, joiner, leader_epoch=2)
    await until(lambda: members(node) == (1, 3))
    assert [[one.node_id for one in proposal.members] for proposal in proposals(node)] == [
        [1],
        [1, 3],
    ]
