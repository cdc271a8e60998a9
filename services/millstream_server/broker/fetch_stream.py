"""One `Fetch` stream: positions and credit in, framed batches out.

One task reads what the client asks for; the call's own task writes. At most one message is on its
way to gRPC at any time, so a slow consumer costs one message, its cursors and at most one cold
read each, whatever it asked for.
"""

import asyncio
import contextlib
from collections import OrderedDict
from typing import Any

import grpc

from millstream.record import iterate_frames
from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.cursor import Cursor
from millstream_server.broker.fetch_credit import Credit
from millstream_server.broker.fetch_wire import encode_entry, error_header, join_entries
from millstream_server.broker.hosted import HostedPartitions
from millstream_server.broker.position import TruncatedLog, check_position
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.runs import VERIFIED_BYTES, Run
from millstream_server.broker.unheard_progress import UnheardProgress
from millstream_server.runtime.errors import ServiceError, reason_number
from millstream_server.storage.errors import StorageError

# Room that a header of an entry takes at most, so that a message stays near its size.
_ENTRY_HEADER_BYTES = 128
# Cold reads of one stream at a time: bounds what is read ahead of a slow consumer.
_COLD_READS_MAX = 2


class FetchStream:
    """The state of one stream. Everything runs on the event loop."""

    def __init__(self, hosted: HostedPartitions, peer: str) -> None:
        self._hosted = hosted
        self._config = hosted.config
        self.peer = peer
        self._credit = Credit()
        self._cursors: dict[tuple[bytes, int], Cursor] = {}
        # Cursors that may have records to read, in turn; those that wait for credit.
        self._ready: OrderedDict[Cursor, None] = OrderedDict()
        self._starved: OrderedDict[Cursor, None] = OrderedDict()
        # Entries that need no credit: errors.
        self._notices: list[tuple[bytes, ...]] = []
        self._wake = asyncio.Event()
        self._taken = asyncio.Event()
        self._cold_reads = 0
        self._settings: pb.FetchSettings | None = None
        self._run_bytes_max = self._config.fetch_message_bytes
        self._held_since_ms: int | None = None
        self._half_closed = False
        self._loop = asyncio.get_running_loop()
        self._progress: UnheardProgress[Cursor] = UnheardProgress(
            self._loop.call_later, self._wake.set
        )

    # The client's side

    async def run(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Serve until the client ends the stream. Raises ServiceError."""
        reading = self._loop.create_task(self._read_requests(context))
        reading.add_done_callback(lambda _: self._wake.set())
        try:
            while True:
                if reading.done() and not self._half_closed:
                    reading.result()  # raises what ended the reading
                message = self._next_message()
                if message is not None:
                    await context.write(message)
                    self._taken.set()
                    continue
                if self._half_closed and self._finished():
                    return
                await self._sleep()
        finally:
            reading.cancel()
            self._close()
            with contextlib.suppress(BaseException):
                await reading

    async def _read_requests(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        while True:
            request = await context.read()
            if request is grpc.aio.EOF:
                self._half_closed = True
                return
            if request is None:
                raise ServiceError("INVALID_REQUEST", "the message is not a FetchRequest")
            self.handle(request)
            self._wake.set()
            while len(self._notices) >= self._config.fetch_positions_max:
                self._taken.clear()
                await self._taken.wait()

    def _finished(self) -> bool:
        """With no more requests to come: nothing can be pushed ever again."""
        waiting = [cursor for cursor in self._cursors.values() if not cursor.at_stop]
        return not waiting or self._credit.bytes_left <= 0

    async def _sleep(self) -> None:
        if self._held_since_ms is None:
            await self._wake.wait()
        else:
            left_ms = self._held_until_ms() - self._hosted.clock.monotonic_ms()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.001, left_ms / 1000)):
                    await self._wake.wait()
        self._wake.clear()

    def handle(self, request: pb.FetchRequest) -> None:
        """Take over what the client asks for. Raises ServiceError INVALID_REQUEST."""
        if self._settings is None:
            self._take_settings(request.settings)
        for removal in request.removals:
            self._remove((removal.topic_id, removal.partition))
        for position in request.positions:
            self._place(position)
        if request.credit_bytes:
            self._credit.grant(request.credit_bytes)
            self._feed_starved()

    def _feed_starved(self) -> None:
        self._ready.update(self._starved)
        self._starved.clear()

    def _take_settings(self, settings: pb.FetchSettings) -> None:
        self._settings = settings
        if settings.max_partition_bytes:
            self._run_bytes_max = min(settings.max_partition_bytes, self._run_bytes_max)

    def _place(self, position: pb.FetchPosition) -> None:
        key = (position.topic_id, position.partition)
        self._remove(key)
        if len(self._cursors) >= self._config.fetch_positions_max:
            self._refuse(key, position.token, Refusal("THROTTLED", "too many positions"))
            return
        try:
            replica = self._hosted.find_any(*key)
            check_position(replica, position)
            cursor = Cursor(replica, position, self)
        except Refusal as refusal:
            self._refuse(key, position.token, refusal)
            return
        self._cursors[key] = cursor
        replica.readers[cursor] = None
        self.notify(cursor)

    def _remove(self, key: tuple[bytes, int]) -> None:
        cursor = self._cursors.pop(key, None)
        if cursor is not None:
            cursor.replica.readers.pop(cursor, None)
            cursor.closed = True
            self._ready.pop(cursor, None)
            self._starved.pop(cursor, None)
            self._progress.heard(cursor)

    def _refuse(self, key: tuple[bytes, int], token: int, refusal: Refusal) -> None:
        self._hosted.counters.errors["fetch", refusal.reason] += 1
        replica = self._hosted.replicas.get(key)
        header = error_header(
            *key,
            token,
            error=reason_number(refusal.reason),
            message=refusal.message,
            high_watermark=replica.state.high_watermark if replica is not None else 0,
            log_start_offset=replica.start_offset if replica is not None else 0,
            leader_epoch=self._hosted.newest_epoch(*key),
            truncated_offset=refusal.offset if isinstance(refusal, TruncatedLog) else None,
        )
        self._notices.append(encode_entry(header))

    # The partitions' side

    def notify(self, cursor: Cursor) -> None:
        """The partition's high watermark or log start moved."""
        if cursor.closed:
            return
        if cursor.has_records and not cursor.queued and not cursor.loading:
            self._queue(cursor)
            self._wake.set()
        self._note_progress(cursor)

    def fail(self, cursor: Cursor, refusal: Refusal) -> None:
        """The partition cannot be read here any more."""
        if not cursor.closed:
            self._remove(cursor.key)
            self._refuse(cursor.key, cursor.token, refusal)
            self._wake.set()

    def _note_progress(self, cursor: Cursor) -> None:
        if not cursor.closed and cursor.progress_unknown:
            delay_s = self._config.watermark_push_ms / 1000 if cursor.pushed else 0.0
            self._progress.note(cursor, delay_s)

    # Writing

    def _next_message(self) -> bytes | None:
        entries, self._notices = self._notices, []
        if not self._hold_back():
            self._add_records(entries)
        if self._progress.due:
            self._add_progress(entries)
        return join_entries(entries) if entries else None

    def _hold_back(self) -> bool:
        """True while `min_bytes` is not reached and `max_wait_ms` is not over."""
        settings = self._settings
        if settings is None or settings.min_bytes <= 1 or not self._ready:
            self._held_since_ms = None
            return False
        wanted = min(settings.min_bytes, max(self._credit.bytes_left, 1))
        readable = 0
        for cursor in self._ready:
            readable += cursor.readable_bytes()
            if readable >= wanted:
                break
        now_ms = self._hosted.clock.monotonic_ms()
        if self._held_since_ms is None:
            self._held_since_ms = now_ms
        if readable < wanted and now_ms < self._held_until_ms():
            return True
        self._held_since_ms = None
        return False

    def _held_until_ms(self) -> int:
        assert self._settings is not None
        assert self._held_since_ms is not None
        return self._held_since_ms + min(self._settings.max_wait_ms, self._config.fetch_wait_ms_max)

    def _add_records(self, entries: list[tuple[bytes, ...]]) -> None:
        room = self._config.fetch_message_bytes
        while self._ready and room > 0:
            cursor, _ = self._ready.popitem(last=False)
            cursor.queued = False
            if cursor.closed or not cursor.has_records:
                continue
            run = self._take_run(cursor, room)
            if run is None:
                continue
            if not run.data:
                continue  # the next move of the high watermark queues it again
            if entries and len(run.data) > room:
                cursor.loaded = run
                self._queue(cursor, first=True)
                return
            if not self._credit.allows(len(run.data)):
                # Not kept: a little credit for many partitions would hold very much memory.
                cursor.needed_bytes = next(iterate_frames(run.data)).end
                self._queue(cursor)
                continue
            self._credit.spend(len(run.data))
            room -= len(run.data) + _ENTRY_HEADER_BYTES
            entries.append(encode_entry(cursor.advance(run), run.data))
            self._progress.heard(cursor)
            if cursor.has_records:
                self._queue(cursor)

    def _queue(self, cursor: Cursor, *, first: bool = False) -> None:
        cursor.queued = True
        self._ready[cursor] = None
        if first:
            self._ready.move_to_end(cursor, last=False)

    def _starve(self, cursor: Cursor) -> None:
        cursor.queued = True
        self._starved[cursor] = None

    def _take_run(self, cursor: Cursor, room: int) -> Run | None:
        """A run of batches at the cursor; None if it is being loaded or cannot be read."""
        if cursor.loaded is not None:
            run, cursor.loaded = cursor.loaded, None
            if run.data or not cursor.has_records:
                return run
        if not self._credit.allows(max(1, cursor.needed_bytes)):
            self._starve(cursor)
            return None
        cursor.needed_bytes = 0
        size = max(1, min(self._run_bytes_max, room, self._credit.bytes_left))
        if not cursor.trusted:
            size = min(size, VERIFIED_BYTES)
        replica = cursor.replica
        try:
            replica.check_offset(cursor.offset)
            if replica.is_warm(cursor.offset):
                stop, verified = cursor.stop_offset, not cursor.trusted
                return replica.read(cursor.offset, size, stop, verified=verified)
        except Refusal as refusal:
            self.fail(cursor, refusal)
            return None
        except StorageError as error:
            self.fail(cursor, replica.read_refusal(error))
            return None
        self._load(cursor, size)
        return None

    def _load(self, cursor: Cursor, size: int) -> None:
        """Read older records on a thread, a few at a time."""
        if self._cold_reads >= _COLD_READS_MAX:
            self._starve(cursor)
            return
        self._cold_reads += 1
        cursor.loading = True
        offset, stop_offset, verified = cursor.offset, cursor.stop_offset, not cursor.trusted
        replica = cursor.replica

        def loaded(run: Run | None, error: BaseException | None) -> None:
            self._cold_reads -= 1
            cursor.loading = False
            self._feed_starved()
            self._wake.set()
            if cursor.closed:
                return
            if error is not None:
                self.fail(cursor, replica.read_refusal(error))
            elif run is not None:
                cursor.loaded = run
                self._queue(cursor, first=True)

        self._hosted.reads.submit(
            lambda: replica.read(offset, size, stop_offset, verified=verified), loaded
        )

    def _add_progress(self, entries: list[tuple[bytes, ...]]) -> None:
        stale = self._progress.take()
        entries += [encode_entry(cursor.progress()) for cursor in stale if cursor.progress_unknown]

    def _close(self) -> None:
        for key in list(self._cursors):
            self._remove(key)
        self._progress.close()
