"""Sessions of nodes with the controller, on a bench."""

import asyncio

import pytest
from prometheus_client import generate_latest

from millstream_server.runtime.errors import ServiceError
from tests.fakes.controller_bench import OTHER, ControllerBench, create
from tests.fakes.waiting import until


async def test_a_node_leads_only_once_its_image_holds_its_registration(
    bench: ControllerBench,
) -> None:
    stream, registered = await bench.register(1)
    assert bench.fenced(1)
    await bench.beat(stream, registered.version - 1)
    assert bench.fenced(1)
    await bench.beat(stream, registered.version)
    assert not bench.fenced(1)


async def test_silence_fences_and_heartbeats_prevent_it(bench: ControllerBench) -> None:
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


async def test_a_change_of_controller_restarts_every_timer(bench: ControllerBench) -> None:
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


async def test_a_new_controller_waits_as_long_as_the_one_before_granted(
    bench: ControllerBench,
) -> None:
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


async def test_a_paused_controller_does_not_fence_for_its_own_silence(
    bench: ControllerBench,
) -> None:
    await bench.live(1)
    bench.clock.advance(10_000)
    bench.liveness.allow_for_pause(10_000)
    await bench.liveness.fence_expired()
    assert not bench.fenced(1)
    bench.clock.advance(3_000)
    await bench.liveness.fence_expired()
    assert bench.fenced(1)


async def test_a_broken_stream_alone_fences_nobody(bench: ControllerBench) -> None:
    streams = [await bench.live(node_id) for node_id in (1, 2, 3)]
    bench.liveness.closed(streams[0], by_node=True)
    await bench.probe.tries.wait()
    assert not bench.fenced(1)


async def test_a_broken_stream_and_a_refused_connection_fence_early(bench: ControllerBench) -> None:
    streams = [await bench.live(node_id) for node_id in (1, 2, 3)]
    bench.probe.refused = {9001, 9002, 9003}
    bench.liveness.closed(streams[0], by_node=True)
    await until(lambda: bench.fenced(1))
    assert b"millstream_nodes_fenced_total 1.0" in generate_latest(bench.registry)


async def test_not_even_refused_connections_fence_half_of_the_cluster_early(
    bench: ControllerBench,
) -> None:
    streams = [await bench.live(node_id) for node_id in (1, 2, 3, 4)]
    bench.probe.refused = {9001, 9002, 9003, 9004}
    for stream in streams[:2]:
        bench.liveness.closed(stream, by_node=True)
    await bench.probe.tried(50)
    assert not any(bench.fenced(node_id) for node_id in (1, 2, 3, 4))


async def test_a_node_that_died_with_the_controller_is_fenced_early_by_the_next(
    bench: ControllerBench,
) -> None:
    for node_id in (1, 2, 3):
        await bench.live(node_id)
    bench.consensus.depose(OTHER)
    bench.probe.refused = {9001}
    bench.consensus.lead()
    await bench.active()
    await bench.live(2)
    await bench.live(3)
    await until(lambda: bench.fenced(1))
    assert not bench.fenced(2)
    assert not bench.fenced(3)


async def test_a_new_controller_fences_nobody_early_when_most_nodes_are_absent(
    bench: ControllerBench,
) -> None:
    for node_id in (1, 2, 3, 4):
        await bench.live(node_id)
    bench.consensus.depose(OTHER)
    bench.probe.refused = {9001, 9002, 9003, 9004}
    bench.consensus.lead()
    await bench.active()
    await bench.live(4)
    await bench.live(3)
    await bench.probe.tried(50)
    assert not any(bench.fenced(node_id) for node_id in (1, 2, 3, 4))


async def test_a_restarted_node_with_the_same_directory_replaces_itself(
    bench: ControllerBench,
) -> None:
    stream = await bench.live(1)
    with pytest.raises(ServiceError, match="NODE_ID_IN_USE"):
        await bench.register(1, incarnation_id=b"j" * 16)
    bench.liveness.closed(stream, by_node=True)
    with pytest.raises(ServiceError, match="NODE_ID_IN_USE"):
        await bench.register(1, incarnation_id=b"j" * 16, directory_id=b"x" * 16, port=1)
    _, registered = await bench.register(1, incarnation_id=b"j" * 16, previous_epoch=1)
    assert registered.node_epoch == 2
    assert bench.fenced(1)


async def test_the_port_alone_proves_no_death_of_a_node_with_a_directory(
    bench: ControllerBench,
) -> None:
    stream = await bench.live(1)
    bench.liveness.closed(stream, by_node=True)
    with pytest.raises(ServiceError, match="NODE_ID_IN_USE"):
        await bench.register(1, incarnation_id=b"j" * 16, directory_id=b"x" * 16)
    assert not bench.fenced(1)


async def test_a_restarted_node_without_a_directory_replaces_itself_by_its_port(
    bench: ControllerBench,
) -> None:
    stream, registered = await bench.register(1, directory_id=b"", roles=[3])
    await bench.beat(stream, registered.version)
    bench.liveness.closed(stream, by_node=True)
    with pytest.raises(ServiceError, match="NODE_ID_IN_USE"):
        await bench.register(1, incarnation_id=b"j" * 16, directory_id=b"", roles=[3], port=1)
    _, registered = await bench.register(1, incarnation_id=b"j" * 16, directory_id=b"", roles=[3])
    assert registered.node_epoch == 2


async def test_a_node_heard_while_others_are_fenced_stays(bench: ControllerBench) -> None:
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


async def test_a_session_whose_end_is_on_its_way_gets_no_more_time(
    bench: ControllerBench,
) -> None:
    one, commit = await bench.live(1), bench.controller.commit
    version = bench.controller.image.version
    in_time = asyncio.create_task(bench.beat(one, version))
    await asyncio.sleep(0)  # on its way through the quorum
    bench.clock.advance(3_000)
    answers: list[object] = []

    async def unheard(commands: object) -> None:
        answers.extend(await asyncio.gather(in_time, return_exceptions=True))
        raise ServiceError("QUORUM_UNAVAILABLE", "the answer is lost")

    bench.controller.commit = unheard  # type: ignore[method-assign,assignment]
    with pytest.raises(ServiceError, match="QUORUM_UNAVAILABLE"):
        await bench.liveness.fence_expired()
    (answer,) = answers
    assert isinstance(answer, ServiceError)
    assert answer.reason == "STALE_NODE_EPOCH"
    with pytest.raises(ServiceError, match="STALE_NODE_EPOCH"):
        await bench.beat(one, version)
    bench.controller.commit = commit  # type: ignore[method-assign]
    again, registered = await bench.register(1)
    assert bench.fenced(1), "first its end is made sure of"
    await bench.beat(again, registered.version)
    assert not bench.fenced(1)


async def test_a_node_whose_session_an_earlier_try_ended_goes_on_in_its_next_one(
    bench: ControllerBench,
) -> None:
    one, commit = await bench.live(1), bench.controller.commit
    bench.clock.advance(3_000)

    async def too_late(commands: object) -> None:
        raise ServiceError("VERSION_CONFLICT", "that session has ended before")

    bench.controller.commit = too_late  # type: ignore[method-assign,assignment]
    await bench.liveness.fence_expired()
    bench.controller.commit = commit  # type: ignore[method-assign]
    await bench.beat(one, bench.controller.image.version)
    assert not bench.fenced(1)


async def test_a_node_that_came_to_life_as_its_session_ended_is_fenced_when_it_dies(
    bench: ControllerBench,
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


async def test_the_same_incarnation_keeps_its_epoch(bench: ControllerBench) -> None:
    first = await bench.live(1)
    again, registered = await bench.register(1)
    assert registered.node_epoch == first.node_epoch
    assert first.ended.done()
    assert not again.ended.done()
    assert not bench.fenced(1)


async def test_a_node_of_another_cluster_is_refused(bench: ControllerBench) -> None:
    with pytest.raises(ServiceError, match="CLUSTER_MISMATCH"):
        await bench.register(1, cluster_id="other")


async def test_a_drained_node_may_stop_and_is_fenced_when_it_does(bench: ControllerBench) -> None:
    one = await bench.live(1)
    await bench.controller.execute(create("logs"))
    ack = await bench.beat(one, bench.controller.image.version, shutting_down=True)
    assert not ack.may_stop, "its image does not show yet that it leads nothing"
    ack = await bench.beat(one, bench.controller.image.version, shutting_down=True)
    assert ack.may_stop
    topic = bench.controller.image.topic("logs")
    assert topic is not None
    assert topic.partitions[0].leader_id is None
    bench.liveness.closed(one, by_node=True)
    await until(lambda: bench.fenced(1))


async def test_a_drained_node_whose_stream_breaks_before_it_heard_is_not_taken_for_stopped(
    bench: ControllerBench,
) -> None:
    one = await bench.live(1)
    await bench.controller.execute(create("logs"))
    await bench.beat(one, bench.controller.image.version, shutting_down=True)
    bench.liveness.closed(one, by_node=True)
    await asyncio.sleep(0.05)
    assert not bench.fenced(1)


async def test_a_failed_log_directory_takes_the_lead_away(bench: ControllerBench) -> None:
    stream = await bench.live(1)
    await bench.controller.execute(create("logs"))
    await bench.beat(stream, bench.controller.image.version, log_dir_offline=True)
    topic = bench.controller.image.topic("logs")
    assert topic is not None
    assert topic.partitions[0].leader_id is None
