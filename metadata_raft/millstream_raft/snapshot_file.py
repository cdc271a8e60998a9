"""Snapshots: the file that this node keeps, and the one that a leader sends piece by piece.

A snapshot is on the disk, renamed and its directory synced, before the journal loses the entries
that it holds. A file that cannot be read stops the node: the library would log it, go on with an
empty state and claim to match the leader.
"""

import os.path

from google.protobuf.message import DecodeError

from millstream_raft.checked_file import (
    decode_checked,
    encode_checked,
    read_from_disk,
    replace_file,
)
from millstream_raft.directory_errors import DirectoryDamaged, RaftDirectoryError
from millstream_raft.ports import FailStop, File, Files
from millstream_raft.raft_messages import LogEntry, Position, SnapshotPart
from millstream_server.v1 import raft_pb2 as wire
from millstream_server.v1 import raft_storage_pb2 as storage

FILE_NAME = "snapshot"
MAGIC = b"MSRSNAP\0"


class Snapshot:
    """A state and the last two entries that it holds."""

    __slots__ = ("last", "previous", "state")

    def __init__(self, last: LogEntry, previous: LogEntry, state: bytes) -> None:
        self.last = last
        self.previous = previous
        self.state = state


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The file's bytes."""
    message = storage.RaftSnapshotFile(
        last=_entry_message(snapshot.last),
        previous=_entry_message(snapshot.previous),
        state=snapshot.state,
    )
    return encode_checked(MAGIC, message.SerializeToString(deterministic=True))


def decode_snapshot(data: bytes, name: str) -> Snapshot:
    """Read a file's bytes. Raises DirectoryDamaged or NewerFormat, naming ``name``."""
    content = decode_checked(MAGIC, data, name)
    try:
        message = storage.RaftSnapshotFile.FromString(content)
    except DecodeError as error:
        raise DirectoryDamaged(f"{name} cannot be parsed") from error
    last, previous = _entry(message.last), _entry(message.previous)
    if previous.index < 1 or last.index != previous.index + 1:
        raise DirectoryDamaged(f"{name} has the boundary {previous.index}, {last.index}")
    return Snapshot(last, previous, message.state)


class SnapshotFile:
    """The newest snapshot on this node's disk."""

    def __init__(self, directory: str, files: Files, fail_stop: FailStop) -> None:
        """Find out what is there. Raises DirectoryDamaged, NewerFormat or OSError."""
        self._path = os.path.join(directory, FILE_NAME)
        self._files = files
        self._fail_stop = fail_stop
        #: Read at the start, until ``take`` hands it over.
        self._loaded: Snapshot | None = None
        #: The last entry that the file holds; None without a file.
        self.last: Position | None = None
        if files.exists(self._path):
            self._loaded = decode_snapshot(read_from_disk(files, self._path), self._path)
            self.last = Position(self._loaded.last.index, self._loaded.last.term)

    def check_reaches(self, first_entry: LogEntry) -> None:
        """Raise DirectoryDamaged if entries are missing between the snapshot and the journal."""
        reached = 0 if self.last is None else self.last.index
        if first_entry.index > max(reached, 1):
            raise DirectoryDamaged(
                f"the journal begins at {first_entry.index}, but the snapshot {self._path} "
                f"reaches only {reached}: it was lost or replaced by an older one"
            )

    def take(self) -> Snapshot | None:
        """The snapshot that was loaded or installed last, once: it is not kept in memory."""
        taken, self._loaded = self._loaded, None
        return taken

    def write(self, snapshot: Snapshot) -> None:
        """Durable on return."""
        self._replace(encode_snapshot(snapshot), snapshot)

    def install(self, data: bytes, last: Position) -> bool:
        """Make a received file the newest one, for ``take``. False, and nothing changed, if it is
        not whole or not the one announced."""
        try:
            snapshot = decode_snapshot(data, "received snapshot")
        except RaftDirectoryError:
            return False
        if (snapshot.last.index, snapshot.last.term) != last:
            return False
        self._replace(data, snapshot)
        self._loaded = snapshot
        return True

    def open_for_sending(self, part_bytes_max: int) -> "SnapshotSender | None":
        """A reader of the present file; it goes on reading this one when a newer one replaces
        it. None without a snapshot."""
        if self.last is None:
            return None
        try:
            file = self._files.open(self._path, read_only=True)
        except OSError as error:
            self._fail_stop(f"cannot open {self._path}: {error}")
        return SnapshotSender(file, self.last, part_bytes_max)

    def _replace(self, data: bytes, snapshot: Snapshot) -> None:
        try:
            replace_file(self._files, self._path, [data])
        except OSError as error:
            self._fail_stop(f"cannot write {self._path}: {error}")
        self.last = Position(snapshot.last.index, snapshot.last.term)


class SnapshotSender:
    """Cuts a snapshot file into parts for one voter."""

    def __init__(self, file: File, last: Position, part_bytes_max: int) -> None:
        self._file = file
        self._last = last
        self._part_bytes_max = part_bytes_max
        self._size = file.size()
        self._position = 0

    def next_part(self) -> SnapshotPart:
        """The next part. May raise OSError."""
        position = self._position
        data = self._file.read(position, self._part_bytes_max)
        self._position += len(data)
        return SnapshotPart(self._last, position, data, self._position >= self._size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class SnapshotAssembly:
    """Puts the parts of one snapshot together. Parts of two snapshots, or with one lost between
    them, are never joined: the assembly begins anew at the next first part."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._last: Position | None = None
        self._data = bytearray()

    def add(self, part: SnapshotPart) -> bytes | None:
        """Add a part; the whole file if this was its last one, else None."""
        if part.position == 0:
            self._last = part.last
            self._data = bytearray()
        expected = self._last == part.last and part.position == len(self._data)
        if not expected or len(self._data) + len(part.data) > self._bytes_max:
            self._forget()
            return None
        self._data += part.data
        if not part.complete:
            return None
        data = bytes(self._data)
        self._forget()
        return data

    def _forget(self) -> None:
        self._last = None
        self._data = bytearray()


def _entry_message(entry: LogEntry) -> wire.RaftEntry:
    return wire.RaftEntry(index=entry.index, term=entry.term, command=entry.command)


def _entry(message: wire.RaftEntry) -> LogEntry:
    return LogEntry(message.command, message.index, message.term)
