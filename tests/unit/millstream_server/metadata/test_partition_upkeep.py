"""What the active controller does to partitions unasked, and what it counts and says of them."""

from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.image import PartitionState
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb
from tests.fakes import metadata_images as images
from tests.fakes.controller_bench import ControllerBench
from tests.fakes.waiting import until

TOPIC = images.topic_id(1)


class Metadata(ControllerBench):
    """An active controller whose nodes are registered by commands."""

    async def start(self, *brokers: int) -> None:
        await self.app.start()
        await self.active()
        for node_id in brokers:
            await self.commit(images.register(node_id))
            await self.unfence(node_id)

    async def commit(self, *commands: command_pb.MetadataCommand) -> None:
        await self.app.controller.commit(commands)

    async def unfence(self, node_id: int) -> None:
        await self.commit(images.unfence(self.app.controller.image, node_id))

    async def fence(self, node_id: int) -> None:
        await self.commit(images.fence(self.app.controller.image, node_id))

    async def in_sync(self, number: int, *isr: int) -> None:
        await self.commit(images.in_sync(self.app.controller.image, 1, number, *isr))

    def partition(self, number: int = 0) -> PartitionState:
        return self.app.controller.image.topics[TOPIC].partitions[number]

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"millstream_{name}", labels)

    def elections(self, kind: str) -> float | None:
        return self.sample("leader_elections_total", kind=kind)


@pytest.fixture
async def metadata() -> AsyncIterator[Metadata]:
    made = Metadata()
    await made.start(1, 2, 3)
    yield made
    await made.app.stop()


async def test_leads_go_back_to_preferred_leaders_that_are_in_sync(metadata: Metadata) -> None:
    await metadata.commit(images.add_topic(1, (1, 2), (1, 2)))
    assert metadata.sample("preferred_leader_imbalance") == 0
    await metadata.fence(1)
    await metadata.unfence(1)
    assert metadata.sample("preferred_leader_imbalance") == 2
    await metadata.app.upkeep.balance_leaders()
    assert metadata.partition().leader_id == 2, "it is not in sync yet"
    await metadata.in_sync(0, 2, 1)
    await metadata.app.upkeep.balance_leaders()
    assert [metadata.partition(number).leader_id for number in (0, 1)] == [1, 2]
    assert metadata.sample("preferred_leader_imbalance") == 1
    assert (metadata.elections("clean"), metadata.elections("preferred")) == (2, 1)
    assert (metadata.elections("unclean"), metadata.elections("recovered")) == (0, 0)


async def test_replicas_move_away_from_a_broker_that_leaves(metadata: Metadata) -> None:
    await metadata.commit(images.add_topic(1, (1, 2)))
    request = public.DecommissionBrokerRequest(node_id=1)
    await metadata.app.controller.execute(pb.ExecuteRequest(decommission_broker=request))
    await metadata.app.upkeep.move_replicas_away()
    assert metadata.partition().target == (3, 2)
    assert metadata.sample("reassigning_partitions") == 1
    await metadata.in_sync(0, 1, 2, 3)
    assert metadata.partition().leader_id == 3
    await metadata.in_sync(0, 2, 3)
    assert metadata.partition().replicas == (3, 2)
    assert metadata.sample("reassigning_partitions") == 0


async def test_an_order_that_may_lose_records_is_counted_and_told(metadata: Metadata) -> None:
    await metadata.commit(images.add_topic(1, (1, 2)))
    await metadata.in_sync(0, 1)
    await metadata.fence(1)
    assert metadata.sample("leaderless_partitions") == 1
    order = public.ElectLeadersRequest(
        kind=public.ELECTION_KIND_UNCLEAN, partitions=[public.ElectionTarget(topic_id=TOPIC)]
    )
    with capture_logs() as lines:
        await metadata.app.controller.execute(pb.ExecuteRequest(elect_leaders=order))
    (line,) = [one for one in lines if one["event"] == "unclean leader election"]
    assert (line["topic"], line["partition"], line["leader_id"]) == ("topic-1", 0, 2)
    assert line["possible_data_loss"]
    assert metadata.elections("unclean") == 1
    assert metadata.sample("recovering_partitions") == 1


@pytest.mark.parametrize(("mode", "flagged"), [("fsync", False), ("page_cache", True)])
async def test_possible_loss_is_told_in_page_cache_mode(
    metadata: Metadata, mode: str, flagged: bool
) -> None:
    await metadata.commit(images.add_topic(1, (1,), flush_mode=mode))
    await metadata.fence(1)
    await metadata.commit(images.register(1, incarnation=2))
    with capture_logs() as lines:
        await metadata.unfence(1)
    (line,) = [one for one in lines if one["log_level"] == "warning"]
    assert line["possible_data_loss"] is flagged
    assert metadata.elections("recovered") == 1
    assert metadata.sample("possible_losses_total") == flagged


async def test_a_deposed_controller_changes_and_counts_nothing(metadata: Metadata) -> None:
    await metadata.commit(images.add_topic(1, (1, 2)))
    await metadata.fence(1)
    metadata.consensus.depose()
    assert metadata.sample("preferred_leader_imbalance") == 0
    assert metadata.elections("clean") == 1


async def test_leads_leave_a_disk_that_refuses_appends_and_come_back_later(
    metadata: Metadata,
) -> None:
    await metadata.commit(images.add_topic(1, (1, 2), (1,)))
    refusing = metadata.app.liveness.refusing_disks
    refusing[1] = 5
    await metadata.app.upkeep.relieve_full_disks()
    await metadata.app.upkeep.balance_leaders()
    assert [metadata.partition(number).leader_id for number in (0, 1)] == [2, 1]
    refusing.clear()
    await metadata.app.upkeep.relieve_full_disks()
    assert metadata.partition().leader_id == 2
    await metadata.app.upkeep.balance_leaders()
    assert metadata.partition().leader_id == 1


async def test_a_lead_that_a_finished_move_wants_is_given_to_nobody_else(
    metadata: Metadata,
) -> None:
    await metadata.commit(images.register(4))
    await metadata.unfence(4)
    await metadata.commit(images.add_topic(1, (1, 2)))
    command = command_pb.ReassignPartition(
        topic_id=images.topic_id(1), target_replica_ids=[3, 4], min_isr=1
    )
    await metadata.commit(images.command(reassign_partition=command))
    await metadata.in_sync(0, 1, 2, 3, 4)
    assert metadata.partition().leader_id == 3
    refusing = metadata.app.liveness.refusing_disks
    refusing[3] = 5
    await metadata.app.upkeep.relieve_full_disks()
    assert (metadata.partition().leader_id, metadata.partition().leader_epoch) == (4, 2)
    refusing[4] = 5
    await metadata.app.upkeep.relieve_full_disks()
    assert (metadata.partition().leader_id, metadata.partition().leader_epoch) == (4, 2)


async def test_a_lead_that_a_cancelled_move_wants_is_given_to_nobody_else(
    metadata: Metadata,
) -> None:
    await metadata.commit(images.register(4))
    await metadata.commit(images.add_topic(1, (1, 2)))
    command = command_pb.ReassignPartition(
        topic_id=images.topic_id(1), target_replica_ids=[3, 4], min_isr=1
    )
    await metadata.commit(images.command(reassign_partition=command))
    await metadata.in_sync(0, 1, 2, 3)
    await metadata.in_sync(0, 1, 3)
    cancel = command_pb.CancelReassignment(
        topic_id=images.topic_id(1), expected_partition_epoch=metadata.partition().partition_epoch
    )
    await metadata.commit(images.command(cancel_reassignment=cancel))
    before = metadata.partition()
    assert (before.leader_id, before.replicas, before.isr) == (1, (1, 2, 3), (1, 3))
    metadata.app.liveness.refusing_disks[1] = 5
    await metadata.app.upkeep.relieve_full_disks()
    assert metadata.partition() == before


async def test_which_disks_refuse_appends_is_what_the_last_heartbeats_said(
    metadata: Metadata,
) -> None:
    liveness = metadata.app.liveness
    stream, registered = await metadata.register(4)
    for refuses in (True, False, True):
        await metadata.beat(stream, registered.version, disk_refuses=refuses)
        assert (4 in liveness.refusing_disks) is refuses
    metadata.consensus.depose()
    assert not liveness.refusing_disks


async def test_it_acts_by_itself() -> None:
    metadata = Metadata(
        leader_imbalance_check_interval_ms=1, decommission_interval_ms=1, relieve_interval_ms=1
    )
    await metadata.start(1, 2, 3)
    await metadata.commit(images.add_topic(1, (1, 2), (1, 2)))
    await metadata.fence(1)
    await metadata.unfence(1)
    await metadata.in_sync(0, 2, 1)
    request = public.DecommissionBrokerRequest(node_id=2)
    await metadata.app.controller.execute(pb.ExecuteRequest(decommission_broker=request))
    await until(lambda: metadata.partition().leader_id == 1 and metadata.partition(1).adding != ())
    metadata.app.liveness.refusing_disks[1] = 5
    await until(lambda: metadata.partition().leader_id == 2)
    await metadata.app.stop()
