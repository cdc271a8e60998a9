"""One metadata node as a process, told by lines of JSON on stdin what to do and measure.

Usage: python -m tests.campaigns.raft_voter FOLDER NODE_ID ADDRESS,ADDRESS,… It is the service of
production on its own port; only the raft thread's driver is timed. Each answer is a line on stdout.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from millstream_raft.consensus import StateMachine
from millstream_raft.decide_nodes import fence
from millstream_raft.directory import format_node, is_formatted
from millstream_raft.pysyncobj_consensus import PySyncObjConsensus
from millstream_raft.raft_driver import Event, Outcome, RaftDriver
from millstream_server.metadata.app import MetadataApp
from millstream_server.metadata.config import MetadataConfig
from millstream_server.runtime.errors import ServiceError
from millstream_server.runtime.grpc_server import SERVER_OPTIONS
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.runtime.logs import configure_logging
from millstream_server.runtime.system import SystemClock, SystemFiles
from millstream_server.v1 import metadata_command_pb2 as pb

CLUSTER_ID = "raft-bench"
_SESSION_MS = 300_000
_POLLS_MAX = 1_000


class TimedDriver:
    """A driver that knows how late the raft thread was at worst: by a long step, or because the
    interpreter did not let it run when it was due."""

    def __init__(self, driver: RaftDriver) -> None:
        self._driver = driver
        self._due_s = float("inf")
        self.stall_s_max = 0.0

    def step(self, events: Sequence[Event]) -> list[Outcome]:
        began_s = min(time.monotonic(), self._due_s)
        outcomes = self._driver.step(events)
        self.stall_s_max = max(self.stall_s_max, time.monotonic() - began_s)
        return outcomes

    def wait_ms(self) -> int:
        wait_ms = self._driver.wait_ms()
        self._due_s = time.monotonic() + wait_ms / 1000
        return wait_ms

    def take_stall_ms(self) -> float:
        """The worst since the last call."""
        stall_s, self.stall_s_max = self.stall_s_max, 0.0
        return round(stall_s * 1000, 1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)


class TimedConsensus(PySyncObjConsensus):
    """The consensus of production on a timed driver."""

    timed: TimedDriver

    def _open(self) -> Any:
        self.timed = TimedDriver(super()._open())
        return self.timed

    def compact(self) -> None:
        """Write a snapshot at the next tick."""
        self.timed._core.compact()
        self._thread.wake()


class TimedMachine:
    """A state machine that knows how long its last dump and restore took, milliseconds."""

    def __init__(self, machine: StateMachine) -> None:
        self._machine = machine
        self.times: dict[str, float] = {}

    def apply(self, index: int, entry: bytes) -> bytes:
        return self._timed("apply", self._machine.apply, index, entry)

    def dump(self) -> bytes:
        return self._timed("dump", self._machine.dump)

    def restore(self, snapshot: bytes) -> None:
        self._timed("restore", self._machine.restore, snapshot)

    def _timed(self, name: str, work: Any, *args: Any) -> Any:
        began_s = time.monotonic()
        result = work(*args)
        self.times[name] = round((time.monotonic() - began_s) * 1000, 2)
        return result


class Voter:
    """The process. Every public method can be asked for by name."""

    def __init__(self, folder: str, node_id: int, addresses: Sequence[str]) -> None:
        voters = tuple(enumerate(addresses, 1))
        files = SystemFiles()
        if not is_formatted(folder, files):
            format_node(folder, CLUSTER_ID, node_id, dict(voters), files)
        host, _, port = addresses[node_id - 1].rpartition(":")
        identity = NodeIdentity(
            cluster_id=CLUSTER_ID,
            node_id=node_id,
            incarnation_id=os.urandom(16),
            host=host,
            port=int(port),
            rack="",
            roles=frozenset({"metadata"}),
            version="1",
        )

        def consensus(machine: StateMachine) -> PySyncObjConsensus:
            self.machine = TimedMachine(machine)
            self.consensus = TimedConsensus(
                node_id,
                dict(voters),
                folder,
                self.machine,
                cluster_id=CLUSTER_ID,
                files=files,
                clock=SystemClock(),
                random=random.Random(),
            )
            return self.consensus

        self.app = MetadataApp(
            # Nobody keeps up the sessions of the brokers that are only names here.
            MetadataConfig(voters=voters, session_timeout_ms=_SESSION_MS),
            identity,
            consensus,
            clock=SystemClock(),
            random=random.Random(),
            metrics=CollectorRegistry(),
        )
        self._address = identity.address

    async def run(self) -> None:
        """Serve until stdin ends."""
        server = grpc.aio.server(options=SERVER_OPTIONS)
        if not server.add_insecure_port(self._address):
            raise OSError(f"{self._address} is taken")
        await self.app.open()
        self.app.register(server)
        await server.start()
        began_s = time.monotonic()
        await self.app.start()
        self.machine.times["start"] = round((time.monotonic() - began_s) * 1000, 2)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            request = json.loads(line)
            try:
                answer = await getattr(self, request.pop("do"))(**request)
            except ServiceError as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)
        await self.app.stop()
        await server.stop(0)

    async def status(self) -> dict[str, Any]:
        """Who leads, what took how long, and the worst stall since it was asked for last."""
        status = self.consensus.status()
        return {
            "leader_id": status.leader_id,
            "term": status.term,
            "active": self.app.controller.is_active,
            "applied": status.applied_index,
            "version": self.app.controller.image.version,
            "partitions": self.app.controller.image.partition_count,
            "snapshot_index": status.snapshot_index,
            "stall_ms": self.consensus.timed.take_stall_ms(),
            **self.machine.times,
        }

    async def put(self) -> dict[str, Any]:
        """One commit."""
        await self.app.controller.commit([_SMALL])
        return {}

    async def measure(self, window: int, count: int) -> dict[str, Any]:
        """Commits of so many callers at once."""
        latencies_s: list[float] = []
        left = iter(range(count))

        async def work() -> None:
            for _ in left:
                began_s = time.perf_counter()
                await self.app.controller.commit([_SMALL])
                latencies_s.append(time.perf_counter() - began_s)

        syncs = self.consensus.status().journal_syncs
        began_s = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(window)))
        seconds = time.perf_counter() - began_s
        latencies_s.sort()
        return {
            "window": window,
            "commits": count,
            "commits_per_second": round(count / seconds),
            "p50_ms": round(latencies_s[count // 2] * 1e3, 2),
            "p99_ms": round(latencies_s[count * 99 // 100] * 1e3, 2),
            "leader_syncs": self.consensus.status().journal_syncs - syncs,
        }

    async def fill(self, brokers: int, topics: int, partitions: int) -> dict[str, Any]:
        """Live brokers, and topics spread over them; goes on where a deposed leader stopped."""
        controller = self.app.controller
        for broker in range(101, 101 + brokers):
            if broker in controller.image.nodes:
                continue
            registration = pb.RegisterNode(
                node_id=broker,
                incarnation_id=bytes(16),
                roles=["broker"],
                host="127.0.0.1",
                port=1,
                directory_id=broker.to_bytes(16, "big"),
                session_timeout_ms=_SESSION_MS,
            )
            await controller.commit([pb.MetadataCommand(register_node=registration)])
            await self.unfence(broker)
        for topic in range(len(controller.image.topics), topics):
            assignments = [
                pb.ReplicaAssignment(replica_ids=[101 + number % brokers])
                for number in range(partitions)
            ]
            added = pb.AddTopic(
                name=f"topic-{topic}",
                topic_id=topic.to_bytes(16, "big"),
                assignments=assignments,
                min_isr=1,
                flush_mode="fsync",
            )
            await controller.commit([pb.MetadataCommand(add_topic=added)])
        return await self.status()

    async def fence(self, broker: int) -> dict[str, Any]:
        """End a broker's session."""
        return await self._timed_commit(fence(self.app.controller.image.nodes[broker]))

    async def unfence(self, broker: int) -> dict[str, Any]:
        """Let a broker lead."""
        node = self.app.controller.image.nodes[broker]
        command = pb.UnfenceNode(
            node_id=broker, node_epoch=node.epoch, registered_version=node.registered_version
        )
        return await self._timed_commit(pb.MetadataCommand(unfence_node=command))

    async def compact(self) -> dict[str, Any]:
        """Write a snapshot and trim the journal."""
        before = self.consensus.status().snapshot_index
        self.consensus.compact()
        for _ in range(_POLLS_MAX):
            if self.consensus.status().snapshot_index != before:
                break
            await asyncio.sleep(0.01)
        return await self.status()

    async def _timed_commit(self, command: pb.MetadataCommand) -> dict[str, Any]:
        began_s = time.perf_counter()
        await self.app.controller.commit([command])
        took_ms = round((time.perf_counter() - began_s) * 1000, 1)
        return {"commit_ms": took_ms, **await self.status()}


_SMALL = pb.MetadataCommand(take_producer_id=pb.TakeProducerId())

if __name__ == "__main__":
    configure_logging("json", "warning")
    asyncio.run(Voter(sys.argv[1], int(sys.argv[2]), sys.argv[3].split(",")).run())
