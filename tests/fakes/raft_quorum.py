"""A real metadata quorum in one process: real files, threads and gRPC on loopback."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import grpc

from millstream_raft.directory import format_node
from millstream_raft.ports import FailStop
from millstream_raft.pysyncobj_consensus import PySyncObjConsensus
from millstream_raft.raft_config import RaftConfig
from millstream_server.runtime.system import SystemClock, SystemFiles

CLUSTER_ID = "test-cluster"
#: A leader is to lead on though the whole process stands still for a moment.
PATIENT = RaftConfig(
    heartbeat_interval_ms=80,
    election_timeout_min_ms=1_500,
    election_timeout_max_ms=3_000,
    leader_fallback_ms=3_000,
)


class Ledger:
    """A state machine that keeps its entries, and a listener that compares what it is told."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.told: list[bytes] = []
        self.indexes: list[int] = []
        self.changed = asyncio.Event()

    def apply(self, index: int, entry: bytes) -> bytes:
        self.entries.append(entry)
        return b"%d" % len(self.entries)

    def dump(self) -> bytes:
        return b"\n".join(self.entries)

    def restore(self, snapshot: bytes) -> None:
        self.entries = snapshot.split(b"\n") if snapshot else []

    def committed(self, index: int, entry: bytes, result: bytes) -> None:
        self.told.append(entry)
        self.indexes.append(index)
        self.changed.set()

    def restored(self, index: int, snapshot: bytes) -> None:
        self.told = snapshot.split(b"\n") if snapshot else []
        self.indexes.append(index)
        self.changed.set()


class Quorum:
    """Voters 1 to ``count``; each can be stopped and started again on its port and folder."""

    def __init__(
        self, folder: Path, count: int, config: RaftConfig = PATIENT, *, eager: int | None = 1
    ) -> None:
        """The ``eager`` one stands for election soon, so that nobody waits long for the first
        leader, and nobody disturbs it after that."""
        self._folder = folder
        self._config = config
        self._eager = eager
        self.ids = tuple(range(1, count + 1))
        self.voters: dict[int, str] = {}
        self.nodes: dict[int, PySyncObjConsensus] = {}
        self.ledgers: dict[int, Ledger] = {}
        self.changes: list[tuple[int, bool, int]] = []
        self._servers: dict[int, grpc.aio.Server] = {}
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Format and start every voter."""
        for node in self.ids:
            self._servers[node] = grpc.aio.server()
            port = self._servers[node].add_insecure_port("127.0.0.1:0")
            self.voters[node] = f"127.0.0.1:{port}"
        for node in self.ids:
            format_node(self.path(node), CLUSTER_ID, node, self.voters, SystemFiles())
            await self._start_node(node, self._servers[node])

    async def stop(self) -> None:
        """Stop every voter that runs."""
        for node in list(self.nodes):
            await self.stop_node(node)

    async def stop_node(self, node: int) -> None:
        """Take one voter down."""
        await self._servers.pop(node).stop(0)
        await self.nodes.pop(node).stop()

    async def start_node(self, node: int) -> None:
        """Start a stopped voter from its folder."""
        server = grpc.aio.server()
        assert server.add_insecure_port(self.voters[node])
        await self._start_node(node, server)

    def make(
        self, node: int, ledger: Ledger, fail_stop: FailStop = stop_node
    ) -> PySyncObjConsensus:
        """A voter that is not started."""
        config = self._config
        if node == self._eager:
            config = replace(config, election_timeout_min_ms=300, election_timeout_max_ms=600)
        return PySyncObjConsensus(
            node,
            self.voters,
            self.path(node),
            ledger,
            cluster_id=CLUSTER_ID,
            files=SystemFiles(),
            clock=SystemClock(),
            random=Random(node),
            fail_stop=fail_stop,
            config=config,
        )

    def path(self, node: int) -> str:
        """A voter's folder."""
        return str(self._folder / str(node))

    async def leader(self) -> PySyncObjConsensus:
        """The leader, once there is one."""
        while True:
            for node in self.nodes.values():
                if node.is_leader:
                    return node
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 20)

    async def until(self, node: int, condition: Callable[[Ledger], bool]) -> None:
        """Wait until a voter's listener was told enough."""
        ledger = self.ledgers[node]
        while not condition(ledger):
            ledger.changed.clear()
            await asyncio.wait_for(ledger.changed.wait(), 20)

    async def _start_node(self, node: int, server: grpc.aio.Server) -> None:
        ledger = Ledger()
        consensus = self.make(node, ledger)

        def changed(is_leader: bool, term: int) -> None:
            self.changes.append((node, is_leader, term))
            self._changed.set()

        consensus.on_leadership(changed)
        consensus.on_commit(ledger)
        consensus.register(server)
        await server.start()
        await consensus.start()
        self.nodes[node], self.ledgers[node], self._servers[node] = consensus, ledger, server
