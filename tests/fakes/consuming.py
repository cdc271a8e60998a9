"""Consumers of the fakes, and what tests do with them again and again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from millstream._consumer.async_consumer import AsyncConsumer
from millstream._consumer.record import ConsumerRecord, TopicPartition
from tests.fakes.coordinator import FakeCoordinator
from tests.fakes.fetch_broker import FakeBroker

P0, P1, P2 = (TopicPartition("logs", number) for number in range(3))


@asynccontextmanager
async def cluster(partitions: int = 3) -> AsyncIterator[FakeBroker]:
    """A fake broker with a coordinator; double ownership fails the test at the end."""
    coordinator = FakeCoordinator()
    async with FakeBroker({"logs": partitions}, coordinator) as broker:
        coordinator.partitions = lambda: [
            (log.topic, log.topic_id, log.partition) for log in broker.logs.values()
        ]
        yield broker
        assert coordinator.violations == []


def consumer(broker: FakeBroker, *topics: str, **config: Any) -> AsyncConsumer:
    """An AsyncConsumer of the fake, with short times."""
    settings = {
        "bootstrap_servers": broker.address,
        "auto_offset_reset": "earliest",
        "retry_backoff_ms": 10,
        "request_timeout_ms": 5_000,
        "default_api_timeout_ms": 5_000,
        **config,
    }
    return AsyncConsumer(*topics, **settings)


def fill(broker: FakeBroker, batches: int = 4, size: int = 5) -> int:
    """Append batches of numbered values everywhere; returns the number of records."""
    for log in broker.logs.values():
        for _ in range(batches):
            log.append([b"%d" % (log.end + index) for index in range(size)])
    broker.wake()
    return batches * size * len(broker.logs)


async def read(reader: AsyncConsumer, count: int) -> list[ConsumerRecord]:
    """At least so many records."""
    out: list[ConsumerRecord] = []
    async with asyncio.timeout(10):
        while len(out) < count:
            for records in (await reader.getmany(timeout_ms=200)).values():
                out += records
    return out


def asked(broker: FakeBroker) -> list[Any]:
    """Every position that was asked for."""
    return [position for request in broker.requests for position in request.positions]


def check_order(records: list[ConsumerRecord]) -> None:
    """Each partition's records without gap or repeat, each with its own value."""
    following: dict[int, int] = {}
    for record in records:
        expected = following.setdefault(record.partition, record.offset)
        assert record.offset == expected
        assert record.value == b"%d" % record.offset
        following[record.partition] += 1
