"""This node's own request sessions, for writes whose callers gave no request id.

They make this node's retries exactly-once. A session has one request on its way at a time, so its
window of remembered answers never runs over; several sessions side by side allow several writes.
"""

import asyncio

from millstream_raft.decide import request_id_of
from millstream_server.cluster.controller_client import ControllerClient, OutcomeDoubt
from millstream_server.runtime.errors import ServiceError
from millstream_server.v1 import controller_service_pb2 as pb


class _Session:
    def __init__(self) -> None:
        self.session_id = 0
        self.sequence = 0


class RequestSessions:
    """Executes writes, each with a request id."""

    def __init__(self, client: ControllerClient, sessions_max: int) -> None:
        self._client = client
        self._idle = [_Session() for _ in range(sessions_max)]
        self._free = asyncio.Semaphore(sessions_max)

    async def execute(self, request: pb.ExecuteRequest, timeout_ms: int) -> pb.ExecuteResponse:
        """Execute a write; one with a request id, or of a kind that has none, as it is."""
        kind = request.WhichOneof("kind")
        body = getattr(request, kind) if kind is not None else None
        takes_id = body is not None and "request_id" in body.DESCRIPTOR.fields_by_name
        if not takes_id or request_id_of(request) is not None:
            return await self._client.execute(request, timeout_ms)
        async with self._free:
            session = self._idle.pop()
            try:
                return await self._execute_in(session, request, timeout_ms)
            finally:
                self._idle.append(session)

    async def _execute_in(
        self, session: _Session, request: pb.ExecuteRequest, timeout_ms: int
    ) -> pb.ExecuteResponse:
        for _ in range(2):
            if not session.session_id:
                await self._open(session, timeout_ms)
            session.sequence += 1
            own = pb.ExecuteRequest()
            own.CopyFrom(request)
            kind = own.WhichOneof("kind")
            assert kind is not None
            request_id = getattr(own, kind).request_id
            request_id.session_id, request_id.sequence = session.session_id, session.sequence
            doubt = OutcomeDoubt()
            try:
                return await self._client.execute(own, timeout_ms, doubt)
            except ServiceError as error:
                if error.reason != "UNKNOWN_SESSION":
                    raise
                session.session_id = session.sequence = 0
                if doubt.exists:  # an earlier try may have been executed before the session ended
                    raise ServiceError(
                        "QUORUM_UNAVAILABLE", "the write may have taken effect"
                    ) from None
        raise ServiceError("UNKNOWN_SESSION", "request sessions end as soon as they are opened")

    async def _open(self, session: _Session, timeout_ms: int) -> None:
        request = pb.ExecuteRequest()
        request.open_request_session.SetInParent()
        response = await self._client.execute(request, timeout_ms)
        session.session_id = response.open_request_session.session_id
        session.sequence = 0
