"""A coordinator on a loopback port over fake logs and a fake cluster, and members by hand."""

import asyncio
import contextlib
from dataclasses import replace
from random import Random
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from millstream.v1 import group_coordinator_service_pb2 as pb
from millstream.v1 import group_coordinator_service_pb2_grpc as pb_grpc
from millstream_raft.image import OFFSETS_TOPIC, NodeState
from millstream_server.coordinator.app import CoordinatorApp
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.runtime.errors import error_of
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.runtime.system import SystemClock
from tests.fakes.cluster import FakeMetadata
from tests.fakes.partition_log import FakeShardLogs

QUICK = CoordinatorConfig(
    session_timeout_ms=5_000,
    heartbeat_interval_ms=1_000,
    rebalance_delay_ms=5,
    log_retry_ms=5,
    log_retry_ms_max=20,
    lag_interval_ms=0,
    end_offset_timeout_ms=200,
    stop_timeout_ms=500,
)


class CoordinatorCluster:
    """The image and the logs, shared by coordinators that come and go."""

    def __init__(self, shards: int = 2, metadata: FakeMetadata | None = None) -> None:
        """With ``metadata`` its brokers lead the offsets topic; else its logs are fakes."""
        self._epoch = 0
        self.logs: FakeShardLogs | None = None
        if metadata is not None:
            self.metadata = metadata
            return
        self.metadata = FakeMetadata()
        self.logs = FakeShardLogs(shards)
        # No broker is registered: ends of logs are not known.
        self.metadata.create_topic(OFFSETS_TOPIC, [99] * shards)

    def register(self, identity: NodeIdentity) -> None:
        """A coordinator registers."""
        self._epoch += 1
        node = NodeState(
            node_id=identity.node_id,
            epoch=self._epoch,
            incarnation_id=identity.incarnation_id,
            roles=identity.roles,
            host=identity.host,
            port=identity.port,
            rack="",
            version="test",
            directory_id=b"",
            fenced=False,
        )
        image = self.metadata.image
        self.metadata.change(replace(image, nodes={**image.nodes, node.node_id: node}))

    def lease(self, node_id: int | None) -> None:
        """Give all shards to a node, under a new epoch."""
        image = self.metadata.image
        shards = tuple(
            replace(lease, owner_id=node_id, shard_epoch=lease.shard_epoch + 1)
            for lease in image.shards
        )
        self.metadata.change(replace(image, shards=shards))


class CoordinatorNode:
    """One coordinator process."""

    def __init__(
        self, cluster: CoordinatorCluster, node_id: int = 1, config: CoordinatorConfig = QUICK
    ) -> None:
        self._cluster = cluster
        self.node_id = node_id
        self.config = config
        self.metrics = CollectorRegistry()

    async def __aenter__(self) -> "CoordinatorNode":
        self.server = grpc.aio.server()
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.identity = NodeIdentity(
            "test", self.node_id, Random().randbytes(16), "127.0.0.1", port, "",
            frozenset({"coordinator"}), "test",
        )  # fmt: skip
        self.view = self._cluster.metadata.view(self.node_id)
        self.app = CoordinatorApp(
            self.config,
            self.identity,
            cluster=self.view,
            clock=SystemClock(),
            random=Random(),
            metrics=self.metrics,
            logs=self._cluster.logs,
        )
        self.app.register(self.server)
        await self.server.start()
        await self.app.start()
        self._cluster.register(self.identity)
        self._cluster.lease(self.node_id)
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.stub = pb_grpc.GroupCoordinatorServiceStub(self.channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self.app.stop()
        await self.server.stop(0)

    async def ask(self, method: str, request: Any) -> Any:
        """A unary call, repeated while the shard is loaded."""
        while True:
            try:
                return await getattr(self.stub, method)(request, timeout=10)
            except grpc.RpcError as error:
                if error_of(error).reason != "COORDINATOR_LOADING":
                    raise
            await asyncio.sleep(0.005)


class Member:
    """A group member that does as it is told: gives up at once what an assignment leaves out."""

    def __init__(self, node: CoordinatorNode, group_id: str, topics: list[str]) -> None:
        self._node = node
        self._join = pb.Join(group_id=group_id, topics=topics)
        self.member_id = ""
        self.epoch = 0
        self.owned: set[tuple[str, int]] = set()
        self.assignments: list[pb.Assignment] = []
        self.error = ""
        # Called with partitions before they are given up.
        self.committing: dict[tuple[str, int], int] = {}
        self._correlation_id = 0
        self._answers: dict[int, asyncio.Future[pb.SessionResponse]] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def join(self, node: CoordinatorNode | None = None, **fields: Any) -> None:
        """Open a stream and join, again and again while the shard is loaded."""
        self._node = node or self._node
        while True:
            self._call = self._node.stub.Session()
            join = pb.Join()
            join.CopyFrom(self._join)
            join.MergeFrom(pb.Join(**fields))
            join.member_id, join.member_epoch = self.member_id, self.epoch
            join.owned.extend(self._owned_message())
            self.error = ""
            self._task = asyncio.ensure_future(self._read())
            answer = await self._ask(join=join)
            if answer.HasField("joined"):
                self.member_id = answer.joined.member_id
                self.epoch = answer.joined.member_epoch
                return
            if self.error not in ("COORDINATOR_LOADING", "NOT_COORDINATOR"):
                return
            await asyncio.sleep(0.005)

    async def heartbeat(self) -> None:
        """Report what is owned."""
        await self._ask(
            heartbeat=pb.Heartbeat(
                member_id=self.member_id, member_epoch=self.epoch, owned=self._owned_message()
            )
        )

    async def commit(self, offsets: dict[tuple[str, int], int]) -> list[pb.OffsetCommitResult]:
        """Commit offsets."""
        answer = await self._ask(
            commit=pb.SessionCommit(
                member_id=self.member_id,
                member_epoch=self.epoch,
                offsets=[
                    pb.OffsetCommit(topic=topic, partition=number, offset=offset)
                    for (topic, number), offset in offsets.items()
                ],
            )
        )
        return list(answer.commit_result.results)

    async def leave(self, *, temporary: bool = False) -> None:
        """Leave the group."""
        await self._ask(leave=pb.Leave(member_id=self.member_id, temporary=temporary))

    async def wait_for(self, condition: Any) -> None:
        """Wait until something about this member is so."""
        async with asyncio.timeout(10):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()

    async def close(self) -> None:
        """Break the stream."""
        if self._task is not None:
            self._call.cancel()
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self, **kind: Any) -> pb.SessionResponse:
        self._correlation_id += 1
        future = asyncio.get_running_loop().create_future()
        self._answers[self._correlation_id] = future
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await self._call.write(pb.SessionRequest(correlation_id=self._correlation_id, **kind))
        async with asyncio.timeout(10):
            return await future

    async def _read(self) -> None:
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                if response.HasField("assignment"):
                    self._assign(response.assignment)
                else:
                    self._answers.pop(response.correlation_id).set_result(response)
                self._changed.set()
            if await self._call.code() is not grpc.StatusCode.OK:
                await self._call
        except grpc.RpcError as error:
            self.error = error_of(error).reason
        for future in self._answers.values():
            if not future.done():
                future.set_result(pb.SessionResponse())
        self._answers.clear()
        self._changed.set()

    def _assign(self, assignment: pb.Assignment) -> None:
        self.assignments.append(assignment)
        self.epoch = assignment.member_epoch
        target = {
            (entry.topic, number) for entry in assignment.partitions for number in entry.partitions
        }
        given_up = self.owned - target
        self._reconciling = asyncio.ensure_future(self._reconcile(target, given_up))

    async def _reconcile(self, target: set[tuple[str, int]], given_up: set[Any]) -> None:
        before = set(self.owned)
        self.owned |= target
        commits = {name: self.committing[name] for name in given_up if name in self.committing}
        if commits:
            await self.commit(commits)
        self.owned -= given_up
        self._changed.set()
        if self.owned != before:
            await self.heartbeat()

    def _owned_message(self) -> list[pb.TopicPartitions]:
        by_topic: dict[str, list[int]] = {}
        for topic, number in sorted(self.owned):
            by_topic.setdefault(topic, []).append(number)
        return [pb.TopicPartitions(topic=name, partitions=some) for name, some in by_topic.items()]
