"""The blocking side of every client: channels, unary calls with retries, the metadata watch.

Uses gRPC's threaded API; one background thread follows the metadata. No second event loop: two
``grpc.aio`` loops in a process disturb each other (grpc #25364). All waits are on primitives that
a signal interrupts, so Ctrl-C works at once.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import grpc

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


class SyncClient:
    """Connections to one cluster, shared by one producer, consumer or admin. Thread-safe.

    ``changed`` is the condition under which the cluster cache is written; hold it to read several
    things that belong together.
    """

    def __init__(
        self, config: ClientConfig, *, clock: Clock | None = None, chance: Chance | None = None
    ) -> None:
        self.config = config
        self.clock = clock or SystemClock()
        self.chance = chance or system_chance()
        self.cluster = ClusterCache()
        self.filter = TopicFilter()
        self.addresses = AddressBook(
            config.bootstrap_servers,
            self.cluster,
            int(self.chance.uniform(0, len(config.bootstrap_servers))),
        )
        self.changed = threading.Condition()
        self._channels: dict[str, grpc.Channel] = {}
        self._channels_lock = threading.Lock()
        self._coordinators: dict[str, NodeInfo] = {}
        self._watch: threading.Thread | None = None
        self._watch_call: Any = None
        self._watch_error: MillstreamError | None = None
        self._grown = False
        self._stopping = threading.Event()
        self._refusal: MillstreamError | None = ClientClosedError("the client is not started")

    def now_ms(self) -> int:
        """Monotonic time."""
        return self.clock.monotonic_ms()

    def start(self) -> None:
        """Connect to any broker and learn the cluster.

        Raises UnavailableError or TimedOutError if no broker answers within
        default.api.timeout.ms; then the client is closed again.
        """
        if self._watch is not None:
            return
        self._refusal = None
        watch_forks(self)
        self._watch = threading.Thread(target=self._follow, name="millstream-watch", daemon=True)
        self._watch.start()
        try:
            self.wait_until(lambda: self.cluster.known or None, self.config.default_api_timeout_ms)
        except TimedOutError:
            error = self._watch_error
            self.close()
            raise error or TimedOutError(
                f"no broker answered of {', '.join(self.config.bootstrap_servers)}"
            ) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all connections; everything that waits fails. May be called twice."""
        forked = isinstance(self._refusal, ForkedError)
        self._refusal = self._refusal or ClientClosedError("the client is closed")
        if forked:
            return
        self._stopping.set()
        with self.changed:
            call = self._watch_call
            self.changed.notify_all()
        if call is not None:
            call.cancel()
        if self._watch is not None and self._watch is not threading.current_thread():
            self._watch.join()
        with self._channels_lock:
            channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            channel.close()

    @property
    def stopping(self) -> bool:
        """True once the client is closed; background threads end then."""
        return self._stopping.is_set()

    @property
    def refusal(self) -> MillstreamError | None:
        """Why the client cannot be used; None if it can."""
        return self._refusal

    def on_fork(self) -> None:
        """The process forked; see ``_fork``."""
        self._refusal = ForkedError("the process forked after this client was made; make a new one")

    def check_open(self) -> None:
        """Raise ClientClosedError or ForkedError if the client cannot be used."""
        if self._refusal is not None:
            raise self._refusal

    # ---- connections

    def channel(self, address: str) -> grpc.Channel:
        """The channel to an address, opened on first use."""
        with self._channels_lock:
            self.check_open()
            channel = self._channels.get(address)
            if channel is None:
                options = channel_options(self.config)
                credentials = channel_credentials(self.config)
                if credentials is None:
                    channel = grpc.insecure_channel(address, options=options)
                else:
                    channel = grpc.secure_channel(address, credentials, options=options)
                self._channels[address] = channel
            return channel

    def open_stream(
        self,
        path: str,
        address: str,
        requests: Iterable[Any] | Iterator[Any],
        serializer: Callable[[Any], bytes] | None = None,
        deserializer: Callable[[bytes], Any] | None = None,
    ) -> Any:
        """Open a bidirectional stream; without (de)serialisers it carries bytes.

        ``requests`` is read by a thread of gRPC's; the answers are the returned call's items.
        """
        multicallable: Any = self.channel(address).stream_stream(
            path, request_serializer=serializer, response_deserializer=deserializer
        )
        return multicallable(iter(requests))

    # ---- calls

    def call(
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
                return self._call_once(method, request, target, limit_ms)
            except MillstreamError as error:
                self.check_open()
                if error.retriable:
                    self.addresses.failed(target)
                delay_ms = attempts.delay_ms(error, self.now_ms(), repeatable=method.repeatable)
            self.sleep(delay_ms)

    def _call_once(self, method: Method[Q, R], request: Q, address: str, timeout_ms: int) -> R:
        multicallable: Any = self.channel(address).unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,  # type: ignore[attr-defined]
        )
        try:
            # A future, because its wait ends at once on Ctrl-C; the blocking form polls signals.
            call = multicallable.future(request, timeout=timeout_ms / 1000)
        except ValueError:  # the channel was closed under us
            self.check_open()
            raise
        try:
            answer: R = call.result()
        except grpc.RpcError as error:
            raise from_status(error) from None
        except grpc.FutureCancelledError:
            self.check_open()
            raise ClientClosedError("the call was cancelled") from None
        except BaseException:
            call.cancel()
            raise
        return answer

    def sleep(self, delay_ms: int) -> None:
        """Wait, unless the client is closed meanwhile. Raises ClientClosedError then."""
        self._stopping.wait(delay_ms / 1000)
        self.check_open()

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

    def coordinator(self, group_id: str, *, timeout_ms: int | None = None) -> NodeInfo:
        """The group's coordinator, from memory if it is known."""
        found = self._coordinators.get(group_id)
        if found is None:
            answer = self.call(
                methods.FIND_COORDINATOR,
                metadata.FindCoordinatorRequest(group_id=group_id),
                timeout_ms=timeout_ms,
            )
            found = self._coordinators[group_id] = node_from_proto(answer.node)
        return found

    def forget_coordinator(self, group_id: str) -> None:
        """Look the coordinator up again before its next use."""
        self._coordinators.pop(group_id, None)

    def call_group(
        self, group_id: str, method: Method[Q, R], request: Q, *, timeout_ms: int | None = None
    ) -> R:
        """Make a unary call to the group's coordinator, following it when it changes."""
        attempts = self._attempts(timeout_ms)
        while True:
            self.check_open()
            left_ms = attempts.timeout_ms(self.now_ms(), self.config.request_timeout_ms)
            try:
                node = self.coordinator(group_id, timeout_ms=left_ms)
                return self._call_once(method, request, node.address, left_ms)
            except MillstreamError as error:
                self.check_open()
                if error.retriable:
                    self.forget_coordinator(group_id)
                delay_ms = attempts.delay_ms(error, self.now_ms(), repeatable=method.repeatable)
            self.sleep(delay_ms)

    # ---- metadata

    def wait_until(self, condition: Callable[[], T | None], timeout_ms: int) -> T:
        """Wait until ``condition()`` is not None; it is asked after every change of metadata.

        Raises TimedOutError (definite), or the reason for which the client was closed.
        """
        deadline_ms = self.now_ms() + timeout_ms
        with self.changed:
            while True:
                self.check_open()
                found = condition()
                if found is not None:
                    return found
                left_ms = deadline_ms - self.now_ms()
                if left_ms <= 0:
                    raise TimedOutError("metadata did not arrive in time", indeterminate=False)
                self.changed.wait(left_ms / 1000)

    def use_topic(self, name: str) -> TopicInfo | None:
        """Watch a topic from now on; what is known of it already, else None."""
        with self.changed:
            if self.filter.use(name):
                self._grown = True
                if self._watch_call is not None:
                    self._watch_call.cancel()
            return self.cluster.topics.get(name)

    def forget_topics(self, names: Iterable[str]) -> None:
        """Watch topics no more and forget them; ``use_topic`` brings them back."""
        with self.changed:
            self.filter.forget(names)
            self.cluster.forget_topics(names)

    def topic(self, name: str, *, timeout_ms: int | None = None, create: bool = False) -> TopicInfo:
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
        if self.wait_until(lookup.known_or_missing, limit_ms) is lookup.MISSING:
            left_ms = max(1, deadline_ms - self.now_ms())
            try:
                self.call(DESCRIBE_TOPICS, lookup.proof(create=create), timeout_ms=left_ms)
            except UnknownTopicError:
                raise explain_missing(name) from None
        return self.wait_until(lookup.known, max(1, deadline_ms - self.now_ms()))

    def _follow(self) -> None:
        """Keep the watch open: anew after every failure, and whenever the filter has grown."""
        backoff = self.backoff()
        while self._refusal is None:
            address = self.addresses.current()
            try:
                self._watch_once(address, backoff)
                continue
            except grpc.RpcError as error:
                self._watch_error = from_status(error)
            except (MillstreamError, ValueError) as error:
                self._watch_error = from_status(error)
            if self._grown:
                continue
            self.addresses.failed(address)
            self._stopping.wait(backoff.next_ms() / 1000)

    def _watch_once(self, address: str, backoff: Backoff) -> None:
        """Follow one watch until the filter has grown; raises when it breaks."""
        multicallable: Any = self.channel(address).unary_stream(
            methods.WATCH_CLUSTER.path,
            request_serializer=metadata.WatchClusterRequest.SerializeToString,
            response_deserializer=metadata.WatchClusterResponse.FromString,
        )
        with self.changed:
            self.check_open()
            self._grown = False
            request = metadata.WatchClusterRequest(
                topics=self.filter.names,
                all_topics=self.filter.all_topics,
                accept_out_of_touch=self.addresses.all_failed,
            )
            call = self._watch_call = multicallable(request)
        try:
            for message in call:
                with self.changed:
                    backoff.reset()
                    self.addresses.answered()
                    self._watch_error = None
                    self.cluster.apply(message)
                    self.changed.notify_all()
            raise TimedOutError(f"{address} ended the watch")
        finally:
            call.cancel()
