"""`ListOffsets` and `DeleteRecords`: answered here for what this broker leads, else forwarded."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc

from millstream.v1 import broker_service_pb2 as pb
from millstream_raft.image import TopicState
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.jobs import run_job
from millstream_server.broker.peers import Peers
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replica import Replica
from millstream_server.broker.routing import Routing
from millstream_server.runtime.errors import ServiceError, error_of
from millstream_server.storage.errors import StorageError

# Items of one request; each costs at most one look-up in a file.
_ITEMS_MAX = 10_000


class Offsets:
    """Serves both calls."""

    def __init__(self, hosted: HostedPartitions, routing: Routing, peers: Peers) -> None:
        self._hosted = hosted
        self._routing = routing
        self._peers = peers

    # ListOffsets

    async def list_offsets(self, request: pb.ListOffsetsRequest) -> pb.ListOffsetsResponse:
        """Look offsets up; every query has its own error."""
        _check_count(len(request.queries), "queries")
        answers: list[Any] = [None] * len(request.queries)
        remote: dict[int, list[int]] = {}
        for index, query in enumerate(request.queries):
            try:
                topic = self._query_topic(query)
                leader = self._routing.remote_leader(topic, query.partition, request.forwarded)
                if leader is not None:
                    remote.setdefault(leader, []).append(index)
                    continue
                answers[index] = await self._look_up(topic, query)
            except (ServiceError, Refusal) as error:
                answers[index] = self._failed_answer(query, error)

        async def ask(leader: int, indexes: list[int]) -> None:
            queries = [request.queries[index] for index in indexes]
            try:
                stub = self._peers.stub(self._routing.image, leader)
                response = await stub.ListOffsets(
                    pb.ListOffsetsRequest(queries=queries, forwarded=True),
                    timeout=self._hosted.config.forward_timeout_ms / 1000,
                )
                found = list(response.answers)
            except (grpc.RpcError, ServiceError) as error:
                failure = error if isinstance(error, ServiceError) else error_of(error)
                found = [self._failed_answer(query, failure) for query in queries]
            for index, answer in zip(indexes, found, strict=True):
                answers[index] = answer

        await asyncio.gather(*(ask(leader, indexes) for leader, indexes in remote.items()))
        return pb.ListOffsetsResponse(answers=answers)

    def _query_topic(self, query: pb.OffsetQuery) -> TopicState:
        if not query.topic_id:
            return self._routing.topic(query.topic)
        topic = self._routing.image.topics.get(query.topic_id)
        if topic is None:
            raise ServiceError("UNKNOWN_TOPIC", f"there is no topic with id {query.topic_id.hex()}")
        return topic

    async def _look_up(self, topic: TopicState, query: pb.OffsetQuery) -> pb.OffsetAnswer:
        replica = self._hosted.find(topic.topic_id, query.partition)
        end_offset = replica.end_offset_for_clients()
        offset, time = await resolve(self._hosted, replica, query.position, end_offset)
        self._hosted.check_session()
        return pb.OffsetAnswer(
            topic=topic.name,
            topic_id=topic.topic_id,
            partition=query.partition,
            offset=offset,
            timestamp_ms=time,
            leader_epoch=replica.state.leader_epoch,
        )

    def _failed_answer(
        self, query: pb.OffsetQuery, error: ServiceError | Refusal
    ) -> pb.OffsetAnswer:
        self._hosted.counters.errors["list_offsets", error.reason] += 1
        return pb.OffsetAnswer(
            topic=query.topic,
            topic_id=query.topic_id,
            partition=query.partition,
            error=number_of(error),
            message=error.message,
        )

    # DeleteRecords

    async def delete_records(self, request: pb.DeleteRecordsRequest) -> pb.DeleteRecordsResponse:
        """Move log starts; every deletion has its own error."""
        _check_count(len(request.deletions), "deletions")

        async def answer(deletion: pb.RecordDeletion) -> pb.RecordDeletionResult:
            try:
                return await self._delete(deletion, request.forwarded)
            except (ServiceError, Refusal) as error:
                self._hosted.counters.errors["delete_records", error.reason] += 1
                return pb.RecordDeletionResult(
                    topic=deletion.topic,
                    partition=deletion.partition,
                    error=number_of(error),
                    message=error.message,
                )

        results = [await answer(deletion) for deletion in request.deletions]
        return pb.DeleteRecordsResponse(results=results)

    async def _delete(
        self, deletion: pb.RecordDeletion, forwarded: bool
    ) -> pb.RecordDeletionResult:
        topic = self._routing.topic(deletion.topic)
        if topic.internal:
            raise ServiceError("INTERNAL_TOPIC", f"topic {topic.name} belongs to the system")
        leader = self._routing.remote_leader(topic, deletion.partition, forwarded)
        if leader is not None:
            stub = self._peers.stub(self._routing.image, leader)
            try:
                response = await stub.DeleteRecords(
                    pb.DeleteRecordsRequest(deletions=[deletion], forwarded=True),
                    timeout=self._hosted.config.forward_timeout_ms / 1000,
                )
            except grpc.RpcError as error:
                raise error_of(error) from None
            return response.results[0]
        replica = self._hosted.find(topic.topic_id, deletion.partition)
        mark = replica.end_offset_for_clients()
        before = deletion.before_offset if deletion.HasField("before_offset") else mark
        if before > mark:
            raise Refusal(
                "OFFSET_OUT_OF_RANGE", f"offset {before} is beyond the high watermark {mark}"
            )
        start = await self._delete_before(replica, before)
        return pb.RecordDeletionResult(
            topic=topic.name, partition=deletion.partition, log_start_offset=start
        )

    async def _delete_before(self, replica: Replica, before: int) -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def done(start: int | None, error: StorageError | None) -> None:
            if error is not None:
                refusal = self._hosted.note_failure(replica, error)
                if not future.done():
                    future.set_exception(refusal)
                return
            replica.deliver([])
            if not future.done():
                future.set_result(replica.log.start_offset)

        log = replica.log
        if before <= log.start_offset:
            return log.start_offset
        self._hosted.writer.run(log, partial(log.delete_before, before), done)
        return await future


async def resolve(
    hosted: HostedPartitions, replica: Replica, position: pb.Position, end_offset: int
) -> tuple[int | None, int | None]:
    """(offset, timestamp) of a position in a log that may be read up to ``end_offset``.

    The offset is None when no record is as new as the time asked for. Raises Refusal.
    """
    kind = position.WhichOneof("kind")
    if kind == "earliest":
        return replica.start_offset, None
    if kind == "latest":
        return end_offset, None
    if kind == "offset":
        replica.check_offset(position.offset)
        return position.offset, None
    if kind is None:
        raise Refusal("INVALID_REQUEST", "position: none is given")
    find: Callable[[], Any] = partial(replica.log.find_offset, position.timestamp_ms, end_offset)
    try:
        found = await run_job(hosted.reads, find)
    except StorageError as error:
        raise replica.read_refusal(error) from None
    return (None, None) if found is None else (found.offset, found.timestamp_ms)


def number_of(error: ServiceError | Refusal) -> Any:
    """The reason's number, for ``error`` fields."""
    if isinstance(error, Refusal):
        error = ServiceError(error.reason, error.message)
    return error.number


def _check_count(count: int, field: str) -> None:
    if count > _ITEMS_MAX:
        raise ServiceError("INVALID_REQUEST", f"{field}: at most {_ITEMS_MAX} are accepted")
