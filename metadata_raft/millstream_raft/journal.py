"""The log on disk: append-only, synced before every promise that leaves the node.

``append`` only collects; ``sync`` writes and fdatasyncs everything collected as one job, and the
transport and the commit index call it before anything that others may rely on. So one fdatasync
covers as many entries as were waiting (group commit).

Any I/O error stops the process: after a failed fdatasync the pages are marked clean, and a retry
would report success for data that is not on the disk (ATC'20).
"""

import os.path

from millstream_raft.checked_file import read_from_disk, replace_file
from millstream_raft.directory_errors import DirectoryDamaged
from millstream_raft.journal_format import (
    JournalMark,
    decode_file,
    encode_file,
    encode_record,
)
from millstream_raft.ports import FailStop, File, Files
from millstream_raft.raft_messages import LogEntry
from millstream_raft.rules import ALL_RULES, Rule

FILE_NAME = "journal"


class Journal:
    """The entries from the last snapshot's on. The first two of them are the snapshot's boundary
    once there was a snapshot."""

    def __init__(
        self,
        directory: str,
        files: Files,
        fail_stop: FailStop,
        rules: frozenset[Rule] = ALL_RULES,
        mark: JournalMark | None = None,
    ) -> None:
        """Load the file as invariant 34 asks: sync, forget the cache, then read. ``mark`` is what
        was noted of it last. Raises DirectoryDamaged, NewerFormat or OSError."""
        self._path = os.path.join(directory, FILE_NAME)
        self._files = files
        self._fail_stop = fail_stop
        self._rules = rules
        if not files.exists(self._path):
            raise DirectoryDamaged(f"{self._path} is missing")
        data = read_from_disk(files, self._path)
        content = decode_file(data, self._path, mark)
        #: In place for ever: the library holds on to this very list.
        self.entries: list[LogEntry] = content.entries
        self._file: File = files.open(self._path)
        if content.valid_bytes < len(data):
            self._file.truncate(content.valid_bytes)
            self._file.sync()
        self._unwritten: list[bytes] = []
        self._written_bytes = content.valid_bytes
        self._synced_bytes = content.valid_bytes
        self._whole_bytes = content.whole_bytes
        self._unwritten_bytes = 0
        #: fdatasync calls so far.
        self.syncs = 0

    @property
    def size_bytes(self) -> int:
        """Length of the file once everything collected is written."""
        return self._written_bytes + self._unwritten_bytes

    @property
    def last_index(self) -> int:
        """Index of the last entry, synced or not."""
        return self.entries[-1].index

    @property
    def mark(self) -> JournalMark:
        """How much of which file is on the disk."""
        return JournalMark(self.entries[0].index, self._whole_bytes, self._synced_bytes)

    def append(self, entry: LogEntry) -> None:
        """Add an entry, unless it is there already. Only an entry of another term at the same
        index truncates what follows (Raft §5.3); a repeated message must not (S1)."""
        offset = entry.index - self.entries[0].index
        if not 0 <= offset <= len(self.entries):
            self._fail_stop(f"entry {entry.index} would leave a gap behind {self.last_index}")
        if offset < len(self.entries):
            if self.entries[offset].term == entry.term:
                return
            if offset == 0:
                self._fail_stop(f"entry {entry.index} conflicts with the snapshot")
            del self.entries[offset:]
        self.entries.append(entry)
        record = encode_record(entry, self._synced_bytes)
        self._unwritten.append(record)
        self._unwritten_bytes += len(record)

    def truncate_from(self, position: int) -> None:
        """Forget the entries from a position of ``entries`` on: what the library asks for at every
        message, conflict or not. Ignored, since ``append`` decides (S1)."""
        if Rule.TRUNCATE_ONLY_ON_CONFLICT not in self._rules:
            del self.entries[position:]

    def sync(self) -> None:
        """On return every entry is on the disk."""
        if not self._unwritten:
            return
        try:
            self._file.write(self._written_bytes, self._unwritten)
            self._file.sync()
        except OSError as error:
            self._fail_stop(f"cannot write {self._path}: {error}")
        self._written_bytes += self._unwritten_bytes
        self._synced_bytes = self._written_bytes
        self._unwritten.clear()
        self._unwritten_bytes = 0
        self.syncs += 1

    def trim_to(self, position: int) -> None:
        """Drop the entries before a position of ``entries``; a snapshot that holds them must be on
        the disk."""
        if position > 0:
            del self.entries[:position]
            self._rewrite()

    def restart_at(self, previous: LogEntry, last: LogEntry) -> None:
        """Begin at a snapshot's boundary. Entries behind it stay if the log agrees with the
        snapshot (Raft §7, figure 13, step 6); they may have been acknowledged (S6)."""
        tail: list[LogEntry] = []
        offset = last.index - self.entries[0].index
        if (
            Rule.KEEP_TAIL_BEHIND_SNAPSHOT in self._rules
            and 0 <= offset < len(self.entries)
            and self.entries[offset].term == last.term
        ):
            tail = self.entries[offset + 1 :]
        self.entries[:] = [previous, last, *tail]
        self._rewrite()

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()

    def _rewrite(self) -> None:
        data = encode_file(self.entries)
        try:
            replace_file(self._files, self._path, [data])
            self._file.close()
            self._file = self._files.open(self._path)
        except OSError as error:
            self._fail_stop(f"cannot rewrite {self._path}: {error}")
        self._written_bytes = self._synced_bytes = self._whole_bytes = len(data)
        self._unwritten.clear()
        self._unwritten_bytes = 0
        self.syncs += 1
