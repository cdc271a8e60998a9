"""Carries out with threads what a consumer's core asks for, and tells it what happens.

One daemon thread reads each stream, one keeps the time, so that heartbeats go on while the
application is busy; look-ups get a short-lived thread each. All of them touch the core only under
the client's condition ``changed``, which also wakes whoever waits.
"""

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc

from millstream._client import methods
from millstream._client.cluster import NodeInfo
from millstream._client.sync_io import SyncClient
from millstream._consumer.core import ConsumerCore
from millstream._consumer.effects import (
    Call,
    CloseFetch,
    CloseGroup,
    Effect,
    OpenFetch,
    OpenGroup,
    SeekCoordinator,
    SendFetch,
    SendGroup,
    UseTopic,
)
from millstream._errors import MillstreamError, UnavailableError
from millstream._errors.status import from_status
from millstream.record.wire import RawFetchResponse
from millstream.v1 import broker_service_pb2, group_coordinator_service_pb2

# How long the other side may take to end a stream after we did.
_GOODBYE_S = 1.0
# The clock looks again at least this often.
_TICK_S_MAX = 60.0


class SyncStream:
    """One bidirectional stream, read by a thread of its own."""

    def __init__(
        self,
        open_call: Callable[[Iterator[Any]], Any],
        received: Callable[[Any], None],
        broken: Callable[[MillstreamError], None],
    ) -> None:
        self._open_call = open_call
        self._received = received
        self._broken = broken
        self._waiting: SimpleQueue[Any] = SimpleQueue()
        self._closing = False
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, name="millstream-stream", daemon=True)
        self._thread.start()

    def send(self, message: Any) -> None:
        """Send after everything sent before."""
        self._waiting.put(message)

    def close(self, *, flush: bool) -> None:
        """End the stream; ``flush``: after what is waiting was sent."""
        if self._closing:
            return
        self._closing = True
        self._waiting.put(None)
        if not flush:
            self.cancel()
            return
        timer = threading.Timer(_GOODBYE_S, self.cancel)
        timer.daemon = True
        timer.start()

    def cancel(self) -> None:
        """End the stream and everything that was still to be sent."""
        self._closing = True
        self._waiting.put(None)
        if self._call is not None:
            self._call.cancel()

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._thread is not threading.current_thread():
            self._thread.join()

    @property
    def done(self) -> bool:
        """True if the thread has ended."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        error: MillstreamError = UnavailableError("the stream ended")
        try:
            self._call = self._open_call(iter(self._waiting.get, None))
            if self._closing:
                self._call.cancel()
            for message in self._call:
                self._received(message)
        except (grpc.RpcError, MillstreamError, ValueError) as failure:
            error = from_status(failure)
        self._waiting.put(None)
        if not self._closing:
            self._closing = True
            self._broken(error)


class SyncDriver:
    """The network of one ``Consumer``."""

    def __init__(self, core: ConsumerCore, client: SyncClient) -> None:
        self._core = core
        self._client = client
        self._fetches: dict[int, SyncStream] = {}
        self._groups: dict[int, SyncStream] = {}
        self._ended: set[SyncStream] = set()
        self._coordinator: NodeInfo | None = None
        self._running = False
        self._due_ms: int | None = None
        self._poke = threading.Event()
        self._ticker = threading.Thread(target=self._keep_time, name="millstream-time", daemon=True)

    def start(self) -> None:
        """Begin; what the core asked for so far is done now. Hold ``changed``."""
        self._running = True
        self._core.stir()
        self.pump()
        self._ticker.start()

    def stop(self) -> None:
        """End everything; nothing reaches the core any more. Do not hold ``changed``."""
        with self._client.changed:
            started, self._running = self._running, False
            streams = [*self._fetches.values(), *self._groups.values(), *self._ended]
        self._poke.set()
        for stream in streams:
            stream.cancel()
        for stream in streams:
            stream.join()
        if started and self._ticker is not threading.current_thread():
            self._ticker.join()

    def pump(self) -> None:
        """Do what the core asks for and wake whoever waits for it. Hold ``changed``."""
        if not self._running:
            return
        core, client = self._core, self._client
        stirred = core.stirred
        for effect in core.take_effects(client.now_ms()):
            self._perform(effect)
        if stirred:
            before, self._due_ms = self._due_ms, core.next_tick_ms()
            if self._due_ms is not None and (before is None or self._due_ms < before):
                self._poke.set()
        if core.has_news or stirred:
            client.changed.notify_all()

    def _keep_time(self) -> None:
        client = self._client
        while True:
            with client.changed:
                if not self._running:
                    return
                now_ms = client.now_ms()
                if self._due_ms is not None and now_ms >= self._due_ms:
                    self._core.tick(now_ms)
                    self.pump()
                    now_ms = client.now_ms()
                due_ms = self._due_ms
                self._poke.clear()
            left_s = _TICK_S_MAX if due_ms is None else max(0, due_ms - now_ms) / 1000
            self._poke.wait(min(left_s, _TICK_S_MAX))

    def _perform(self, effect: Effect) -> None:
        match effect:
            case SendFetch(stream_id, request):
                self._fetches[stream_id].send(request)
            case SendGroup(stream_id, message):
                if stream_id in self._groups:
                    self._groups[stream_id].send(message)
            case OpenFetch(stream_id, address):
                self._open_fetch(stream_id, address)
            case OpenGroup(stream_id):
                self._open_group(stream_id)
            case CloseFetch(stream_id):
                self._end(self._fetches.pop(stream_id, None), flush=False)
            case CloseGroup(stream_id):
                self._end(self._groups.pop(stream_id, None), flush=True)
            case SeekCoordinator(timeout_ms):
                _spawn(lambda: self._seek_coordinator(timeout_ms))
            case Call():
                _spawn(lambda: self._make_call(effect))
            case UseTopic(topic):
                self._client.use_topic(topic)

    def _end(self, stream: SyncStream | None, *, flush: bool) -> None:
        if stream is not None:
            stream.close(flush=flush)
            self._ended = {one for one in self._ended if not one.done}
            self._ended.add(stream)

    def _make_call(self, call: Call) -> None:
        client, method, request = self._client, call.method, call.request
        answer, error = None, None
        try:
            if call.to_group:
                group_id = self._core.config.group_id
                answer = client.call_group(group_id, method, request, timeout_ms=call.timeout_ms)
            else:
                answer = client.call(method, request, timeout_ms=call.timeout_ms)
        except MillstreamError as failure:
            error = failure
        with client.changed:
            if self._running:
                call.answered(answer, error, client.now_ms())
                self._core.stir()
                self.pump()

    def _seek_coordinator(self, timeout_ms: int) -> None:
        client, group = self._client, self._core.group
        group_id = self._core.config.group_id
        client.forget_coordinator(group_id)
        found: NodeInfo | None = None
        error: MillstreamError = UnavailableError("no coordinator")
        try:
            found = client.coordinator(group_id, timeout_ms=timeout_ms)
        except MillstreamError as failure:
            error = failure
        with client.changed:
            if found is None:
                group.not_found(error, client.now_ms())
            else:
                self._coordinator = found
                group.found(client.now_ms())
            self._core.stir()
            self.pump()

    def _open_fetch(self, stream_id: int, address: str) -> None:
        core, client = self._core, self._client

        def received(data: bytes) -> None:
            message = RawFetchResponse.FromString(data)
            with client.changed:
                core.fetched(stream_id, message, client.now_ms())
                self.pump()

        def broken(_: MillstreamError) -> None:
            with client.changed:
                self._fetches.pop(stream_id, None)
                core.fetch_broken(stream_id, client.now_ms())
                self.pump()

        def open_call(requests: Iterator[Any]) -> Any:
            serialize = broker_service_pb2.FetchRequest.SerializeToString
            return client.open_stream(methods.FETCH_PATH, address, requests, serialize)

        self._fetches[stream_id] = SyncStream(open_call, received, broken)

    def _open_group(self, stream_id: int) -> None:
        core, client, coordinator = self._core, self._client, self._coordinator
        assert coordinator is not None

        def received(message: group_coordinator_service_pb2.SessionResponse) -> None:
            with client.changed:
                core.group.received(stream_id, message, client.now_ms())
                core.stir()
                self.pump()

        def broken(error: MillstreamError) -> None:
            with client.changed:
                self._groups.pop(stream_id, None)
                core.group.broken(stream_id, error, client.now_ms())
                core.stir()
                self.pump()

        def open_call(requests: Iterator[Any]) -> Any:
            return client.open_stream(
                methods.SESSION_PATH,
                coordinator.address,
                requests,
                group_coordinator_service_pb2.SessionRequest.SerializeToString,
                group_coordinator_service_pb2.SessionResponse.FromString,
            )

        self._groups[stream_id] = SyncStream(open_call, received, broken)


def _spawn(job: Callable[[], None]) -> None:
    threading.Thread(target=job, name="millstream-call", daemon=True).start()
