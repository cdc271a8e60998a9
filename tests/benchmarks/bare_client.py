"""The client of the bare path, in a process of its own; see ``bare_path``.

``python -m tests.benchmarks.bare_client WORKLOAD PARAMETERS`` prints one JSON row, counted as
``tests.benchmarks.client`` counts: from the first send to the last acknowledgement.
"""

import asyncio
import json
import sys
import time
from typing import Any

import grpc

from millstream_server.runtime.grpc_server import SERVER_OPTIONS
from millstream_server.runtime.memory import keep_big_blocks_on_the_heap
from tests.benchmarks.bare_node import SERVICE
from tests.benchmarks.client import Measured, percentiles

# Unanswered messages per partition, as of our producer.
_IN_FLIGHT = 5
Row = dict[str, Any]


def _streams(ports: list[int], method: str) -> list[Any]:
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", SERVER_OPTIONS) for port in ports]
    return [channel.stream_stream(f"/{SERVICE}/{method}")() for channel in channels]


async def _send(call: Any, message: bytes, count: int, before: int = 0) -> int:
    """Send a message so often on a stream that took ``before`` bytes; return when all of it is
    acknowledged, with all the bytes of the stream."""
    size, total = len(message), before + len(message) * count
    sent = acknowledged = before
    while acknowledged < total:
        while sent < total and sent - acknowledged < _IN_FLIGHT * size:
            await call.write(message)
            sent += size
        acknowledged = int.from_bytes(await call.read(), "big")
    return total


async def produce(parameters: Row) -> Row:
    """Messages of one size, as many to each leader."""
    message, count = bytes(parameters["message_bytes"]), parameters["messages_each"]
    calls = _streams(parameters["ports"], "Produce")
    before = await asyncio.gather(*(_send(call, b"warm", 1) for call in calls))
    with Measured() as measured:
        await asyncio.gather(
            *(_send(call, message, count, sent) for call, sent in zip(calls, before, strict=True))
        )
    return {"seconds": measured.seconds}


async def consume(parameters: Row) -> Row:
    """Read so many bytes that were produced last, from each leader."""
    wanted = parameters["bytes_each"]

    async def read(call: Any) -> None:
        got = 0
        while got < wanted:
            got += len(await call.read())

    calls = _streams(parameters["ports"], "Fetch")
    with Measured() as measured:
        for call in calls:
            await call.write(wanted.to_bytes(8, "big"))
            await call.read()
        await asyncio.gather(*map(read, calls))
    return {"seconds": measured.seconds}


async def latency(parameters: Row) -> Row:
    """End to end at a fixed rate, a message per record."""
    rate, total, size = parameters["rate"], parameters["total"], parameters["message_bytes"]
    message = bytes(size)
    sent_at = [0.0] * total
    latencies = [0.0] * total

    async def receive(call: Any, first: int) -> None:
        got_bytes = wanted_bytes = 0
        now = 0.0
        for number in range(first, total, len(calls)):
            wanted_bytes += size
            while got_bytes < wanted_bytes:
                got_bytes += len(await call.read())
                now = time.perf_counter()
            latencies[number] = now - sent_at[number]

    async def drain(call: Any) -> None:
        while True:
            await call.read()

    readers = _streams(parameters["ports"], "Fetch")
    for reader in readers:
        await reader.write(bytes(8))
        await reader.read()
    calls = _streams(parameters["ports"], "Produce")
    draining = [asyncio.create_task(drain(call)) for call in calls]
    receiving = asyncio.gather(*(receive(reader, n) for n, reader in enumerate(readers)))
    with Measured() as measured:
        begin = time.perf_counter()
        for number in range(total):
            if (delay := begin + number / rate - time.perf_counter()) > 0:
                await asyncio.sleep(delay)
            sent_at[number] = time.perf_counter()
            await calls[number % len(calls)].write(message)
        await receiving
    for task in draining:
        task.cancel()
    return {
        **percentiles(latencies[parameters["warm"] :]),
        "client_cpu_us_per_record": round(measured.cpu / total * 1e6, 2),
    }


WORKLOADS = {"produce": produce, "consume": consume, "latency": latency}

if __name__ == "__main__":
    keep_big_blocks_on_the_heap()
    print(json.dumps(asyncio.run(WORKLOADS[sys.argv[1]](json.loads(sys.argv[2])))))
