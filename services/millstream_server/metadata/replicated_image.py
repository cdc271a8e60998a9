"""The image of this metadata node on the event loop, stepped by what the consensus commits."""

from collections.abc import Callable

import structlog

from millstream_raft.delta import Delta
from millstream_raft.image import EMPTY_IMAGE, Image
from millstream_raft.metadata_state_machine import MetadataStateMachine
from millstream_server.metadata.image_watchers import ImageWatchers

_log = structlog.get_logger()


class ReplicatedImage:
    """See ``consensus.CommitListener``. All on the event loop."""

    def __init__(self, machine: MetadataStateMachine, watchers: ImageWatchers) -> None:
        self._machine = machine
        self._watchers = watchers
        self._subscribers: list[Callable[[Delta], None]] = []
        self.image: Image = EMPTY_IMAGE

    def subscribe(self, subscriber: Callable[[Delta], None]) -> None:
        """Call ``subscriber`` after every step that changed the image."""
        self._subscribers.append(subscriber)

    def committed(self, index: int, entry: bytes, result: bytes) -> None:
        """See ``CommitListener``."""
        delta = self._machine.next_step()
        self.image = delta.image
        if delta.image is not delta.previous:
            self._watchers.publish(delta.image.version, entry)
            self._tell(delta)

    def restored(self, index: int, snapshot: bytes) -> None:
        """See ``CommitListener``."""
        delta = self._machine.next_step()
        self.image = delta.image
        self._watchers.drop_all("the metadata node replaced its image by a snapshot")
        self._tell(delta)

    def _tell(self, delta: Delta) -> None:
        for subscriber in self._subscribers:
            try:
                subscriber(delta)
            except Exception:  # noqa: BLE001 - one subscriber must not stop the image
                _log.exception("subscriber of the image failed", version=delta.image.version)
