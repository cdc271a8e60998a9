"""Messages between voters over the services' gRPC: one client-streaming call to each other voter,
Protobuf only, ordered, at most once.

Everything here runs on the event loop. What arrives is decoded and checked here, then handed to
``Events``; what leaves waits in a bounded queue per voter, is encoded when the connection takes it,
and is forgotten when the connection breaks: Raft repairs losses, but not what is late or doubled.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc
import structlog

from millstream_raft.raft_codec import MalformedMessage, decode, encode
from millstream_raft.raft_config import RaftConfig
from millstream_raft.raft_messages import AppendEntries, Envelope, InstallSnapshot
from millstream_server.v1 import raft_pb2 as wire
from millstream_server.v1 import raft_pb2_grpc

_log = structlog.get_logger()
#: Messages are coalesced up to this size; with the largest message it stays below 4 MiB.
_COALESCED_BYTES_MAX = 1 << 20
_OVERHEAD_BYTES = 64
_CONNECT_TIMEOUT_S = 5.0
#: Initial metadata of a stream whose hello was accepted.
_ACCEPTED = ("raft-hello", "accepted")

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A dead host must be noticed sooner than by TCP; a live one answers pings by itself.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 30_000),
    # Without it every ping is waited for one minute, whatever the line above says.
    ("grpc.http2.ping_timeout_ms", 30_000),
    # A restarted voter should be heard within an election, not after gRPC's default of 20 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    # For so long an attempt to connect may take, whatever gRPC calls it.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    # Never share a connection with other channels of the process to the same address.
    ("grpc.use_local_subchannel_pool", 1),
    # At most once: what may have arrived is never sent again.
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)

ChannelFactory = Callable[[int, str], grpc.aio.Channel]
PeerCheck = Callable[[grpc.aio.ServicerContext[Any, Any], int], bool]


def open_plaintext_channel(peer_id: int, address: str) -> grpc.aio.Channel:
    """A channel without encryption, for loopback and for networks declared safe."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)


def accept_any_peer(context: grpc.aio.ServicerContext[Any, Any], peer_id: int) -> bool:
    """Believe what the hello says: right only where nobody else can reach the port. With mTLS, a
    check that compares the certificate in ``context.auth_context()`` takes its place."""
    return True


class Events(Protocol):
    """What the transport tells."""

    def message_arrived(self, sender: int, envelope: Envelope) -> None:
        """A voter's message, in the order in which it was sent."""

    def peer_connected(self, peer: int) -> None:
        """Messages to a voter are accepted from now on."""

    def peer_disconnected(self, peer: int) -> None:
        """The connection to a voter is gone, with everything that waited for it."""


class PeerQueue:
    """What waits for one voter."""

    def __init__(self, config: RaftConfig) -> None:
        self._config = config
        self._waiting: deque[tuple[Envelope, int]] = deque()
        self._bytes = 0
        self.changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, envelope: Envelope) -> bool:
        """Queue a message; False if it was dropped because too much waits."""
        size = _size(envelope)
        limit = self._config.queue_bytes_max
        if isinstance(envelope.message, InstallSnapshot):
            limit += self._config.snapshot_bytes_max  # sent in one burst, or never complete
        if len(self._waiting) >= self._config.queue_messages_max or self._bytes + size > limit:
            return False
        self._waiting.append((envelope, size))
        self._bytes += size
        self.changed.set()
        return True

    def take(self) -> list[Envelope]:
        """The oldest messages, as many as travel together well."""
        taken: list[Envelope] = []
        size = 0
        while self._waiting:
            envelope, following = self._waiting[0]
            if taken and size + following > _COALESCED_BYTES_MAX:
                break
            self._waiting.popleft()
            size += following
            taken.append(envelope)
        self._bytes -= size
        return taken

    def clear(self) -> None:
        """Forget everything."""
        self._waiting.clear()
        self._bytes = 0


class Link:
    """The outgoing stream to one voter, opened anew whenever it breaks."""

    def __init__(
        self,
        peer_id: int,
        address: str,
        hello: wire.RaftHello,
        events: Events,
        config: RaftConfig,
        channel_factory: ChannelFactory,
    ) -> None:
        self._peer_id = peer_id
        self._address = address
        self._hello = hello
        self._events = events
        self._config = config
        self._channel_factory = channel_factory
        self._queue = PeerQueue(config)
        self._connected = False
        self._outage_told = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect."""
        name = f"raft link to {self._peer_id}"
        self._task = asyncio.get_running_loop().create_task(self._run(), name=name)

    async def stop(self) -> None:
        """Close the stream."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def send(self, envelope: Envelope) -> None:
        """Send a message, or drop it: while there is no connection, and when too much waits."""
        if self._connected:
            self._queue.put(envelope)

    async def _run(self) -> None:
        channel = self._channel_factory(self._peer_id, self._address)
        stub = raft_pb2_grpc.RaftServiceStub(channel)
        try:
            while True:
                try:
                    await self._converse(stub, was_reached=await self._reach(channel))
                except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
                    pass  # the status was the peer's way to say that it goes or restarts
                except TimeoutError:
                    self._tell_outage("no answer")
                except Exception:  # noqa: BLE001 - without this task the voter is cut off
                    _log.exception("raft link failed", peer=self._peer_id)
                await asyncio.sleep(self._config.reconnect_pause_ms / 1000)
        finally:
            await channel.close()

    async def _reach(self, channel: grpc.aio.Channel) -> bool:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await channel.channel_ready()
        except TimeoutError:
            return False  # the call fails then too, and says why
        return True

    def _tell_outage(self, why: str) -> None:
        """Log why the voter cannot be spoken to; once, until it could be."""
        if not self._outage_told:
            self._outage_told = True
            _log.warning("voter not reached", peer=self._peer_id, address=self._address, why=why)

    async def _greet(self, call: Any, was_reached: bool) -> bool:
        """True once the hello is accepted; until then nothing may be thought delivered."""
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            try:
                await call.write(wire.SendMessagesRequest(hello=self._hello))
                greeting = await call.initial_metadata()
            except (grpc.RpcError, asyncio.InvalidStateError):
                greeting = None
            if greeting is not None and _ACCEPTED in tuple(greeting):
                return True
            # A refusal may have initial metadata too, but not this.
            stops = was_reached and await call.code() is grpc.StatusCode.UNAVAILABLE
            if not stops:
                self._tell_outage(await call.details())
            return False

    async def _converse(self, stub: Any, was_reached: bool) -> None:
        call = stub.SendMessages()
        call.add_done_callback(lambda _: self._queue.changed.set())
        try:
            if not await self._greet(call, was_reached):
                return
            self._queue.clear()
            self._connected = True
            self._outage_told = False
            self._events.peer_connected(self._peer_id)
            while not call.done():
                self._queue.changed.clear()
                while (batch := self._queue.take()) and not call.done():
                    messages = wire.RaftMessages(messages=map(encode, batch))
                    await call.write(wire.SendMessagesRequest(messages=messages))
                if not call.done():
                    await self._queue.changed.wait()
        finally:
            call.cancel()
            if self._connected:
                self._connected = False
                self._queue.clear()
                self._events.peer_disconnected(self._peer_id)


class RaftServicer(raft_pb2_grpc.RaftServiceServicer):
    """The incoming streams of the other voters."""

    def __init__(
        self,
        cluster_id: str,
        node_id: int,
        peer_ids: frozenset[int],
        events: Events,
        peer_check: PeerCheck,
    ) -> None:
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._peer_ids = peer_ids
        self._events = events
        self._peer_check = peer_check
        self._stopped = False
        self._streams: set[asyncio.Task[Any]] = set()
        #: Which stream of a voter counts: its newest.
        self._stream_numbers = dict.fromkeys(peer_ids, 0)

    def stop(self) -> None:
        """Take no messages from now on, and end the streams: a voter that waits for nothing here
        would hold up the stop of the server, which would then break the stream off."""
        self._stopped = True
        for stream in self._streams:
            stream.cancel()

    async def SendMessages(
        self,
        request_iterator: AsyncIterator[wire.SendMessagesRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> wire.SendMessagesResponse:
        """See the proto."""
        stream = asyncio.current_task()
        assert stream is not None
        try:
            return await self._take_all(request_iterator, context, stream)
        except asyncio.CancelledError:
            if not self._stopped:
                raise
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the node stops")
        finally:
            self._streams.discard(stream)

    async def _take_all(
        self,
        request_iterator: AsyncIterator[wire.SendMessagesRequest],
        context: grpc.aio.ServicerContext[Any, Any],
        stream: asyncio.Task[Any],
    ) -> wire.SendMessagesResponse:
        sender = 0
        number = 0
        async for request in request_iterator:
            if self._stopped:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the node stops")
            if sender == 0:
                sender = await self._accept_hello(request, context)
                self._stream_numbers[sender] = number = self._stream_numbers[sender] + 1
                await context.send_initial_metadata((_ACCEPTED,))
                if self._stopped:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the node stops")
                # From here on it may be cancelled, for it waits for messages only.
                self._streams.add(stream)
            elif self._stream_numbers[sender] != number:
                await context.abort(grpc.StatusCode.ABORTED, "replaced by a newer stream")
            else:
                await self._take(sender, request, context)
        # gRPC tells neither from the other here; no voter ends its stream by itself.
        _log.info(
            "stream of a voter ended", peer=sender, why="connection lost or message too large"
        )
        return wire.SendMessagesResponse()

    async def _accept_hello(
        self, request: wire.SendMessagesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> int:
        if request.WhichOneof("kind") != "hello":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a stream begins with a hello")
        hello = request.hello
        if hello.cluster_id != self._cluster_id or hello.to_node_id != self._node_id:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"this is node {self._node_id} of cluster {self._cluster_id}",
            )
        if hello.from_node_id not in self._peer_ids:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"node {hello.from_node_id} is no voter"
            )
        if not self._peer_check(context, hello.from_node_id):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the certificate is not that of node {hello.from_node_id}",
            )
        return hello.from_node_id

    async def _take(
        self,
        sender: int,
        request: wire.SendMessagesRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        try:
            if request.WhichOneof("kind") != "messages":
                raise MalformedMessage("only messages follow the hello")
            envelopes = [decode(message) for message in request.messages.messages]
        except MalformedMessage as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"malformed message: {error}")
        for envelope in envelopes:
            self._events.message_arrived(sender, envelope)


def _size(envelope: Envelope) -> int:
    match envelope.message:
        case AppendEntries(entries=entries):
            return _OVERHEAD_BYTES + sum(_OVERHEAD_BYTES + len(entry[0]) for entry in entries)
        case InstallSnapshot(part=part) if part is not None:
            return _OVERHEAD_BYTES + len(part.data)
    return _OVERHEAD_BYTES
