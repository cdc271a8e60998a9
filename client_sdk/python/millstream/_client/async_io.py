"""The asyncio side of every client: channels, unary calls with retries, the metadata watch."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio

from millstream._client import methods
from millstream._client.clock import Clock, SystemClock, system_chance
from millstream._client.cluster import ClusterCache, NodeInfo, TopicInfo, node_from_proto
from millstream._client.config import ClientConfig
from millstream._client.connection import (
    AddressBook,
    TopicFilter,
    channel_credentials,
    channel_options,
)
from millstream._client.fork import watch_forks
from millstream._client.lookup import Lookup, explain_missing
from millstream._client.methods import DESCRIBE_TOPICS, Method, Q, R
from millstream._client.retry import Attempts, Backoff, Chance
from millstream._errors import (
    ClientClosedError,
    ForkedError,
    MillstreamError,
    TimedOutError,
    UnknownTopicError,
)
from millstream._errors.status import from_status
from millstream.v1 import metadata_service_pb2 as metadata

T = TypeVar("T")
#: Opens a channel to an address, with options.
OpenChannel = Callable[[str, Sequence[tuple[str, int | str]]], grpc.aio.Channel]


class AsyncClient:
    """Connections to one cluster, shared by one producer, consumer or admin.

    Belongs to the event loop that calls ``start``.
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        clock: Clock | None = None,
        chance: Chance | None = None,
        open_channel: OpenChannel | None = None,
    ) -> None:
        """``open_channel`` takes the place of gRPC's own channels, with or without TLS."""
        self.config = config
        self._open_channel = open_channel or self._open_own_channel
        self.clock = clock or SystemClock()
        self.chance = chance or system_chance()
        self.cluster = ClusterCache()
        self.filter = TopicFilter()
        self.addresses = AddressBook(
            config.bootstrap_servers,
            self.cluster,
            int(self.chance.uniform(0, len(config.bootstrap_servers))),
        )
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._coordinators: dict[str, NodeInfo] = {}
        self._watch: asyncio.Task[None] | None = None
        self._watch_error: MillstreamError | None = None
        self._grown = asyncio.Event()
        # In the order in which they came, in which they are woken.
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._refusal: MillstreamError | None = ClientClosedError("the client is not started")

    def now_ms(self) -> int:
        """Monotonic time."""
        return self.clock.monotonic_ms()

    async def start(self) -> None:
        """Connect to any broker and learn the cluster.

        Raises UnavailableError or TimedOutError if no broker answers within
        default.api.timeout.ms; then the client is closed again.
        """
        if self._watch is not None:
            return
        self._refusal = None
        watch_forks(self)
        self._watch = asyncio.create_task(self._follow(), name="millstream-watch")
        try:
            await self.wait_until(
                lambda: self.cluster.known or None, self.config.default_api_timeout_ms
            )
        except TimedOutError:
            error = self._watch_error
            await self.close()
            raise error or TimedOutError(
                f"no broker answered of {', '.join(self.config.bootstrap_servers)}"
            ) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close all connections; everything that waits fails. May be called twice."""
        forked = isinstance(self._refusal, ForkedError)
        self._refusal = self._refusal or ClientClosedError("the client is closed")
        if forked:
            return
        self._wake()
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()

    def on_fork(self) -> None:
        """The process forked; see ``_fork``."""
        self._refusal = ForkedError("the process forked after this client was made; make a new one")

    def check_open(self) -> None:
        """Raise ClientClosedError or ForkedError if the client cannot be used."""
        if self._refusal is not None:
            raise self._refusal

    # ---- connections

    def channel(self, address: str) -> grpc.aio.Channel:
        """The channel to an address, opened on first use."""
        self.check_open()
        channel = self._channels.get(address)
        if channel is None:
            channel = self._open_channel(address, channel_options(self.config))
            self._channels[address] = channel
        return channel

    def _open_own_channel(
        self, address: str, options: Sequence[tuple[str, int | str]]
    ) -> grpc.aio.Channel:
        credentials = channel_credentials(self.config)
        if credentials is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, credentials, options=options)

    def open_stream(
        self,
        path: str,
        address: str,
        serializer: Callable[[Any], bytes] | None = None,
        deserializer: Callable[[bytes], Any] | None = None,
    ) -> Any:
        """Open a bidirectional stream; without (de)serialisers it carries bytes."""
        multicallable = self.channel(address).stream_stream(
            path, request_serializer=serializer, response_deserializer=deserializer
        )
        return multicallable()

    # ---- calls

    async def call(
        self,
        method: Method[Q, R],
        request: Q,
        *,
        address: str | None = None,
        timeout_ms: int | None = None,
        address_of: Callable[[], str] | None = None,
    ) -> R:
        """Make a unary call, with retries by the error table until the deadline.

        It goes to ``address``, or where ``address_of()`` says before each attempt, or to any
        broker. ``timeout_ms`` bounds the whole; default.api.timeout.ms otherwise.
        """
        attempts = self._attempts(timeout_ms)
        while True:
            self.check_open()
            target = address or (address_of or self.addresses.current)()
            limit_ms = attempts.timeout_ms(self.now_ms(), self.config.request_timeout_ms)
            try:
                return await self._call_once(method, request, target, limit_ms)
            except MillstreamError as error:
                self.check_open()
                if error.retriable:
                    self.addresses.failed(target)
                delay_ms = attempts.delay_ms(error, self.now_ms(), repeatable=method.repeatable)
            await asyncio.sleep(delay_ms / 1000)

    async def _call_once(
        self, method: Method[Q, R], request: Q, address: str, timeout_ms: int
    ) -> R:
        multicallable: Any = self.channel(address).unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,  # type: ignore[attr-defined]
        )
        try:
            answer: R = await multicallable(request, timeout=timeout_ms / 1000)
        except grpc.RpcError as error:
            raise from_status(error) from None
        return answer

    def _attempts(self, timeout_ms: int | None) -> Attempts:
        limit_ms = self.config.default_api_timeout_ms if timeout_ms is None else timeout_ms
        return Attempts(
            deadline_ms=self.now_ms() + limit_ms,
            retries=self.config.retries,
            backoff=self.backoff(),
        )

    def backoff(self) -> Backoff:
        """Fresh delays between attempts, as configured."""
        config = self.config
        return Backoff(config.retry_backoff_ms, config.retry_backoff_max_ms, self.chance)

    async def coordinator(self, group_id: str, *, timeout_ms: int | None = None) -> NodeInfo:
        """The group's coordinator, from memory if it is known."""
        found = self._coordinators.get(group_id)
        if found is None:
            answer = await self.call(
                methods.FIND_COORDINATOR,
                metadata.FindCoordinatorRequest(group_id=group_id),
                timeout_ms=timeout_ms,
            )
            found = self._coordinators[group_id] = node_from_proto(answer.node)
        return found

    def forget_coordinator(self, group_id: str) -> None:
        """Look the coordinator up again before its next use."""
        self._coordinators.pop(group_id, None)

    async def call_group(
        self, group_id: str, method: Method[Q, R], request: Q, *, timeout_ms: int | None = None
    ) -> R:
        """Make a unary call to the group's coordinator, following it when it changes."""
        attempts = self._attempts(timeout_ms)
        while True:
            self.check_open()
            left_ms = attempts.timeout_ms(self.now_ms(), self.config.request_timeout_ms)
            try:
                node = await self.coordinator(group_id, timeout_ms=left_ms)
                return await self._call_once(method, request, node.address, left_ms)
            except MillstreamError as error:
                self.check_open()
                if error.retriable:
                    self.forget_coordinator(group_id)
                delay_ms = attempts.delay_ms(error, self.now_ms(), repeatable=method.repeatable)
            await asyncio.sleep(delay_ms / 1000)

    # ---- metadata

    async def wait_until(self, condition: Callable[[], T | None], timeout_ms: int) -> T:
        """Wait until ``condition()`` is not None; it is asked after every change of metadata.

        Raises TimedOutError (definite), or the reason for which the client was closed.
        """
        deadline_ms = self.now_ms() + timeout_ms
        while True:
            self.check_open()
            found = condition()
            if found is not None:
                return found
            left_ms = deadline_ms - self.now_ms()
            if left_ms <= 0:
                raise TimedOutError("metadata did not arrive in time", indeterminate=False)
            future = asyncio.get_running_loop().create_future()
            self._waiting[future] = None
            try:
                await asyncio.wait((future,), timeout=left_ms / 1000)
            finally:
                self._waiting.pop(future, None)

    def use_topic(self, name: str) -> TopicInfo | None:
        """Watch a topic from now on; what is known of it already, else None."""
        if self.filter.use(name):
            self._grown.set()
        return self.cluster.topics.get(name)

    def forget_topics(self, names: Iterable[str]) -> None:
        """Watch topics no more and forget them; ``use_topic`` brings them back."""
        self.filter.forget(names)
        self.cluster.forget_topics(names)

    async def topic(
        self, name: str, *, timeout_ms: int | None = None, create: bool = False
    ) -> TopicInfo:
        """A topic by name, watched from now on.

        ``create``: make it if it is missing and the cluster creates topics by itself. Raises
        UnknownTopicError, InvalidTopicNameError, or TimedOutError if metadata does not arrive.
        """
        found = self.use_topic(name)
        if found is not None:
            return found
        limit_ms = self.config.default_api_timeout_ms if timeout_ms is None else timeout_ms
        deadline_ms = self.now_ms() + limit_ms
        lookup = Lookup(self.cluster, name)
        if await self.wait_until(lookup.known_or_missing, limit_ms) is lookup.MISSING:
            left_ms = max(1, deadline_ms - self.now_ms())
            try:
                await self.call(DESCRIBE_TOPICS, lookup.proof(create=create), timeout_ms=left_ms)
            except UnknownTopicError:
                raise explain_missing(name) from None
        return await self.wait_until(lookup.known, max(1, deadline_ms - self.now_ms()))

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def _follow(self) -> None:
        """Keep the watch open: anew after every failure, and whenever the filter has grown."""
        backoff = self.backoff()
        while self._refusal is None:
            address = self.addresses.current()
            self._grown.clear()
            try:
                await self._watch_once(address, backoff)
                continue
            except grpc.RpcError as error:
                self._watch_error = from_status(error)
            except MillstreamError as error:
                self._watch_error = error
            self.addresses.failed(address)
            await asyncio.sleep(backoff.next_ms() / 1000)

    async def _watch_once(self, address: str, backoff: Backoff) -> None:
        """Follow one watch until the filter has grown; raises when it breaks."""
        request = metadata.WatchClusterRequest(
            topics=self.filter.names,
            all_topics=self.filter.all_topics,
            accept_out_of_touch=self.addresses.all_failed,
        )
        multicallable: Any = self.channel(address).unary_stream(
            methods.WATCH_CLUSTER.path,
            request_serializer=metadata.WatchClusterRequest.SerializeToString,
            response_deserializer=metadata.WatchClusterResponse.FromString,
        )
        call: Any = multicallable(request)
        grown = asyncio.ensure_future(self._grown.wait())
        first = True
        try:
            while True:
                reading = asyncio.ensure_future(call.read())
                # If it is left behind and fails meanwhile, nobody asks it why.
                reading.add_done_callback(lambda task: task.cancelled() or task.exception())
                limit_s = self.config.request_timeout_ms / 1000 if first else None
                done, _ = await asyncio.wait(
                    (reading, grown), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
                )
                if reading not in done:
                    reading.cancel()
                    if grown in done:
                        return
                    raise TimedOutError(f"{address} did not answer a watch")
                message = reading.result()
                if message is grpc.aio.EOF:
                    raise TimedOutError(f"{address} ended the watch")
                first = False
                backoff.reset()
                self.addresses.answered()
                self._watch_error = None
                self.cluster.apply(message)
                self._wake()
        finally:
            grown.cancel()
            call.cancel()
