"""The segments of a log in offset order: which one holds an offset, rolling, syncing, removal.

The list is one tuple that is replaced as a whole, so that readers on other threads always see a
consistent one. Changes come from one thread at a time (the log's append lock).
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress

from millstream_server.runtime.ports import Files
from millstream_server.storage.appends import StagedAppend
from millstream_server.storage.config import LogConfig
from millstream_server.storage.health import is_refusal
from millstream_server.storage.scan import DamageError, walk_headers
from millstream_server.storage.segment import Segment

DELETED_SUFFIX = ".deleted"


class SegmentList:
    """All segments of one log, at least one; appends go to the last."""

    def __init__(self, files: Files, folder: str, segments: Iterable[Segment]) -> None:
        self._files = files
        self._folder = folder
        self.all: tuple[Segment, ...] = tuple(segments)
        # True while a truncation changes files and list.
        self.being_cut = False
        # A segment file was made, but its directory entry is not synced yet.
        self._entries_dirty = False

    @property
    def active(self) -> Segment:
        """The segment that appends go to."""
        return self.all[-1]

    @property
    def size_bytes(self) -> int:
        """Bytes of all segment files."""
        return sum(segment.size for segment in self.all)

    def holding(self, offset: int) -> Segment:
        """The segment that holds an offset at or above the first base."""
        segments = self.all
        return segments[max(0, bisect_right(segments, offset, key=_base) - 1)]

    def must_roll(self, append: StagedAppend, pending_bytes: int, config: LogConfig) -> bool:
        """True if the append, after ``pending_bytes`` more, belongs into a new segment. An append
        never spans two, so that it can be taken back by cutting one file."""
        active = self.active
        size = active.size + pending_bytes
        if size == 0:
            return False
        first = active.first_append_ms
        aged = first is not None and append.append_timestamp_ms - first >= config.segment_ms
        return aged or size + append.size_bytes > config.segment_bytes

    def roll(self) -> None:
        """Close the open segment and begin one at its end. Nothing is synced: ``sync`` does that
        before any synced end passes the new base (invariant 15). Raises OSError; the open segment
        then stays in use."""
        old = self.active
        new = Segment(self._files, self._folder, old.tail.next_offset)
        old.store.release_reserve()
        try:
            new.create()
        except OSError:
            if self._files.exists(new.store.path):
                self._files.remove(new.store.path)
            raise
        old.finish()
        self._entries_dirty = True
        self.all = (*self.all, new)

    def sync(self) -> None:
        """Sync every segment that has unsynced bytes, and the folder if files were made. Raises
        OSError: fatal."""
        segments = self.all
        dirty = self._entries_dirty
        if dirty:  # else a roll beside this, which raises it at any moment, would be forgotten
            self._entries_dirty = False
        first = len(segments) - 1
        while first > 0 and segments[first - 1].store.is_open:
            first -= 1
        for segment in segments[first:]:
            segment.store.sync()
        if dirty:
            self._files.sync_directory(self._folder)
        for segment in segments[first:-1]:
            segment.store.retire()

    def flush_indexes(self) -> None:
        """Write the index entries of the open segment. Raises OSError."""
        self.active.flush_indexes()

    def boundary_below(self, offset: int) -> int:
        """Where the batch begins that holds an offset; the offset itself if it is below all of
        them. Where damage hides that, the segment's base. Raises OSError."""
        if offset < self.all[0].base_offset:
            return offset
        segment = self.holding(offset)
        if offset >= segment.tail.next_offset:
            return segment.tail.next_offset
        with suppress(DamageError), segment.store.reading() as file:
            position = segment.position_of(offset)
            return next(walk_headers(file, position, segment.size)).header.base_offset
        return segment.base_offset

    def remove_below(self, offset: int) -> list[str]:
        """Take closed segments that end at or below an offset out of the list and rename their
        files; returns the new paths, to be removed later. Raises OSError."""
        segments = self.all
        count = 0
        while count + 1 < len(segments) and segments[count + 1].base_offset <= offset:
            count += 1
        self.all = segments[count:]
        trash: list[str] = []
        for segment in segments[:count]:
            segment.store.retire()
            there = [path for path in segment.paths if self._files.exists(path)]
            trash.extend(map(self._set_aside, there))
        return trash

    def _set_aside(self, path: str) -> str:
        aside = path + DELETED_SUFFIX
        try:
            self._files.rename(path, aside)
        except OSError as error:
            if not is_refusal(error):
                raise
            return path  # a full disk has no room for a name: it goes under its own
        return aside

    def truncate(self, offset: int, interval: int) -> None:
        """Cut everything from an offset on, which is a batch boundary or the first base, and sync
        files and folder (invariant 15). Raises DamageError, OSError."""
        kept = [segment for segment in self.all if segment.base_offset < offset] or [self.all[0]]
        gone = self.all[len(kept) :]
        self.all = tuple(kept)
        self._remove(gone)
        self._files.sync_directory(self._folder)
        active = self.active
        active.store.open_for_writing()
        active.truncate(offset, interval)

    def remove_all(self) -> None:
        """Remove the files of all segments, the newest first, durably. Raises OSError."""
        self._remove(self.all)

    def _remove(self, segments: Sequence[Segment]) -> None:
        """One after the other, durably: a power cut that kept the removal of an older one only
        would leave a gap."""
        for segment in reversed(segments):
            segment.remove()
            self._files.sync_directory(self._folder)

    def restart(self, offset: int) -> None:
        """Replace all segments by an empty one at an offset. Raises OSError."""
        self.remove_all()
        new = Segment(self._files, self._folder, offset)
        new.create()
        self._files.sync_directory(self._folder)
        self.all = (new,)


def _base(segment: Segment) -> int:
    return segment.base_offset
