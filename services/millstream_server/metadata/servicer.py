"""``ControllerService``: proto to controller and back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from millstream_raft.consensus import Consensus
from millstream_server.cluster.public_messages import hydrate_reply
from millstream_server.metadata.config import MetadataConfig
from millstream_server.metadata.controller import Controller
from millstream_server.metadata.image_watchers import ImageWatchers
from millstream_server.metadata.node_liveness import NodeLiveness, SessionStream
from millstream_server.runtime.callers import Callers
from millstream_server.runtime.errors import ServiceError, abort
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import controller_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class ControllerServicer(pb_grpc.ControllerServiceServicer):
    """Served by every metadata node."""

    def __init__(
        self,
        controller: Controller,
        liveness: NodeLiveness,
        watchers: ImageWatchers,
        consensus: Consensus,
        config: MetadataConfig,
        cluster_id: str,
        callers: Callers,
    ) -> None:
        self._controller = controller
        self._liveness = liveness
        self._watchers = watchers
        self._consensus = consensus
        self._config = config
        self._cluster_id = cluster_id
        self._callers = callers

    async def NodeSession(
        self, request_iterator: AsyncIterator[pb.NodeSessionRequest], context: Context
    ) -> AsyncIterator[pb.NodeSessionResponse]:
        """See the proto."""
        requests = aiter(request_iterator)
        stream: SessionStream | None = None
        ended_here = False
        try:
            first = await anext(requests, None)
            if first is None or first.WhichOneof("kind") != "registration":
                raise ServiceError("INVALID_REQUEST", "the first message is not a registration")
            if not self._callers.is_node(context, first.registration.node_id):
                raise ServiceError(
                    "PERMISSION_DENIED",
                    f"the certificate is not that of node {first.registration.node_id}",
                )
            stream, registered = await self._liveness.register(first.registration)
            yield pb.NodeSessionResponse(registered=registered)
            while (request := await _next_request(requests, stream)) is not None:
                if request.WhichOneof("kind") != "heartbeat":
                    raise ServiceError("INVALID_REQUEST", "a later message is not a heartbeat")
                ack = await self._liveness.heartbeat(stream, request.heartbeat)
                yield pb.NodeSessionResponse(heartbeat_ack=ack)
        except ServiceError as error:
            ended_here = True
            await abort(context, error)
        finally:
            if stream is not None:
                self._liveness.closed(stream, by_node=not ended_here)

    async def WatchImage(
        self, request: pb.WatchImageRequest, context: Context
    ) -> AsyncIterator[pb.WatchImageResponse]:
        """See the proto."""
        try:
            cluster_id = self._controller.image.cluster_id
            if request.cluster_id and cluster_id and request.cluster_id != cluster_id:
                raise ServiceError("CLUSTER_MISMATCH", f"this is the metadata of {cluster_id}")
            async for response in self._watchers.watch(lambda: self._controller.image):
                yield response
        except ServiceError as error:
            await abort(context, error)

    async def ReadBarrier(
        self, request: pb.ReadBarrierRequest, context: Context
    ) -> pb.ReadBarrierResponse:
        """See the proto."""
        try:
            return pb.ReadBarrierResponse(version=await self._controller.read_barrier())
        except ServiceError as error:
            await abort(context, error)

    async def Execute(self, request: pb.ExecuteRequest, context: Context) -> pb.ExecuteResponse:
        """See the proto."""
        try:
            self._check_speaker(request, context)
            response = await self._controller.execute(request)
        except ServiceError as error:
            await abort(context, error)
        hydrate_reply(response, self._controller.image)
        return response

    def _check_speaker(self, request: pb.ExecuteRequest, context: Context) -> None:
        # These speak for one node; a field of the message is no proof of it (CVE-2018-1288).
        kind = request.WhichOneof("kind")
        if kind in ("alter_partitions", "report_recovered_logs", "report_damaged_logs"):
            node_id = getattr(request, kind).node_id
            if not self._callers.is_node(context, node_id):
                raise ServiceError(
                    "PERMISSION_DENIED", f"the certificate is not that of node {node_id}"
                )

    async def DescribeQuorum(
        self, request: pb.DescribeQuorumRequest, context: Context
    ) -> pb.DescribeQuorumResponse:
        """See the proto."""
        status = self._consensus.status()
        response = pb.DescribeQuorumResponse(
            cluster_id=self._cluster_id, last_index=status.last_index
        )
        quorum = response.quorum
        if status.leader_id is not None:
            quorum.leader_id = status.leader_id
        quorum.term = status.term
        quorum.commit_index = status.commit_index
        for node_id, address in sorted(self._config.voters):
            node = quorum.nodes.add(node_id=node_id, address=address)
            voter = status.voters.get(node_id)
            node.connected = node_id == status.node_id or (voter is not None and voter.connected)
            if node_id == status.node_id:
                node.last_index = status.last_index
            elif voter is not None and status.is_leader:
                node.last_index = voter.match_index
            if status.is_leader and node.HasField("last_index"):
                node.lag = max(0, status.last_index - node.last_index)
        return response


async def _next_request(
    requests: AsyncIterator[pb.NodeSessionRequest], stream: SessionStream
) -> pb.NodeSessionRequest | None:
    """The next message; None when the node closed the stream. Raises what ends the stream."""

    async def read() -> pb.NodeSessionRequest | None:
        return await anext(requests, None)

    reading = asyncio.get_running_loop().create_task(read())
    try:
        waited: set[asyncio.Future[Any]] = {reading, stream.ended}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if stream.ended.done():
            raise stream.ended.result()
        return reading.result()
    finally:
        reading.cancel()
