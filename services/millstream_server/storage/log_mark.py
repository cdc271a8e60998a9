"""What must not be forgotten of a log when the process ends: a checkpoint in the log's folder.

- **cut**: recovery cut a tail off, and the controller has not heard of it yet. The next start finds
  nothing to cut, but the replica can prove its place no better than before (invariant 7).
- **rot**: damage was met where the log was synced. The next start does not read there, and would
  take the log for sound (invariant 34).
"""

import json
from typing import NamedTuple

from millstream_server.runtime.checkpoint import (
    CorruptCheckpointError,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from millstream_server.runtime.ports import Files
from millstream_server.storage.errors import LogDamagedError

MARK_FILE = "mark"


class LogMark(NamedTuple):
    """A mark as it was found."""

    # The damage; None if only a tail was cut.
    rot: LogDamagedError | None


def read_mark(files: Files, folder: str) -> LogMark | None:
    """The mark of a log; None if it has none. One that cannot be read says the worst. Raises
    OSError."""
    path = f"{folder}/{MARK_FILE}"
    try:
        payload = read_checkpoint(files, path)
        if payload is None:
            return None
        read = json.loads(payload)
        if read["why"] == "cut":
            return LogMark(None)
        return LogMark(
            LogDamagedError(str(read["text"]), offset=int(read["offset"]), path=str(read["path"]))
        )
    except (CorruptCheckpointError, ValueError, KeyError, TypeError) as error:
        text = f"{path} cannot be read: {error}; the log may be damaged"
        return LogMark(LogDamagedError(text, offset=0, path=path))


def mark_cut(files: Files, folder: str) -> None:
    """Remember durably that a tail is about to be cut. Raises OSError."""
    write_checkpoint(files, f"{folder}/{MARK_FILE}", json.dumps({"why": "cut"}).encode())


def mark_rot(files: Files, folder: str, rot: LogDamagedError) -> None:
    """Remember durably that the log is damaged. Raises OSError."""
    said = {"why": "rot", "text": str(rot), "offset": rot.offset, "path": rot.path}
    write_checkpoint(files, f"{folder}/{MARK_FILE}", json.dumps(said).encode())


def remove_mark(files: Files, folder: str) -> None:
    """Forget it, durably. Raises OSError."""
    remove_checkpoint(files, f"{folder}/{MARK_FILE}")
