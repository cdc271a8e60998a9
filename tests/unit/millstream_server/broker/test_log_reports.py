"""What a broker tells of damaged logs, by the controller's own decisions (invariants 1, 6, 34)."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from millstream_raft.commands import apply_entry, encode_entry
from millstream_raft.decide import decide
from millstream_raft.decision import ClusterDefaults
from millstream_raft.image import Image, PartitionState
from millstream_raft.refusal import Refused
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.log_reports import Damage, LogReports
from millstream_server.runtime.errors import ServiceError
from millstream_server.v1 import controller_service_pb2 as pb
from tests.fakes import metadata_images as images

TOPIC = images.topic_id(1)
KEY = (TOPIC, 0)
NODE = 3


class Controller:
    """Decides and commits as the real one; unreachable on demand. A ``NodePlane``, as far as
    reports need one."""

    def __init__(self) -> None:
        self.image: Image = images.after(
            images.image_with(1, 2, NODE), images.add_topic(1, (1, 2, NODE), min_isr=2)
        )
        # What the controller goes by; None: the newest image.
        self.old_image: Image | None = None
        self.unreachable = False
        # Done while the next call is under way; its epoch is stale then.
        self.meanwhile: Callable[[], None] | None = None
        self.calls = 0
        self.called = asyncio.Event()

    @property
    def node_epoch(self) -> int:
        return self.image.nodes[NODE].epoch

    @property
    def partition(self) -> PartitionState:
        return self.image.topics[TOPIC].partitions[0]

    async def execute(self, request: pb.ExecuteRequest) -> pb.ExecuteResponse:
        self.calls += 1
        self.called.set()
        if self.unreachable:
            raise ServiceError("UNAVAILABLE", "no metadata node answers")
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        image = self.old_image or self.image
        try:
            decision = decide(image, request, topic_id=bytes(16), defaults=ClusterDefaults())
        except Refused as refused:
            raise ServiceError(refused.reason, refused.message) from None
        if not decision.commands:
            return decision.reply
        entry = encode_entry(
            list(decision.commands),
            controller_epoch=image.controller_epoch,
            reply=decision.reply.SerializeToString(),
        )
        applied = apply_entry(image, entry)
        assert not applied.result.reason, applied.result
        self.image = applied.image
        return pb.ExecuteResponse.FromString(applied.result.reply)

    async def alter(self, *members: int) -> None:
        """The leader changes the in-sync replicas."""
        nodes = self.image.nodes
        proposal = pb.InSyncProposal(
            topic_id=TOPIC,
            leader_epoch=self.partition.leader_epoch,
            partition_epoch=self.partition.partition_epoch,
            members=[pb.InSyncMember(node_id=one, node_epoch=nodes[one].epoch) for one in members],
        )
        request = pb.ExecuteRequest()
        request.alter_partitions.node_id, request.alter_partitions.node_epoch = 1, nodes[1].epoch
        request.alter_partitions.proposals.append(proposal)
        response = await self.execute(request)
        assert not response.altered_partitions.partitions[0].reason
        assert self.partition.isr == members

    async def until_called(self, calls: int) -> None:
        async with asyncio.timeout(10):
            while self.calls < calls:
                self.called.clear()
                await self.called.wait()


class Host:
    """What reports need of the hosted partitions."""

    node_id = NODE

    def __init__(self, cluster: Controller) -> None:
        self.cluster = cluster


@contextmanager
def running(controller: Controller) -> Iterator[LogReports]:
    reports = LogReports(cast(HostedPartitions, Host(controller)))
    task = asyncio.get_running_loop().create_task(reports.run())
    try:
        yield reports
    finally:
        task.cancel()


async def test_a_report_that_could_not_be_told_does_not_hit_the_replica_once_it_is_repaired() -> (
    None
):
    controller = Controller()
    with running(controller) as reports:
        controller.unreachable = True
        reports.damaged(KEY, Damage(controller.partition.partition_epoch, "rot at 17"))
        await controller.until_called(1)
        controller.unreachable = False
        # The leader noticed that it copies no more; so it copied anew, and is in sync again.
        await controller.alter(1, 2)
        await controller.alter(1, 2, NODE)
        await controller.until_called(4)
    assert controller.partition.isr == (1, 2, NODE)
    assert not controller.partition.damaged


async def test_damage_is_told_again_where_the_controller_knows_less_than_the_image_here() -> None:
    controller = Controller()
    controller.old_image = controller.image
    controller.image = images.after(controller.image, images.fence(controller.image, 2))
    with running(controller) as reports:
        reports.damaged(KEY, Damage(controller.partition.partition_epoch, "rot at 17"))
        await controller.until_called(1)
        controller.old_image = None
        await controller.until_called(2)
    assert controller.partition.isr == (1,)
    assert controller.partition.damaged == (NODE,)


async def test_what_comes_in_under_a_new_registration_outlives_the_refusal_of_the_old_one() -> None:
    controller = Controller()
    with running(controller) as reports:

        def register() -> None:
            image = images.after(controller.image, images.fence(controller.image, NODE))
            image = images.after(image, images.register(NODE, incarnation=9))
            controller.image = images.after(image, images.unfence(image, NODE))
            reports.damaged(KEY, Damage(controller.partition.partition_epoch, "rot at 17"))

        controller.meanwhile = register
        reports.damaged(KEY, Damage(controller.partition.partition_epoch, "rot at 17"))
        await controller.until_called(2)
    assert controller.partition.damaged == (NODE,)
