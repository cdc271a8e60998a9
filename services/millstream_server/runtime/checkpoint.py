"""Small files that are replaced as a whole and survive a crash at every step (invariant 35).

A checkpoint is one line of header and a payload::

    millstream-checkpoint 1 <CRC-32C of the payload, 8 hex digits> <payload bytes>\\n<payload>

It is written to ``<path>.tmp``, synced, renamed over ``<path>``, and the directory is synced: a
reader finds the old payload or the new one, never a mixture. The version counts changes of this
envelope; payloads carry their own.
"""

import posixpath

import google_crc32c

from millstream_server.runtime.ports import Files

_MAGIC = "millstream-checkpoint"
_VERSION = 1
TEMPORARY_SUFFIX = ".tmp"
# No checkpoint is near this; a larger file is damage, not something to load.
CHECKPOINT_BYTES_MAX = 256 * 1024 * 1024


class CorruptCheckpointError(Exception):
    """The file is not a checkpoint, was cut off, or fails its checksum."""


def encode_checkpoint(payload: bytes) -> bytes:
    """The bytes of a checkpoint file."""
    header = f"{_MAGIC} {_VERSION} {google_crc32c.value(payload):08x} {len(payload)}\n"
    return header.encode() + payload


def decode_checkpoint(data: bytes) -> bytes:
    """The payload of a checkpoint file. Raises CorruptCheckpointError."""
    header, newline, payload = data.partition(b"\n")
    words = header.decode("ascii", "replace").split(" ")
    if not newline or len(words) != 4 or words[0] != _MAGIC or words[1] != str(_VERSION):
        raise CorruptCheckpointError("not a checkpoint of this version")
    if words[3] != str(len(payload)):
        raise CorruptCheckpointError(f"{len(payload)} bytes of payload instead of {words[3]}")
    if words[2] != f"{google_crc32c.value(payload):08x}":
        raise CorruptCheckpointError("checksum does not match")
    return payload


def write_checkpoint(files: Files, path: str, payload: bytes) -> None:
    """Replace a checkpoint durably. Raises OSError; the old payload then still stands, unless the
    last step, the sync of the directory, failed."""
    temporary = path + TEMPORARY_SUFFIX
    data = encode_checkpoint(payload)
    file = files.open(temporary, create=True)
    try:
        file.truncate(0)
        file.write(0, [data])
        file.sync()
    finally:
        file.close()
    files.rename(temporary, path)
    files.sync_directory(posixpath.dirname(path))


def read_checkpoint(files: Files, path: str) -> bytes | None:
    """The payload of a checkpoint; None if there is no such file.

    Raises CorruptCheckpointError, OSError.
    """
    if not files.exists(path):
        return None
    file = files.open(path, read_only=True)
    try:
        size = file.size()
        if size > CHECKPOINT_BYTES_MAX:
            raise CorruptCheckpointError(f"{size} bytes are more than a checkpoint can have")
        return decode_checkpoint(file.read(0, size))
    finally:
        file.close()


def remove_checkpoint(files: Files, path: str) -> None:
    """Remove a checkpoint durably; no error if there is none. Raises OSError."""
    if files.exists(path):
        files.remove(path)
    files.sync_directory(posixpath.dirname(path))
