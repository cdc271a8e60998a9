"""How fast consumers hand records out when the server is not the bottleneck.

A process of its own serves the same encoded batches of 100-byte records again and again. Run:
``python -m tests.benchmarks.consume [records]``.
"""

import asyncio
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from millstream._consumer.async_consumer import AsyncConsumer
from millstream._consumer.sync_consumer import Consumer
from tests.fakes.fetch_broker import FakeBroker

_PARTITIONS = 3
_BATCH_RECORDS = 2_500


def serve(connection: Connection, records: int) -> None:
    """The server process: fill the logs, tell the address, wait for the end."""

    async def run() -> None:
        async with FakeBroker({"bench": _PARTITIONS}) as broker:
            values = [b"x" * 100] * _BATCH_RECORDS
            for number in range(_PARTITIONS):
                log = broker.log("bench", number)
                while log.end < records // _PARTITIONS:
                    log.append(values)
            connection.send(broker.address)
            await asyncio.to_thread(connection.recv)

    asyncio.run(run())


async def read_getmany(address: str, records: int) -> int:
    """asyncio, lists of objects."""
    count = 0
    async with _consumer(AsyncConsumer, address) as consumer:
        while count < records:
            for batch in (await consumer.getmany(timeout_ms=1000, max_records=5000)).values():
                count += len(batch)
    return count


async def read_each(address: str, records: int) -> int:
    """asyncio, one object after another."""
    count = 0
    async with _consumer(AsyncConsumer, address) as consumer:
        async for _ in consumer:
            count += 1
            if count >= records:
                break
    return count


async def read_columns(address: str, records: int) -> int:
    """asyncio, columns."""
    count = 0
    async with _consumer(AsyncConsumer, address) as consumer:
        while count < records:
            batch = await consumer.consume_batch(1)
            count += len(batch or ())
    return count


def read_getmany_sync(address: str, records: int) -> int:
    """Threads, lists of objects."""
    count = 0
    with _consumer(Consumer, address) as consumer:
        while count < records:
            for batch in consumer.getmany(timeout_ms=1000, max_records=5000).values():
                count += len(batch)
    return count


def read_each_sync(address: str, records: int) -> int:
    """Threads, one object after another."""
    count = 0
    with _consumer(Consumer, address) as consumer:
        for _ in consumer:
            count += 1
            if count >= records:
                break
    return count


def _consumer(kind: Callable[..., Any], address: str) -> Any:
    return kind("bench", bootstrap_servers=address, auto_offset_reset="earliest")


def main() -> None:
    """Measure each way of reading."""
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 1_500_000
    records -= records % (_PARTITIONS * _BATCH_RECORDS)
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, records))
    server.start()
    address = ours.recv()
    for read in (read_getmany, read_each, read_columns, read_getmany_sync, read_each_sync):
        begun, cpu = time.perf_counter(), time.process_time()
        outcome = read(address, records)
        count = asyncio.run(outcome) if asyncio.iscoroutine(outcome) else outcome
        seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu
        print(
            f"{read.__name__:18} {count / seconds / 1e6:6.2f} M rec/s"
            f"  {cpu_seconds / count * 1e6:5.2f} us CPU per record"
        )
    ours.send("stop")
    server.join()


if __name__ == "__main__":
    main()
