"""One `Session` stream: a member's messages in, answers and pushed assignments out.

The call's task writes; another reads. Messages are handled in the order in which they come: a
commit that must first learn the end of a log holds back what follows, so that no report of
partitions given up overtakes the commit before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc

from millstream.v1 import group_coordinator_service_pb2 as pb
from millstream_server.coordinator import messages
from millstream_server.coordinator.admission import Admission
from millstream_server.coordinator.changes import AssignmentPush, Moment, Result
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.end_offsets import EndOffsets
from millstream_server.coordinator.group_shard import GroupShard
from millstream_server.coordinator.membership import HeartbeatRequest, JoinReply
from millstream_server.coordinator.positions import PositionCommit
from millstream_server.coordinator.refusal import Refusal
from millstream_server.coordinator.shard_runtime import ShardRuntime
from millstream_server.coordinator.shards import Shards
from millstream_server.runtime.errors import ServiceError

_Context = grpc.aio.ServicerContext[Any, Any]


class SessionStream:
    """The state of one stream. Everything runs on the event loop."""

    def __init__(
        self,
        number: int,
        peer: str,
        shards: Shards,
        admission: Admission,
        end_offsets: EndOffsets,
        config: CoordinatorConfig,
    ) -> None:
        self._number = number
        self._client_host = _host_of(peer)
        self._shards = shards
        self._admission = admission
        self._end_offsets = end_offsets
        self._config = config
        self._shard: ShardRuntime | None = None
        self._group_id = ""
        self._member_id = ""
        self._instance_id = ""
        self._out: deque[pb.SessionResponse] = deque()
        self._unanswered = 0
        self._error: ServiceError | None = None
        # Set when nothing follows what is in ``_out`` and what is not answered yet.
        self._ending = False
        self._wake = asyncio.Event()
        self._room = asyncio.Event()

    async def run(self, context: _Context) -> None:
        """Serve until either side ends the stream. Raises ServiceError when the member has to
        act."""
        reading = asyncio.ensure_future(self._read(context))
        try:
            await self._write(context)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            self._leave_shard()

    # The shard's side

    def push(self, message: AssignmentPush) -> None:
        """Send an assignment."""
        self._send(pb.SessionResponse(assignment=messages.assignment(message, self._shards.topics)))

    def end(self, error: ServiceError) -> None:
        """End the stream, after what was sent on it."""
        if self._error is None:
            self._error = error
        self._wake.set()

    # Out

    def _send(self, response: pb.SessionResponse) -> None:
        if len(self._out) >= self._config.stream_unsent_max:
            self._out.clear()
            self.end(ServiceError("THROTTLED", "the member does not read its stream"))
            return
        self._out.append(response)
        self._wake.set()

    async def _write(self, context: _Context) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._out:
                await context.write(self._out.popleft())
            if self._error is not None:
                raise self._error
            if self._ending and not self._unanswered and not self._out:
                return

    def _answering(
        self, correlation_id: int, response: Callable[[Any], pb.SessionResponse]
    ) -> Callable[[Any, ServiceError | None], None]:
        """What is to be done with a handler's reply."""
        self._unanswered += 1

        def done(reply: Any, error: ServiceError | None) -> None:
            self._unanswered -= 1
            self._room.set()
            if error is not None:
                self.end(error)
                return
            answer = response(reply)
            answer.correlation_id = correlation_id
            self._send(answer)

        return done

    # In

    async def _read(self, context: _Context) -> None:
        try:
            while True:
                request = await context.read()
                if request is grpc.aio.EOF:
                    break
                if request is None:
                    raise ServiceError("INVALID_REQUEST", "the message is not a SessionRequest")
                if await self._handle(request):
                    break
                while self._unanswered >= self._config.stream_unanswered_max:
                    self._room.clear()
                    await self._room.wait()
        except ServiceError as error:
            self.end(error)
        except Refusal as refusal:
            self.end(ServiceError(refusal.reason, refusal.message))
        except Exception as bug:  # noqa: BLE001 - the member must hear of it, not wait
            self.end(ServiceError("INTERNAL", f"{type(bug).__name__}: {bug}"))
        self._ending = True
        self._wake.set()

    async def _handle(self, request: pb.SessionRequest) -> bool:
        """Handle a message; True if it was the last one."""
        kind = request.WhichOneof("kind")
        if kind == "join":
            self._join(request.correlation_id, request.join)
            return False
        shard = self._shard
        if shard is None:
            raise ServiceError("INVALID_REQUEST", "kind: the first message must be a join")
        if kind == "heartbeat":
            self._heartbeat(shard, request.correlation_id, request.heartbeat)
        elif kind == "commit":
            await self._commit(shard, request.correlation_id, request.commit)
        elif kind == "leave":
            self._leave(shard, request.correlation_id, request.leave)
            return True
        else:
            raise ServiceError("INVALID_REQUEST", "kind: nothing that is known here is set")
        return False

    def _join(self, correlation_id: int, message: pb.Join) -> None:
        if self._shard is not None and message.group_id != self._group_id:
            raise ServiceError("INVALID_REQUEST", "group_id: a stream belongs to one group")
        request = self._admission.check_join(
            messages.join_request(message, self._client_host, self._shards.topics)
        )
        if self._member_id and request.member_id != self._member_id:
            raise ServiceError("INVALID_REQUEST", "member_id: a stream belongs to one member")
        shard = self._shards.of_group(request.group_id)

        def handler(core: GroupShard, now: Moment) -> Result[JoinReply]:
            shard.streams[self._number] = self
            result = core.membership.join(request, self._number, now)
            self._member_id = result.reply.member_id
            return result

        self._shard = shard
        self._group_id = request.group_id
        self._instance_id = request.metadata.instance_id
        answer = self._answering(
            correlation_id, lambda reply: pb.SessionResponse(joined=messages.joined(reply))
        )
        shard.submit(handler, answer)

    def _heartbeat(self, shard: ShardRuntime, correlation_id: int, message: pb.Heartbeat) -> None:
        self._check_member(message.member_id)
        request = HeartbeatRequest(
            self._group_id,
            self._member_id,
            message.member_epoch,
            messages.partitions_of(message.owned, self._shards.topics),
            self._admission.check_topics(tuple(message.topics)) if message.topics else None,
            self._admission.check_pattern(message.topic_pattern)
            if message.HasField("topic_pattern")
            else None,
            self._instance_id,
        )
        shard.submit(
            lambda core, now: core.membership.heartbeat(request, self._number, now),
            self._answering(
                correlation_id,
                lambda epoch: pb.SessionResponse(heartbeat_ack=pb.HeartbeatAck(member_epoch=epoch)),
            ),
        )

    async def _commit(
        self, shard: ShardRuntime, correlation_id: int, message: pb.SessionCommit
    ) -> None:
        self._check_member(message.member_id)
        self._admission.check_offset_count(len(message.offsets))
        commits = [
            messages.position_commit(entry, self._shards.topics) for entry in message.offsets
        ]
        meant = [commit for commit in commits if isinstance(commit, PositionCommit)]
        bounds = await self._end_offsets.bounds_for(meant)
        shard.submit(
            lambda core, now: core.positions.commit_as_member(
                self._group_id,
                self._member_id,
                message.member_epoch,
                self._instance_id,
                meant,
                bounds,
                stream=self._number,
                now=now,
            ),
            self._answering(
                correlation_id,
                lambda outcomes: pb.SessionResponse(
                    commit_result=pb.SessionCommitResult(
                        results=messages.commit_results(message.offsets, commits, outcomes)
                    )
                ),
            ),
        )

    def _leave(self, shard: ShardRuntime, correlation_id: int, message: pb.Leave) -> None:
        self._check_member(message.member_id)
        shard.submit(
            lambda core, now: core.membership.leave(
                self._group_id,
                self._member_id,
                temporary=message.temporary,
                instance_id=self._instance_id,
                stream=self._number,
                now=now,
            ),
            self._answering(correlation_id, lambda _: pb.SessionResponse(left=pb.Left())),
        )

    def _check_member(self, member_id: str) -> None:
        if member_id != self._member_id:
            raise ServiceError("UNKNOWN_MEMBER", "member_id: not the member of this stream")

    def _leave_shard(self) -> None:
        shard = self._shard
        if shard is None:
            return
        shard.streams.pop(self._number, None)
        if self._member_id:
            shard.core.membership.stream_broken(self._group_id, self._member_id, self._number)


def _host_of(peer: str) -> str:
    """Address of a gRPC peer such as ``ipv4:127.0.0.1:5000``, without the port, which changes
    with every connection."""
    return peer.partition(":")[2].rpartition(":")[0].strip("[]") or peer
