"""The metadata service of one node, wired: consensus, image, controller, sessions, servicer."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import grpc
from prometheus_client import CollectorRegistry

from millstream_raft.consensus import Consensus, StateMachine
from millstream_raft.delta import Delta
from millstream_raft.metadata_state_machine import MetadataStateMachine
from millstream_raft.pysyncobj_consensus import PySyncObjConsensus
from millstream_raft.raft_config import RaftConfig
from millstream_raft.transport import CHANNEL_OPTIONS
from millstream_server.metadata.config import MetadataConfig
from millstream_server.metadata.controller import Controller
from millstream_server.metadata.image_watchers import ImageWatchers
from millstream_server.metadata.metrics import MetadataMetrics
from millstream_server.metadata.node_liveness import NodeLiveness
from millstream_server.metadata.partition_upkeep import PartitionUpkeep
from millstream_server.metadata.reconnect_probe import ReconnectProbe, TcpReconnectProbe
from millstream_server.metadata.replicated_image import ReplicatedImage
from millstream_server.metadata.servicer import ControllerServicer
from millstream_server.runtime.callers import Callers, UnknownCallers
from millstream_server.runtime.channels import Dial, dial_plaintext
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.runtime.ports import Clock, Files
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import controller_service_pb2_grpc as pb_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ControllerService"].full_name
_VOTE_POLL_S = 0.1
# A new controller commits its election right after it was elected.
_TAKE_OVER_S = 0.5
ConsensusFactory = Callable[[StateMachine], Consensus]


@runtime_checkable
class ServedConsensus(Protocol):
    """A consensus whose voters talk over this node's port."""

    def register(self, server: grpc.aio.Server) -> str:
        """Add its service to the server; the full name."""


def quorum_on_disk(
    config: MetadataConfig,
    identity: NodeIdentity,
    directory: str,
    raft_config: RaftConfig,
    *,
    clock: Clock,
    files: Files,
    random: random.Random,
    dial: Dial = dial_plaintext,
    callers: Callers | None = None,
) -> ConsensusFactory:
    """The consensus of production, kept in ``directory``, for ``MetadataApp``. The voters are
    reached by ``dial`` and known by ``callers``."""

    def make(state_machine: StateMachine) -> Consensus:
        return PySyncObjConsensus(
            identity.node_id,
            dict(config.voters),
            directory,
            state_machine,
            cluster_id=identity.cluster_id,
            files=files,
            clock=clock,
            random=random,
            config=raft_config,
            channel_factory=lambda peer, address: dial(peer, address, CHANNEL_OPTIONS),
            peer_check=(callers or UnknownCallers()).is_node,
        )

    return make


class MetadataApp:
    """One metadata node."""

    def __init__(
        self,
        config: MetadataConfig,
        identity: NodeIdentity,
        consensus: ConsensusFactory,
        *,
        clock: Clock,
        random: random.Random,
        metrics: CollectorRegistry,
        probe: ReconnectProbe | None = None,
        callers: Callers | None = None,
    ) -> None:
        """Nothing is started. ``callers`` tells which node calls; by default everybody is
        believed. Raises ValueError for a bad configuration."""
        config.validate()
        identity.validate()
        self._machine = MetadataStateMachine()
        self.consensus = consensus(self._machine)
        self._watchers = ImageWatchers(
            watchers_max=config.watchers_max,
            queue_bytes_max=config.watcher_queue_bytes_max,
            chunk_bytes=config.snapshot_chunk_bytes,
            pulse_ms=config.watch_pulse_ms,
        )
        self._replicated = replicated = ReplicatedImage(self._machine, self._watchers)
        self.consensus.on_commit(replicated)
        self._metrics = MetadataMetrics(metrics)
        self.controller = Controller(
            self.consensus, replicated, identity, config, clock, random, self._metrics
        )
        self.liveness = NodeLiveness(
            self.controller, identity, config, clock, probe or TcpReconnectProbe(), self._metrics
        )
        self.upkeep = PartitionUpkeep(
            self.controller, replicated, config, self._metrics, self.liveness.refusing_disks
        )
        self._servicer = ControllerServicer(
            self.controller,
            self.liveness,
            self._watchers,
            self.consensus,
            config,
            identity.cluster_id,
            callers or UnknownCallers(),
        )
        self._metrics.read_from(
            self.consensus.status,
            lambda: self.controller.is_active,
            lambda: self._machine.snapshot_bytes,
            lambda: self._watchers.count,
            lambda: len(self.liveness.refusing_disks),
            lambda: self.controller.image,
        )

    async def open(self) -> None:
        """Nothing to do before the port serves: the consensus loads its files when it starts."""

    def register(self, server: grpc.aio.Server) -> list[str]:
        """Add the services of a metadata node; their full names."""
        pb_grpc.add_ControllerServiceServicer_to_server(self._servicer, server)
        names = [str(SERVICE_NAME)]
        if isinstance(self.consensus, ServedConsensus):
            names.append(self.consensus.register(server))
        return names

    async def start(self) -> None:
        """Take part in the quorum. Raises what the consensus raises about its folder."""
        await self.consensus.start()
        self.liveness.start()
        self.upkeep.start()

    async def wait_until_it_votes(self) -> None:
        """Return at once, unless this node lost its disk: then when it holds everything again.
        Whoever waits for it before the next node is stopped must not be told too early."""
        while self.consensus.status().silent_until:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(_VOTE_POLL_S)

    async def _hand_over(self) -> None:
        """Let another node become the controller while this one still says so to its followers:
        they go there at once, and no write waits for an election time-out."""
        replaced = asyncio.Event()

        def note(delta: Delta) -> None:
            if delta.controller_changed:
                replaced.set()

        self._replicated.subscribe(note)
        if await self.consensus.resign():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TAKE_OVER_S):
                    await replaced.wait()

    async def stop(self) -> None:
        """Hand the leadership over, end all sessions and watches, then leave the quorum. What was
        committed stays."""
        await self._hand_over()
        self._watchers.drop_all("the metadata node stops")
        await self.upkeep.stop()
        await self.liveness.stop()
        self.controller.stop()
        await self.consensus.stop()
