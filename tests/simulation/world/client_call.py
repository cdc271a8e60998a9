"""A call as its client sees it: the four kinds of ``grpc.aio`` calls in one class.

Where gRPC's own behaviour is easily missed it is kept: reading or writing that is cancelled cancels
the call; reading past an error raises it; writing to a call that is over raises InvalidStateError.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING, Any
from zlib import crc32

import grpc

from tests.simulation.world.network import Connection

if TYPE_CHECKING:
    from tests.simulation.world.channel import SimChannel

EOF = grpc.aio.EOF
_OK = grpc.StatusCode.OK
# Bytes that may be on their way in one direction of a stream, as HTTP/2's window.
WINDOW_BYTES = 256 * 1024
MetadataPairs = tuple[tuple[str, Any], ...]


def fingerprint(method: str, data: bytes) -> int:
    """What the trace keeps of a message. Messages of metadata hold maps, which protobuf writes in
    an order that differs from process to process: of them it keeps the length."""
    return len(data) if "Metadata" in method or "Controller" in method else crc32(data)


class SimCall:
    """Made by a channel; see ``grpc.aio.Call`` and its kin."""

    def __init__(
        self,
        channel: "SimChannel",
        method: str,
        request: Any,
        serialize: Callable[[Any], bytes] | None,
        deserialize: Callable[[bytes], Any] | None,
        *,
        streams_requests: bool,
        streams_responses: bool,
        timeout_s: float | None,
        metadata: MetadataPairs,
        wait_for_ready: bool,
    ) -> None:
        self._channel = channel
        self._loop = channel.process.loop
        self.method = method
        self._serialize, self._deserialize = serialize, deserialize
        self._streams_responses = streams_responses
        self.metadata = metadata
        self.wait_for_ready = wait_for_ready
        self._connection: Connection | None = None
        self._server_call: Any = None
        # What is to be sent once there is a connection.
        self._outbox: list[tuple[str, Any]] = []
        self._inbox: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._status: tuple[grpc.StatusCode, str, MetadataPairs] | None = None
        self._ended = asyncio.Event()
        # Connected, or over.
        self._prepared = asyncio.Event()
        self._cancelled_here = False
        self._half_closed = False
        self._unread_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._callbacks: list[Callable[[Any], None]] = []
        self._timer: Any = None
        self.deadline_s = timeout_s
        self._deadline_at = None if timeout_s is None else self._loop.time() + timeout_s
        if timeout_s is not None:
            self._timer = self._loop.call_later(timeout_s, self._deadline_passed)
        if not streams_requests:
            self._post("message", self._encode(request))
            self._post("half_close", None)
            self._half_closed = True
        elif request is not None:
            self._feeding = self._loop.create_task(self._feed(request))
        channel.add(self)

    # From the channel

    def connected(self, connection: Connection) -> None:
        """There is a connection: begin the call on it."""
        if self._status is not None:
            return
        self._connection = connection
        self._prepared.set()
        connection.client_calls[self] = None
        self._server_call = connection.server.new_call(connection, self)
        connection.up.send(self._server_call.begin)
        outbox, self._outbox = self._outbox, []
        for kind, data in outbox:
            self._send(kind, data)

    def connection_lost(self, why: str) -> None:
        """The connection broke."""
        self.fail(grpc.StatusCode.UNAVAILABLE, why)

    # From the server, over the network

    def on_message(self, data: bytes) -> None:
        """A response arrived."""
        if self._status is None:
            self._inbox.append(data)
            self._news.set()

    def on_status(self, code: grpc.StatusCode, details: str, trailing: MetadataPairs) -> None:
        """The server ended the call."""
        self._end(code, details, trailing)

    def on_room(self, size: int) -> None:
        """The server read so many bytes."""
        self._unread_bytes -= size
        if self._unread_bytes < WINDOW_BYTES:
            self._room.set()

    # The end

    def fail(self, code: grpc.StatusCode, details: str) -> None:
        """End the call from this side."""
        self._end(code, details, ())

    def _deadline_passed(self) -> None:
        self._stop_server()
        self.fail(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def _end(self, code: grpc.StatusCode, details: str, trailing: MetadataPairs) -> None:
        if self._status is not None:
            return
        self._status = (code, details, trailing)
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None:
            self._connection.client_calls.pop(self, None)
        self._channel.remove(self)
        self._ended.set()
        self._prepared.set()
        self._news.set()
        self._room.set()
        for callback in self._callbacks:
            callback(self)

    def _stop_server(self) -> None:
        if self._connection is not None and self._server_call is not None:
            self._connection.up.send(self._server_call.cancelled_by_client)

    def cancel(self) -> bool:
        """See ``grpc.aio.Call``."""
        if self._status is not None:
            return False
        self._cancelled_here = True
        self._stop_server()
        self._inbox.clear()
        self.fail(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
        return True

    def cancelled(self) -> bool:
        """See ``grpc.aio.Call``."""
        return self._status is not None and self._status[0] is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        """See ``grpc.aio.Call``."""
        return self._status is not None

    def time_remaining(self) -> float | None:
        """See ``grpc.aio.Call``."""
        return (
            None if self._deadline_at is None else max(0.0, self._deadline_at - self._loop.time())
        )

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """See ``grpc.aio.Call``."""
        if self._status is not None:
            callback(self)
        else:
            self._callbacks.append(callback)

    async def code(self) -> grpc.StatusCode:
        """See ``grpc.aio.Call``."""
        await self._ended.wait()
        assert self._status is not None
        return self._status[0]

    async def details(self) -> str:
        """See ``grpc.aio.Call``."""
        await self._ended.wait()
        assert self._status is not None
        return self._status[1]

    async def trailing_metadata(self) -> MetadataPairs:
        """See ``grpc.aio.Call``."""
        await self._ended.wait()
        assert self._status is not None
        return self._status[2]

    async def initial_metadata(self) -> MetadataPairs:
        """See ``grpc.aio.Call``."""
        return ()

    async def wait_for_connection(self) -> None:
        """See ``grpc.aio.Call``."""
        await self._prepared.wait()
        self._raise_for_status()

    def _raise_for_status(self) -> None:
        if self._status is None:
            return
        if self._cancelled_here:
            raise asyncio.CancelledError
        code, details, trailing = self._status
        if code is not _OK:
            raise grpc.aio.AioRpcError(
                code,
                grpc.aio.Metadata(),
                grpc.aio.Metadata(*trailing),
                details=details,
                debug_error_string=details,
            )

    # Requests

    def _encode(self, message: Any) -> bytes:
        return self._serialize(message) if self._serialize is not None else message

    def _post(self, kind: str, data: Any) -> None:
        if self._connection is None:
            self._outbox.append((kind, data))
        else:
            self._send(kind, data)

    def _send(self, kind: str, data: Any) -> None:
        assert self._connection is not None
        up = self._connection.up
        if kind == "message":
            self._loop.note(fingerprint(self.method, data))
            self._unread_bytes += len(data)
            if self._unread_bytes >= WINDOW_BYTES:
                self._room.clear()
            up.send(self._server_call.on_message, data)
        else:
            up.send(self._server_call.on_half_close)

    async def write(self, message: Any) -> None:
        """See ``grpc.aio.StreamStreamCall``."""
        if self._status is not None:
            raise asyncio.InvalidStateError("RPC already finished.")
        if self._half_closed:
            raise asyncio.InvalidStateError("RPC is half closed after calling done_writing().")
        data = self._encode(message)
        try:
            await asyncio.sleep(0)
            while not self._room.is_set():
                await self._room.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        self._raise_for_status()
        self._post("message", data)

    async def done_writing(self) -> None:
        """See ``grpc.aio.StreamStreamCall``."""
        if self._status is None and not self._half_closed:
            self._half_closed = True
            self._post("half_close", None)

    async def _feed(self, requests: Any) -> None:
        try:
            if hasattr(requests, "__aiter__"):
                async for request in requests:
                    await self.write(request)
            else:
                for request in requests:
                    await self.write(request)
            await self.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        except Exception:  # noqa: BLE001 - as gRPC does
            self.cancel()

    # Responses

    async def read(self) -> Any:
        """See ``grpc.aio.StreamStreamCall``."""
        try:
            data = await self._next()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if data is None:
            self._raise_for_status()
            return EOF
        return self._deserialize(data) if self._deserialize is not None else data

    async def _next(self) -> bytes | None:
        while not self._inbox:
            if self._status is not None:
                return None
            self._news.clear()
            await self._news.wait()
        data = self._inbox.popleft()
        if self._connection is not None:
            self._connection.up.send(self._server_call.on_room, len(data))
        return data

    async def _messages(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not EOF:
            yield message

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._messages()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        try:
            await self._ended.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        self._raise_for_status()
        data = self._inbox.popleft()
        return self._deserialize(data) if self._deserialize is not None else data
