"""Internal topics are written by nodes: known by certificate, whatever ids a caller gives."""

from collections.abc import Awaitable, Callable

from millstream.v1 import broker_service_pb2 as pb
from millstream_server.runtime.callers import CertifiedCallers
from millstream_server.runtime.errors import reason_name
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request


async def test_a_client_does_not_write_what_a_coordinator_may(
    start_broker: Callable[..., Awaitable[BrokerNode]],
) -> None:
    """The caller gives the shard's own producer id, and a fence that would shut its owner out."""
    node = await start_broker(callers=CertifiedCallers("test"))
    offsets = await node.lead("__consumer_offsets", 2)
    fence = batch_of(b"fence", producer_id=9001, attributes=0x20, producer_epoch=900)
    refused = await answer(node, produce_request(offsets, fence, partition=1))
    assert reason_name(refused.error) == "INTERNAL_TOPIC"
    assert "by nodes only" in refused.message
    logs = await node.lead("logs")
    assert (await answer(node, produce_request(logs, batch_of(b"v")))).base_offset == 0


async def answer(node: BrokerNode, request: pb.ProduceRequest) -> pb.ProduceResult:
    call = node.stub.Produce()
    await call.write(request)
    response = await call.read()
    call.cancel()
    assert isinstance(response, pb.ProduceResponse)
    return response.results[0]
