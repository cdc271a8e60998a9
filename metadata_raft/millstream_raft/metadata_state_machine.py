"""The image behind the consensus: applies entries on its thread, hands the steps to the event loop.

Two threads meet here. The consensus calls ``apply``, ``dump`` and ``restore`` on its own thread and
then tells the event loop about each of them, in the same order. The images made meanwhile wait in
a queue, so that the event loop steps through exactly the images that belong to what it is told.
"""

from collections import deque

from millstream_raft.commands import Applied, apply_entry
from millstream_raft.delta import Delta, delta_between
from millstream_raft.image import EMPTY_IMAGE, Image
from millstream_raft.image_codec import decode_image, encode_image


class MetadataStateMachine:
    """See ``consensus.StateMachine``."""

    def __init__(self) -> None:
        # Newest image of the consensus' thread; the event loop reads its own, older one.
        self._image = EMPTY_IMAGE
        # Steps not yet taken by the event loop. ``deque`` is safe between two threads.
        self._steps: deque[Delta] = deque()
        # Size of the last snapshot, for metrics.
        self.snapshot_bytes = 0

    def apply(self, index: int, entry: bytes) -> bytes:
        """See ``StateMachine``. An empty entry changes nothing."""
        applied: Applied = apply_entry(self._image, entry)
        self._image = applied.image
        self._steps.append(applied.delta)
        return applied.result.SerializeToString()

    def dump(self) -> bytes:
        """See ``StateMachine``."""
        data = encode_image(self._image)
        self.snapshot_bytes = len(data)
        return data

    def restore(self, snapshot: bytes) -> None:
        """See ``StateMachine``. Raises CorruptImageError."""
        before, self._image = self._image, decode_image(snapshot)
        self._steps.append(delta_between(before, self._image))

    def next_step(self) -> Delta:
        """The step that belongs to what the consensus tells the event loop next."""
        return self._steps.popleft()

    @property
    def newest_image(self) -> Image:
        """The newest image applied, perhaps ahead of what the event loop was told."""
        return self._image
