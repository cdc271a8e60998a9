"""``grpc.aio.Channel`` on the simulated network: states, reconnecting, calls.

As gRPC does it: a call on an idle channel connects; while the channel is in TRANSIENT_FAILURE,
calls that do not wait for it fail at once with UNAVAILABLE.
"""

from collections.abc import Callable, Sequence
from typing import Any

import grpc

from tests.simulation.world.client_call import SimCall
from tests.simulation.world.network import Connection, Network
from tests.simulation.world.process import Process

_S = grpc.ChannelConnectivity


class SimChannel:
    """Belongs to one process."""

    def __init__(
        self,
        network: Network,
        process: Process,
        address: str,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._network = network
        self.process = process
        self.address = address
        settings = dict(options)
        self._backoff_first_s = settings.get("grpc.initial_reconnect_backoff_ms", 1_000) / 1000
        self._backoff_max_s = settings.get("grpc.max_reconnect_backoff_ms", 120_000) / 1000
        self._connect_s = settings.get("grpc.min_reconnect_backoff_ms", 20_000) / 1000
        self._backoff_s = self._backoff_first_s
        self.state = _S.IDLE
        self._connection: Connection | None = None
        # Calls that wait for the connection.
        self._waiting: dict[SimCall, None] = {}
        self._attempt = 0
        self._calls: dict[SimCall, None] = {}

    # Calls

    def _callable(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
        *,
        streams_requests: bool,
        streams_responses: bool,
    ) -> Callable[..., SimCall]:
        def begin(
            request: Any = None,
            *,
            timeout: float | None = None,
            metadata: Any = None,
            wait_for_ready: bool | None = None,
            **_: Any,
        ) -> SimCall:
            return SimCall(
                self,
                method,
                request,
                request_serializer,
                response_deserializer,
                streams_requests=streams_requests,
                streams_responses=streams_responses,
                timeout_s=timeout,
                metadata=tuple(metadata or ()),
                wait_for_ready=bool(wait_for_ready),
            )

        return begin

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Callable[..., SimCall]:
        """See ``grpc.aio.Channel``."""
        return self._callable(
            method, *args, **options, streams_requests=False, streams_responses=False
        )

    def unary_stream(self, method: str, *args: Any, **options: Any) -> Callable[..., SimCall]:
        """See ``grpc.aio.Channel``."""
        return self._callable(
            method, *args, **options, streams_requests=False, streams_responses=True
        )

    def stream_unary(self, method: str, *args: Any, **options: Any) -> Callable[..., SimCall]:
        """See ``grpc.aio.Channel``."""
        return self._callable(
            method, *args, **options, streams_requests=True, streams_responses=False
        )

    def stream_stream(self, method: str, *args: Any, **options: Any) -> Callable[..., SimCall]:
        """See ``grpc.aio.Channel``."""
        return self._callable(
            method, *args, **options, streams_requests=True, streams_responses=True
        )

    async def close(self, grace: float | None = None) -> None:
        """See ``grpc.aio.Channel``: calls in progress are cancelled."""
        self.state = _S.SHUTDOWN
        for call in tuple(self._calls):
            call.cancel()
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._network.loop.call_in(0.001, connection.break_up, "the channel was closed")

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See ``grpc.aio.Channel``."""
        if try_to_connect and self.state is _S.IDLE:
            self._connect()
        return self.state

    # What calls ask for

    def add(self, call: SimCall) -> None:
        """A call begins: give it a connection now, or once there is one."""
        self._calls[call] = None
        if self.state is _S.SHUTDOWN:
            self.process.call_soon(call.fail, grpc.StatusCode.UNAVAILABLE, "channel is closed")
        elif self.state is _S.READY and self._connection is not None:
            call.connected(self._connection)
        elif self.state is _S.TRANSIENT_FAILURE and not call.wait_for_ready:
            self.process.call_soon(
                call.fail,
                grpc.StatusCode.UNAVAILABLE,
                f"failed to connect to all addresses: {self.address}",
            )
        else:
            self._waiting[call] = None
            if self.state is _S.IDLE:
                self._connect()

    def remove(self, call: SimCall) -> None:
        """A call is over."""
        self._calls.pop(call, None)
        self._waiting.pop(call, None)

    # Connecting

    def _connect(self) -> None:
        self.state = _S.CONNECTING
        self._attempt += 1
        network = self._network
        source, target = self.process.host, self.address.rpartition(":")[0]
        limit_s = max(self._connect_s, self._backoff_s)
        self.process.call_in(limit_s, self._connect_failed, self._attempt)
        if not network.reaches(source, target):
            return  # silence, until the attempt is given up
        there = network.link(source, target).draw_s(network.random)
        network.loop.call_in(there, self._knock, self._attempt, source, target)

    def _knock(self, attempt: int, source: str, target: str) -> None:
        network = self._network
        if not network.reaches(source, target):
            return
        server = network.servers.get(self.address)
        back = network.link(target, source).draw_s(network.random)
        if server is None or not server.process.alive:
            self.process.call_in(back, self._connect_failed, attempt)
        elif server.process.paused:
            # The system accepts connections; nobody answers the HTTP/2 settings.
            server.process.call_soon(self._knock, attempt, source, target)
        else:
            self.process.call_in(back, self._connected, attempt, server)

    def _connected(self, attempt: int, server: Any) -> None:
        if attempt != self._attempt or self.state is not _S.CONNECTING:
            return
        if not server.process.alive or not server.accepting:
            self._connect_failed(attempt)
            return
        self.state = _S.READY
        self._backoff_s = self._backoff_first_s
        connection = self._connection = self._network.connect(self.process, server)
        connection.on_broken.append(lambda: self.process.call_soon(self._lost, connection))
        waiting, self._waiting = self._waiting, {}
        for call in waiting:
            call.connected(connection)

    def _lost(self, connection: Connection) -> None:
        if self._connection is connection:
            self._connection = None
            if self.state is _S.READY:
                self.state = _S.IDLE

    def _connect_failed(self, attempt: int) -> None:
        if attempt != self._attempt or self.state is not _S.CONNECTING:
            return
        self.state = _S.TRANSIENT_FAILURE
        for call in [call for call in self._waiting if not call.wait_for_ready]:
            call.fail(
                grpc.StatusCode.UNAVAILABLE,
                f"failed to connect to all addresses: {self.address}: connection refused",
            )
        pause = self._backoff_s * self.process.random.uniform(0.8, 1.2)
        self._backoff_s = min(self._backoff_s * 1.6, self._backoff_max_s)
        self.process.call_in(pause, self._reconnect)

    def _reconnect(self) -> None:
        if self.state is _S.TRANSIENT_FAILURE:
            self._connect()
