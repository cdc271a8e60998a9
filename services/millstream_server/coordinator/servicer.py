"""`GroupCoordinatorService` on the wire: proto in, proto out, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from millstream.v1 import group_coordinator_service_pb2 as pb
from millstream_server.coordinator import messages
from millstream_server.coordinator.admission import Admission
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.end_offsets import EndOffsets
from millstream_server.coordinator.positions import PositionCommit
from millstream_server.coordinator.refusal import Refusal
from millstream_server.coordinator.session_stream import SessionStream
from millstream_server.coordinator.shards import Shards
from millstream_server.runtime.errors import ServiceError, abort

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GroupCoordinatorService"].full_name
_Context = grpc.aio.ServicerContext[Any, Any]


class CoordinatorServicer:
    """Binds the coordinator to gRPC."""

    def __init__(
        self,
        shards: Shards,
        admission: Admission,
        end_offsets: EndOffsets,
        config: CoordinatorConfig,
    ) -> None:
        self._shards = shards
        self._admission = admission
        self._end_offsets = end_offsets
        self._config = config
        self._streams = 0
        self._stream_number = 0

    def add_to(self, server: grpc.aio.Server) -> str:
        """Add the service to a server; returns its full name."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Session": grpc.stream_stream_rpc_method_handler(
                self._session,
                request_deserializer=_parser_of(pb.SessionRequest),
                response_serializer=pb.SessionResponse.SerializeToString,
            ),
            "FetchOffsets": _unary(self._fetch_offsets, pb.FetchOffsetsRequest),
            "CommitOffsets": _unary(self._commit_offsets, pb.CommitOffsetsRequest),
            "ResetOffsets": _unary(self._reset_offsets, pb.ResetOffsetsRequest),
            "DeleteOffsets": _unary(self._delete_offsets, pb.DeleteOffsetsRequest),
            "ListGroups": _unary(self._list_groups, pb.ListGroupsRequest),
            "DescribeGroup": _unary(self._describe_group, pb.DescribeGroupRequest),
            "DeleteGroup": _unary(self._delete_group, pb.DeleteGroupRequest),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),)
        )
        server.add_registered_method_handlers(SERVICE_NAME, handlers)
        return SERVICE_NAME

    async def _session(self, _: Any, context: _Context) -> None:
        if self._streams >= self._config.streams_max:
            await abort(context, ServiceError("THROTTLED", "too many members are connected"))
        self._stream_number += 1
        self._streams += 1
        stream = SessionStream(
            self._stream_number,
            context.peer(),
            self._shards,
            self._admission,
            self._end_offsets,
            self._config,
        )
        try:
            await stream.run(context)
        except ServiceError as error:
            await abort(context, error)
        finally:
            self._streams -= 1

    async def _fetch_offsets(self, request: pb.FetchOffsetsRequest) -> pb.FetchOffsetsResponse:
        self._admission.check_group_id(request.group_id)
        topics = self._shards.topics
        wanted = sorted(messages.partitions_of(request.partitions, topics))
        found = await self._shards.of_group(request.group_id).call(
            lambda core, _: core.positions.fetch(
                request.group_id, wanted if request.partitions else None
            )
        )
        return pb.FetchOffsetsResponse(
            offsets=[messages.committed_offset(*entry, topics) for entry in found]
        )

    async def _commit_offsets(self, request: pb.CommitOffsetsRequest) -> pb.CommitOffsetsResponse:
        return pb.CommitOffsetsResponse(
            results=await self._change_offsets(request.group_id, request.offsets, reset=False)
        )

    async def _reset_offsets(self, request: pb.ResetOffsetsRequest) -> pb.ResetOffsetsResponse:
        return pb.ResetOffsetsResponse(
            results=await self._change_offsets(request.group_id, request.offsets, reset=True)
        )

    async def _change_offsets(
        self, group_id: str, entries: Sequence[pb.OffsetCommit], *, reset: bool
    ) -> list[pb.OffsetCommitResult]:
        self._admission.check_group_id(group_id)
        self._admission.check_offset_count(len(entries))
        shard = self._shards.of_group(group_id)
        commits = [messages.position_commit(entry, self._shards.topics) for entry in entries]
        meant = [commit for commit in commits if isinstance(commit, PositionCommit)]
        bounds = await self._end_offsets.bounds_for(meant)
        outcomes = await shard.call(
            lambda core, now: (
                core.positions.reset(group_id, meant, bounds, now)
                if reset
                else core.positions.commit(group_id, meant, bounds, now)
            )
        )
        return messages.commit_results(entries, commits, outcomes)

    async def _delete_offsets(self, request: pb.DeleteOffsetsRequest) -> pb.DeleteOffsetsResponse:
        self._admission.check_group_id(request.group_id)
        partitions = messages.partitions_of(request.partitions, self._shards.topics)
        await self._shards.of_group(request.group_id).call(
            lambda core, _: core.positions.delete(request.group_id, partitions)
        )
        return pb.DeleteOffsetsResponse()

    async def _list_groups(self, request: pb.ListGroupsRequest) -> pb.ListGroupsResponse:
        states = messages.group_states(request.states)
        groups = [
            summary
            for shard in list(self._shards.serving())
            for summary in await shard.call(lambda core, _: core.groups.list_groups(states))
        ]
        groups.sort(key=lambda summary: summary.group_id)
        return pb.ListGroupsResponse(groups=map(messages.group_summary, groups))

    async def _describe_group(self, request: pb.DescribeGroupRequest) -> pb.DescribeGroupResponse:
        self._admission.check_group_id(request.group_id)
        self._shards.check_used(request.group_id)
        shard = self._shards.of_group(request.group_id)
        group = await shard.call(lambda core, _: core.groups.describe(request.group_id))
        return messages.described_group(group, shard.lease.shard, self._shards.topics)

    async def _delete_group(self, request: pb.DeleteGroupRequest) -> pb.DeleteGroupResponse:
        self._admission.check_group_id(request.group_id)
        self._shards.check_used(request.group_id)
        await self._shards.of_group(request.group_id).call(
            lambda core, _: core.groups.delete(request.group_id)
        )
        return pb.DeleteGroupResponse()


def _parser_of(message: type[Message]) -> Callable[[bytes], Any]:
    """A deserialiser that gives None for bytes that are no such message, so that the caller is
    told in our own terms."""

    def parse(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError:
            return None

    return parse


def _unary(
    serve: Callable[[Any], Awaitable[Message]], request_type: type[Message]
) -> grpc.RpcMethodHandler[Any, Any]:
    async def call(request: Any, context: _Context) -> Any:
        try:
            if request is None:
                name = request_type.DESCRIPTOR.name
                raise ServiceError("INVALID_REQUEST", f"the message is not a {name}")
            return await serve(request)
        except ServiceError as error:
            await abort(context, error)
        except Refusal as refusal:
            await abort(context, ServiceError(refusal.reason, refusal.message))

    return grpc.unary_unary_rpc_method_handler(
        call,
        request_deserializer=_parser_of(request_type),
        response_serializer=lambda response: response.SerializeToString(),
    )
