"""Producers whose broker is killed, and producers that their process forgets to close."""

import subprocess
import sys
import time

import pytest

from millstream import ClientClosedError, Consumer, Producer, PurgedError, TopicPartition
from tests.campaigns.embedded import EmbeddedNode
from tests.cluster.group_readers import Writer

PARTITIONS = 3


def read_all(node: EmbeddedNode, topic: str) -> dict[bytes, list[tuple[int, int]]]:
    """The places of every value in the log, in the order of the log."""
    places: dict[bytes, list[tuple[int, int]]] = {}
    parts = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    with Consumer(bootstrap_servers=node.address, auto_offset_reset="earliest") as consumer:
        ends = consumer.end_offsets(parts)
        consumer.assign(parts)
        while any(consumer.position(part) < ends[part] for part in parts):
            for part, records in consumer.getmany(timeout_ms=5_000).items():
                for record in records:
                    assert record.value is not None
                    place = (part.partition, record.offset)
                    places.setdefault(record.value, []).append(place)
    return places


@pytest.mark.parametrize("delivery_timeout_ms", [400, 120_000])
def test_kills_lose_nothing_acknowledged_and_write_nothing_twice(
    own_node: EmbeddedNode, delivery_timeout_ms: int
) -> None:
    request_timeout_ms = min(30_000, delivery_timeout_ms // 2)
    writer = Writer(
        own_node.address,
        "kills",
        delivery_timeout_ms=delivery_timeout_ms,
        request_timeout_ms=request_timeout_ms,
    )
    for _ in range(2):
        time.sleep(0.7)
        own_node.kill()
        own_node.start()
    time.sleep(0.5)
    acknowledged = writer.stop()
    assert writer.answers == writer.sent
    assert bool(writer.failed) == (delivery_timeout_ms < 1_000)
    places = read_all(own_node, "kills")
    assert acknowledged <= places.keys()
    assert all(len(found) == 1 for found in places.values())
    refused = {value for value, error in writer.failed.items() if not error.indeterminate}
    assert refused.isdisjoint(places)
    in_order = sorted(places.items(), key=lambda item: item[1])
    for number in range(PARTITIONS):
        values = [int(value) for value, found in in_order if found[0][0] == number]
        assert values == sorted(values)


def test_flush_and_close_keep_to_their_time_while_the_broker_is_away(
    own_node: EmbeddedNode,
) -> None:
    producer = Producer(bootstrap_servers=own_node.address)
    producer.send_and_wait("away", b"there")
    own_node.kill()
    receipts = [producer.send("away", b"%d" % number) for number in range(10)]
    begin = time.monotonic()  # a delivery may take 120 s
    assert producer.flush(0.2) == 10
    producer.close(timeout=0.3)
    assert time.monotonic() - begin < 20
    for receipt in receipts:
        with pytest.raises(PurgedError):
            receipt.result(0)
    with pytest.raises(ClientClosedError):
        producer.send("away", b"late")


@pytest.mark.parametrize(
    "use",
    [
        "p = Producer(**o); p.send_and_wait('left', b'x')",
        "p = Producer(linger_ms=5000, **o); p.send('left', b'x')",
        "c = Consumer('left', group_id='left-open', **o); c.poll(0.3)",
        "a = Admin(**o); a.list_topics()",
        "asyncio.run(leave_open())",
    ],
    ids=["producer", "unsent", "consumer", "admin", "async"],
)
def test_a_process_ends_although_it_closed_nothing(shared_node: EmbeddedNode, use: str) -> None:
    program = f"""
import asyncio
from millstream import *

o = {{"bootstrap_servers": "{shared_node.address}"}}

async def leave_open():
    producer = AsyncProducer(**o)
    await producer.start()
    await producer.send("left", b"x")
    consumer = AsyncConsumer("left", group_id="left-open", **o)
    await consumer.start()
    await consumer.getmany(timeout_ms=100)

{use}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
