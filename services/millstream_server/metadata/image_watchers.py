"""The followers of a metadata node's image, each with a bounded queue of committed entries."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from millstream_raft.image import Image
from millstream_raft.image_codec import encode_image, image_chunks
from millstream_server.runtime.errors import ServiceError
from millstream_server.v1 import controller_service_pb2 as pb

_ENTRIES_PER_MESSAGE_MAX = 256


class _Watcher:
    def __init__(self) -> None:
        # (version after the entry, entry)
        self.queue: deque[tuple[int, bytes]] = deque()
        self.queue_bytes = 0
        self.wake = asyncio.Event()
        self.end: ServiceError | None = None

    def finish(self, error: ServiceError) -> None:
        self.end = error
        self.wake.set()


class ImageWatchers:
    """Hands committed entries to the followers. A slow one is dropped, and begins anew."""

    def __init__(
        self, *, watchers_max: int, queue_bytes_max: int, chunk_bytes: int, pulse_ms: int
    ) -> None:
        self._watchers_max = watchers_max
        self._queue_bytes_max = queue_bytes_max
        self._chunk_bytes = chunk_bytes
        self._pulse_ms = pulse_ms
        # In the order in which they came, in which they are told.
        self._watchers: dict[_Watcher, None] = {}
        self._snapshot: tuple[int, bytes] | None = None

    @property
    def count(self) -> int:
        """Number of followers."""
        return len(self._watchers)

    def publish(self, version: int, entry: bytes) -> None:
        """An entry took effect, and the image has this version after it."""
        for watcher in tuple(self._watchers):
            watcher.queue.append((version, entry))
            watcher.queue_bytes += len(entry)
            if watcher.queue_bytes > self._queue_bytes_max:
                watcher.queue.clear()
                self._drop(watcher, "the follower fell too far behind")
            else:
                watcher.wake.set()

    def drop_all(self, reason: str) -> None:
        """End every watch after what was published; the followers come back, here or elsewhere, and
        get a snapshot."""
        for watcher in tuple(self._watchers):
            self._drop(watcher, reason)

    async def watch(self, newest: Callable[[], Image]) -> AsyncIterator[pb.WatchImageResponse]:
        """The image, then what is published from now on, and a pulse while that is nothing.
        ``newest`` gives the image as published.

        Raises ServiceError UNAVAILABLE when dropped, THROTTLED when there are too many."""
        if len(self._watchers) >= self._watchers_max:
            raise ServiceError("THROTTLED", f"{self._watchers_max} nodes follow the image already")
        watcher = _Watcher()
        self._watchers[watcher] = None
        try:
            for response in self._snapshot_of(newest()):
                yield response
            while True:
                try:
                    async with asyncio.timeout(self._pulse_ms / 1000):
                        await watcher.wake.wait()
                except TimeoutError:
                    yield pb.WatchImageResponse(version=newest().version)
                watcher.wake.clear()
                while watcher.queue:
                    yield _next_response(watcher)
                if watcher.end is not None:
                    raise watcher.end
        finally:
            self._watchers.pop(watcher, None)

    def _snapshot_of(self, image: Image) -> list[pb.WatchImageResponse]:
        # Kept for the next follower: after a fail-over all of them come at once.
        if self._snapshot is None or self._snapshot[0] != image.version:
            self._snapshot = (image.version, encode_image(image))
        chunks = list(image_chunks(self._snapshot[1], self._chunk_bytes))
        return [
            pb.WatchImageResponse(
                version=image.version,
                image_chunk=chunk,
                image_complete=number == len(chunks) - 1,
                pulse_interval_ms=self._pulse_ms,
            )
            for number, chunk in enumerate(chunks)
        ]

    def _drop(self, watcher: _Watcher, reason: str) -> None:
        self._watchers.pop(watcher, None)
        watcher.finish(ServiceError("UNAVAILABLE", reason))


def _next_response(watcher: _Watcher) -> pb.WatchImageResponse:
    response = pb.WatchImageResponse()
    while watcher.queue and len(response.entries) < _ENTRIES_PER_MESSAGE_MAX:
        version, entry = watcher.queue.popleft()
        watcher.queue_bytes -= len(entry)
        response.entries.append(entry)
        response.version = version
    return response
