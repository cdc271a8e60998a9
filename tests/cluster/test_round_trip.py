"""Every kind of record comes back as it was sent, through every codec and both families of RPCs."""

import random
from dataclasses import dataclass, field

import grpc
import pytest

from millstream import Admin, Consumer, NewTopic, Producer, TopicPartition
from millstream.v1 import broker_service_pb2 as broker
from millstream.v1 import broker_service_pb2_grpc as broker_grpc
from millstream.v1 import record_pb2
from tests.campaigns.embedded import EmbeddedNode

Headers = list[tuple[str, bytes | None]]
RECORD_BYTES_MAX = 1024 * 1024


@dataclass
class Sent:
    """One record of the test."""

    key: bytes | None
    value: bytes | None
    headers: Headers = field(default_factory=list)


def incompressible(length: int) -> bytes:
    return random.Random(7).randbytes(length)


RECORDS = [
    Sent(b"key", b"value"),
    Sent(None, b"no key"),
    Sent(b"", b"empty key"),
    Sent(b"tombstone", None),
    Sent(None, None),
    Sent(b"k", b""),
    Sent(b"\xff\xfe\x00", b"\x80\x00\xff"),
    Sent(b"h", b"v", [("a", b"1"), ("a", b"\xff"), ("", b""), ("null", None)]),
]


def read(node: EmbeddedNode, topic: str, count: int) -> list[Sent]:
    part = TopicPartition(topic, 0)
    out: list[Sent] = []
    with Consumer(bootstrap_servers=node.address, auto_offset_reset="earliest") as consumer:
        consumer.assign([part])
        while len(out) < count:
            batches = consumer.getmany(timeout_ms=20_000)
            assert batches, f"only {len(out)} of {count} records came"
            out += [Sent(r.key, r.value, list(r.headers)) for r in batches[part]]
    return out


def subscribe(node: EmbeddedNode, topic: str) -> list[Sent]:
    with grpc.insecure_channel(
        node.address, options=[("grpc.max_receive_message_length", 16 << 20)]
    ) as channel:
        request = broker.SubscribeRequest(
            topic=topic,
            start=broker.Position(earliest=True),
            stop=broker.Position(latest=True),
        )
        out = []
        for answer in broker_grpc.BrokerServiceStub(channel).Subscribe(request, timeout=30):
            for item in answer.records:
                key = item.key if item.HasField("key_form") else None
                value = item.value if item.HasField("value_form") else None
                headers: Headers = [
                    (header.name, header.value if header.HasField("value") else None)
                    for header in item.headers
                ]
                out.append(Sent(key, value, headers))
        return out


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_the_stream_family(shared_node: EmbeddedNode, codec: str) -> None:
    topic = f"stream-{codec}"
    with Admin(bootstrap_servers=shared_node.address) as admin:
        admin.create_topics([NewTopic(topic, 1)])
    with Producer(bootstrap_servers=shared_node.address, compression_type=codec) as producer:
        receipts = [producer.send(topic, r.value, key=r.key, headers=r.headers) for r in RECORDS]
        producer.flush()
    assert [receipt.result(10).offset for receipt in receipts] == list(range(len(RECORDS)))
    assert read(shared_node, topic, len(RECORDS)) == RECORDS
    assert subscribe(shared_node, topic) == RECORDS


def test_the_plain_family(shared_node: EmbeddedNode) -> None:
    with Admin(bootstrap_servers=shared_node.address) as admin:
        admin.create_topics([NewTopic("plain", 1)])
    records = [
        broker.PublishRecord(
            key=item.key,
            value=item.value,
            headers=[record_pb2.Header(name=name, value=value) for name, value in item.headers],
        )
        for item in RECORDS
    ]
    with grpc.insecure_channel(shared_node.address) as channel:
        request = broker.PublishRequest(topic="plain", partition=0, records=records)
        answer = broker_grpc.BrokerServiceStub(channel).Publish(request, timeout=10)
    assert [item.offset for item in answer.records] == list(range(len(RECORDS)))
    assert read(shared_node, "plain", len(RECORDS)) == RECORDS
    assert subscribe(shared_node, "plain") == RECORDS


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_exactly_the_largest_record_passes_and_one_byte_more_does_not(
    shared_node: EmbeddedNode, codec: str
) -> None:
    from millstream import RecordTooLargeError

    topic = f"largest-{codec}"
    with Admin(bootstrap_servers=shared_node.address) as admin:
        admin.create_topics([NewTopic(topic, 1)])
    key = b"k"
    largest = incompressible(RECORD_BYTES_MAX - len(key))
    with Producer(bootstrap_servers=shared_node.address, compression_type=codec) as producer:
        producer.send_and_wait(topic, largest, key=key)
        with pytest.raises(RecordTooLargeError):
            producer.send_and_wait(topic, largest + b"x", key=key)
    assert read(shared_node, topic, 1) == [Sent(key, largest)]
    assert subscribe(shared_node, topic) == [Sent(key, largest)]
