"""The moving half of the blocking producer: its sending thread, its streams, what they settle.

One lock guards accumulator and sender and is held for moments only: encoding, compressing and all
waiting happen outside it.
"""

import contextlib
import threading
from collections import deque

from millstream._client import methods
from millstream._client.cluster import ClusterChange
from millstream._client.sync_io import SyncClient
from millstream._errors import MillstreamError, TimedOutError
from millstream._producer.batch import Batch
from millstream._producer.call import ProduceCall
from millstream._producer.callbacks import run_callbacks
from millstream._producer.core import ProducerCore
from millstream._producer.receipt import wait_for
from millstream._producer.sync_stream import SyncProduceStream
from millstream.v1 import metadata_service_pb2 as metadata
from millstream.v1.broker_service_pb2 import ProduceResponse


class SyncDispatch:
    """Sends what the core says is due; see the module."""

    def __init__(self, core: ProducerCore, client: SyncClient) -> None:
        self._core = core
        self._client = client
        self._accumulator = core.accumulator
        self._sender = core.sender
        self.lock = threading.Lock()
        # Notified when buffer memory became free, and when callbacks became due.
        self.room = threading.Condition(self.lock)
        self.delivered = threading.Condition(self.lock)
        # Something may be due; wakes the sending thread.
        self.due = threading.Event()
        # Settled batches whose callbacks were not called yet; their bytes stay charged, so that
        # a program that never polls is stopped by buffer.memory.
        self.settled: deque[Batch] = deque()
        self._streams: dict[int, SyncProduceStream] = {}
        self._accumulator.on_open = self.due.set
        self._accumulator.on_sealed = self.due.set
        self._sender.on_done = self._done
        self._thread = threading.Thread(target=self._run, name="millstream-send", daemon=True)

    def start(self) -> None:
        """Begin to send; the client is connected."""
        self._client.cluster.subscribe(self._on_cluster_change)
        self._thread.start()

    def close(self) -> None:
        """Fail what is not settled, end streams and threads."""
        with self.lock:
            self._sender.abandon_all()
            streams = list(self._streams.values())
            self._streams.clear()
            self.room.notify_all()
            self.delivered.notify_all()
        for stream in streams:
            stream.close()
        self._client.close()
        self.due.set()
        self._thread.join(timeout=1)

    def flush(self, timeout: float | None) -> None:
        """Send all that waits now and wait until it is settled. Raises TimedOutError."""
        with self.lock:
            pending = self._sender.pending()
            self._sender.flushing += 1
        self.due.set()
        try:
            wait_for(pending, timeout)
        finally:
            with self.lock:
                self._sender.flushing -= 1

    def serve(self) -> int:
        """Call the callbacks that are due, on this thread; returns how many."""
        count = 0
        while self.settled:
            try:
                batch = self.settled.popleft()
            except IndexError:  # another thread was faster
                break
            count += run_callbacks(batch)
            with self.lock:
                self._accumulator.release(batch)
                self.room.notify_all()
        return count

    # ---- the sending thread

    def _run(self) -> None:
        wait_s: float | None = None
        next_tick_ms = 0
        while not self._client.stopping:
            self.due.wait(wait_s)
            self.due.clear()
            now_ms = self._client.now_ms()
            ticking = now_ms >= next_tick_ms
            with self.lock:
                late = self._sender.expire(now_ms) if ticking else []
                unused = self._accumulator.forget_unused(now_ms) if ticking else []
                calls = self._sender.collect(now_ms)
                wake_at_ms = self._sender.wake_at_ms
                active = bool(self._accumulator.active)
                needs_producer_id = self._sender.needs_producer_id
                self._notify()
            if ticking:
                next_tick_ms = now_ms + self._core.tick_ms
                self._end_streams(late)
                self._client.forget_topics(unused)
            self._put(calls)
            if needs_producer_id:
                self._allocate()
            wait_s = self._core.tick_ms / 1000 if active else None
            if wake_at_ms is not None:
                due_s = max(0, wake_at_ms - self._client.now_ms()) / 1000
                wait_s = due_s if wait_s is None else min(wait_s, due_s)

    def _end_streams(self, node_ids: list[int]) -> None:
        for node_id in node_ids:
            with self.lock:
                stream = self._streams.get(node_id)
            if stream is not None:
                stream.end(TimedOutError("no answer within request.timeout.ms"))

    def _put(self, calls: list[ProduceCall]) -> None:
        for call in calls:
            # The client may be closing under us.
            with contextlib.suppress(MillstreamError, ValueError):
                self._stream(call.node_id).put(call)

    def _stream(self, node_id: int) -> SyncProduceStream:
        with self.lock:
            stream = self._streams.get(node_id)
        if stream is None:
            core = self._core
            stream = SyncProduceStream(
                encode=lambda call: call.encode(core.acks, core.wait_ms, core.codec),
                on_written=self._written,
                on_response=self._on_response,
                on_broken=lambda stream, error: self._on_broken(node_id, stream, error),
            )
            with self.lock:
                self._streams[node_id] = stream
            # Known before it is opened: it may break at once.
            stream.open(self._client, self._client.cluster.nodes[node_id].address)
        return stream

    def _allocate(self) -> None:
        """Get a producer id; tried until it succeeds, while batches keep to their time-outs."""
        try:
            answer = self._client.call(
                methods.ALLOCATE_PRODUCER_ID,
                metadata.AllocateProducerIdRequest(),
                timeout_ms=self._core.tick_ms * 10,
            )
        except MillstreamError as error:
            if not error.retriable and not self._client.stopping:
                with self.lock:
                    self._sender.fail_all(error)
                    self._notify()
        else:
            with self.lock:
                self._sender.set_producer_id(answer.producer_id, answer.producer_epoch)
        self.due.set()

    # ---- what streams and metadata tell, on threads of their own

    def _notify(self) -> None:
        """Wake whoever waits for room or callbacks (under the lock)."""
        self.room.notify_all()
        if self.settled:
            self.delivered.notify_all()

    def _written(self, call: ProduceCall) -> None:
        if self._core.config.acks == 0:
            with self.lock:
                self._sender.on_written(call)
                self._notify()
            self.due.set()

    def _on_response(self, response: ProduceResponse) -> None:
        with self.lock:
            self._sender.on_response(response, self._client.now_ms())
            self._notify()
            active = bool(self._accumulator.active)
        if active:
            self.due.set()

    def _on_broken(self, node_id: int, stream: SyncProduceStream, error: MillstreamError) -> None:
        with self.lock:
            if self._streams.get(node_id) is not stream:
                return
            del self._streams[node_id]
            self._sender.on_broken(node_id, error, self._client.now_ms())
            self._notify()
        self.due.set()

    def _done(self, batch: Batch) -> None:
        """A batch is settled (under the lock)."""
        if batch.callbacks:
            self.settled.append(batch)
        else:
            self._accumulator.release(batch)

    def _on_cluster_change(self, change: ClusterChange) -> None:
        with self.lock:
            self._sender.on_cluster_change(change)
            self._notify()
        self.due.set()
