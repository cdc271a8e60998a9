"""`Subscribe`: decoded records of a topic, from every leader, merged into one stream.

Partitions led here are read by one reader, those led elsewhere by one forwarded call per leader.
Each source fills a small queue, so a slow consumer holds back the reading, not the memory.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator

import grpc

from millstream.v1 import broker_service_pb2 as pb
from millstream_raft.image import TopicState
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.local_reading import LocalReading
from millstream_server.broker.peers import Peers
from millstream_server.broker.routing import Routing
from millstream_server.runtime.errors import error_of

_QUEUED_MESSAGES_MAX = 4
_Source = AsyncIterator[list[pb.SubscribedRecord]]


class Subscribing:
    """Serves `Subscribe`."""

    def __init__(self, hosted: HostedPartitions, routing: Routing, peers: Peers) -> None:
        self._hosted = hosted
        self._routing = routing
        self._peers = peers

    async def subscribe(self, request: pb.SubscribeRequest) -> AsyncIterator[pb.SubscribeResponse]:
        """The records as messages. Raises ServiceError or Refusal."""
        topic = self._routing.topic(request.topic)
        sources = self._sources(request, topic)
        left = request.max_records
        async with contextlib.aclosing(_merge(sources)) as merged:
            async for records in merged:
                for piece in self._pieces(records):
                    if request.max_records:
                        del piece[left:]
                        left -= len(piece)
                    yield pb.SubscribeResponse(records=piece)
                    if request.max_records and not left:
                        return

    def _sources(self, request: pb.SubscribeRequest, topic: TopicState) -> list[_Source]:
        numbers = sorted(set(request.partitions)) or range(len(topic.partitions))
        local: list[int] = []
        remote: dict[int, list[int]] = {}
        for number in numbers:
            leader = self._routing.remote_leader(topic, number, request.forwarded)
            if leader is None:
                local.append(number)
            else:
                remote.setdefault(leader, []).append(number)
        sources: list[_Source] = []
        if local:
            replicas = [self._hosted.find(topic.topic_id, number) for number in local]
            sources.append(LocalReading(self._hosted, replicas, request).batches())
        for leader, led in remote.items():
            sources.append(self._forward(leader, led, request))
        return sources

    async def _forward(
        self, leader: int, numbers: list[int], request: pb.SubscribeRequest
    ) -> _Source:
        forwarded = pb.SubscribeRequest()
        forwarded.CopyFrom(request)
        forwarded.ClearField("partitions")
        forwarded.partitions.extend(numbers)
        forwarded.forwarded = True
        call = self._peers.stub(self._routing.image, leader).Subscribe(forwarded)
        try:
            async for response in call:
                yield list(response.records)
        except grpc.RpcError as error:
            raise error_of(error) from None
        finally:
            call.cancel()

    def _pieces(self, records: list[pb.SubscribedRecord]) -> Iterator[list[pb.SubscribedRecord]]:
        """Messages of a bounded number of records and bytes."""
        config = self._hosted.config
        piece: list[pb.SubscribedRecord] = []
        size = 0
        for record in records:
            record_size = len(record.key) + len(record.value) + 64
            if piece and (
                len(piece) >= config.subscribe_records_max
                or size + record_size > config.subscribe_message_bytes
            ):
                yield piece
                piece, size = [], 0
            piece.append(record)
            size += record_size
        if piece:
            yield piece


async def _merge(
    sources: Iterable[_Source],
) -> AsyncGenerator[list[pb.SubscribedRecord], None]:
    """Whatever comes first from any source; ends when all have ended, fails when one fails."""
    queue: asyncio.Queue[list[pb.SubscribedRecord] | BaseException | None] = asyncio.Queue(
        _QUEUED_MESSAGES_MAX
    )

    async def pump(source: _Source) -> None:
        try:
            async for records in source:
                await queue.put(records)
            await queue.put(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller must not wait on
            await queue.put(error)

    tasks = [asyncio.ensure_future(pump(source)) for source in sources]
    try:
        for _ in tasks:
            while (item := await queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
