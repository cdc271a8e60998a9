"""One metadata node and fake brokers over real gRPC: register, create, watch, kill, come back."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import grpc
import pytest

from millstream.v1 import metadata_service_pb2 as public
from millstream.v1 import metadata_service_pb2_grpc as public_grpc
from millstream_raft.decision import ClusterDefaults
from millstream_raft.image import Image
from millstream_server.cluster.view import ClusterView
from millstream_server.runtime.errors import ServiceError, error_of
from millstream_server.v1 import controller_service_pb2 as pb
from tests.fakes.metadata_cluster import METADATA_NODE_ID, FakeNode, running_cluster


async def until(
    view: ClusterView, condition: Callable[[Image], bool], seconds: float = 10
) -> Image:
    """The first image of the view that meets the condition."""
    async with asyncio.timeout(seconds):
        while not condition(view.image):
            await view.wait_for_version(view.image.version + 1)
    return view.image


def create(name: str, partitions: int) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(
        create_topic=public.CreateTopicRequest(name=name, partition_count=partitions)
    )


def stub_of(node: FakeNode) -> tuple[grpc.aio.Channel, "public_grpc.MetadataServiceAsyncStub"]:
    channel = grpc.aio.insecure_channel(node.identity.address)
    return channel, public_grpc.MetadataServiceStub(channel)


async def test_a_topic_is_created_watched_fenced_and_led_again() -> None:
    async with running_cluster(session_timeout_ms=2_000) as cluster:
        one, two = await cluster.node(1), await cluster.node(2)
        assert {await one.view.wait_registered(), await two.view.wait_registered()} == {1, 2}
        assert one.view.in_session()
        assert one.epochs == [one.view.node_epoch]
        channel, stub = stub_of(one)
        request = public.CreateTopicRequest(name="logs", partition_count=2, replication_factor=1)
        created = await stub.CreateTopic(request)
        assert {one.leader_id for one in created.topic.partitions} == {1, 2}
        watch = stub.WatchCluster(public.WatchClusterRequest(topics=["logs", "later"]))
        first = await watch.read()
        assert first.complete
        assert [topic.name for topic in first.topics] == ["logs"]
        assert first.missing_topics == ["later"]
        assert {node.node_id for node in first.nodes} == {1, 2, METADATA_NODE_ID}
        await two.kill()
        orphan = next(p.partition for p in created.topic.partitions if p.leader_id == 2)
        topic_id = created.topic.topic_id
        image = await until(
            one.view, lambda image: image.topics[topic_id].partitions[orphan].leader_id is None
        )
        assert image.nodes[2].fenced
        assert image.topics[topic_id].partitions[orphan].elr == (2,)
        changed = await watch.read()
        assert not changed.complete
        assert [node.fenced for node in changed.nodes if node.node_id == 2] == [True]
        assert not changed.topics[0].partitions[orphan].HasField("leader_id")
        again = await cluster.node(
            2, incarnation=b"b" * 16, previous_epoch=two.view.node_epoch, port=two.identity.port
        )
        epoch = await again.view.wait_registered()
        assert epoch == 3
        partition = again.view.image.topics[topic_id].partitions[orphan]
        assert partition.leader_id == 2
        assert partition.leader_epoch == 2
        assert partition.isr == (2,)
        watch.cancel()
        await channel.close()


async def test_a_silent_node_is_fenced_and_comes_back_with_its_epoch() -> None:
    async with running_cluster(session_timeout_ms=500) as cluster:
        node = await cluster.node(1)
        other = await cluster.node(2)
        epoch = await node.view.wait_registered()
        await other.view.wait_registered()
        for task in node.view._tasks[1:]:
            task.cancel()  # the session, not the image: the process hangs, its port still listens
        await until(other.view, lambda image: image.nodes[1].fenced)
        await until(node.view, lambda image: image.nodes[1].fenced)
        node.view._spawn(node.view._own_session().run())
        await until(node.view, lambda image: not image.nodes[1].fenced)
        assert node.view.image.nodes[1].epoch == epoch
        assert node.epochs == [epoch]


async def test_a_second_process_with_a_live_node_id_is_refused() -> None:
    async with running_cluster() as cluster:
        first = await cluster.node(1)
        await first.view.wait_registered()
        second = await cluster.node(1, incarnation=b"z" * 16)
        with pytest.raises(ServiceError) as caught:
            await second.view.wait_registered(timeout_ms=2_000)
        assert caught.value.reason == "NODE_ID_IN_USE"
        assert first.view.in_session()


async def test_a_disk_that_cannot_keep_the_epoch_at_first_does_not_end_the_session_for_good() -> (
    None
):
    async with running_cluster() as cluster:
        failures = [OSError(28, "No space left on device"), RuntimeError("unforeseen")]

        async def on_registered(epoch: int) -> None:
            if failures:
                raise failures.pop()

        node = await cluster.node(1, on_registered=on_registered)
        await node.view.wait_registered()
        assert not failures


async def test_a_registration_that_replaced_another_begins_without_a_session() -> None:
    async with running_cluster() as cluster:
        node = await cluster.node(1)
        await node.view.wait_registered()
        session = node.view._own_session()
        held = asyncio.Event()

        async def hold(epoch: int) -> None:
            held.set()
            await asyncio.Event().wait()

        registration = pb.Registered(node_epoch=session.node_epoch + 1, version=1)
        session._registration = replace(session._registration, on_registered=hold)
        adopting = asyncio.ensure_future(session._adopt(registration, cluster.address))
        await held.wait()
        assert not node.view.in_session()
        assert node.sessions_lost == 1
        adopting.cancel()


async def test_a_drain_does_not_wait_for_a_controller_that_is_gone() -> None:
    async with running_cluster(session_timeout_ms=500) as cluster:
        node = await cluster.node(1)
        await node.view.wait_registered()
        assert cluster.consensus is not None
        cluster.consensus.depose(METADATA_NODE_ID + 1)
        async with asyncio.timeout(5):
            assert not await node.view.drain(timeout_ms=60_000)


async def test_draining_moves_everything_away_before_the_stop() -> None:
    async with running_cluster() as cluster:
        nodes = [await cluster.node(1), await cluster.node(2)]
        coordinators = [await cluster.node(3, "coordinator"), await cluster.node(4, "coordinator")]
        for node in nodes + coordinators:
            await node.view.wait_registered()
        channel, stub = stub_of(nodes[0])
        found = await stub.FindCoordinator(public.FindCoordinatorRequest(group_id="group1"))
        assert found.node.node_id in (3, 4)
        stays = next(one for one in coordinators if one.identity.node_id != found.node.node_id)
        leaves = next(one for one in coordinators if one is not stays)
        assert await leaves.view.drain(timeout_ms=5_000)
        image = await until(
            stays.view,
            lambda image: {lease.owner_id for lease in image.shards} == {stays.identity.node_id},
        )
        assert len(image.shards) == 16
        await leaves.kill()
        await until(stays.view, lambda image: image.nodes[leaves.identity.node_id].fenced)
        moved = await stub.FindCoordinator(public.FindCoordinatorRequest(group_id="group1"))
        assert moved.shard == found.shard
        assert moved.shard_epoch == found.shard_epoch + 1
        await channel.close()


async def test_a_drain_waits_until_nobody_counts_on_the_node() -> None:
    async with running_cluster() as cluster:
        one, two = await cluster.node(1), await cluster.node(2)
        await one.view.wait_registered()
        await two.view.wait_registered()
        request = create("logs", 1)
        request.create_topic.replication_factor = 2
        topic_id = (await one.view.execute(request)).create_topic.topic.topic_id
        await until(one.view, lambda image: topic_id in image.topics)
        leader_id = one.view.image.topics[topic_id].partitions[0].leader_id
        leaves, stays = (one, two) if leader_id == 1 else (two, one)
        assert not await leaves.view.drain(timeout_ms=500)
        image = await until(
            stays.view,
            lambda image: image.topics[topic_id].partitions[0].leader_id not in (leader_id, None),
        )
        led = image.topics[topic_id].partitions[0]
        assert set(led.isr) == {1, 2}, "the high watermark waits for it"
        member = pb.InSyncMember(node_id=stays.identity.node_id, node_epoch=stays.view.node_epoch)
        proposal = pb.InSyncProposal(
            topic_id=topic_id,
            leader_epoch=led.leader_epoch,
            partition_epoch=led.partition_epoch,
            members=[member],
        )
        await stays.view.execute(
            pb.ExecuteRequest(
                alter_partitions=pb.AlterPartitions(
                    node_id=member.node_id, node_epoch=member.node_epoch, proposals=[proposal]
                )
            )
        )
        assert await leaves.view.drain(timeout_ms=5_000)


async def test_a_lost_answer_does_not_create_twice() -> None:
    async with running_cluster() as cluster:
        node = await cluster.node(1)
        await node.view.wait_registered()
        assert cluster.consensus is not None
        first = await node.view.execute(create("first", 1))
        cluster.consensus.outcomes_to_lose = 1
        second = await node.view.execute(create("second", 1))
        assert second.version > first.version
        image = await node.view.wait_for_version(second.version)
        assert image.topic_ids.keys() == {"first", "second"}
        assert second.create_topic.topic.topic_id == image.topic_ids["second"]


async def test_a_change_of_controller_keeps_sessions_and_image() -> None:
    async with running_cluster() as cluster:
        node = await cluster.node(1)
        await node.view.wait_registered()
        await node.view.execute(create("logs", 1))
        epoch = node.view.node_epoch
        assert cluster.consensus is not None
        cluster.consensus.depose()
        cluster.consensus.lead()
        image = await until(node.view, lambda image: image.controller_epoch == 2)
        after = await node.view.execute(create("more", 1))
        image = await node.view.wait_for_version(after.version)
        assert node.view.node_epoch == epoch
        assert not image.nodes[1].fenced
        assert node.sessions_lost == 0


async def test_reads_are_as_fresh_as_they_ask_for() -> None:
    async with running_cluster() as cluster:
        one, two = await cluster.node(1), await cluster.node(2)
        await one.view.wait_registered()
        await two.view.wait_registered()
        channel, stub = stub_of(two)
        for number in range(5):
            written = await one.view.execute(create(f"topic-{number}", 1))
            at_least = public.ReadConsistency(min_version=written.version)
            listed = await stub.ListTopics(public.ListTopicsRequest(consistency=at_least))
            assert f"topic-{number}" in {topic.name for topic in listed.topics}
        await one.view.execute(create("last", 1))
        newest = public.ReadConsistency(linearizable=True)
        page = await stub.ListTopics(public.ListTopicsRequest(consistency=newest, page_size=4))
        assert [topic.name for topic in page.topics] == ["last", "topic-0", "topic-1", "topic-2"]
        rest = await stub.ListTopics(
            public.ListTopicsRequest(page_size=4, page_token=page.next_page_token)
        )
        assert [topic.name for topic in rest.topics] == ["topic-3", "topic-4"]
        assert not rest.next_page_token
        future = public.ReadConsistency(min_version=10**9)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListTopics(public.ListTopicsRequest(consistency=future), timeout=0.3)
        assert error_of(caught.value).reason == "TIMED_OUT"
        await channel.close()


async def test_errors_of_writes_reach_the_client_with_their_reason() -> None:
    async with running_cluster(defaults=ClusterDefaults(auto_create_topics=True)) as cluster:
        node = await cluster.node(1)
        await node.view.wait_registered()
        channel, stub = stub_of(node)
        for request, reason, words in (
            (public.CreateTopicRequest(name="a b"), "INVALID_TOPIC_NAME", "a b"),
            (
                public.CreateTopicRequest(name="x", replication_factor=3),
                "INVALID_REPLICATION_FACTOR",
                "usable brokers, 1",
            ),
            (
                public.CreateTopicRequest(name="x", configs={"retention.m": "1"}),
                "INVALID_CONFIG",
                "did you mean retention.ms",
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.CreateTopic(request)
            error = error_of(caught.value)
            assert error.reason == reason
            assert words in error.message
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.AllocateProducerId(public.AllocateProducerIdRequest(transactional_id="t"))
        assert error_of(caught.value).reason == "UNSUPPORTED"
        first = await stub.AllocateProducerId(public.AllocateProducerIdRequest())
        second = await stub.AllocateProducerId(public.AllocateProducerIdRequest())
        assert 0 < first.producer_id < second.producer_id
        made = await node.view.execute(
            pb.ExecuteRequest(auto_create_topic=pb.AutoCreateTopic(name="made"))
        )
        assert "made" in (await node.view.wait_for_version(made.version)).topic_ids
        quorum = await stub.DescribeQuorum(public.DescribeQuorumRequest())
        assert quorum.leader_id == METADATA_NODE_ID
        await channel.close()


async def test_a_node_that_is_gone_for_good_is_unregistered() -> None:
    async with running_cluster(session_timeout_ms=2_000) as cluster:
        one, two = await cluster.node(1), await cluster.node(2)
        await one.view.wait_registered()
        await two.view.wait_registered()
        channel, stub = stub_of(one)
        request = public.UnregisterNodeRequest(node_id=2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.UnregisterNode(request)
        assert error_of(caught.value).reason == "NODE_IN_USE"
        await two.kill()
        await until(one.view, lambda image: image.nodes[2].fenced)
        watch = stub.WatchCluster(public.WatchClusterRequest())
        await watch.read()
        await stub.UnregisterNode(request)
        assert list((await watch.read()).removed_node_ids) == [2]
        watch.cancel()
        again = await cluster.node(2, incarnation=b"b" * 16, port=two.identity.port)
        assert await again.view.wait_registered() == 3
        await channel.close()


async def test_a_node_whose_image_stands_still_is_out_of_its_session_though_it_is_answered() -> (
    None
):
    async with running_cluster(session_timeout_ms=1_500) as cluster:
        node, other = await cluster.node(1), await cluster.node(2)
        await node.view.wait_registered()
        await other.view.wait_registered()
        node.view._tasks[0].cancel()  # the image, not the session
        await other.view.execute(create("logs", 1))
        async with asyncio.timeout(15):
            while node.view.in_session():  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.02)
        assert not other.view.image.nodes[1].fenced
        node.view._spawn(node.view._follower.run())
        async with asyncio.timeout(15):
            while not node.view.in_session():  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.02)
        assert node.sessions_lost == 0


async def test_a_node_whose_disk_hangs_is_fenced_and_comes_back_when_it_works() -> None:
    async with running_cluster(session_timeout_ms=1_000) as cluster:
        node, other = await cluster.node(1), await cluster.node(2)
        epoch = await node.view.wait_registered()
        await other.view.wait_registered()
        node.stuck_ms = 500
        await asyncio.sleep(0.6)  # half a session is still no reason
        assert not other.view.image.nodes[1].fenced
        node.stuck_ms = 501
        await until(other.view, lambda image: image.nodes[1].fenced)
        assert not node.view.in_session()
        for _ in range(20):  # two sessions, in which it does not come back by another stream
            assert 1 not in cluster.app.liveness._streams
            assert other.view.image.nodes[1].fenced
            await asyncio.sleep(0.1)
        node.stuck_ms = 0
        await until(other.view, lambda image: not image.nodes[1].fenced)
        assert await node.view.wait_registered() == epoch
