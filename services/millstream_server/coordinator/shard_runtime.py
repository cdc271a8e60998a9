"""One shard that this node owns: taken over, replayed, served, given up (invariant 28).

    TAKING     the fence of this epoch is being appended
    LOADING    the partition is replayed through the fence
    SERVING    requests change the state at once; answers leave when their records are stored
    CLOSED     the lease is gone, or the node stops

A refused write, an unreadable log or a bug leads from any of them back to TAKING after a pause:
everything that waits fails, the state is dropped and made again from the log.
"""

import asyncio
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog

from millstream_raft.image import ShardLease
from millstream_server.coordinator.changes import AssignmentPush, Moment, Push, Result
from millstream_server.coordinator.config import CoordinatorConfig
from millstream_server.coordinator.group_shard import GroupShard
from millstream_server.coordinator.log_ports import LogUnavailable, ShardLog
from millstream_server.coordinator.refusal import Refusal
from millstream_server.coordinator.shard_batches import fence_batch
from millstream_server.coordinator.shard_outbox import ShardOutbox
from millstream_server.coordinator.shard_replay import ShardReplay
from millstream_server.coordinator.shard_writer import ShardWriter, WriteRefused
from millstream_server.coordinator.topics import TopicIndex
from millstream_server.runtime.errors import ServiceError
from millstream_server.runtime.ports import Clock

_log = structlog.get_logger()
T = TypeVar("T")
Done = Callable[[Any, ServiceError | None], None]
Handler = Callable[[GroupShard, Moment], Result[T]]

# A timer that may not fire, because the node is out of its session, is looked at again then.
_OUT_OF_SESSION_MS = 1_000
# A shard that was served for so long failed for a new reason: the next try need not wait.
_HEALTHY_MS = 10_000


class ShardPhase(Enum):
    """See the module."""

    TAKING = "taking"
    LOADING = "loading"
    SERVING = "serving"
    CLOSED = "closed"


class StreamSink(Protocol):
    """A member's stream, as the shard sees it."""

    def push(self, message: AssignmentPush) -> None:
        """Send an assignment."""

    def end(self, error: ServiceError) -> None:
        """End the stream, after what was sent on it."""


class ShardRuntime:
    """See the module."""

    def __init__(
        self,
        lease: ShardLease,
        node_id: int,
        log: ShardLog,
        *,
        config: CoordinatorConfig,
        clock: Clock,
        new_shard: Callable[[], GroupShard],
        topics: Callable[[], TopicIndex],
        in_session: Callable[[], bool],
    ) -> None:
        """Begins to take the shard over at once."""
        self.lease = lease
        self.phase = ShardPhase.TAKING
        self.core = new_shard()
        # By stream number.
        self.streams: dict[int, StreamSink] = {}
        self._node_id = node_id
        self._partition = log
        self._config = config
        self._clock = clock
        self._new_shard = new_shard
        self._topics = topics
        self._in_session = in_session
        self._loop = asyncio.get_running_loop()
        self._writer = ShardWriter(log, config, lease.shard)
        self._outbox = ShardOutbox(lease, self._writer, 0, config, clock)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._draining = False
        self._bug: asyncio.Future[Exception] = self._loop.create_future()
        self._task = self._loop.create_task(self._run(), name=f"shard-{lease.shard}")

    # For the services

    def submit(self, handler: Handler[T], done: Done) -> None:
        """Run a handler now; ``done(reply, error)`` is called, in order, when everything so far is
        stored, or when the shard is given up."""
        try:
            self._check_serving()
        except ServiceError as error:
            done(None, error)
            return
        try:
            result = handler(self.core, self._now())
        except Refusal as refusal:
            failure = ServiceError(refusal.reason, refusal.message)
            self._outbox.put(Result(None), lambda lost: done(None, lost or failure))
            return
        except Exception as bug:  # noqa: BLE001 - the state cannot be trusted any more
            done(None, ServiceError("INTERNAL", f"{type(bug).__name__}: {bug}"))
            self._fail(bug)
            return
        self._outbox.put(result, partial(self._finish, result, done))
        self._arm()

    async def call(self, handler: Handler[T]) -> T:
        """Run a handler and wait until everything is stored. Raises ServiceError."""
        future: asyncio.Future[T] = self._loop.create_future()

        def done(reply: T, error: ServiceError | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(reply)

        self.submit(handler, done)
        return await future

    def change(self, handler: Handler[None]) -> None:
        """Run a handler for its records alone, if the shard serves."""
        if self.phase is ShardPhase.SERVING:
            self.submit(handler, lambda _, __: None)

    async def drain(self) -> None:
        """Take in nothing more, and wait until the fate of everything is known."""
        self._draining = True
        if self.phase is ShardPhase.SERVING:
            await self._outbox.flushed()
        self._end_streams()

    async def close(self) -> None:
        """Give the shard up: everything that waits fails."""
        self._drop(ShardPhase.CLOSED)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _check_serving(self) -> None:
        if self.phase is ShardPhase.CLOSED or self._draining:
            raise ServiceError("NOT_COORDINATOR", f"shard {self.lease.shard} is given up here")
        if self.phase is not ShardPhase.SERVING:
            raise ServiceError("COORDINATOR_LOADING", f"shard {self.lease.shard} is being loaded")
        if not self._in_session():
            raise ServiceError("NOT_COORDINATOR", "this coordinator is out of its session")
        if self._outbox.waiting_bytes >= self._config.pending_bytes_max:
            raise ServiceError("THROTTLED", f"shard {self.lease.shard} waits for its log")

    # Life

    async def _run(self) -> None:
        delay_ms = self._config.log_retry_ms
        while True:
            started_ms = self._clock.monotonic_ms()
            try:
                await self._take_over()
            except (LogUnavailable, WriteRefused) as error:
                _log.warning("shard dropped", shard=self.lease.shard, reason=str(error))
            except Exception:  # noqa: BLE001 - whatever it was, the log has the state
                _log.exception("shard dropped", shard=self.lease.shard)
            self._drop(ShardPhase.TAKING)
            if self._clock.monotonic_ms() - started_ms > _HEALTHY_MS:
                delay_ms = self._config.log_retry_ms
            await asyncio.sleep(delay_ms / 1000)
            delay_ms = min(2 * delay_ms, self._config.log_retry_ms_max)

    async def _take_over(self) -> None:
        """Take, load and serve the shard until that fails. Raises what failed."""
        self._bug = self._loop.create_future()
        self._writer = ShardWriter(self._partition, self._config, self.lease.shard)
        writing = self._loop.create_task(self._writer.run())
        try:
            started_ms = self._clock.monotonic_ms()
            await self._append_fence(writing)
            self.phase = ShardPhase.LOADING
            self.core = self._new_shard()
            replay = ShardReplay(self.lease, self._partition, self.core.apply, self._config)
            await replay.run()
            self._serve(replay.sequence, started_ms)
            await self._until_failure(writing)
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _append_fence(self, writing: asyncio.Task[None]) -> None:
        stored = asyncio.Event()
        self._writer.append(
            fence_batch(
                self.lease.producer_id,
                self.lease.shard_epoch,
                self._node_id,
                self._clock.wall_ms(),
            ),
            stored.set,
        )
        waiting = self._loop.create_task(stored.wait())
        try:
            await asyncio.wait((waiting, writing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not stored.is_set():
            writing.result()

    def _serve(self, sequence: int, started_ms: int) -> None:
        self._outbox = ShardOutbox(self.lease, self._writer, sequence, self._config, self._clock)
        self.phase = ShardPhase.SERVING
        _log.info(
            "shard served",
            shard=self.lease.shard,
            shard_epoch=self.lease.shard_epoch,
            groups=len(self.core.state.groups),
            milliseconds=self._clock.monotonic_ms() - started_ms,
        )
        topics = self._topics()
        result = self.core.loaded(topics, self._now())
        self._outbox.put(result, partial(self._finish, result, lambda _, __: None))
        self._arm()

    async def _until_failure(self, writing: asyncio.Task[None]) -> None:
        await asyncio.wait((writing, self._bug), return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            writing.result()
        # What is under way must be decided before the same epoch writes anything else.
        self._drop(ShardPhase.TAKING)
        deciding = self._loop.create_task(self._writer.flushed())
        try:
            await asyncio.wait((writing, deciding), return_when=asyncio.FIRST_COMPLETED)
        finally:
            deciding.cancel()
        raise self._bug.result()

    def _fail(self, bug: Exception) -> None:
        """Drop the state and load it again."""
        if not self._bug.done():
            self._bug.set_result(bug)
        self.phase = ShardPhase.TAKING

    def _drop(self, phase: ShardPhase) -> None:
        if self.phase is not ShardPhase.CLOSED:
            self.phase = phase
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._outbox.close()
        self._end_streams()

    def _end_streams(self) -> None:
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.end(ServiceError("NOT_COORDINATOR", f"shard {self.lease.shard} moves"))

    # Results and time

    def _now(self) -> Moment:
        return Moment(self._clock.monotonic_ms(), self._clock.wall_ms())

    def _finish(self, result: Result[Any], done: Done, error: ServiceError | None) -> None:
        if error is not None:
            done(None, error)
            return
        done(result.reply, None)
        for push in result.pushes:
            self._deliver(push)

    def _deliver(self, push: Push) -> None:
        stream = self.streams.get(push.stream)
        if stream is None:
            return
        if isinstance(push.message, Refusal):
            stream.end(ServiceError(push.message.reason, push.message.message))
        else:
            stream.push(push.message)

    def _arm(self) -> None:
        due_ms = self.core.next_timer_ms()
        if due_ms is None or (self._timer is not None and self._timer_ms <= due_ms):
            return
        self._arm_at(due_ms)

    def _arm_at(self, due_ms: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_ms = max(1, due_ms - self._clock.monotonic_ms())
        self._timer_ms = due_ms
        self._timer = self._loop.call_later(delay_ms / 1000, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self.phase is not ShardPhase.SERVING or self._draining:
            return
        if not self._in_session():
            self._arm_at(self._clock.monotonic_ms() + _OUT_OF_SESSION_MS)
            return
        try:
            for result in self.core.fire(self._now()):
                self._outbox.put(result, partial(self._finish, result, lambda _, __: None))
        except Exception as bug:  # noqa: BLE001 - the state cannot be trusted any more
            self._fail(bug)
            return
        self._arm()
