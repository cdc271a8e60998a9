"""The image that a node follows: what it has, who is told, who waits. All on the event loop."""

import asyncio

import structlog

from millstream_raft.commands import apply_entry
from millstream_raft.delta import Delta, delta_between
from millstream_raft.image import EMPTY_IMAGE, Image
from millstream_raft.image_codec import decode_image
from millstream_server.cluster.metadata_plane import Subscriber, Unsubscribe
from millstream_server.runtime.errors import ServiceError
from millstream_server.v1 import controller_service_pb2 as pb
from millstream_server.v1 import metadata_command_pb2 as pb_command

_log = structlog.get_logger()


class ImageGapError(Exception):
    """The stream skipped something, or this node went astray: begin anew with a snapshot."""


class FollowedImage:
    """Never goes back, also when the metadata node that is followed changes (invariant 3)."""

    def __init__(self, waiters_max: int) -> None:
        self._waiters_max = waiters_max
        self._waiters: dict[asyncio.Future[None], int] = {}
        self._subscribers: list[Subscriber] = []
        self._stopped = False
        self.image: Image = EMPTY_IMAGE

    def subscribe(self, subscriber: Subscriber) -> Unsubscribe:
        """See ``MetadataPlane``."""
        self._subscribers.append(subscriber)
        if self.image.version:
            self._tell(subscriber, delta_between(EMPTY_IMAGE, self.image))

        def unsubscribe() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

        return unsubscribe

    async def wait_for_version(self, version: int, timeout_ms: int) -> Image:
        """See ``MetadataPlane``."""
        if self.image.version >= version:
            return self.image
        if self._stopped:
            raise ServiceError("NODE_SHUTTING_DOWN", "the node stops")
        if len(self._waiters) >= self._waiters_max:
            raise ServiceError("THROTTLED", "too many callers wait for a version of the metadata")
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[reached] = version
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await reached
        except TimeoutError:
            raise ServiceError(
                "TIMED_OUT",
                f"the metadata is at version {self.image.version}, not {version} yet; "
                "nothing was changed",
            ) from None
        finally:
            self._waiters.pop(reached, None)
        return self.image

    def take_snapshot(self, data: bytes) -> None:
        """Take over a serialised image unless it is older. Raises CorruptImageError."""
        image = decode_image(data)
        if image.version > self.image.version:
            self._step(delta_between(self.image, image))

    def take_entries(self, response: pb.WatchImageResponse) -> None:
        """Apply entries that end at ``response.version``, unless they are old. Raises
        ImageGapError."""
        steps = [len(pb_command.MetadataEntry.FromString(one).commands) for one in response.entries]
        version = response.version - sum(steps)
        for entry, step in zip(response.entries, steps, strict=True):
            version += step
            if version <= self.image.version:
                continue  # known from the metadata node followed before
            if version - step != self.image.version:
                raise ImageGapError(f"an entry leads to {version}, from {self.image.version}")
            delta = apply_entry(self.image, entry).delta
            if delta.image.version != version:
                raise ImageGapError(f"an entry led to {delta.image.version}, not {version}")
            self._step(delta)

    def stop(self) -> None:
        """Let nobody wait any more."""
        self._stopped = True
        for waiter in list(self._waiters):
            if not waiter.done():
                waiter.set_exception(ServiceError("NODE_SHUTTING_DOWN", "the node stops"))

    def _step(self, delta: Delta) -> None:
        self.image = delta.image
        for subscriber in tuple(self._subscribers):
            self._tell(subscriber, delta)
        for waiter, version in list(self._waiters.items()):
            if version <= self.image.version and not waiter.done():
                waiter.set_result(None)

    def _tell(self, subscriber: Subscriber, delta: Delta) -> None:
        try:
            subscriber(delta)
        except Exception:  # noqa: BLE001 - one subscriber must not stop the image
            _log.exception("subscriber of the image failed", version=delta.image.version)
