"""A metadata node that hangs, or was left behind by the quorum, is not followed for long."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence

from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.image import Image
from millstream_server.cluster.config import ClusterConfig
from millstream_server.cluster.followed_image import FollowedImage
from millstream_server.cluster.image_follower import ImageFollower
from millstream_server.cluster.metadata_channels import MetadataChannels
from millstream_server.cluster.metadata_plane import NodeRegistration
from millstream_server.cluster.view import ClusterView
from millstream_server.runtime.system import SystemClock
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as command_pb
from tests.fakes import metadata_images as images
from tests.fakes.image_servers import ImageServer, image_servers
from tests.fakes.metadata_cluster import METADATA_NODE_ID, identity, running_cluster

# Longer than a busy machine keeps a node from its pulses.
LIMIT_MS = 1_000


def history(length: int) -> list[Image]:
    made = [images.image_with(1)]
    for _ in range(length):
        step = images.command(take_producer_id=command_pb.TakeProducerId())
        made.append(images.after(made[-1], step))
    return made


@contextlib.asynccontextmanager
async def following(
    servers: Sequence[ImageServer],
) -> AsyncIterator[tuple[FollowedImage, ImageFollower]]:
    """A follower that begins with the first server."""
    channels = MetadataChannels(list(enumerate([one.address for one in servers], 1)))
    followed = FollowedImage(10)
    follower = ImageFollower(
        followed,
        channels,
        identity(50, servers[0].port, {"broker"}, b"i" * 16),
        ClusterConfig(reconnect_ms_min=5, image_age_ms_max=LIMIT_MS),
        random.Random(1),
    )
    task = asyncio.create_task(follower.run())
    try:
        yield followed, follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        await channels.close()


async def test_a_hung_node_is_left_and_the_image_does_not_go_back() -> None:
    made = history(5)
    async with image_servers(2) as (hung, other):
        hung.image, other.image = made[3], made[1]
        async with following((hung, other)) as (followed, _):
            await followed.wait_for_version(made[3].version, 5_000)
            hung.pulses.clear()
            async with asyncio.timeout(10):
                await other.watched.wait()
            seen: list[int] = []
            followed.subscribe(lambda delta: seen.append(delta.image.version))
            other.image = made[5]
            other.watched.clear()
            other.pulses.clear()  # it hangs, too, so the newer image comes from a third try
            hung.image = made[4]
            hung.pulses.set()
            await followed.wait_for_version(made[4].version, 10_000)
            assert seen == sorted(seen)
            assert seen[0] == made[3].version


async def test_a_node_that_never_begins_is_left() -> None:
    (image,) = history(0)
    async with image_servers(1) as (good,):
        good.image = image
        silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        mute = ImageServer()
        mute.port = silent.sockets[0].getsockname()[1]
        mute.address = f"127.0.0.1:{mute.port}"
        async with following((mute, good)) as (followed, _):
            await followed.wait_for_version(image.version, 5_000)
        silent.close()


async def test_a_node_without_a_pulse_may_be_silent() -> None:
    (image,) = history(0)
    async with image_servers(2) as (quiet, other):
        quiet.image = other.image = image
        quiet.pulse_interval_ms = 0
        quiet.pulses.clear()
        async with following((quiet, other)) as (followed, _):
            await followed.wait_for_version(image.version, 5_000)
            await asyncio.sleep(2 * LIMIT_MS / 1000)
            assert other.watches == 0


async def test_a_node_that_was_left_behind_is_left_for_the_one_named() -> None:
    made = history(1)
    async with image_servers(3) as (behind, third, newest):
        behind.image, newest.image = made
        async with following((behind, third, newest)) as (followed, follower):
            await followed.wait_for_version(made[0].version, 5_000)
            follower.leave_for(newest.address)
            await followed.wait_for_version(made[1].version, 5_000)
            assert third.watches == 0
            follower.leave_for(newest.address)  # the one named is the one that was left behind
            async with asyncio.timeout(10):
                while behind.watches + third.watches < 2:  # noqa: ASYNC110 - either may be it
                    await asyncio.sleep(0.01)


async def test_a_session_survives_the_isolation_of_the_node_that_was_followed() -> None:
    """The followed node goes on pulsing but learns nothing: the controller's answers tell."""
    async with running_cluster(session_timeout_ms=6_000) as cluster, image_servers(1) as (alone,):
        alone.leader_address = cluster.address
        view = ClusterView(
            identity(1, alone.port, {"broker"}, b"i" * 16),
            ((METADATA_NODE_ID, cluster.address), (METADATA_NODE_ID + 1, alone.address)),
            clock=SystemClock(),
            random=random.Random(1),
            config=ClusterConfig(
                session_timeout_ms=6_000, reconnect_ms_min=5, image_age_ms_max=LIMIT_MS
            ),
            registration=NodeRegistration(directory_id=b"d" * 16),
        )
        await view.start()
        try:
            await view.wait_registered(timeout_ms=10_000)
            assert alone.watches == 1
            alone.image = view.image
            alone.watched.clear()
            view._follower.leave_for(alone.address)
            async with asyncio.timeout(10):
                await alone.watched.wait()
            written = await view.execute(
                pb.ExecuteRequest(create_topic=public.CreateTopicRequest(name="new")),
                timeout_ms=5_000,
            )
            image = await view.wait_for_version(written.version, timeout_ms=5_000)
            assert "new" in image.topic_ids
            assert view.in_session()
            assert not image.nodes[1].fenced
        finally:
            await view.stop()
