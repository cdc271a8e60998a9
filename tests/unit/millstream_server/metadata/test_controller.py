"""The controller over a consensus that commits at once, with a clock that is told to move."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.commands import encode_entry
from millstream_raft.consensus import StateMachine
from millstream_server.metadata.app import MetadataApp
from millstream_server.metadata.config import MetadataConfig
from millstream_server.metadata.node_liveness import SessionStream
from millstream_server.runtime.errors import ServiceError
from millstream_server.v1 import controller_service_pb2 as pb
from tests.fakes import metadata_images as images
from tests.fakes.instant_consensus import InstantConsensus
from tests.fakes.manual_clock import ManualClock
from tests.fakes.metadata_cluster import identity

OTHER = 2


class FakeProbe:
    """Refuses connections to the ports named."""

    def __init__(self) -> None:
        self.refused: set[int] = set()
        self.tries = asyncio.Event()

    async def is_refused(self, host: str, port: int, timeout_ms: int) -> bool:
        self.tries.set()
        return port in self.refused


async def eventually(condition: Callable[[], bool]) -> None:
    """Let the tasks of the loop run until the condition holds."""
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.probe = FakeProbe()
        self.registry = CollectorRegistry()
        config = MetadataConfig(
            voters=((1, "127.0.0.1:1"), (OTHER, "127.0.0.1:2")),
            heartbeat_gather_ms=0,
            probe_interval_ms=1,
            reconnect_grace_ms=1,
        )
        made: list[InstantConsensus] = []

        def consensus(machine: StateMachine) -> InstantConsensus:
            made.append(InstantConsensus(machine, node_id=1))
            return made[0]

        self.app = MetadataApp(
            config,
            identity(1, 1, {"metadata"}, b"m" * 16),
            consensus,
            clock=self.clock,
            random=random.Random(1),
            metrics=self.registry,
            probe=self.probe,
        )
        self.consensus = made[0]
        self.controller, self.liveness = self.app.controller, self.app.liveness

    async def active(self) -> None:
        await eventually(lambda: self.controller.is_active)

    async def register(self, node_id: int, **fields: object) -> tuple[SessionStream, pb.Registered]:
        values: dict[str, object] = {
            "cluster_id": "test-cluster",
            "node_id": node_id,
            "incarnation_id": b"i" * 16,
            "roles": [1],
            "host": "127.0.0.1",
            "port": 9000 + node_id,
            "directory_id": bytes([node_id]) * 16,
        }
        values.update(fields)
        return await self.liveness.register(pb.Registration(**values))  # type: ignore[arg-type]

    async def live(self, node_id: int) -> SessionStream:
        stream, registered = await self.register(node_id)
        await self.beat(stream, registered.version)
        return stream

    async def beat(self, stream: SessionStream, version: int, **more: bool) -> pb.NodeHeartbeatAck:
        return await self.liveness.heartbeat(
            stream,
            pb.NodeHeartbeat(node_epoch=stream.node_epoch, sequence=1, version=version, **more),
        )

    def fenced(self, node_id: int) -> bool:
        return self.controller.image.nodes[node_id].fenced


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    await made.app.start()
    await made.active()
    yield made
    await made.app.stop()


def create(name: str) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(create_topic=public.CreateTopicRequest(name=name))


async def test_a_node_leads_only_once_its_image_holds_its_registration(bench: Bench) -> None:
    stream, registered = await bench.register(1)
    assert bench.fenced(1)
    await bench.beat(stream, registered.version - 1)
    assert bench.fenced(1)
    await bench.beat(stream, registered.version)
    assert not bench.fenced(1)


async def test_silence_fences_and_heartbeats_prevent_it(bench: Bench) -> None:
    one, two = await bench.live(1), await bench.live(2)
    bench.clock.advance(2_999)
    await bench.beat(one, bench.controller.image.version)
    await bench.liveness.fence_expired()
    assert not bench.fenced(2)
    bench.clock.advance(1)
    await bench.liveness.fence_expired()
    assert bench.fenced(2)
    assert not bench.fenced(1)
    assert (await two.ended).reason == "STALE_NODE_EPOCH"
    with pytest.raises(ServiceError, match="STALE_NODE_EPOCH"):
        await bench.beat(two, 1)


async def test_a_change_of_controller_restarts_every_timer(bench: Bench) -> None:
    stream = await bench.live(1)
    bench.clock.advance(2_900)
    bench.consensus.depose(OTHER)
    assert (await stream.ended).reason == "NOT_CONTROLLER"
    bench.consensus.lead()
    await bench.active()
    bench.clock.advance(2_900)
    await bench.liveness.fence_expired()
    assert not bench.fenced(1)
    assert bench.controller.image.controller_epoch == 2


async def test_a_new_controller_waits_as_long_as_the_one_before_granted(bench: Bench) -> None:
    stream, registered = await bench.register(1, session_timeout_ms=20_000)
    assert registered.session_timeout_ms == 20_000
    await bench.beat(stream, registered.version)
    bench.consensus.depose(OTHER)
    bench.consensus.lead()
    await bench.active()
    bench.clock.advance(19_999)
    await bench.liveness.fence_expired()
    assert not bench.fenced(1)
    bench.clock.advance(1)
    await bench.liveness.fence_expired()
    assert bench.fenced(1)


async def test_a_paused_controller_does_not_fence_for_its_own_silence(bench: Bench) -> None:
    await bench.live(1)
    bench.clock.advance(10_000)
    bench.liveness.allow_for_pause(10_000)
    await bench.liveness.fence_expired()
    assert not bench.fenced(1)
    bench.clock.advance(3_000)
    await bench.liveness.fence_expired()
    assert bench.fenced(1)


async def test_a_broken_stream_alone_fences_nobody(bench: Bench) -> None:
    streams = [await bench.live(node_id) for node_id in (1, 2, 3)]
    bench.liveness.closed(streams[0], by_node=True)
    await bench.probe.tries.wait()
    assert not bench.fenced(1)


async def test_a_broken_stream_and_a_refused_connection_fence_early(bench: Bench) -> None:
    streams = [await bench.live(node_id) for node_id in (1, 2, 3)]
    bench.probe.refused = {9001, 9002, 9003}
    bench.liveness.closed(streams[0], by_node=True)
    await eventually(lambda: bench.fenced(1))
    assert b"millstream_nodes_fenced_total 1.0" in generate_latest(bench.registry)


async def test_not_even_refused_connections_fence_half_of_the_cluster_early(bench: Bench) -> None:
    streams = [await bench.live(node_id) for node_id in (1, 2, 3, 4)]
    bench.probe.refused = {9001, 9002, 9003, 9004}
    for stream in streams[:2]:
        bench.liveness.closed(stream, by_node=True)
    for _ in range(50):
        bench.probe.tries.clear()
        await bench.probe.tries.wait()
    assert not any(bench.fenced(node_id) for node_id in (1, 2, 3, 4))


async def test_a_node_that_died_with_the_controller_is_fenced_early_by_the_next(
    bench: Bench,
) -> None:
    for node_id in (1, 2, 3):
        await bench.live(node_id)
    bench.consensus.depose(OTHER)
    bench.probe.refused = {9001}
    bench.consensus.lead()
    await bench.active()
    await bench.live(2)
    await bench.live(3)
    await eventually(lambda: bench.fenced(1))
    assert not bench.fenced(2)
    assert not bench.fenced(3)


async def test_a_new_controller_fences_nobody_early_when_most_nodes_are_absent(
    bench: Bench,
) -> None:
    for node_id in (1, 2, 3, 4):
        await bench.live(node_id)
    bench.consensus.depose(OTHER)
    bench.probe.refused = {9001, 9002, 9003, 9004}
    bench.consensus.lead()
    await bench.active()
    await bench.live(4)
    await bench.live(3)
    for _ in range(50):
        bench.probe.tries.clear()
        await bench.probe.tries.wait()
    assert not any(bench.fenced(node_id) for node_id in (1, 2, 3, 4))


async def test_a_restarted_node_with_the_same_directory_replaces_itself(bench: Bench) -> None:
    stream = await bench.live(1)
    with pytest.raises(ServiceError, match="NODE_ID_IN_USE"):
        await bench.register(1, incarnation_id=b"j" * 16)
    bench.liveness.closed(stream, by_node=True)
    with pytest.raises(ServiceError, match="NODE_ID_IN_USE"):
        await bench.register(1, incarnation_id=b"j" * 16, directory_id=b"x" * 16, port=1)
    _, registered = await bench.register(1, incarnation_id=b"j" * 16, previous_epoch=1)
    assert registered.node_epoch == 2
    assert bench.fenced(1)


async def test_the_port_alone_proves_no_death_of_a_node_with_a_directory(bench: Bench) -> None:
    stream = await bench.live(1)
    bench.liveness.closed(stream, by_node=True)
    with pytest.raises(ServiceError, match="NODE_ID_IN_USE"):
        await bench.register(1, incarnation_id=b"j" * 16, directory_id=b"x" * 16)
    assert not bench.fenced(1)


async def test_a_restarted_node_without_a_directory_replaces_itself_by_its_port(
    bench: Bench,
) -> None:
    stream, registered = await bench.register(1, directory_id=b"", roles=[3])
    await bench.beat(stream, registered.version)
    bench.liveness.closed(stream, by_node=True)
    with pytest.raises(ServiceError, match="NODE_ID_IN_USE"):
        await bench.register(1, incarnation_id=b"j" * 16, directory_id=b"", roles=[3], port=1)
    _, registered = await bench.register(1, incarnation_id=b"j" * 16, directory_id=b"", roles=[3])
    assert registered.node_epoch == 2


async def test_a_node_heard_while_others_are_fenced_stays(bench: Bench) -> None:
    await bench.live(1)
    two = await bench.live(2)
    version = bench.controller.image.version
    bench.clock.advance(3_000)

    async def slow(commands: object) -> None:
        await bench.beat(two, version)

    bench.controller.commit = slow  # type: ignore[method-assign,assignment]
    await bench.liveness.fence_expired()
    assert bench.liveness.sessions.expired(bench.clock.monotonic_ms()) == []
    assert not two.ended.done()


async def test_a_node_that_came_to_life_as_its_session_ended_is_fenced_when_it_dies(
    bench: Bench,
) -> None:
    stream, registered = await bench.register(1)
    beat = asyncio.create_task(bench.beat(stream, registered.version))
    await asyncio.sleep(0)  # on its way through the quorum
    bench.clock.advance(3_000)
    await bench.liveness.fence_expired()
    with pytest.raises(ServiceError, match="STALE_NODE_EPOCH"):
        await beat
    assert not bench.fenced(1)
    for _ in range(2):
        await bench.liveness.fence_expired()
        bench.clock.advance(3_000)
    await bench.liveness.fence_expired()
    assert bench.fenced(1)


async def test_the_same_incarnation_keeps_its_epoch(bench: Bench) -> None:
    first = await bench.live(1)
    again, registered = await bench.register(1)
    assert registered.node_epoch == first.node_epoch
    assert first.ended.done()
    assert not again.ended.done()
    assert not bench.fenced(1)


async def test_a_node_of_another_cluster_is_refused(bench: Bench) -> None:
    with pytest.raises(ServiceError, match="CLUSTER_MISMATCH"):
        await bench.register(1, cluster_id="other")


async def test_a_drained_node_may_stop_and_is_fenced_when_it_does(bench: Bench) -> None:
    one = await bench.live(1)
    await bench.controller.execute(create("logs"))
    ack = await bench.beat(one, bench.controller.image.version, shutting_down=True)
    assert ack.may_stop
    topic = bench.controller.image.topic("logs")
    assert topic is not None
    assert topic.partitions[0].leader_id is None
    bench.liveness.closed(one, by_node=True)
    await eventually(lambda: bench.fenced(1))


async def test_a_failed_log_directory_takes_the_lead_away(bench: Bench) -> None:
    stream = await bench.live(1)
    await bench.controller.execute(create("logs"))
    await bench.beat(stream, bench.controller.image.version, log_dir_offline=True)
    topic = bench.controller.image.topic("logs")
    assert topic is not None
    assert topic.partitions[0].leader_id is None


async def test_followers_name_the_leader(bench: Bench) -> None:
    bench.consensus.depose(OTHER)
    with pytest.raises(ServiceError) as caught:
        await bench.controller.execute(create("logs"))
    assert caught.value.reason == "NOT_CONTROLLER"
    assert caught.value.metadata == {"leader_id": "2", "leader_address": "127.0.0.1:2"}
    with pytest.raises(ServiceError, match="NOT_CONTROLLER"):
        await bench.controller.read_barrier()


async def test_a_controller_elected_elsewhere_ends_this_one(bench: Bench) -> None:
    await bench.live(1)
    rival = images.elected(bench.controller.image, OTHER)
    bench.consensus.commit_from_elsewhere(encode_entry([rival], controller_epoch=0))
    # This node still leads the quorum, so it has itself elected again, with a newer epoch.
    await bench.active()
    assert bench.controller.image.controller_id == 1
    assert bench.controller.image.controller_epoch == 3
    await bench.controller.execute(create("logs"))


async def test_unknown_outcomes_are_said_to_be_unknown(bench: Bench) -> None:
    await bench.live(1)
    bench.consensus.outcomes_to_lose = 1
    with pytest.raises(ServiceError, match="QUORUM_UNAVAILABLE"):
        await bench.controller.execute(create("logs"))
    with pytest.raises(ServiceError, match="TOPIC_ALREADY_EXISTS"):
        await bench.controller.execute(create("logs"))


async def test_idle_request_sessions_are_ended_by_a_command(bench: Bench) -> None:
    request = pb.ExecuteRequest(open_request_session=public.OpenRequestSessionRequest())
    opened = (await bench.controller.execute(request)).open_request_session.session_id
    await bench.liveness.expire_request_sessions()
    bench.clock.advance(3_600_000)
    await bench.liveness.expire_request_sessions()
    assert opened not in bench.controller.image.sessions


async def test_many_writes_at_once_are_all_decided(bench: Bench) -> None:
    for node_id in (1, 2, 3):
        await bench.live(node_id)
    await asyncio.gather(*(bench.controller.execute(create(f"t{n}")) for n in range(30)))
    image = bench.controller.image
    assert len(image.topics) == 30
    led = [sum(1 for _ in image.partitions_led_by(node_id)) for node_id in (1, 2, 3)]
    assert led == [10, 10, 10]


async def test_scrapes_name_the_quorum_and_the_controller(bench: Bench) -> None:
    text = generate_latest(bench.registry).decode()
    for line in (
        'millstream_raft_state{group="metadata",state="leader"} 1.0',
        "millstream_active_controller 1.0",
        'millstream_raft_term{group="metadata"} 1.0',
        'millstream_raft_leader_changes_total{group="metadata"} 1.0',
    ):
        assert line in text
