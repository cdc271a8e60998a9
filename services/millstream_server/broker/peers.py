"""Calls to the other brokers: one channel per node, opened on first use (one-hop proxying)."""

import asyncio
from collections.abc import Callable

import grpc

from millstream.v1 import broker_service_pb2_grpc as pb_grpc
from millstream_raft.image import Image
from millstream_server.runtime.errors import ServiceError
from millstream_server.runtime.grpc_server import MESSAGE_BYTES_MAX

_CHANNELS_MAX = 256
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A restarted broker must be found again at once, not after the default two minutes.
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
)


def open_plaintext_channel(address: str) -> grpc.aio.Channel:
    """A channel without encryption."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


class Peers:
    """Stubs of the other brokers by node id; a node that moved gets a new channel."""

    def __init__(
        self, open_channel: Callable[[str], grpc.aio.Channel] = open_plaintext_channel
    ) -> None:
        self._open_channel = open_channel
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Future[None]] = set()

    def stub(self, image: Image, node_id: int) -> "pb_grpc.BrokerServiceAsyncStub":
        """Stub of a broker. Raises ServiceError LEADER_NOT_AVAILABLE if it is not registered."""
        node = image.node(node_id)
        if node is None:
            raise ServiceError("LEADER_NOT_AVAILABLE", f"node {node_id} is not registered")
        host = f"[{node.host}]" if ":" in node.host else node.host
        address = f"{host}:{node.port}"
        channel = self._channels.get(address)
        if channel is None:
            if len(self._channels) >= _CHANNELS_MAX:
                self._drop_oldest()
            channel = self._channels[address] = self._open_channel(address)
        return pb_grpc.BrokerServiceStub(channel)

    def _drop_oldest(self) -> None:
        """Make room for a broker that came back elsewhere; an old address is rarely used again."""
        oldest = self._channels.pop(next(iter(self._channels)))
        closing = asyncio.ensure_future(oldest.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close the channels; calls in flight fail."""
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(channel.close() for channel in channels), *self._closing)
