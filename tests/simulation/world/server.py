"""``grpc.aio.Server`` and its calls on the simulated network; servicers and handlers unchanged."""

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import grpc

from tests.simulation.world.client_call import (
    EOF,
    WINDOW_BYTES,
    MetadataPairs,
    SimCall,
    fingerprint,
)
from tests.simulation.world.network import Connection, Network
from tests.simulation.world.process import Process


class SimServer:
    """Belongs to one process, and listens on one address."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self.process = process
        self.accepting = False
        self.address = ""
        self._handlers: dict[str, Any] = {}
        self._generic: list[Any] = []
        self.calls: dict[ServerCall, None] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """See ``grpc.aio.Server``."""
        self._generic.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """See ``grpc.aio.Server``."""
        for name, handler in handlers.items():
            self._handlers[f"/{service}/{name}"] = handler

    def add_insecure_port(self, address: str) -> int:
        """See ``grpc.aio.Server``. One port of the process's host."""
        port = int(address.rpartition(":")[2]) or self._network.free_port()
        self.address = f"{self.process.host}:{port}"
        return port

    async def start(self) -> None:
        """See ``grpc.aio.Server``."""
        self.accepting = True
        self._network.servers[self.address] = self

    async def stop(self, grace: float | None) -> None:
        """See ``grpc.aio.Server``."""
        self.accepting = False
        if self._network.servers.get(self.address) is self:
            del self._network.servers[self.address]
        if grace and self.calls:
            tasks = [call.task for call in self.calls if call.task is not None]
            if tasks:
                await asyncio.wait(tasks, timeout=grace)
        for connection in [one for one in self._network.connections if one.server is self]:
            connection.break_up("the server went away")
        await asyncio.sleep(0)

    def new_call(self, connection: Connection, client: SimCall) -> "ServerCall":
        """The other end of a call; it begins when its head arrives."""
        return ServerCall(self, connection, client)

    def handler(self, method: str) -> Any:
        """The handler of a method, None if there is none."""
        found = self._handlers.get(method)
        if found is None:
            details = SimpleNamespace(method=method, invocation_metadata=())
            for generic in self._generic:
                found = found or generic.service(details)
        return found


class ServerCall:
    """A call as its server sees it; also the ``grpc.aio.ServicerContext``."""

    def __init__(self, server: SimServer, connection: Connection, client: SimCall) -> None:
        self._server = server
        self._connection = connection
        self._client = client
        self._loop = server.process.loop
        self.task: asyncio.Task[None] | None = None
        self._handler: Any = None
        self._inbox: deque[bytes] = deque()
        self._half_closed = False
        self._news = asyncio.Event()
        self._unread_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._code: Any = None
        self._details = ""
        self._trailing: MetadataPairs = ()
        self._aborted: grpc.aio.AbortError | None = None
        self._over = False
        self._deadline_at: float | None = None
        self._callbacks: list[Callable[[Any], None]] = []

    # From the client, over the network

    def begin(self) -> None:
        """The head of the call arrived."""
        self._handler = self._server.handler(self._client.method)
        self._connection.server_calls[self] = None
        self._server.calls[self] = None
        if self._client.deadline_s is not None:
            self._deadline_at = self._loop.time() + self._client.deadline_s
        if not self._server.accepting or self._handler is None:
            code = grpc.StatusCode.UNAVAILABLE if self._handler else grpc.StatusCode.UNIMPLEMENTED
            self._finish(code, "the server does not take this call")
            return
        self.task = self._loop.create_task(self._serve())

    def on_message(self, data: bytes) -> None:
        """A request arrived."""
        self._inbox.append(data)
        self._news.set()

    def on_half_close(self) -> None:
        """No more requests will come."""
        self._half_closed = True
        self._news.set()

    def on_room(self, size: int) -> None:
        """The client read so many bytes."""
        self._unread_bytes -= size
        if self._unread_bytes < WINDOW_BYTES:
            self._room.set()

    def cancelled_by_client(self) -> None:
        """The client wants nothing more."""
        self._cancel()

    def connection_lost(self) -> None:
        """The connection broke."""
        self._cancel()

    def _cancel(self) -> None:
        if self._over:
            return
        self._half_closed = True
        if self.task is not None:
            self.task.cancel()
        self._news.set()
        self._room.set()

    # Serving

    async def _serve(self) -> None:
        code, details = grpc.StatusCode.OK, ""
        try:
            await self._call_handler()
        except asyncio.CancelledError:
            code, details = grpc.StatusCode.CANCELLED, "cancelled"
        except Exception as error:  # noqa: BLE001 - told to the client, as gRPC does
            if error is not self._aborted:
                code = grpc.StatusCode.UNKNOWN
                details = f"Unexpected {type(error)}: {error}"
                self._loop.call_exception_handler(
                    {"message": f"{self._client.method} raised", "exception": error}
                )
        if self._aborted is not None or (self._code is not None and code is grpc.StatusCode.OK):
            code, details = self._code, self._details
        self._finish(code, details)

    def _finish(self, code: grpc.StatusCode, details: str) -> None:
        self._over = True
        self._server.calls.pop(self, None)
        self._connection.server_calls.pop(self, None)
        self._connection.down.send(self._client.on_status, code, details, self._trailing)
        for callback in self._callbacks:
            callback(self)

    async def _call_handler(self) -> None:
        handler = self._handler
        request: Any = self._requests()
        if not handler.request_streaming:
            request = await self.read()
            if request is EOF:
                return
        behaviour = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )
        if inspect.isasyncgenfunction(behaviour):
            responses = behaviour(request, self)
            async for response in responses:
                await self.write(response)
        else:
            response = await behaviour(request, self)
            if not handler.response_streaming:
                await self.write(response)

    async def _requests(self) -> AsyncIterator[Any]:
        while (request := await self.read()) is not EOF:
            yield request

    # The context

    async def read(self) -> Any:
        """See ``grpc.aio.ServicerContext``."""
        self._check()
        while not self._inbox:
            if self._half_closed:
                return EOF
            self._news.clear()
            await self._news.wait()
        data = self._inbox.popleft()
        self._connection.down.send(self._client.on_room, len(data))
        deserialize = self._handler.request_deserializer
        return deserialize(data) if deserialize is not None else data

    async def write(self, message: Any) -> None:
        """See ``grpc.aio.ServicerContext``."""
        self._check()
        serialize = self._handler.response_serializer
        data = serialize(message) if serialize is not None else message
        await asyncio.sleep(0)
        while not self._room.is_set():
            await self._room.wait()
        self._loop.note(fingerprint(self._client.method, data))
        self._unread_bytes += len(data)
        if self._unread_bytes >= WINDOW_BYTES:
            self._room.clear()
        self._connection.down.send(self._client.on_message, data)

    def _check(self) -> None:
        if self._aborted is not None:
            raise self._aborted
        if self._over:
            raise grpc.aio.UsageError("RPC already finished.")

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn:
        """See ``grpc.aio.ServicerContext``."""
        if self._aborted is not None:
            raise grpc.aio.UsageError("Abort already called!")
        self._code, self._details = code, details
        self._trailing = tuple(trailing_metadata) or self._trailing
        self._aborted = grpc.aio.AbortError("Locally aborted.")
        raise self._aborted

    def set_trailing_metadata(self, trailing: Any) -> None:
        """See ``grpc.aio.ServicerContext``."""
        self._trailing = tuple(trailing)

    async def send_initial_metadata(self, metadata: Any) -> None:
        """See ``grpc.aio.ServicerContext``. Nobody reads it here."""

    def invocation_metadata(self) -> MetadataPairs:
        """See ``grpc.aio.ServicerContext``."""
        return self._client.metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """See ``grpc.aio.ServicerContext``."""
        self._code = code

    def set_details(self, details: str) -> None:
        """See ``grpc.aio.ServicerContext``."""
        self._details = details

    def code(self) -> Any:
        """See ``grpc.aio.ServicerContext``."""
        return self._code

    def details(self) -> str:
        """See ``grpc.aio.ServicerContext``."""
        return self._details

    def peer(self) -> str:
        """See ``grpc.aio.ServicerContext``."""
        return f"ipv4:{self._connection.client.host}:{self._connection.number}"

    def auth_context(self) -> dict[str, list[bytes]]:
        """See ``grpc.aio.ServicerContext``. Nothing is encrypted here."""
        return {}

    def peer_identities(self) -> None:
        """See ``grpc.aio.ServicerContext``. Nobody proves who he is here."""

    def peer_identity_key(self) -> None:
        """See ``grpc.aio.ServicerContext``."""

    def time_remaining(self) -> float | None:
        """See ``grpc.aio.ServicerContext``."""
        if self._deadline_at is None:
            return None
        return max(0.0, self._deadline_at - self._loop.time())

    def cancelled(self) -> bool:
        """See ``grpc.aio.ServicerContext``."""
        return self._over and self._code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        """See ``grpc.aio.ServicerContext``."""
        return self._over

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """See ``grpc.aio.ServicerContext``."""
        self._callbacks.append(callback)
