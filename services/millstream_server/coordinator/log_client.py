"""Shards' logs over ``BrokerService``: produce to and fetch from the partition's leader.

The leader's address comes from the image each time a link is opened; when it changes, the old
leader ends the link or refuses, and the next try goes to the new one.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc

from millstream.record.wire import RawFetchResponse, RawProducePartition, RawProduceRequest
from millstream.v1 import broker_service_pb2 as pb
from millstream_raft.image import OFFSETS_TOPIC, Image
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.log_ports import (
    LogChunk,
    LogUnavailable,
    ShardLog,
    WriteAnswer,
    WriteLink,
)
from millstream_server.runtime.channels import NodeChannels
from millstream_server.runtime.errors import reason_name

_SERVICE = "/millstream.v1.BrokerService/"
_READ_TIMEOUT_S = 10.0


class BrokerChannels:
    """Connections to the brokers that lead partitions."""

    def __init__(self, channels: NodeChannels) -> None:
        self._channels = channels

    def leader(self, image: Image, topic_id: bytes, number: int) -> tuple[int, grpc.aio.Channel]:
        """Node id of and channel to a partition's leader. Raises LogUnavailable."""
        partition = image.partition(topic_id, number)
        if partition is None:
            raise LogUnavailable("the partition is not known yet")
        node = image.node(partition.leader_id)
        if node is None:
            raise LogUnavailable("the partition has no leader at present")
        return node.node_id, self._channels.to(node.node_id, node.address)

    async def close(self) -> None:
        """Close all connections; calls on them fail."""
        await self._channels.close()


class BrokerShardLogs:
    """See ``ShardLogs``."""

    def __init__(
        self, image: Callable[[], Image], channels: BrokerChannels, config: CoordinatorConfig
    ) -> None:
        self._image = image
        self._channels = channels
        self._config = config

    def shard(self, number: int) -> ShardLog:
        """See ``ShardLogs``."""
        return _BrokerShardLog(number, self._image, self._channels, self._config)

    async def close(self) -> None:
        """See ``ShardLogs``."""
        await self._channels.close()


class _BrokerShardLog:
    def __init__(
        self,
        number: int,
        image: Callable[[], Image],
        channels: BrokerChannels,
        config: CoordinatorConfig,
    ) -> None:
        self._number = number
        self._image = image
        self._channels = channels
        self._config = config

    async def connect(self) -> WriteLink:
        topic_id, channel = self._leader()
        call: Any = channel.stream_stream(
            _SERVICE + "Produce",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=pb.ProduceResponse.FromString,
        )()
        return _BrokerLink(call, topic_id, self._number, self._config.write_timeout_ms)

    async def read(self, offset: int) -> AsyncIterator[LogChunk]:
        topic_id, channel = self._leader()
        call: Any = channel.stream_stream(
            _SERVICE + "Fetch",
            request_serializer=pb.FetchRequest.SerializeToString,
            response_deserializer=RawFetchResponse.FromString,
        )()
        try:
            credit = self._config.replay_credit_bytes
            await call.write(self._position(topic_id, offset, credit))
            while True:
                async with asyncio.timeout(_READ_TIMEOUT_S):
                    response = await call.read()
                if response is grpc.aio.EOF:
                    raise LogUnavailable("the leader ended the fetch")
                for entry in response.partitions:
                    if entry.error and reason_name(entry.error) == "OFFSET_OUT_OF_RANGE":
                        if entry.log_start_offset <= offset:
                            raise LogUnavailable(entry.message)
                        offset = entry.log_start_offset
                        await call.write(self._position(topic_id, offset, 0))
                        continue
                    if entry.error:
                        raise LogUnavailable(f"{reason_name(entry.error)}: {entry.message}")
                    yield LogChunk(entry.batches, entry.high_watermark, entry.log_start_offset)
                    used = sum(map(len, entry.batches))
                    if used:
                        await call.write(pb.FetchRequest(credit_bytes=used))
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise LogUnavailable(_details(error)) from None
        except TimeoutError:
            raise LogUnavailable("the leader does not answer") from None
        finally:
            call.cancel()

    def _leader(self) -> tuple[bytes, grpc.aio.Channel]:
        image = self._image()
        topic_id = image.topic_ids.get(OFFSETS_TOPIC)
        if topic_id is None:
            raise LogUnavailable(f"{OFFSETS_TOPIC} is not known yet")
        return topic_id, self._channels.leader(image, topic_id, self._number)[1]

    def _position(self, topic_id: bytes, offset: int, credit: int) -> pb.FetchRequest:
        position = pb.FetchPosition(
            topic_id=topic_id, partition=self._number, token=1, offset=offset
        )
        return pb.FetchRequest(positions=[position], credit_bytes=credit)


class _BrokerLink:
    def __init__(self, call: Any, topic_id: bytes, partition: int, timeout_ms: int) -> None:
        self._call = call
        self._topic_id = topic_id
        self._partition = partition
        self._timeout_ms = timeout_ms
        self._aborted = False

    async def send(self, number: int, batch: bytes) -> None:
        entry = RawProducePartition(
            topic_id=self._topic_id, partition=self._partition, batches=[batch]
        )
        request = RawProduceRequest(
            correlation_id=number,
            acks=pb.ACKS_ALL,
            timeout_ms=self._timeout_ms,
            partitions=[entry],
        )
        try:
            await self._call.write(request)
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise LogUnavailable(_details(error)) from None
        except asyncio.CancelledError:
            self._raise_if_aborted()
            raise

    async def receive(self) -> Sequence[WriteAnswer]:
        try:
            response = await self._call.read()
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            raise LogUnavailable(_details(error)) from None
        except asyncio.CancelledError:
            self._raise_if_aborted()
            raise
        if response is grpc.aio.EOF:
            raise LogUnavailable("the leader ended the stream")
        return [
            WriteAnswer(
                result.correlation_id,
                reason_name(result.error) if result.error else "",
                result.message,
            )
            for result in response.results
        ]

    def abort(self) -> None:
        self._aborted = True
        self._call.cancel()

    def _raise_if_aborted(self) -> None:
        # grpc.aio reports a call cancelled here as if the reading task had been cancelled.
        if self._aborted:
            raise LogUnavailable("the link was given up") from None


def _details(error: BaseException) -> str:
    details = getattr(error, "details", None)
    return str(details() if callable(details) else error) or type(error).__name__
