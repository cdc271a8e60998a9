"""The gRPC port answers health and reflection and counts calls."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry, generate_latest

from millstream_server.runtime.grpc_server import GrpcServer

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(channel: grpc.aio.Channel, name: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
    return int(answer.status)


async def test_health_has_an_entry_per_service_and_per_probe() -> None:
    server = GrpcServer("127.0.0.1:0", CollectorRegistry(), reflection=True)
    await server.start(["millstream.v1.BrokerService"])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert await health_of(channel, "") == SERVING
        for name in ("startup", "ready", "millstream.v1.BrokerService"):
            assert await health_of(channel, name) == NOT_SERVING
        await server.set_serving("ready", "millstream.v1.BrokerService")
        assert await health_of(channel, "ready") == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_of(channel, "unheard.of")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    await server.stop(0)


async def listed_services(channel: grpc.aio.Channel) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]))]
    return {item.name for item in answers[0].list_services_response.service}


async def test_reflection_lists_the_services() -> None:
    server = GrpcServer("127.0.0.1:0", CollectorRegistry(), reflection=True)
    await server.start(["millstream.v1.BrokerService"])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        names = await listed_services(channel)
        assert {"millstream.v1.BrokerService", "grpc.health.v1.Health"} <= names
    await server.stop(0)


async def test_reflection_can_be_switched_off() -> None:
    server = GrpcServer("127.0.0.1:0", CollectorRegistry(), reflection=False)
    await server.start(["millstream.v1.BrokerService"])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listed_services(channel)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    await server.stop(0)


async def test_calls_are_counted_under_the_usual_names() -> None:
    registry = CollectorRegistry()
    server = GrpcServer("127.0.0.1:0", registry, reflection=False)
    await server.start([])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        await health_of(channel, "")
        with pytest.raises(grpc.aio.AioRpcError):
            await health_of(channel, "unheard.of")
    await server.stop(0)
    labels = 'grpc_method="Check",grpc_service="grpc.health.v1.Health",grpc_type="unary"'
    text = generate_latest(registry).decode()
    assert f"grpc_server_started_total{{{labels}}} 2.0" in text
    assert f"grpc_server_msg_received_total{{{labels}}} 2.0" in text
    assert f"grpc_server_msg_sent_total{{{labels}}} 1.0" in text
    assert 'grpc_server_handled_total{grpc_code="NOT_FOUND"' in text
    assert 'grpc_server_handled_total{grpc_code="OK"' in text


async def test_connections_with_a_call_in_progress_are_counted() -> None:
    registry = CollectorRegistry()
    server = GrpcServer("127.0.0.1:0", registry, reflection=False)
    await server.start([])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        assert registry.get_sample_value("millstream_connections") == 1
        watch.cancel()
    await server.stop(0)
    assert registry.get_sample_value("millstream_connections") == 0


async def test_a_port_in_use_is_refused() -> None:
    first = GrpcServer("127.0.0.1:0", CollectorRegistry(), reflection=False)
    with pytest.raises(RuntimeError):
        GrpcServer(f"127.0.0.1:{first.port}", CollectorRegistry(), reflection=False)
    await first.stop(0)
