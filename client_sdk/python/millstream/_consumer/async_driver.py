"""Carries out on an event loop what a consumer's core asks for, and tells it what happens."""

import asyncio
from collections.abc import Callable
from typing import Any

from millstream._client import methods
from millstream._client.async_io import AsyncClient
from millstream._client.cluster import NodeInfo
from millstream._consumer.async_stream import AsyncStream
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
from millstream._errors import MillstreamError
from millstream.record.wire import RawFetchResponse
from millstream.v1 import broker_service_pb2, group_coordinator_service_pb2


class AsyncDriver:
    """The network of one ``AsyncConsumer``. ``news`` is called when a waiter should look again."""

    def __init__(self, core: ConsumerCore, client: AsyncClient, news: Callable[[], None]) -> None:
        self._core = core
        self._client = client
        self._news = news
        self._fetches: dict[int, AsyncStream] = {}
        self._groups: dict[int, AsyncStream] = {}
        self._ended: set[AsyncStream] = set()
        self._coordinator: NodeInfo | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._running = False

    def start(self) -> None:
        """Begin; what the core asked for so far is done now."""
        self._running = True
        self._core.stir()
        self.pump()

    async def stop(self) -> None:
        """End everything; nothing reaches the core any more."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        streams = [*self._fetches.values(), *self._groups.values(), *self._ended]
        for stream in streams:
            stream.cancel()
        for task in self._tasks:
            task.cancel()
        for stream in streams:
            await stream.closed()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def pump(self) -> None:
        """Do what the core asks for, wake whoever waits for it, set the timer."""
        if not self._running:
            return
        core = self._core
        stirred = core.stirred
        for effect in core.take_effects(self._client.now_ms()):
            self._perform(effect)
        if stirred:
            self._set_timer()
        self._news()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ms = self._core.next_tick_ms()
        if due_ms is not None:
            delay_s = max(0, due_ms - self._client.now_ms()) / 1000
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._core.tick(self._client.now_ms())
        self.pump()

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
                self._spawn(self._seek_coordinator(timeout_ms))
            case Call():
                self._spawn(self._call(effect))
            case UseTopic(topic):
                self._client.use_topic(topic)

    def _spawn(self, coroutine: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self, stream: AsyncStream | None, *, flush: bool) -> None:
        if stream is not None:
            stream.close(flush=flush)
            self._ended = {one for one in self._ended if not one.done}
            self._ended.add(stream)

    async def _call(self, call: Call) -> None:
        client, method, request = self._client, call.method, call.request
        answer, error = None, None
        try:
            if call.to_group:
                group_id = self._core.config.group_id
                answer = await client.call_group(
                    group_id, method, request, timeout_ms=call.timeout_ms
                )
            else:
                answer = await client.call(method, request, timeout_ms=call.timeout_ms)
        except MillstreamError as failure:
            error = failure
        call.answered(answer, error, client.now_ms())
        self._core.stir()
        self.pump()

    async def _seek_coordinator(self, timeout_ms: int) -> None:
        client, group = self._client, self._core.group
        group_id = self._core.config.group_id
        client.forget_coordinator(group_id)
        try:
            self._coordinator = await client.coordinator(group_id, timeout_ms=timeout_ms)
        except MillstreamError as error:
            group.not_found(error, client.now_ms())
        else:
            group.found(client.now_ms())
        self._core.stir()
        self.pump()

    def _open_fetch(self, stream_id: int, address: str) -> None:
        core, client = self._core, self._client

        def received(message: Any) -> None:
            core.fetched(stream_id, message, client.now_ms())
            self.pump()

        def broken(_: MillstreamError) -> None:
            self._fetches.pop(stream_id, None)
            core.fetch_broken(stream_id, client.now_ms())
            self.pump()

        self._fetches[stream_id] = AsyncStream(
            lambda: client.open_stream(
                methods.FETCH_PATH,
                address,
                broker_service_pb2.FetchRequest.SerializeToString,
                RawFetchResponse.FromString,
            ),
            received,
            broken,
        )

    def _open_group(self, stream_id: int) -> None:
        core, client, coordinator = self._core, self._client, self._coordinator
        assert coordinator is not None

        def received(message: group_coordinator_service_pb2.SessionResponse) -> None:
            core.group.received(stream_id, message, client.now_ms())
            core.stir()
            self.pump()

        def broken(error: MillstreamError) -> None:
            self._groups.pop(stream_id, None)
            core.group.broken(stream_id, error, client.now_ms())
            core.stir()
            self.pump()

        self._groups[stream_id] = AsyncStream(
            lambda: client.open_stream(
                methods.SESSION_PATH,
                coordinator.address,
                group_coordinator_service_pb2.SessionRequest.SerializeToString,
                group_coordinator_service_pb2.SessionResponse.FromString,
            ),
            received,
            broken,
        )
