"""Connections to the metadata nodes."""

from collections.abc import Sequence
from typing import Any

import grpc

from millstream_server.runtime.grpc_server import MESSAGE_BYTES_MAX
from millstream_server.v1 import controller_service_pb2_grpc as pb_grpc

_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A dead host must be noticed although nothing is sent to it; its sessions need it sooner.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Retries are ours: gRPC does not know which of them are safe.
    ("grpc.enable_retries", 0),
)


class MetadataChannels:
    """One channel per address, opened on first use."""

    def __init__(self, bootstrap: Sequence[tuple[int, str]]) -> None:
        if not bootstrap:
            raise ValueError("no metadata node is named")
        self._addresses = [address for _, address in bootstrap]
        self._allowed = frozenset(self._addresses)
        self._channels: dict[str, grpc.aio.Channel] = {}

    @property
    def addresses(self) -> list[str]:
        """Addresses of the metadata nodes, as configured."""
        return list(self._addresses)

    def is_known(self, address: str) -> bool:
        """True for a configured address; hints to others are not followed."""
        return address in self._allowed

    def stub(self, address: str) -> "pb_grpc.ControllerServiceAsyncStub":
        """Calls to a metadata node."""
        channel = self._channels.get(address)
        if channel is None:
            channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
            self._channels[address] = channel
        return pb_grpc.ControllerServiceStub(channel)

    async def close(self) -> None:
        """Close all channels."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()
