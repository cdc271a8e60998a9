"""Connections to the other nodes of the cluster: one channel per node, opened on first use.

Whoever needs a connection names the node that it means, not only its address: with TLS the far
side must prove to be that node before anything is sent to it.
"""

import asyncio
from collections.abc import Callable, Sequence

import grpc

from millstream_server.runtime.grpc_server import MESSAGE_BYTES_MAX

ChannelOptions = Sequence[tuple[str, int | str]]
#: Opens a channel to a node (its id, host:port) with the options given.
Dial = Callable[[int, str, ChannelOptions], grpc.aio.Channel]

OPTIONS: ChannelOptions = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A dead host must be noticed although nothing is sent to it; its sessions need it sooner.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 30_000),
    # Without it every ping is waited for one minute, whatever the line above says. It counts for
    # gRPC's own pings too, whose answers queue behind what a slow link has not taken yet.
    ("grpc.http2.ping_timeout_ms", 30_000),
    # A restarted node must be found again at once, not after the default two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # For so long an attempt to connect may take, whatever gRPC calls it: a node that is busy, or a
    # TLS handshake between zones, takes more than the shortest pause between attempts.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    # Retries are ours: gRPC does not know which of them are safe.
    ("grpc.enable_retries", 0),
    # Nodes reach one another directly; a proxy of the environment is for other programs.
    ("grpc.enable_http_proxy", 0),
)
_CHANNELS_MAX = 256


def dial_plaintext(node_id: int, address: str, options: ChannelOptions) -> grpc.aio.Channel:
    """A channel without encryption, for loopback and for networks declared safe."""
    return grpc.aio.insecure_channel(address, options=tuple(options))


class NodeChannels:
    """Channels by node; a node that moved gets a new one."""

    def __init__(self, dial: Dial = dial_plaintext, channels_max: int = _CHANNELS_MAX) -> None:
        self._dial = dial
        self._channels_max = channels_max
        # In order of their last use.
        self._channels: dict[int, tuple[str, grpc.aio.Channel]] = {}
        self._closing: set[asyncio.Future[None]] = set()

    def to(self, node_id: int, address: str) -> grpc.aio.Channel:
        """The channel to a node at host:port. At the bound the one longest unused is closed."""
        known_address, channel = self._channels.pop(node_id, ("", None))
        if channel is not None and known_address != address:
            self._close(channel)
            channel = None
        if channel is None:
            if len(self._channels) >= self._channels_max:
                self._close(self._channels.pop(next(iter(self._channels)))[1])
            channel = self._dial(node_id, address, OPTIONS)
        self._channels[node_id] = (address, channel)
        return channel

    def _close(self, channel: grpc.aio.Channel) -> None:
        closing = asyncio.ensure_future(channel.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all channels; calls on them fail."""
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(channel.close() for _, channel in channels), *self._closing)
