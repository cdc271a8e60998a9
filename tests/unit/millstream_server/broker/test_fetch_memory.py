"""What a `Fetch` stream holds in memory, looked at without a network."""

from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.fetch_stream import FetchStream
from tests.fakes.broker_node import BrokerNode, batch_of

PARTITIONS = 5


async def test_batches_beyond_the_credit_are_not_kept_in_memory(broker: BrokerNode) -> None:
    topic_id = await broker.lead("logs", PARTITIONS)
    record = pb.PublishRecord(value=batch_of(b"v" * 5000))
    for partition in range(PARTITIONS):
        request = pb.PublishRequest(topic="logs", partition=partition, records=[record])
        await broker.stub.Publish(request, timeout=10)
    stream = FetchStream(broker.app.hosted, "test")
    positions = [pb.FetchPosition(topic_id=topic_id, partition=n) for n in range(PARTITIONS)]
    stream.handle(pb.FetchRequest(positions=positions, credit_bytes=7000))
    for _ in range(PARTITIONS):
        message = stream._next_message()
        assert message is not None
        entries = pb.FetchResponse.FromString(message).partitions
        assert [len(entry.batches) for entry in entries if entry.batches] == [1]
        assert stream._next_message() is None
        assert all(cursor.loaded is None for cursor in stream._cursors.values())
        taken = [pb.FetchedPartition(batches=entry.batches).ByteSize() for entry in entries]
        stream.handle(pb.FetchRequest(credit_bytes=sum(taken)))
    assert stream._next_message() is None
    stream._close()
