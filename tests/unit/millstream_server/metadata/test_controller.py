"""The controller, on a bench."""

import asyncio

import pytest
from prometheus_client import generate_latest

from millstream.v1 import metadata_service_pb2 as public
from millstream_raft.commands import encode_entry
from millstream_server.runtime.errors import ServiceError
from millstream_server.v1 import controller_service_pb2 as pb
from tests.fakes import metadata_images as images
from tests.fakes.controller_bench import OTHER, ControllerBench, create


async def test_followers_name_the_leader(bench: ControllerBench) -> None:
    bench.consensus.depose(OTHER)
    with pytest.raises(ServiceError) as caught:
        await bench.controller.execute(create("logs"))
    assert caught.value.reason == "NOT_CONTROLLER"
    assert caught.value.metadata == {"leader_id": "2", "leader_address": "127.0.0.1:2"}
    with pytest.raises(ServiceError, match="NOT_CONTROLLER"):
        await bench.controller.read_barrier()


async def test_a_controller_elected_elsewhere_ends_this_one(bench: ControllerBench) -> None:
    await bench.live(1)
    rival = images.elected(bench.controller.image, OTHER)
    bench.consensus.commit_from_elsewhere(encode_entry([rival], controller_epoch=0))
    # This node still leads the quorum, so it has itself elected again, with a newer epoch.
    await bench.active()
    assert bench.controller.image.controller_id == 1
    assert bench.controller.image.controller_epoch == 3
    await bench.controller.execute(create("logs"))


async def test_unknown_outcomes_are_said_to_be_unknown(bench: ControllerBench) -> None:
    await bench.live(1)
    bench.consensus.outcomes_to_lose = 1
    with pytest.raises(ServiceError, match="QUORUM_UNAVAILABLE"):
        await bench.controller.execute(create("logs"))
    with pytest.raises(ServiceError, match="TOPIC_ALREADY_EXISTS"):
        await bench.controller.execute(create("logs"))


async def test_idle_request_sessions_are_ended_by_a_command(bench: ControllerBench) -> None:
    request = pb.ExecuteRequest(open_request_session=public.OpenRequestSessionRequest())
    opened = (await bench.controller.execute(request)).open_request_session.session_id
    await bench.liveness.expire_request_sessions()
    bench.clock.advance(3_600_000)
    await bench.liveness.expire_request_sessions()
    assert opened not in bench.controller.image.sessions


async def test_many_writes_at_once_are_all_decided(bench: ControllerBench) -> None:
    for node_id in (1, 2, 3):
        await bench.live(node_id)
    await asyncio.gather(*(bench.controller.execute(create(f"t{n}")) for n in range(30)))
    image = bench.controller.image
    assert len(image.topics) == 30
    led = [sum(1 for _ in image.partitions_led_by(node_id)) for node_id in (1, 2, 3)]
    assert led == [10, 10, 10]


async def test_scrapes_name_the_quorum_and_the_controller(bench: ControllerBench) -> None:
    text = generate_latest(bench.registry).decode()
    for line in (
        'millstream_raft_state{group="metadata",state="leader"} 1.0',
        "millstream_active_controller 1.0",
        'millstream_raft_term{group="metadata"} 1.0',
        'millstream_raft_leader_changes_total{group="metadata"} 1.0',
    ):
        assert line in text
