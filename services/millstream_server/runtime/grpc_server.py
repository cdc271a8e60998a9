"""The one gRPC port of a node: server options, health, reflection."""

from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from millstream_server.runtime.callers import Callers, UnknownCallers
from millstream_server.runtime.grpc_metrics import GrpcServerMetrics, MetricsInterceptor
from millstream_server.runtime.malformed import MalformedRequestInterceptor
from millstream_server.runtime.node_gate import NodeGate, RefusedPeers

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
_STREAMS_MAX = 1000
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

SERVER_OPTIONS: Sequence[tuple[str, Any]] = (
    # Without this a second process could share the port, and take a part of the connections.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_concurrent_streams", _STREAMS_MAX),
    # Clients ping idle connections to notice dead ones; do not punish them for it.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 30_000),
    ("grpc.http2.ping_timeout_ms", 30_000),
)

# Health entries beside one per service: what probes ask for.
LIVE, STARTUP, READY = "", "startup", "ready"


class GrpcServer:
    """A grpc.aio server with metrics, health and, unless switched off, reflection.

    Add servicers to ``server`` between construction and ``start``.
    """

    def __init__(
        self,
        address: str,
        registry: CollectorRegistry,
        *,
        reflection: bool,
        callers: Callers | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """``callers`` judges who may call internal methods; by default everybody. Without
        ``credentials`` the port is plaintext. Raises RuntimeError when the address is in use."""
        self._reflection = reflection
        self.server = grpc.aio.server(
            interceptors=(
                MetricsInterceptor(GrpcServerMetrics(registry)),
                NodeGate(callers or UnknownCallers(), RefusedPeers(registry)),
                MalformedRequestInterceptor(),
            ),
            options=SERVER_OPTIONS,
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        if credentials is None:
            self.port = self.server.add_insecure_port(address)
        else:
            self.port = self.server.add_secure_port(address, credentials)

    async def start(self, services: Sequence[str]) -> None:
        """Serve. ``services`` are the full names of the services added; they start as not
        serving."""
        names = (*services, health.SERVICE_NAME)
        if self._reflection:
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self.server)
        await self._health.set(LIVE, _SERVING)
        for name in (STARTUP, READY, *services):
            await self._health.set(name, _NOT_SERVING)
        await self.server.start()

    async def set_serving(self, *names: str, serving: bool = True) -> None:
        """Answer health checks of these entries with SERVING or NOT_SERVING."""
        for name in names:
            await self._health.set(name, _SERVING if serving else _NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, give running ones ``grace_s`` seconds, then end them."""
        await self._health.enter_graceful_shutdown()
        await self.server.stop(grace_s)
