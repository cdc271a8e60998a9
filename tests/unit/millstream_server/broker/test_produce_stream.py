"""`Produce` over real gRPC: acknowledgements, order, idempotence, errors that change nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from millstream.record import build_batch, compress, encode_records
from millstream.v1 import broker_service_pb2 as pb
from millstream.v1 import errors_pb2
from millstream_server.runtime.errors import error_of, reason_number
from tests.fakes.broker_node import BrokerNode, batch_of, produce_request, with_config
from tests.fakes.cluster import FakeMetadata

StartBroker = Callable[..., Awaitable[BrokerNode]]


class Producing:
    """A stock client of one stream that reads results one by one."""

    def __init__(self, node: BrokerNode) -> None:
        self.call = node.stub.Produce()
        self._results: list[pb.ProduceResult] = []

    async def send(self, topic_id: bytes, *batches: bytes, **options: Any) -> None:
        await self.call.write(produce_request(topic_id, *batches, **options))

    async def result(self) -> pb.ProduceResult:
        while not self._results:
            response = await asyncio.wait_for(self.call.read(), 10)
            assert isinstance(response, pb.ProduceResponse)
            self._results.extend(response.results)
        return self._results.pop(0)

    async def ask(self, topic_id: bytes, *batches: bytes, **options: Any) -> pb.ProduceResult:
        await self.send(topic_id, *batches, **options)
        return await self.result()

    async def reason(self, topic_id: bytes, *batches: bytes, **options: Any) -> str:
        result = await self.ask(topic_id, *batches, **options)
        assert not result.HasField("base_offset")
        assert result.message
        return errors_pb2.ErrorReason.Name(result.error).removeprefix("ERROR_REASON_")


@pytest.fixture
async def producing(broker: BrokerNode) -> AsyncIterator[Producing]:
    stream = Producing(broker)
    yield stream
    stream.call.cancel()


@pytest.mark.parametrize(
    ("mode", "acks", "durability"),
    [
        ("fsync", pb.ACKS_ALL, pb.DURABILITY_REPLICATED_DISK),
        ("fsync", pb.ACKS_UNSPECIFIED, pb.DURABILITY_REPLICATED_DISK),
        ("fsync", pb.ACKS_LEADER, pb.DURABILITY_LEADER_DISK),
        ("page_cache", pb.ACKS_ALL, pb.DURABILITY_REPLICATED_MEMORY),
        ("page_cache", pb.ACKS_LEADER, pb.DURABILITY_LEADER_MEMORY),
    ],
)
async def test_an_append_is_answered_with_its_offset_and_durability(
    broker: BrokerNode,
    producing: Producing,
    mode: str,
    acks: pb.Acks.ValueType,
    durability: pb.Durability.ValueType,
) -> None:
    topic_id = await broker.lead("logs", flush_mode=mode)
    first = await producing.ask(topic_id, batch_of(b"a", b"b"), acks=acks, correlation_id=7)
    assert (first.correlation_id, first.base_offset, first.error) == (7, 0, 0)
    assert first.durability == durability
    assert first.append_timestamp_ms > 0
    assert first.leader_epoch == 1
    second = await producing.ask(topic_id, batch_of(b"c"), acks=acks)
    assert second.base_offset == 2


async def test_several_batches_are_appended_as_a_whole(
    broker: BrokerNode, producing: Producing
) -> None:
    topic_id = await broker.lead("logs")
    bad = batch_of(b"x", attributes=0x10)
    assert await producing.reason(topic_id, batch_of(b"a"), bad) == "UNSUPPORTED"
    result = await producing.ask(topic_id, batch_of(b"a"), batch_of(b"b", b"c"))
    assert result.base_offset == 0
    assert broker.replica("logs").state.end_offset == 3


async def test_acks_none_is_never_answered(broker: BrokerNode, producing: Producing) -> None:
    topic_id = await broker.lead("logs")
    await producing.send(topic_id, batch_of(b"a"), acks=pb.ACKS_NONE, correlation_id=1)
    result = await producing.ask(topic_id, batch_of(b"b"), correlation_id=2)
    assert (result.correlation_id, result.base_offset) == (2, 1)


async def test_order_within_a_partition_holds_across_codecs(
    broker: BrokerNode, producing: Producing
) -> None:
    topic_id = await broker.lead("logs")
    for number in range(20):
        codec = (0, 3, 4)[number % 3]
        values = [b"%d" % number * 2000]
        batch = build_batch(
            compress(codec, encode_records(values)),
            record_count=1,
            base_timestamp_ms=1,
            max_timestamp_ms=1,
            attributes=codec,
        )
        await producing.send(topic_id, batch, correlation_id=number)
    offsets = {}
    for _ in range(20):
        result = await producing.result()
        offsets[result.correlation_id] = result.base_offset
    assert offsets == {number: number for number in range(20)}


async def test_the_stream_ends_after_its_last_answer(broker: BrokerNode) -> None:
    topic_id = await broker.lead("logs")

    async def requests() -> AsyncIterator[pb.ProduceRequest]:
        for number in range(5):
            yield produce_request(topic_id, batch_of(b"a"), correlation_id=number)

    results = [
        result.correlation_id
        async for response in broker.stub.Produce(requests())
        for result in response.results
    ]
    assert sorted(results) == [0, 1, 2, 3, 4]


async def test_bad_batches_are_refused_and_change_nothing(
    broker: BrokerNode, producing: Producing
) -> None:
    topic_id = await broker.lead("logs", max_message_bytes="1024")
    flipped = bytearray(batch_of(b"value"))
    flipped[-1] ^= 1
    bomb = build_batch(
        compress(4, bytes(64 << 20)),
        record_count=1,
        base_timestamp_ms=1,
        max_timestamp_ms=1,
        attributes=4,
    )
    lying = build_batch(
        encode_records([b"a"]), record_count=9, base_timestamp_ms=1, max_timestamp_ms=1
    )
    cases = {
        "CORRUPT_BATCH": (bytes(flipped), bomb, lying),
        "UNSUPPORTED_CODEC": (batch_of(b"a", attributes=6),),
        "RECORD_TOO_LARGE": (batch_of(b"v" * 1025),),
        "UNSUPPORTED": (batch_of(b"a", attributes=0x10),),
        "INVALID_REQUEST": (batch_of(b"a", attributes=0x20),),
        "UNKNOWN_PRODUCER": (batch_of(b"a", producer_id=1, base_sequence=5),),
    }
    for reason, batches in cases.items():
        for batch in batches:
            assert await producing.reason(topic_id, batch) == reason
    assert await producing.reason(topic_id) == "INVALID_REQUEST"
    replica = broker.replica("logs")
    assert (replica.state.end_offset, replica.log.end_offset, len(replica.log.producers)) == (
        0,
        0,
        0,
    )
    assert (await producing.ask(topic_id, batch_of(b"v" * 1024))).base_offset == 0


async def test_unknown_partitions_and_epochs_are_told_apart(
    broker: BrokerNode, producing: Producing, metadata: FakeMetadata
) -> None:
    topic_id = await broker.lead("logs")
    elsewhere = metadata.create_topic("elsewhere", [9])
    batch = batch_of(b"a")
    assert await producing.reason(bytes(15), batch) == "UNKNOWN_TOPIC"
    assert await producing.reason(topic_id, batch, partition=1) == "UNKNOWN_PARTITION"
    assert await producing.reason(elsewhere, batch) == "NOT_LEADER"
    assert await producing.reason(topic_id, batch, leader_epoch=0) == "FENCED_LEADER_EPOCH"
    assert await producing.reason(topic_id, batch, leader_epoch=2) == "UNKNOWN_LEADER_EPOCH"
    assert (await producing.ask(topic_id, batch, leader_epoch=1)).base_offset == 0


async def test_a_partition_twice_in_a_request_is_refused_once(
    broker: BrokerNode, producing: Producing
) -> None:
    topic_id = await broker.lead("logs")
    request = produce_request(topic_id, batch_of(b"a"))
    request.partitions.append(request.partitions[0])
    await producing.call.write(request)
    results = [await producing.result(), await producing.result()]
    assert sorted(result.error for result in results) == [0, reason_number("INVALID_REQUEST")]
    assert broker.replica("logs").state.end_offset == 1


async def test_a_repeated_batch_is_answered_with_its_first_offset(
    broker: BrokerNode, producing: Producing
) -> None:
    topic_id = await broker.lead("logs")
    await producing.ask(topic_id, batch_of(b"other"))
    batches = [batch_of(b"a", b"b", producer_id=7, base_sequence=2 * n) for n in range(7)]
    offsets = [(await producing.ask(topic_id, batch)).base_offset for batch in batches]
    assert offsets == [1, 3, 5, 7, 9, 11, 13]
    again = await producing.ask(topic_id, batches[4])
    assert (again.base_offset, again.error) == (9, 0)
    assert again.append_timestamp_ms > 0
    forgotten = await producing.ask(topic_id, batches[0])
    assert forgotten.error == reason_number("DUPLICATE_SEQUENCE")
    assert not forgotten.HasField("base_offset")
    assert not forgotten.indeterminate
    gap = batch_of(b"a", producer_id=7, base_sequence=15)
    assert await producing.reason(topic_id, gap) == "OUT_OF_ORDER_SEQUENCE"
    assert broker.replica("logs").state.end_offset == 15


async def test_a_repeat_followed_by_something_new_appends_only_that(
    broker: BrokerNode, producing: Producing
) -> None:
    topic_id = await broker.lead("logs")
    first = batch_of(b"a", producer_id=7)
    second = batch_of(b"b", producer_id=7, base_sequence=1)
    await producing.ask(topic_id, first)
    result = await producing.ask(topic_id, first, second)
    assert (result.base_offset, result.error) == (0, 0)
    assert broker.replica("logs").state.end_offset == 2


async def test_producer_epochs_are_fenced(broker: BrokerNode, producing: Producing) -> None:
    topic_id = await broker.lead("logs")
    await producing.ask(topic_id, batch_of(b"a", producer_id=7, producer_epoch=1))
    older = batch_of(b"a", producer_id=7, base_sequence=1)
    assert await producing.reason(topic_id, older) == "INVALID_PRODUCER_EPOCH"
    newer = batch_of(b"a", producer_id=7, producer_epoch=2, base_sequence=1)
    assert await producing.reason(topic_id, newer) == "OUT_OF_ORDER_SEQUENCE"
    begin = batch_of(b"a", producer_id=7, producer_epoch=2)
    assert (await producing.ask(topic_id, begin)).base_offset == 1


async def test_idempotence_needs_acks_all(broker: BrokerNode, producing: Producing) -> None:
    topic_id = await broker.lead("logs")
    batch = batch_of(b"a", producer_id=7)
    reason = await producing.reason(topic_id, batch, acks=pb.ACKS_LEADER)
    assert reason == "INVALID_REQUEST"


async def test_only_the_owner_writes_the_offsets_topic(
    broker: BrokerNode, producing: Producing
) -> None:
    topic_id = await broker.lead("__consumer_offsets", 2)
    fence = {"producer_id": 9001, "attributes": 0x20}
    assert await producing.reason(topic_id, batch_of(b"a"), partition=1) == "INTERNAL_TOPIC"
    other = batch_of(b"a", producer_id=9000)
    assert await producing.reason(topic_id, other, partition=1) == "INTERNAL_TOPIC"
    unfenced = batch_of(b"a", producer_id=9001, producer_epoch=3)
    assert await producing.reason(topic_id, unfenced, partition=1) == "INVALID_PRODUCER_EPOCH"
    claim = batch_of(b"fence", producer_epoch=3, **fence)
    assert (await producing.ask(topic_id, claim, partition=1)).base_offset == 0
    commit = batch_of(b"c", producer_id=9001, producer_epoch=3, base_sequence=1)
    assert (await producing.ask(topic_id, commit, partition=1)).base_offset == 1
    taken_over = batch_of(b"fence", producer_epoch=4, **fence)
    assert (await producing.ask(topic_id, taken_over, partition=1)).base_offset == 2
    late = batch_of(b"c", producer_id=9001, producer_epoch=3, base_sequence=2)
    assert await producing.reason(topic_id, late, partition=1) == "INVALID_PRODUCER_EPOCH"


async def test_unparsable_bytes_end_the_stream_with_a_reason(broker: BrokerNode) -> None:
    call = broker.channel.stream_stream("/millstream.v1.BrokerService/Produce")()
    await call.write(b"\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert error_of(caught.value).reason == "INVALID_REQUEST"


async def test_requests_beyond_the_limits_are_refused(start_broker: StartBroker) -> None:
    node = await start_broker(config=with_config(request_bytes_max=4096))
    topic_id = await node.lead("logs")
    producing = Producing(node)
    assert await producing.reason(topic_id, batch_of(b"v" * 5000)) == "REQUEST_TOO_LARGE"
    assert await producing.reason(topic_id, batch_of(b"v"), acks=77) == "INVALID_REQUEST"
    assert (await producing.ask(topic_id, batch_of(b"v"))).base_offset == 0
    producing.call.cancel()


async def test_losing_leadership_fails_what_waits_and_refuses_what_comes(
    broker: BrokerNode, producing: Producing, metadata: FakeMetadata
) -> None:
    topic_id = await broker.lead("logs")
    # An in-sync replica that never answers keeps the append waiting.
    metadata.change_partition("logs", 0, replicas=(1, 2), isr=(1, 2))
    await producing.send(topic_id, batch_of(b"a"), correlation_id=1)
    while not broker.replica("logs").state.waiting:  # noqa: ASYNC110
        await asyncio.sleep(0)
    metadata.change_partition("logs", 0, leader_id=2, leader_epoch=2)
    result = await producing.result()
    assert result.error == reason_number("NOT_LEADER")
    assert result.indeterminate
    assert result.leader_epoch == 2
    late = await producing.ask(topic_id, batch_of(b"a"))
    assert (late.error, late.indeterminate) == (reason_number("NOT_LEADER"), False)


async def test_an_append_that_is_not_replicated_in_time_is_indeterminate(
    broker: BrokerNode, producing: Producing, metadata: FakeMetadata
) -> None:
    topic_id = await broker.lead("logs")
    metadata.change_partition("logs", 0, replicas=(1, 2), isr=(1, 2))
    result = await producing.ask(topic_id, batch_of(b"a"), timeout_ms=50)
    assert (result.error, result.indeterminate) == (reason_number("TIMED_OUT"), True)


async def test_outside_of_the_session_only_acks_all_is_taken(
    broker: BrokerNode, producing: Producing
) -> None:
    topic_id = await broker.lead("logs")
    broker.view.session = False
    reason = await producing.reason(topic_id, batch_of(b"a"), acks=pb.ACKS_LEADER)
    assert reason == "NOT_LEADER"
    assert (await producing.ask(topic_id, batch_of(b"a"))).base_offset == 0


async def test_what_waits_for_its_answer_is_bounded_and_throttled(
    start_broker: StartBroker, metadata: FakeMetadata
) -> None:
    node = await start_broker(
        config=with_config(
            request_bytes_max=3000,
            inflight_bytes_connection_max=3000,
            inflight_bytes_max=4000,
        )
    )
    topic_id = await node.lead("logs")
    metadata.change_partition("logs", 0, replicas=(1, 2), isr=(1, 2))
    first, second = Producing(node), Producing(node)
    await first.send(topic_id, batch_of(b"v" * 2000), correlation_id=1)
    throttled = await first.ask(topic_id, batch_of(b"v" * 2000), correlation_id=2)
    assert throttled.error == reason_number("THROTTLED")
    assert throttled.retry_after_ms > 0
    assert not throttled.indeterminate
    other = await second.ask(topic_id, batch_of(b"v" * 2500), correlation_id=3)
    assert other.error == reason_number("THROTTLED")
    metadata.change_partition("logs", 0, isr=(1,))
    assert (await first.result()).base_offset == 0
    assert (await second.ask(topic_id, batch_of(b"v" * 2500))).base_offset == 1
    first.call.cancel()
    second.call.cancel()


async def test_acks_none_is_slowed_down_not_dropped_while_others_fill_the_broker(
    start_broker: StartBroker, metadata: FakeMetadata
) -> None:
    node = await start_broker(
        config=with_config(
            request_bytes_max=3000,
            inflight_bytes_connection_max=3000,
            inflight_bytes_max=4000,
        )
    )
    topic_id = await node.lead("logs")
    metadata.change_partition("logs", 0, replicas=(1, 2), isr=(1, 2))
    first, silent = Producing(node), Producing(node)
    await first.send(topic_id, batch_of(b"v" * 2000), correlation_id=1)
    async with asyncio.timeout(10):
        while not node.app._appender.budget.used:  # noqa: ASYNC110
            await asyncio.sleep(0)
    await silent.send(topic_id, batch_of(b"v" * 2500), acks=pb.ACKS_NONE)
    await silent.send(topic_id, batch_of(b"w"), correlation_id=2)
    metadata.change_partition("logs", 0, isr=(1,))
    assert (await first.result()).base_offset == 0
    assert (await silent.result()).base_offset == 2
    first.call.cancel()
    silent.call.cancel()


async def test_waiting_appends_of_a_partition_are_bounded(
    start_broker: StartBroker, metadata: FakeMetadata
) -> None:
    node = await start_broker(config=with_config(waiters_max=2, drain_timeout_ms=50))
    topic_id = await node.lead("logs")
    metadata.change_partition("logs", 0, replicas=(1, 2), isr=(1, 2))
    producing = Producing(node)
    for number in range(3):
        await producing.send(topic_id, batch_of(b"v"), correlation_id=number)
    refused = await producing.result()
    assert (refused.correlation_id, refused.error) == (2, reason_number("THROTTLED"))
    producing.call.cancel()
