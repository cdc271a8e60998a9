"""One workload in a process of its own, so that its CPU can be told from the servers'.

``python -m tests.benchmarks.client WORKLOAD PARAMETERS`` with the parameters as JSON; prints one
JSON row. Rates count from the first send to the last acknowledgement, or from subscribing to the
last record.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from millstream import (
    AsyncConsumer,
    AsyncProducer,
    BufferFullError,
    Producer,
    TopicPartition,
)
from tests.benchmarks.records import make_records

# Records of these seconds are not counted in latencies.
LATENCY_WARM_S = 2
Parameters = dict[str, Any]
Row = dict[str, Any]


def _rate(count: int, size: int, seconds: float, cpu: float) -> Row:
    return {
        "records_per_second": round(count / seconds),
        "mb_per_second": round(count * size / seconds / 1e6, 1),
        "client_cpu_us_per_record": round(cpu / count * 1e6, 2),
        "seconds": round(seconds, 3),
    }


class Measured:
    """Wall and CPU time of a block."""

    def __enter__(self) -> "Measured":
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._wall
        self.cpu = time.process_time() - self._cpu


def _producer_config(parameters: Parameters) -> dict[str, Any]:
    return {
        "bootstrap_servers": parameters["bootstrap"],
        "compression_type": parameters.get("codec", "none"),
        "linger_ms": 5,
        **parameters.get("producer", {}),
    }


async def produce_receipts(parameters: Parameters) -> Row:
    """AsyncProducer.send, every receipt kept and looked at in the end."""
    count, size = parameters["records"], parameters["size"]
    keys, values = make_records(count, size)
    topic = parameters["topic"]
    async with AsyncProducer(**_producer_config(parameters)) as producer:
        await producer.send_and_wait(topic, b"warm")
        with Measured() as measured:
            receipts = []
            for key, value in zip(keys, values, strict=True):
                receipts.append(await producer.send(topic, value, key=key))
            await producer.flush()
        assert all(receipt.done() for receipt in receipts)
        assert receipts[-1].result().offset >= 0
    return _rate(count, size, measured.seconds, measured.cpu)


async def produce_many(parameters: Parameters) -> Row:
    """AsyncProducer.send_many, 5,000 records a call."""
    count, size = parameters["records"], parameters["size"]
    keys, values = make_records(count, size)
    topic = parameters["topic"]
    async with AsyncProducer(**_producer_config(parameters)) as producer:
        await producer.send_and_wait(topic, b"warm")
        with Measured() as measured:
            for begin in range(0, count, 5000):
                end = begin + 5000
                await producer.send_many(topic, values[begin:end], keys=keys[begin:end])
            await producer.flush()
    return _rate(count, size, measured.seconds, measured.cpu)


def produce_callbacks(parameters: Parameters) -> Row:
    """Producer.produce with a callback per record, as users of confluent-kafka write it."""
    count, size = parameters["records"], parameters["size"]
    keys, values = make_records(count, size)
    topic = parameters["topic"]
    delivered = 0

    def on_delivery(error: Exception | None, record: object) -> None:
        nonlocal delivered
        if error is None:
            delivered += 1

    with Producer(**_producer_config(parameters)) as producer:
        producer.send_and_wait(topic, b"warm")
        with Measured() as measured:
            for key, value in zip(keys, values, strict=True):
                while True:
                    try:
                        producer.produce(topic, value, key, on_delivery=on_delivery)
                        break
                    except BufferFullError:
                        producer.poll(0.01)
            producer.flush()
    assert delivered == count, f"{delivered} of {count} delivered"
    return _rate(count, size, measured.seconds, measured.cpu)


async def consume_batches(parameters: Parameters) -> Row:
    """AsyncConsumer.getmany over the whole topic, an object per record."""
    wanted, size = parameters["records"], parameters["size"]
    async with AsyncConsumer(
        bootstrap_servers=parameters["bootstrap"], auto_offset_reset="earliest"
    ) as consumer:
        consumer.assign([TopicPartition(parameters["topic"], n) for n in range(3)])
        with Measured() as measured:
            got = 0
            while got < wanted:
                batches = await consumer.getmany(timeout_ms=10_000, max_records=100_000)
                if not batches:
                    raise RuntimeError(f"only {got} of {wanted} records came")
                got += sum(map(len, batches.values()))
    return _rate(got, size, measured.seconds, measured.cpu)


async def consume_iterate(parameters: Parameters) -> Row:
    """``async for`` over the whole topic."""
    wanted, size = parameters["records"], parameters["size"]
    async with AsyncConsumer(
        bootstrap_servers=parameters["bootstrap"], auto_offset_reset="earliest"
    ) as consumer:
        consumer.assign([TopicPartition(parameters["topic"], n) for n in range(3)])
        with Measured() as measured:
            got = 0
            async for _ in consumer:
                got += 1
                if got >= wanted:
                    break
    return _rate(got, size, measured.seconds, measured.cpu)


def percentiles(latencies_s: list[float]) -> Row:
    """Median, 99 % and 99.9 % of latencies, as milliseconds."""
    ordered = sorted(latencies_s)

    def at(fraction: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * fraction))] * 1e3, 2)

    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999)}


async def latency(parameters: Parameters) -> Row:
    """End to end at a fixed rate, linger 0: from handing over to having it back as a consumer."""
    rate, seconds, topic = parameters["rate"], parameters["seconds"], parameters["topic"]
    warm = rate * LATENCY_WARM_S
    total = warm + rate * seconds
    sent_at = [0.0] * total
    latencies: list[float] = []
    config = {**_producer_config(parameters), "linger_ms": 0}
    async with (
        AsyncProducer(**config) as producer,
        AsyncConsumer(
            bootstrap_servers=parameters["bootstrap"], auto_offset_reset="latest"
        ) as consumer,
    ):
        parts = [TopicPartition(topic, n) for n in range(3)]
        consumer.assign(parts)
        for part in parts:
            await consumer.position(part)

        async def receive() -> None:
            got = 0
            while got < total:
                for records in (await consumer.getmany(timeout_ms=10_000)).values():
                    now = time.perf_counter()
                    for record in records:
                        number = int(record.value[:12])
                        got += 1
                        if number >= warm:
                            latencies.append(now - sent_at[number])

        receiving = asyncio.ensure_future(receive())
        await asyncio.sleep(0.5)
        with Measured() as measured:
            begin = time.perf_counter()
            for number in range(total):
                due = begin + number / rate
                if (delay := due - time.perf_counter()) > 0:
                    await asyncio.sleep(delay)
                sent_at[number] = time.perf_counter()
                value = b"%012d" % number + b"x" * (parameters["size"] - 12)
                await producer.send(topic, value, key=b"%d" % (number % 1000))
            await asyncio.wait_for(receiving, 30)
    return {
        **percentiles(latencies),
        "client_cpu_us_per_record": round(measured.cpu / total * 1e6, 2),
    }


ASYNC: dict[str, Callable[[Parameters], Awaitable[Row]]] = {
    "produce-receipts": produce_receipts,
    "produce-many": produce_many,
    "consume-getmany": consume_batches,
    "consume-iterate": consume_iterate,
    "latency": latency,
}
SYNC: dict[str, Callable[[Parameters], Row]] = {"produce-callbacks": produce_callbacks}


def main() -> None:
    name, parameters = sys.argv[1], json.loads(sys.argv[2])
    row = SYNC[name](parameters) if name in SYNC else asyncio.run(ASYNC[name](parameters))
    print(json.dumps(row))


if __name__ == "__main__":
    main()
