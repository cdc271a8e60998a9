"""Bad requests to a real node: each gets a clear, typed error, and changes nothing."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from millstream.record import CODEC_NUMBERS, compress, encode_records
from millstream.v1 import broker_service_pb2 as broker
from millstream.v1 import group_coordinator_service_pb2 as groups
from millstream.v1 import metadata_service_pb2 as metadata
from tests.campaigns.embedded import EmbeddedNode
from tests.campaigns.figures import rss_megabytes
from tests.cluster.plain_client import PlainClient, encode, parsed, reason_name

UNKNOWN_ID = bytes(range(16))
MIB = 1024 * 1024
EARLIEST, LATEST = broker.Position(earliest=True), broker.Position(latest=True)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainClient]:
    """A client of a node that creates no topics by itself."""
    node = EmbeddedNode(tmp_path_factory.mktemp("node"), auto_create_topics_enable=False)
    node.start()
    made = PlainClient(node, "target")
    yield made
    made.close()
    assert node.stop()


@pytest.fixture(autouse=True)
def nothing_changes(client: PlainClient) -> Iterator[None]:
    with client.unchanged():
        yield


def spoiled(batch: bytes, at: int) -> bytes:
    """The batch with one bit flipped."""
    return batch[:at] + bytes([batch[at] ^ 1]) + batch[at + 1 :]


GOOD = encode([b"value"])


def with_field(**fields: int) -> Any:
    batch = parsed(GOOD)
    for name, value in fields.items():
        setattr(batch, name, value)
    return batch


def without_field(name: str) -> Any:
    batch = parsed(GOOD)
    batch.ClearField(name)
    return batch


BAD_BATCHES = {
    "a bit of the payload is flipped": ("CORRUPT_BATCH", spoiled(GOOD, len(GOOD) - 1)),
    "the crc is another": ("CORRUPT_BATCH", with_field(crc=1)),
    "the count is too high": ("CORRUPT_BATCH", encode([b"one"], record_count=2)),
    "the count is far too high": ("CORRUPT_BATCH", encode([b"one"], record_count=1 << 31)),
    "the count is too low": ("CORRUPT_BATCH", encode([b"one", b"two"], record_count=1)),
    "a header field is missing": ("CORRUPT_BATCH", without_field("header_crc")),
    "the payload is missing": ("CORRUPT_BATCH", without_field("payload")),
    "a field of brokers is set": ("CORRUPT_BATCH", with_field(base_offset=7)),
    "the payload is no message": ("CORRUPT_BATCH", encode([b""], payload=b"\xff\xff\xff")),
    "the codec is gzip": ("UNSUPPORTED_CODEC", encode([b"v"], attributes=1)),
    "the codec is none of Kafka's": ("UNSUPPORTED_CODEC", encode([b"v"], attributes=7)),
    "an attribute is unknown": ("CORRUPT_BATCH", encode([b"v"], attributes=1 << 9)),
    "it is transactional": ("UNSUPPORTED", encode([b"v"], attributes=0x10)),
    "it is a control batch": ("INVALID_REQUEST", encode([b"v"], attributes=0x20)),
    "it says lz4 and is not": ("CORRUPT_BATCH", encode([b"v"], attributes=CODEC_NUMBERS["lz4"])),
    "it says zstd and is not": ("CORRUPT_BATCH", encode([b"v"], attributes=CODEC_NUMBERS["zstd"])),
    "the record is too large": ("RECORD_TOO_LARGE", encode([bytes(MIB + 1)])),
    "one of the records is too large": ("RECORD_TOO_LARGE", encode([b"v", bytes(MIB + 1)])),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_a_bad_batch(client: PlainClient, case: str) -> None:
    reason, batch = BAD_BATCHES[case]
    assert client.refused_produce(batch) == reason
    # A good one beside it is not appended either.
    assert client.refused_produce(GOOD, batch) == reason


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_decompression_bomb(client: PlainClient, codec: str) -> None:
    number = CODEC_NUMBERS[codec]
    bomb = compress(number, encode_records([bytes(256 * MIB)]))
    before = rss_megabytes(client.node.pid)
    batch = encode([b""], payload=bomb, attributes=number)
    assert client.refused_produce(batch) == "CORRUPT_BATCH"
    assert rss_megabytes(client.node.pid) - before < 128


def test_a_partition_that_does_not_exist(client: PlainClient) -> None:
    assert client.refused_produce(GOOD, topic_id=UNKNOWN_ID) == "UNKNOWN_TOPIC"
    assert client.refused_produce(GOOD, topic_id=b"short") == "UNKNOWN_TOPIC"
    assert client.refused_produce(GOOD, partition=9) == "UNKNOWN_PARTITION"
    assert client.refused_produce(GOOD, leader_epoch=99) == "UNKNOWN_LEADER_EPOCH"


def test_a_produce_request_that_makes_no_sense(client: PlainClient) -> None:
    assert client.refused_produce() == "INVALID_REQUEST"
    assert client.refused_produce(GOOD, acks=77) == "INVALID_REQUEST"
    assert client.refused_produce(*[encode([bytes(MIB)])] * 9) == "REQUEST_TOO_LARGE"


def test_sequences_of_producers(client: PlainClient) -> None:
    given = client.producer
    ours = {"producer_id": given.producer_id, "producer_epoch": given.producer_epoch}
    assert client.refused_produce(encode([b"v"], base_sequence=5, **ours)) == "UNKNOWN_PRODUCER"
    gap = [encode([b"v"], base_sequence=number, **ours) for number in (0, 2)]
    assert client.refused_produce(*gap) == "OUT_OF_ORDER_SEQUENCE"
    first = encode([b"v"], base_sequence=0, **ours)
    assert client.refused_produce(first, acks=broker.ACKS_LEADER) == "INVALID_REQUEST"
    never_given = encode([b"v"], producer_id=1 << 63)
    assert client.refused_produce(never_given) == "INVALID_REQUEST"


FETCHES = {
    "OFFSET_OUT_OF_RANGE": {"offset": 999},
    "UNKNOWN_TOPIC": {"topic_id": UNKNOWN_ID},
    "UNKNOWN_PARTITION": {"partition": 9},
    "UNKNOWN_LEADER_EPOCH": {"leader_epoch": 99},
}


@pytest.mark.parametrize("reason", FETCHES)
def test_a_fetch(client: PlainClient, reason: str) -> None:
    fields: dict[str, Any] = {"topic_id": client.topic_id, "token": 3, **FETCHES[reason]}
    request = broker.FetchRequest(positions=[broker.FetchPosition(**fields)], credit_bytes=MIB)
    answer = next(client.broker.Fetch(iter([request]), timeout=20))
    (entry,) = answer.partitions
    assert (entry.token, reason_name(entry.error)) == (3, reason)
    assert entry.message
    assert not entry.batches


def test_plain_records(client: PlainClient) -> None:
    def reason(method: Any, request: Any) -> str:
        refused = client.refused(method, request)
        assert refused.message
        return refused.reason

    def publish(topic: str = "target", **fields: Any) -> str:
        fields = {"records": [broker.PublishRecord(value=b"v")], **fields}
        return reason(client.broker.Publish, broker.PublishRequest(topic=topic, **fields))

    assert publish("nowhere") == "UNKNOWN_TOPIC"
    assert publish("bad name") in ("UNKNOWN_TOPIC", "INVALID_TOPIC_NAME")
    assert publish(partition=9) == "UNKNOWN_PARTITION"
    assert publish(acks=77) == "INVALID_REQUEST"
    assert publish(records=[broker.PublishRecord(value=bytes(MIB + 1))]) == "RECORD_TOO_LARGE"
    assert publish(records=[broker.PublishRecord(value=bytes(MIB))] * 9) == "REQUEST_TOO_LARGE"

    def subscribe(**fields: Any) -> str:
        fields = {"topic": "target", "start": EARLIEST, "stop": LATEST, **fields}
        return reason(client.broker.Subscribe, broker.SubscribeRequest(**fields))

    assert subscribe(topic="nowhere") == "UNKNOWN_TOPIC"
    assert subscribe(partitions=[9]) == "UNKNOWN_PARTITION"
    assert subscribe(start=broker.Position(offset=999)) == "OFFSET_OUT_OF_RANGE"


def test_offsets(client: PlainClient) -> None:
    wanted = {
        "UNKNOWN_TOPIC": broker.OffsetQuery(topic="nowhere", position=LATEST),
        "UNKNOWN_PARTITION": broker.OffsetQuery(topic="target", partition=9, position=LATEST),
        "INVALID_REQUEST": broker.OffsetQuery(topic="target"),
    }
    request = broker.ListOffsetsRequest(queries=wanted.values())
    answers = client.broker.ListOffsets(request, timeout=20).answers
    assert [reason_name(answer.error) for answer in answers] == list(wanted)
    assert all(answer.message for answer in answers)
    deletion = broker.RecordDeletion(topic="target", before_offset=999)
    deleted = client.broker.DeleteRecords(
        broker.DeleteRecordsRequest(deletions=[deletion]), timeout=20
    )
    assert reason_name(deleted.results[0].error) == "OFFSET_OUT_OF_RANGE"


def create(**fields: Any) -> dict[str, Any]:
    return {"name": "fine", "partition_count": 1, "replication_factor": 1, **fields}


BAD_TOPICS = {
    "no name": ("INVALID_TOPIC_NAME", "name", create(name="")),
    "dots": ("INVALID_TOPIC_NAME", "name", create(name="..")),
    "a space": ("INVALID_TOPIC_NAME", "bad name", create(name="bad name")),
    "a slash": ("INVALID_TOPIC_NAME", "../../etc", create(name="../../etc")),
    "a long name": ("INVALID_TOPIC_NAME", "249", create(name="x" * 250)),
    "a name that exists": ("TOPIC_ALREADY_EXISTS", "target", create(name="target")),
    "very many partitions": ("INVALID_PARTITION_COUNT", "", create(partition_count=1 << 31)),
    "three replicas": (
        "INVALID_REPLICATION_FACTOR", "replication factor 3", create(replication_factor=3)
    ),
    "an unknown key": ("INVALID_CONFIG", "retention.ms", create(configs={"retentoin.ms": "1"})),
    "a bad value": ("INVALID_CONFIG", "retention.ms", create(configs={"retention.ms": "soon"})),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TOPICS)
def test_a_bad_topic(client: PlainClient, case: str) -> None:
    reason, named, fields = BAD_TOPICS[case]
    request = metadata.CreateTopicRequest(request_id=client.request_id(), **fields)
    refused = client.refused(client.metadata.CreateTopic, request)
    assert refused.reason == reason
    assert named in refused.message


def test_commands_about_topics(client: PlainClient) -> None:
    def reason(name: str, request: Any) -> tuple[str, str]:
        refused = client.refused(getattr(client.metadata, name), request)
        return refused.reason, refused.message

    def altered(**fields: Any) -> tuple[str, str]:
        fields = {"topic": "target", "request_id": client.request_id(), **fields}
        return reason("AlterConfigs", metadata.AlterConfigsRequest(**fields))

    found, sentence = altered(set={"cleanup.polcy": "delete"})
    assert (found, "cleanup.policy" in sentence) == ("INVALID_CONFIG", True)
    assert altered(set={"retention.ms": "-5"})[0] == "INVALID_CONFIG"
    assert altered(unset=["nonsense"])[0] == "INVALID_CONFIG"
    assert altered(topic="nowhere", set={"retention.ms": "5"})[0] == "UNKNOWN_TOPIC"
    fewer = metadata.CreatePartitionsRequest(
        request_id=client.request_id(), topic_id=client.topic_id, partition_count=1
    )
    assert reason("CreatePartitions", fewer)[0] == "INVALID_PARTITION_COUNT"
    unknown = metadata.DeleteTopicRequest(request_id=client.request_id(), topic_id=UNKNOWN_ID)
    assert reason("DeleteTopic", unknown)[0] == "UNKNOWN_TOPIC"
    nobody = metadata.RequestId(session_id=999_999, sequence=1)
    stranger = metadata.CreateTopicRequest(request_id=nobody, **create())
    assert reason("CreateTopic", stranger)[0] == "UNKNOWN_SESSION"
    transactional = metadata.AllocateProducerIdRequest(transactional_id="payments")
    found, sentence = reason("AllocateProducerId", transactional)
    assert (found, "transaction" in sentence) == ("UNSUPPORTED", True)


def test_groups(client: PlainClient) -> None:
    def session(*requests: groups.SessionRequest) -> str:
        answer = client.groups.Session(iter(requests), timeout=20)
        with pytest.raises(grpc.RpcError):
            list(answer)
        found = client.refused(lambda *_, **__: answer, None)
        assert found.message
        return found.reason

    join = {"group_id": "readers", "topics": ["target"], "session_timeout_ms": 10_000}
    assert session(groups.SessionRequest()) == "INVALID_REQUEST"
    assert session(groups.SessionRequest(leave=groups.Leave())) == "INVALID_REQUEST"
    assert session(groups.SessionRequest(join=groups.Join())) == "INVALID_GROUP_ID"
    stranger = groups.Join(**join, assignor="by moonlight")
    assert session(groups.SessionRequest(join=stranger)) == "UNSUPPORTED_ASSIGNOR"
    described = client.refused(
        client.groups.DescribeGroup, groups.DescribeGroupRequest(group_id="readers")
    )
    assert described.reason == "UNKNOWN_GROUP"
