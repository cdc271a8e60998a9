"""Recovery point and start offset of every log of a directory, in one checkpoint.

One file for all logs, so that moving the points of many logs up costs one sync. The payload is
JSON: ``{"<topic id, hex>-<partition>": [recovery point, start offset], …}``.
"""

import json
from threading import Lock
from typing import NamedTuple

from millstream_server.runtime.checkpoint import (
    CorruptCheckpointError,
    read_checkpoint,
    write_checkpoint,
)
from millstream_server.runtime.ports import Files

FILE_NAME = "log-points"


class Points(NamedTuple):
    """What must be remembered of one log across a crash."""

    # Everything below was synced: missing bytes there are rot, not a torn tail (invariant 34).
    recovery_point: int
    # First offset that may be read.
    start_offset: int


class LogPoints:
    """The checkpoint of all points. Any thread."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self._path = f"{folder}/{FILE_NAME}"
        self._points: dict[str, Points] = {}
        # True if something changed since the last save.
        self._changed = False
        # Logs that were set aside: a job still under way must not bring their points back.
        self._dropped: set[str] = set()
        self._lock = Lock()
        # True if the checkpoint was there but could not be read: then every log is scanned whole.
        self.lost = False

    def load(self) -> None:
        """Read the checkpoint. Raises OSError."""
        try:
            payload = read_checkpoint(self._files, self._path)
            read = json.loads(payload) if payload is not None else {}
            self._points = {name: Points(*map(int, pair)) for name, pair in read.items()}
        except (CorruptCheckpointError, ValueError, TypeError, AttributeError):
            self.lost = True
            self._points = {}

    def get(self, name: str) -> Points | None:
        """Points of a log folder; None if they are not known."""
        return self._points.get(name)

    def put(self, name: str, points: Points) -> None:
        """Change the points of a log; ``save`` makes it durable. Nothing happens after ``drop``."""
        with self._lock:
            if name not in self._dropped and self._points.get(name) != points:
                self._points[name] = points
                self._changed = True

    def drop(self, name: str) -> None:
        """Forget a log; ``save`` makes it durable."""
        with self._lock:
            self._dropped.add(name)
            self._changed |= self._points.pop(name, None) is not None

    def expect(self, name: str) -> None:
        """Take points of this log again: it is made anew."""
        with self._lock:
            self._dropped.discard(name)

    def save(self) -> None:
        """Make all changes durable; does nothing if there are none. Raises OSError."""
        with self._lock:
            if not self._changed:
                return
            payload = json.dumps(self._points, indent=0, sort_keys=True).encode()
            write_checkpoint(self._files, self._path, payload)
            self._changed = False
