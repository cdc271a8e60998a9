"""Prints what the metadata quorum does on this machine: commits/s, latency, idle CPU.

Usage: python tests/benchmarks/raft_rate.py [NODES …]. All voters live in this one process on one
event loop, so the figures for three are those of three nodes sharing the interpreter: a floor.
"""

import asyncio
import json
import random
import shutil
import sys
import tempfile
import time

import grpc

from millstream_raft.consensus import NotProposed
from millstream_raft.directory import format_node
from millstream_raft.pysyncobj_consensus import PySyncObjConsensus
from millstream_server.runtime.system import SystemClock, SystemFiles


class Counter:
    """A state machine that only counts."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, index: int, entry: bytes) -> bytes:
        self.count += 1
        return b"%d" % self.count

    def dump(self) -> bytes:
        return b"%d" % self.count

    def restore(self, snapshot: bytes) -> None:
        self.count = int(snapshot)


async def start_voters(count: int, folder: str) -> tuple[list[PySyncObjConsensus], list]:
    servers = [grpc.aio.server() for _ in range(count)]
    ports = [server.add_insecure_port("127.0.0.1:0") for server in servers]
    voters = {number + 1: f"127.0.0.1:{port}" for number, port in enumerate(ports)}
    nodes = []
    for number, server in zip(voters, servers, strict=True):
        path = f"{folder}/{number}"
        format_node(path, "bench", number, voters, SystemFiles())
        node = PySyncObjConsensus(
            number,
            voters,
            path,
            Counter(),
            cluster_id="bench",
            files=SystemFiles(),
            clock=SystemClock(),
            random=random.Random(number),
        )
        node.register(server)
        await server.start()
        nodes.append(node)
    for node in nodes:
        await node.start()
    return nodes, servers


async def leader_of(nodes: list[PySyncObjConsensus]) -> PySyncObjConsensus:
    while True:
        for node in nodes:
            if node.is_leader:
                return node
        await asyncio.sleep(0.01)


async def measure_window(leader: PySyncObjConsensus, window: int, count: int) -> dict:
    latencies: list[float] = []
    refused = 0
    left = count
    entry = b"x" * 200

    async def work() -> None:
        nonlocal left, refused
        while left > 0:
            left -= 1
            began = time.perf_counter()
            try:
                await leader.propose(entry, 10_000)
            except NotProposed:
                refused += 1
            latencies.append(time.perf_counter() - began)

    syncs = leader.status().journal_syncs
    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(window)))
    seconds = time.perf_counter() - began
    latencies.sort()
    return {
        "window": window,
        "commits_per_second": round(count / seconds),
        "p50_ms": round(latencies[count // 2] * 1e3, 2),
        "p99_ms": round(latencies[count * 99 // 100] * 1e3, 2),
        "refused": refused,
        "syncs": leader.status().journal_syncs - syncs,
    }


async def measure(count: int) -> None:
    folder = tempfile.mkdtemp(prefix="raft-rate-")
    nodes, servers = await start_voters(count, folder)
    leader = await leader_of(nodes)
    await asyncio.sleep(1.0)
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.sleep(5.0)
    idle = 100 * (time.process_time() - cpu) / (time.perf_counter() - began) / count
    print(json.dumps({"voters": count, "idle_cpu_percent_per_voter": round(idle, 2)}), flush=True)
    for window, total in ((1, 300), (100, 10_000), (1000, 20_000)):
        print(json.dumps(await measure_window(leader, window, total)), flush=True)
    for node, server in zip(nodes, servers, strict=True):
        await node.stop()
        await server.stop(0)
    shutil.rmtree(folder)


if __name__ == "__main__":
    for voters in [int(word) for word in sys.argv[1:]] or [1, 3]:
        asyncio.run(measure(voters))
