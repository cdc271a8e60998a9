"""`Publish`, `Subscribe`, `ListOffsets`, `DeleteRecords`, `DescribeLogDirs`, proxying included."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from zlib import crc32

import grpc
import pytest

from millstream.v1 import broker_service_pb2 as pb
from millstream.v1 import errors_pb2, record_pb2
from millstream_server.runtime.errors import ServiceError, error_of
from tests.fakes.broker_node import BrokerNode, with_config
from tests.fakes.cluster import FakeMetadata

StartBroker = Callable[..., Awaitable[BrokerNode]]


@pytest.fixture
async def pair(start_broker: StartBroker, metadata: FakeMetadata) -> tuple[BrokerNode, BrokerNode]:
    """Two brokers; topic "logs" has partitions 0 and 2 on the first, 1 on the second."""
    first, second = await start_broker(1), await start_broker(2)
    metadata.create_topic("logs", [1, 2, 1])
    await first.until_leading("logs", 3)
    await second.until_leading("logs", 3)
    return first, second


async def failure(call: Awaitable[Any]) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_of(caught.value)


def record(value: bytes | None = b"v", **fields: Any) -> pb.PublishRecord:
    return pb.PublishRecord(value=value, **fields)


async def publish(node: BrokerNode, *values: bytes, **fields: Any) -> pb.PublishResponse:
    records = [record(value) for value in values]
    return await node.stub.Publish(
        pb.PublishRequest(topic="logs", records=records, **fields), timeout=10
    )


async def subscribe(node: BrokerNode, **fields: Any) -> list[pb.SubscribedRecord]:
    call = node.stub.Subscribe(pb.SubscribeRequest(topic="logs", **fields), timeout=10)
    return [record async for response in call for record in response.records]


EARLIEST = pb.Position(earliest=True)
LATEST = pb.Position(latest=True)


async def test_records_go_by_the_crc_of_their_key_through_any_broker(
    pair: tuple[BrokerNode, BrokerNode],
) -> None:
    keys = [b"key-%d" % number for number in range(30)]
    records = [record(key, key=key) for key in keys]
    for node in pair:
        response = await node.stub.Publish(pb.PublishRequest(topic="logs", records=records))
        assert [r.partition for r in response.records] == [crc32(key) % 3 for key in keys]
        assert response.durability == pb.DURABILITY_REPLICATED_DISK
    for node in pair:
        read = await subscribe(node, start=EARLIEST, stop=LATEST)
        assert len(read) == 60
        for number in range(3):
            of_partition = [r.value for r in read if r.partition == number]
            assert of_partition == 2 * [key for key in keys if crc32(key) % 3 == number]


async def test_records_without_a_key_of_one_call_stay_together(
    pair: tuple[BrokerNode, BrokerNode],
) -> None:
    response = await publish(pair[0], b"a", b"b", b"c")
    assert len({r.partition for r in response.records}) == 1
    assert [r.offset for r in response.records] == [0, 1, 2]


async def test_everything_that_a_record_can_hold_comes_back(
    pair: tuple[BrokerNode, BrokerNode],
) -> None:
    headers = [
        record_pb2.Header(name="h", value=b"\xff"),
        record_pb2.Header(name="h"),
        record_pb2.Header(name="", value=b""),
    ]
    sent = [
        pb.PublishRecord(),
        pb.PublishRecord(key=b"", value=b""),
        pb.PublishRecord(key_text="käse", value_text="wert", timestamp_ms=5),
        pb.PublishRecord(key=b"\xff\xfe", value=b"\x80", headers=headers, timestamp_ms=4),
    ]
    node = pair[0]
    await node.stub.Publish(pb.PublishRequest(topic="logs", partition=1, records=sent))
    raw = await subscribe(node, start=EARLIEST, stop=LATEST)
    assert [r.WhichOneof("value_form") for r in raw] == [None, "value", "value", "value"]
    assert [r.WhichOneof("key_form") for r in raw] == [None, "key", "key", "key"]
    assert raw[2].key == "käse".encode()
    assert list(raw[3].headers) == headers
    assert [r.timestamp_ms for r in raw[2:]] == [5, 4]
    text = await subscribe(node, start=EARLIEST, stop=LATEST, text=True)
    assert (text[2].key_text, text[2].value_text) == ("käse", "wert")
    assert text[3].WhichOneof("value_form") == "value"


async def test_an_idempotent_publish_is_appended_once(
    pair: tuple[BrokerNode, BrokerNode],
) -> None:
    for node in pair:
        response = await publish(node, b"a", b"b", partition=1, producer_id=5)
        assert [r.offset for r in response.records] == [0, 1]
    wrong = failure(publish(pair[0], b"a", partition=1, producer_id=5, base_sequence=7))
    assert (await wrong).reason == "OUT_OF_ORDER_SEQUENCE"
    assert (await failure(publish(pair[0], b"a", producer_id=5))).reason == "INVALID_REQUEST"
    leader = publish(pair[0], b"a", partition=1, producer_id=5, acks=pb.ACKS_LEADER)
    assert (await failure(leader)).reason == "INVALID_REQUEST"


async def test_bad_publishes_get_their_reason(
    pair: tuple[BrokerNode, BrokerNode], metadata: FakeMetadata
) -> None:
    node = pair[0]
    metadata.create_topic("__consumer_offsets", [1])
    metadata.create_topic("leaderless", [])
    metadata.change_partition("logs", 2, leader_id=None, leader_epoch=2)

    async def reason(**fields: Any) -> str:
        fields = {"topic": "logs", "records": [record()], **fields}
        return (await failure(node.stub.Publish(pb.PublishRequest(**fields)))).reason

    assert await reason(topic="unknown") == "UNKNOWN_TOPIC"
    assert await reason(partition=9) == "UNKNOWN_PARTITION"
    assert await reason(records=[]) == "INVALID_REQUEST"
    assert await reason(acks=9) == "INVALID_REQUEST"
    assert await reason(topic="__consumer_offsets") == "INTERNAL_TOPIC"
    assert await reason(records=[record(b"v" * (1 << 20) + b"v")], partition=0) == (
        "RECORD_TOO_LARGE"
    )
    too_large = [record(bytes(1 << 20))] * 9
    assert await reason(records=too_large, partition=0) == "REQUEST_TOO_LARGE"
    assert await reason(records=[record(timestamp_ms=-1)], partition=0) == "INVALID_REQUEST"
    assert await reason(base_sequence=1) == "INVALID_REQUEST"
    assert await reason(partition=1, forwarded=True) == "NOT_LEADER"
    assert node.replica("logs").state.end_offset == 0


async def test_a_topic_is_created_by_publishing_only_where_that_is_on(
    start_broker: StartBroker,
) -> None:
    node = await start_broker(config=with_config(auto_create_topics=True))
    node.view.auto_create_leaders = [1]
    response = await publish(node, b"a")
    assert response.records[0].offset == 0
    assert node.view.executed[0].auto_create_topic.name == "logs"


async def test_subscribe_starts_and_stops_where_it_is_told(
    pair: tuple[BrokerNode, BrokerNode],
) -> None:
    node = pair[0]
    records = [record(b"%d" % number, timestamp_ms=1000 * number) for number in range(10)]
    await node.stub.Publish(pb.PublishRequest(topic="logs", partition=1, records=records))

    async def offsets(**fields: Any) -> list[int]:
        return [r.offset for r in await subscribe(node, partitions=[1], **fields)]

    assert await offsets(start=pb.Position(offset=7), stop=LATEST) == [7, 8, 9]
    assert await offsets(start=EARLIEST, stop=pb.Position(offset=2)) == [0, 1]
    by_time = {"start": pb.Position(timestamp_ms=2500), "stop": pb.Position(timestamp_ms=5000)}
    assert await offsets(**by_time) == [3, 4]
    assert await offsets(start=EARLIEST, max_records=4) == [0, 1, 2, 3]
    assert await offsets(start=LATEST, stop=LATEST) == []
    beyond = failure(subscribe(node, partitions=[1], start=pb.Position(offset=99)))
    assert (await beyond).reason == "OFFSET_OUT_OF_RANGE"
    unknown = failure(subscribe(node, partitions=[7]))
    assert (await unknown).reason == "UNKNOWN_PARTITION"


async def test_subscribe_goes_on_with_what_comes_and_stops_at_a_time(
    pair: tuple[BrokerNode, BrokerNode],
) -> None:
    node = pair[0]
    call = node.stub.Subscribe(
        pb.SubscribeRequest(topic="logs", start=EARLIEST, stop=pb.Position(timestamp_ms=100))
    )
    reading = asyncio.create_task(call.read())
    for partition in range(3):
        records = [record(b"in", timestamp_ms=1), record(b"out", timestamp_ms=100)]
        await node.stub.Publish(
            pb.PublishRequest(topic="logs", partition=partition, records=records)
        )
    first = await asyncio.wait_for(reading, 10)
    assert isinstance(first, pb.SubscribeResponse)
    values = [r.value for r in first.records]
    while isinstance(response := await call.read(), pb.SubscribeResponse):
        values += [r.value for r in response.records]
    assert values == [b"in"] * 3


async def test_offsets_are_listed_through_any_broker(
    pair: tuple[BrokerNode, BrokerNode], metadata: FakeMetadata
) -> None:
    records = [record(timestamp_ms=10 * number) for number in range(5)]
    for partition in range(3):
        await pair[0].stub.Publish(
            pb.PublishRequest(topic="logs", partition=partition, records=records)
        )
    topic_id = metadata.image.topic_ids["logs"]
    positions = [
        (EARLIEST, 0, None),
        (LATEST, 5, None),
        (pb.Position(offset=3), 3, None),
        (pb.Position(timestamp_ms=25), 3, 30),
        (pb.Position(timestamp_ms=999), None, None),
    ]
    queries = [
        pb.OffsetQuery(topic_id=topic_id, partition=partition, position=position)
        for partition in range(3)
        for position, _, _ in positions
    ]
    for node in pair:
        response = await node.stub.ListOffsets(pb.ListOffsetsRequest(queries=queries))
        found = [
            (
                answer.offset if answer.HasField("offset") else None,
                answer.timestamp_ms if answer.HasField("timestamp_ms") else None,
            )
            for answer in response.answers
        ]
        assert found == [(offset, time) for _ in range(3) for _, offset, time in positions]
        assert {answer.topic for answer in response.answers} == {"logs"}


async def test_every_query_has_its_own_error(pair: tuple[BrokerNode, BrokerNode]) -> None:
    queries = [
        pb.OffsetQuery(topic="unknown", position=LATEST),
        pb.OffsetQuery(topic="logs", partition=9, position=LATEST),
        pb.OffsetQuery(topic="logs", partition=0, position=pb.Position(offset=9)),
        pb.OffsetQuery(topic="logs", partition=0),
        pb.OffsetQuery(topic_id=bytes(16), position=LATEST),
        pb.OffsetQuery(topic="logs", partition=0, position=LATEST),
    ]
    response = await pair[0].stub.ListOffsets(pb.ListOffsetsRequest(queries=queries))
    reasons = [
        errors_pb2.ErrorReason.Name(answer.error).removeprefix("ERROR_REASON_")
        for answer in response.answers
    ]
    assert reasons == [
        "UNKNOWN_TOPIC",
        "UNKNOWN_PARTITION",
        "OFFSET_OUT_OF_RANGE",
        "INVALID_REQUEST",
        "UNKNOWN_TOPIC",
        "UNSPECIFIED",
    ]


async def test_end_offsets_are_told_within_the_session_only(
    pair: tuple[BrokerNode, BrokerNode],
) -> None:
    pair[0].view.session = False
    query = pb.OffsetQuery(topic="logs", partition=0, position=LATEST)
    response = await pair[0].stub.ListOffsets(pb.ListOffsetsRequest(queries=[query]))
    assert response.answers[0].error == errors_pb2.ERROR_REASON_NOT_LEADER


async def test_records_are_deleted_through_any_broker(
    pair: tuple[BrokerNode, BrokerNode],
) -> None:
    await publish(pair[0], b"a", b"b", b"c", partition=1)
    deletions = [
        pb.RecordDeletion(topic="logs", partition=1, before_offset=2),
        pb.RecordDeletion(topic="logs", partition=1, before_offset=9),
        pb.RecordDeletion(topic="unknown"),
        pb.RecordDeletion(topic="logs", partition=1),
    ]
    response = await pair[0].stub.DeleteRecords(pb.DeleteRecordsRequest(deletions=deletions))
    first, beyond, unknown, all_of_them = response.results
    assert (first.error, first.log_start_offset) == (0, 2)
    assert beyond.error == errors_pb2.ERROR_REASON_OFFSET_OUT_OF_RANGE
    assert unknown.error == errors_pb2.ERROR_REASON_UNKNOWN_TOPIC
    assert all_of_them.log_start_offset == 3
    assert pair[1].replica("logs", 1).start_offset == 3


async def test_the_log_directory_is_described(pair: tuple[BrokerNode, BrokerNode]) -> None:
    await publish(pair[0], b"a", partition=0)
    response = await pair[0].stub.DescribeLogDirs(pb.DescribeLogDirsRequest())
    directory = response.log_dirs[0]
    assert response.node_id == 1
    assert directory.total_bytes >= directory.free_bytes > 0
    assert directory.offline_reason == ""
    ends = {entry.partition: entry.log_end_offset for entry in directory.partitions}
    assert ends == {0: 1, 2: 0}
    none = await pair[0].stub.DescribeLogDirs(pb.DescribeLogDirsRequest(topics=["other"]))
    assert not none.log_dirs[0].partitions


@pytest.mark.parametrize("method", ["Publish", "ListOffsets", "DeleteRecords", "Subscribe"])
async def test_malformed_bytes_get_a_reason(
    pair: tuple[BrokerNode, BrokerNode], method: str
) -> None:
    path = f"/millstream.v1.BrokerService/{method}"
    channel = pair[0].channel
    if method == "Subscribe":
        call: Any = channel.unary_stream(path)(b"\xff\xff").read()
    else:
        call = channel.unary_unary(path)(b"\xff\xff")
    assert (await failure(call)).reason == "INVALID_REQUEST"


async def test_a_publish_waits_for_the_leader_that_is_being_elected(
    broker: BrokerNode, metadata: FakeMetadata
) -> None:
    await broker.lead("logs")
    metadata.change_partition("logs", 0, leader_id=None, leader_epoch=2)
    request = pb.PublishRequest(topic="logs", records=[pb.PublishRecord(value=b"v")])
    publishing = asyncio.ensure_future(broker.stub.Publish(request))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(publishing), 0.1)
    metadata.change_partition("logs", 0, leader_id=1, leader_epoch=3)
    response = await asyncio.wait_for(publishing, 10)
    assert response.records[0].offset == 0


async def test_the_records_of_one_publish_are_bounded(
    start_broker: Callable[..., Awaitable[BrokerNode]],
) -> None:
    node = await start_broker(config=with_config(publish_records_max=2))
    await node.lead("logs")
    assert len((await publish(node, b"a", b"b")).records) == 2
    error = await failure(publish(node, b"a", b"b", b"c"))
    assert error.reason == "REQUEST_TOO_LARGE"


async def test_a_query_that_fails_inside_an_answer_is_counted(broker: BrokerNode) -> None:
    query = pb.OffsetQuery(topic="nowhere", position=pb.Position(latest=True))
    response = await broker.stub.ListOffsets(pb.ListOffsetsRequest(queries=[query]))
    assert response.answers[0].error
    counted = broker.scrape(
        "millstream_request_errors_total", api="list_offsets", code="UNKNOWN_TOPIC"
    )
    assert counted == 1
