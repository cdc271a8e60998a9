"""A broker of a test: real storage, real gRPC on loopback, a fake cluster."""

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random

import grpc
from prometheus_client import CollectorRegistry

from millstream.record import build_batch, encode_records
from millstream.v1 import broker_service_pb2 as pb
from millstream.v1 import broker_service_pb2_grpc as pb_grpc
from millstream_server.broker.app import BrokerApp
from millstream_server.broker.config import BrokerConfig
from millstream_server.broker.partition import Role
from millstream_server.broker.replica import Replica
from millstream_server.runtime.callers import Callers
from millstream_server.runtime.grpc_metrics import GrpcServerMetrics, MetricsInterceptor
from millstream_server.runtime.identity import NodeIdentity
from millstream_server.runtime.ports import Files
from millstream_server.runtime.system import SystemClock, SystemFiles
from tests.fakes.cluster import FakeMetadata

_OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
)


class BrokerNode:
    """Start with ``start``; ``stub`` talks to it over loopback."""

    def __init__(
        self,
        metadata: FakeMetadata,
        path: Path,
        *,
        node_id: int = 1,
        config: BrokerConfig | None = None,
        files: Files | None = None,
        callers: Callers | None = None,
    ) -> None:
        self.metadata = metadata
        self.view = metadata.view(node_id)
        self.node_id = node_id
        self.registry = CollectorRegistry()
        self.app = BrokerApp(
            config or BrokerConfig(),
            NodeIdentity("test", node_id, bytes(16), "127.0.0.1", 0, "", frozenset({"broker"}), ""),
            str(path),
            clock=SystemClock(),
            files=files or SystemFiles(),
            random=Random(node_id),
            metrics=self.registry,
            callers=callers,
        )
        interceptors = (MetricsInterceptor(GrpcServerMetrics(self.registry)),)
        self.server = grpc.aio.server(interceptors=interceptors, options=_OPTIONS)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self._channel: grpc.aio.Channel | None = None
        self._stopped = False

    async def start(self, epoch: int = 1) -> None:
        """Recover, register in the fake cluster, serve."""
        await self.app.open()
        registration = self.app.registration
        assert registration.on_registered is not None
        await registration.on_registered(epoch)
        self.app.attach(self.view)
        self.app.register(self.server)
        await self.server.start()
        self.metadata.register(self.node_id, self.port, epoch)
        await self.app.start()
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=_OPTIONS)

    async def stop(self) -> None:
        """Stop as a node does; a second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        await self.app.stop()
        if self._channel is not None:
            await self._channel.close()
        await self.server.stop(0)

    @property
    def channel(self) -> grpc.aio.Channel:
        """A channel to it."""
        assert self._channel is not None
        return self._channel

    @property
    def stub(self) -> "pb_grpc.BrokerServiceAsyncStub":
        """A stock stub."""
        return pb_grpc.BrokerServiceStub(self.channel)

    def replica(self, topic: str, partition: int = 0) -> Replica:
        """A replica that it hosts."""
        topic_id = self.metadata.image.topic_ids[topic]
        return self.app.hosted.replicas[topic_id, partition]

    async def lead(self, topic: str, partitions: int = 1, **configs: str) -> bytes:
        """Create a topic led by this broker and wait until it is; returns the topic's id."""
        names = {key.replace("_", "."): value for key, value in configs.items()}
        topic_id = self.metadata.create_topic(topic, [self.node_id] * partitions, names)
        await self.until_leading(topic, partitions)
        return topic_id

    async def until_leading(self, topic: str, partitions: int = 1) -> None:
        """Wait until it leads the topic's partitions under the image's epochs."""
        topic_id = self.metadata.image.topic_ids[topic]

        def leading() -> bool:
            for number in range(partitions):
                replica = self.app.hosted.replicas.get((topic_id, number))
                state = self.metadata.image.partition(topic_id, number)
                if state is None or state.leader_id != self.node_id:
                    continue
                if (
                    replica is None
                    or replica.state.role is not Role.LEADING
                    or replica.state.leader_epoch != state.leader_epoch
                ):
                    return False
            return True

        async with asyncio.timeout(10):
            while not leading():  # noqa: ASYNC110
                await asyncio.sleep(0)

    def scrape(self, name: str, **labels: str) -> float | None:
        """The value of a metric."""
        return self.registry.get_sample_value(name, labels)


def batch_of(*values: bytes | None, **fields: int) -> bytes:
    """A batch as a producer sends it."""
    fields = {"base_timestamp_ms": 1000, "max_timestamp_ms": 1000, **fields}
    return build_batch(encode_records(values), record_count=len(values), **fields)


def produce_request(
    topic_id: bytes,
    *batches: bytes,
    partition: int = 0,
    correlation_id: int = 1,
    acks: pb.Acks.ValueType = pb.ACKS_ALL,
    timeout_ms: int = 0,
    leader_epoch: int | None = None,
) -> pb.ProduceRequest:
    """A request for one partition."""
    entry = pb.ProducePartition(topic_id=topic_id, partition=partition, leader_epoch=leader_epoch)
    for batch in batches:
        entry.batches.add().ParseFromString(batch)
    return pb.ProduceRequest(
        correlation_id=correlation_id, acks=acks, timeout_ms=timeout_ms, partitions=[entry]
    )


def with_config(**changes: object) -> BrokerConfig:
    """The defaults with some changes."""
    return replace(BrokerConfig(), **changes)  # type: ignore[arg-type]
