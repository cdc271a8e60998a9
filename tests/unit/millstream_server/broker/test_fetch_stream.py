"""`Fetch` over real gRPC: positions, tokens, credit, progress, errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from millstream.record import decode_records
from millstream.v1 import broker_service_pb2 as pb
from millstream.v1 import errors_pb2, record_pb2
from millstream_server.runtime.errors import error_of, reason_number
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request, with_config
from tests.fakes.cluster import FakeMetadata

StartBroker = Callable[..., Awaitable[BrokerNode]]
MIB = 1 << 20


async def append(node: BrokerNode, topic_id: bytes, *batches: bytes, partition: int = 0) -> None:
    """Append each batch on its own, acknowledged by all."""
    call = node.stub.Produce()
    for batch in batches:
        await call.write(produce_request(topic_id, batch, partition=partition))
        response = await asyncio.wait_for(call.read(), 10)
        assert isinstance(response, pb.ProduceResponse)
        assert not response.results[0].error, response
    call.cancel()


def values_of(batch: record_pb2.RecordBatch) -> list[bytes | None]:
    return decode_records(batch.payload, batch.record_count).values or []


def framed_bytes(entry: pb.FetchedPartition) -> int:
    """What the batches of an entry cost of the credit."""
    return len(pb.FetchedPartition(batches=entry.batches).SerializeToString())


class Fetching:
    """A stock client of one stream that reads entries one by one."""

    def __init__(self, node: BrokerNode, **settings: int) -> None:
        self.call = node.stub.Fetch()
        self._settings: pb.FetchSettings | None = pb.FetchSettings(**settings)
        self._entries: asyncio.Queue[pb.FetchedPartition] = asyncio.Queue()
        # Reads all the time: a read that is given up would cancel the call.
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while isinstance(response := await self.call.read(), pb.FetchResponse):
            for entry in response.partitions:
                self._entries.put_nowait(entry)

    async def stop(self) -> None:
        self.call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def ask(
        self, *positions: pb.FetchPosition, credit: int = 0, remove: tuple[bytes, ...] = ()
    ) -> None:
        request = pb.FetchRequest(
            settings=self._settings,
            positions=positions,
            credit_bytes=credit,
            removals=[pb.FetchRemoval(topic_id=topic_id) for topic_id in remove],
        )
        self._settings = None
        await self.call.write(request)

    async def entry(self) -> pb.FetchedPartition:
        return await asyncio.wait_for(self._entries.get(), 10)

    async def data(self) -> pb.FetchedPartition:
        """The next entry with batches."""
        while not (entry := await self.entry()).batches:
            assert not entry.error, entry.message
        return entry

    async def silent(self) -> bool:
        """True if nothing with batches comes for a while."""
        try:
            async with asyncio.timeout(0.15):
                while not (await self.entry()).batches:
                    pass
        except TimeoutError:
            return True
        return False


def at(topic_id: bytes, offset: int = 0, **fields: Any) -> pb.FetchPosition:
    return pb.FetchPosition(topic_id=topic_id, offset=offset, **fields)


def reason(entry: pb.FetchedPartition) -> str:
    assert entry.message
    return errors_pb2.ErrorReason.Name(entry.error).removeprefix("ERROR_REASON_")


@pytest.fixture
async def fetching(broker: BrokerNode) -> AsyncIterator[Fetching]:
    stream = Fetching(broker)
    yield stream
    await stream.stop()


async def test_records_come_with_token_mark_start_and_epoch(
    broker: BrokerNode, fetching: Fetching
) -> None:
    topic_id = await broker.lead("logs")
    await append(broker, topic_id, batch_of(b"a", b"b"), batch_of(b"c"))
    await fetching.ask(at(topic_id, token=9), credit=MIB)
    entry = await fetching.data()
    assert [values_of(batch) for batch in entry.batches] == [[b"a", b"b"], [b"c"]]
    assert [batch.base_offset for batch in entry.batches] == [0, 2]
    assert (entry.token, entry.high_watermark, entry.log_start_offset) == (9, 3, 0)
    assert entry.leader_epoch == 1
    assert not entry.log_append_time


async def test_a_position_inside_a_batch_gets_the_whole_batch(
    broker: BrokerNode, fetching: Fetching
) -> None:
    topic_id = await broker.lead("logs")
    await append(broker, topic_id, batch_of(b"a"), batch_of(b"b", b"c", b"d"))
    await fetching.ask(at(topic_id, 2), credit=MIB)
    assert [batch.base_offset for batch in (await fetching.data()).batches] == [1]


async def test_new_records_are_pushed_as_they_become_readable(
    broker: BrokerNode, fetching: Fetching
) -> None:
    topic_id = await broker.lead("logs")
    await fetching.ask(at(topic_id), credit=MIB)
    idle = await fetching.entry()
    assert (idle.high_watermark, len(idle.batches)) == (0, 0)
    for number in range(3):
        await append(broker, topic_id, batch_of(b"%d" % number))
        assert values_of((await fetching.data()).batches[0]) == [b"%d" % number]


async def test_nothing_above_the_high_watermark_leaves(
    broker: BrokerNode, fetching: Fetching, metadata: FakeMetadata
) -> None:
    topic_id = await broker.lead("logs")
    await append(broker, topic_id, batch_of(b"a"))
    metadata.change_partition("logs", 0, replicas=(1, 2), isr=(1, 2))
    call = broker.stub.Produce()
    await call.write(produce_request(topic_id, batch_of(b"b")))
    await fetching.ask(at(topic_id), credit=MIB)
    entry = await fetching.data()
    assert (len(entry.batches), entry.high_watermark) == (1, 1)
    assert await fetching.silent()
    metadata.change_partition("logs", 0, isr=(1,))
    assert values_of((await fetching.data()).batches[0]) == [b"b"]
    call.cancel()


async def test_a_seek_changes_position_and_token(broker: BrokerNode, fetching: Fetching) -> None:
    topic_id = await broker.lead("logs")
    await append(broker, topic_id, batch_of(b"a"), batch_of(b"b"))
    await fetching.ask(at(topic_id, 1, token=1), credit=MIB)
    assert (await fetching.data()).token == 1
    await fetching.ask(at(topic_id, 0, token=2))
    entry = await fetching.data()
    assert (entry.token, len(entry.batches)) == (2, 2)


async def test_a_removed_partition_is_silent(broker: BrokerNode, fetching: Fetching) -> None:
    topic_id = await broker.lead("logs")
    other = await broker.lead("other")
    await fetching.ask(at(topic_id), at(other), credit=MIB)
    await fetching.ask(remove=(topic_id,))
    await append(broker, topic_id, batch_of(b"a"))
    await append(broker, other, batch_of(b"b"))
    assert (await fetching.data()).topic_id == other
    assert await fetching.silent()


async def test_pushes_stay_within_the_credit(broker: BrokerNode, fetching: Fetching) -> None:
    topic_id = await broker.lead("logs")
    await append(broker, topic_id, *[batch_of(b"v" * 1000) for _ in range(6)])
    await fetching.ask(at(topic_id), credit=2500)
    first = await fetching.data()
    assert len(first.batches) == 2
    assert await fetching.silent()
    await fetching.ask(credit=framed_bytes(first))
    offsets: list[int] = []
    while len(offsets) < 2:
        offsets += [batch.base_offset for batch in (await fetching.data()).batches]
    assert offsets == [2, 3]
    assert await fetching.silent()


async def test_without_credit_only_progress_is_told(broker: BrokerNode, fetching: Fetching) -> None:
    topic_id = await broker.lead("logs")
    await fetching.ask(at(topic_id))
    assert (await fetching.entry()).high_watermark == 0
    await append(broker, topic_id, batch_of(b"a"))
    entry = await fetching.entry()
    assert (entry.high_watermark, len(entry.batches)) == (1, 0)


async def test_one_large_batch_goes_when_nothing_is_outstanding(
    broker: BrokerNode, fetching: Fetching
) -> None:
    topic_id = await broker.lead("logs")
    await append(broker, topic_id, batch_of(b"a"), batch_of(b"v" * 5000), batch_of(b"b"))
    await fetching.ask(at(topic_id), credit=1000)
    small = await fetching.data()
    assert len(small.batches) == 1
    assert await fetching.silent()
    await fetching.ask(credit=framed_bytes(small))
    large = await fetching.data()
    assert [batch.base_offset for batch in large.batches] == [1]
    assert await fetching.silent()
    await fetching.ask(credit=framed_bytes(large))
    assert [batch.base_offset for batch in (await fetching.data()).batches] == [2]


async def test_partitions_take_turns(start_broker: StartBroker) -> None:
    node = await start_broker(config=with_config(fetch_message_bytes=3000))
    topic_id = await node.lead("logs", 3)
    for partition in range(3):
        batches = [batch_of(b"v" * 1000) for _ in range(6)]
        await append(node, topic_id, *batches, partition=partition)
    fetching = Fetching(node, max_partition_bytes=1500)
    await fetching.ask(*(at(topic_id, partition=number) for number in range(3)), credit=MIB)
    order = [(await fetching.data()).partition for _ in range(9)]
    assert sorted(order[:3]) == [0, 1, 2]
    assert order == order[:3] * 3
    await fetching.stop()


async def test_a_stop_offset_is_not_passed_but_for_the_batch_that_holds_it(
    broker: BrokerNode,
) -> None:
    topic_id = await broker.lead("logs")
    await append(broker, topic_id, batch_of(b"a"), batch_of(b"b", b"c"), batch_of(b"d"))

    async def requests() -> AsyncIterator[pb.FetchRequest]:
        yield pb.FetchRequest(positions=[at(topic_id, stop_offset=2)], credit_bytes=MIB)

    offsets = [
        batch.base_offset
        async for response in broker.stub.Fetch(requests())
        for entry in response.partitions
        for batch in entry.batches
    ]
    assert offsets == [0, 1]


async def test_min_bytes_holds_a_push_back_until_enough_or_late(broker: BrokerNode) -> None:
    topic_id = await broker.lead("logs")
    patient = Fetching(broker, min_bytes=3000, max_wait_ms=60_000)
    await patient.ask(at(topic_id), credit=MIB)
    await append(broker, topic_id, batch_of(b"v" * 1000))
    assert await patient.silent()
    await append(broker, topic_id, batch_of(b"v" * 1000), batch_of(b"v" * 2000))
    assert len((await patient.data()).batches) == 3
    hasty = Fetching(broker, min_bytes=MIB, max_wait_ms=100)
    await hasty.ask(at(topic_id), credit=2 * MIB)
    assert len((await hasty.data()).batches) == 3
    await patient.stop()
    await hasty.stop()


async def test_positions_that_cannot_be_served_get_their_reason(
    broker: BrokerNode, fetching: Fetching, metadata: FakeMetadata
) -> None:
    topic_id = await broker.lead("logs")
    elsewhere = metadata.create_topic("elsewhere", [9])
    await append(broker, topic_id, batch_of(b"a"))
    cases = [
        (at(bytes(16)), "UNKNOWN_TOPIC"),
        (at(topic_id, partition=3), "UNKNOWN_PARTITION"),
        (at(elsewhere), "NOT_LEADER"),
        (at(topic_id, 2), "OFFSET_OUT_OF_RANGE"),
        (at(topic_id, leader_epoch=0), "FENCED_LEADER_EPOCH"),
        (at(topic_id, leader_epoch=2), "UNKNOWN_LEADER_EPOCH"),
    ]
    for token, (position, expected) in enumerate(cases):
        position.token = token
        await fetching.ask(position, credit=100)
        entry = await fetching.entry()
        assert (entry.token, reason(entry)) == (token, expected)


async def test_a_truncated_log_is_told_from_a_position_beyond_the_end(
    broker: BrokerNode, fetching: Fetching, metadata: FakeMetadata
) -> None:
    topic_id = await broker.lead("logs")
    await append(broker, topic_id, batch_of(b"a", b"b"))
    metadata.change_partition("logs", 0, leader_epoch=4)
    await broker.until_leading("logs")
    await append(broker, topic_id, batch_of(b"c", b"d"))
    # The reader saw offset 2 under epoch 1; here epoch 1 ended before it.
    await fetching.ask(at(topic_id, 3, last_epoch=1), credit=MIB)
    entry = await fetching.entry()
    assert (reason(entry), entry.truncated_offset) == ("LOG_TRUNCATED", 2)
    await fetching.ask(at(topic_id, 2, last_epoch=1))
    assert [batch.base_offset for batch in (await fetching.data()).batches] == [2]


async def test_readers_are_told_when_leadership_goes_or_the_topic_is_deleted(
    broker: BrokerNode, fetching: Fetching, metadata: FakeMetadata
) -> None:
    moved = await broker.lead("moved")
    deleted = await broker.lead("deleted")
    await fetching.ask(at(moved), at(deleted), credit=MIB)
    await fetching.entry()
    await fetching.entry()
    metadata.change_partition("moved", 0, leader_id=2, leader_epoch=2)
    entry = await fetching.entry()
    assert (entry.topic_id, reason(entry), entry.leader_epoch) == (moved, "NOT_LEADER", 2)
    metadata.delete_topic("deleted")
    entry = await fetching.entry()
    assert (entry.topic_id, reason(entry)) == (deleted, "UNKNOWN_TOPIC")


async def test_a_reader_below_a_moved_log_start_hears_of_it(
    broker: BrokerNode, fetching: Fetching
) -> None:
    topic_id = await broker.lead("logs")
    await append(broker, topic_id, batch_of(b"a"), batch_of(b"b"))
    await fetching.ask(at(topic_id, 2), credit=MIB)
    assert (await fetching.entry()).log_start_offset == 0
    await broker.stub.DeleteRecords(
        pb.DeleteRecordsRequest(deletions=[pb.RecordDeletion(topic="logs", before_offset=1)])
    )
    assert (await fetching.entry()).log_start_offset == 1
    await fetching.ask(at(topic_id, 0))
    entry = await fetching.entry()
    assert (reason(entry), entry.log_start_offset) == ("OFFSET_OUT_OF_RANGE", 1)


async def test_a_slow_consumer_does_not_make_the_broker_read_ahead(broker: BrokerNode) -> None:
    topic_id = await broker.lead("logs")
    await append(broker, topic_id, *[batch_of(b"v" * 500_000) for _ in range(40)])
    call = broker.stub.Fetch()
    await call.write(pb.FetchRequest(positions=[at(topic_id)], credit_bytes=1 << 30))
    await asyncio.wait_for(call.read(), 10)
    await append(broker, topic_id, batch_of(b"end"))  # a while later …
    sent = broker.app.counters.topics["logs"].bytes_out
    assert sent < 10 * MIB
    call.cancel()


async def test_positions_of_one_stream_are_bounded(start_broker: StartBroker) -> None:
    node = await start_broker(config=with_config(fetch_positions_max=1))
    topic_id = await node.lead("logs", 2)
    fetching = Fetching(node)
    await fetching.ask(at(topic_id), at(topic_id, partition=1), credit=MIB)
    entries = {entry.partition: entry for entry in [await fetching.entry(), await fetching.entry()]}
    assert entries[1].error == reason_number("THROTTLED")
    await fetching.stop()


async def test_unparsable_bytes_end_the_stream_with_a_reason(broker: BrokerNode) -> None:
    call = broker.channel.stream_stream("/millstream.v1.BrokerService/Fetch")()
    await call.write(b"\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert error_of(caught.value).reason == "INVALID_REQUEST"


async def test_old_records_are_read_after_a_restart(
    start_broker: StartBroker, metadata: FakeMetadata
) -> None:
    node = await start_broker()
    topic_id = await node.lead("logs")
    await append(node, topic_id, *[batch_of(b"v" * 1000) for _ in range(20)])
    await node.stop()
    again = await start_broker()
    metadata.change_partition("logs", 0, leader_epoch=2)
    await again.until_leading("logs")
    fetching = Fetching(again)
    await fetching.ask(at(topic_id), credit=MIB)
    count = 0
    while count < 20:
        count += len((await fetching.data()).batches)
    await fetching.stop()
