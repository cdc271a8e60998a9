"""The leader epochs of a log: which offset each began at (KIP-101).

Pure. Entries are (epoch, start offset), both strictly ascending but for the last start, which may
equal the end of the log while the epoch has no record yet.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple


class EpochStart(NamedTuple):
    """An epoch and the offset of its first record."""

    epoch: int
    start_offset: int


class EpochEnd(NamedTuple):
    """An epoch and the offset after its last record."""

    epoch: int
    end_offset: int


class EpochHistory:
    """All epochs of one log, ascending."""

    def __init__(self, entries: Iterable[EpochStart] = ()) -> None:
        self._entries: tuple[EpochStart, ...] = ()
        for epoch, start_offset in entries:
            self.assign(epoch, start_offset)

    @property
    def entries(self) -> tuple[EpochStart, ...]:
        """All entries, ascending."""
        return self._entries

    @property
    def latest(self) -> int | None:
        """The newest epoch; None in a log that never had a leader."""
        return self._entries[-1].epoch if self._entries else None

    def assign(self, epoch: int, start_offset: int) -> bool:
        """Begin an epoch at an offset; return False if it is the newest one already.

        An older epoch that has no record (it starts where the new one does, or later) is dropped.
        Raises ValueError if a newer epoch is known.
        """
        if self._entries:
            last = self._entries[-1]
            if epoch == last.epoch:
                return False
            if epoch < last.epoch:
                raise ValueError(f"epoch {epoch} is older than {last.epoch}")
        kept = tuple(entry for entry in self._entries if entry.start_offset < start_offset)
        self._entries = (*kept, EpochStart(epoch, start_offset))
        return True

    def epoch_of(self, offset: int) -> int | None:
        """The epoch that wrote an offset; None if that is not known any more."""
        starts = [entry.start_offset for entry in self._entries]
        index = bisect_right(starts, offset) - 1
        return self._entries[index].epoch if index >= 0 else None

    def end_of(self, epoch: int, log_end_offset: int) -> EpochEnd | None:
        """The largest epoch ≤ ``epoch`` and where it ends (KIP-279, invariant 14); None if all
        epochs are newer."""
        epochs = [entry.epoch for entry in self._entries]
        index = bisect_right(epochs, epoch) - 1
        if index < 0:
            return None
        following = self._entries[index + 1 : index + 2]
        end = following[0].start_offset if following else log_end_offset
        return EpochEnd(self._entries[index].epoch, end)

    def truncate_end(self, end_offset: int) -> bool:
        """Drop the epochs that begin at or beyond a cut; True if any went (KAFKA-10706)."""
        kept = tuple(entry for entry in self._entries if entry.start_offset < end_offset)
        changed = kept != self._entries
        self._entries = kept
        return changed

    def truncate_start(self, start_offset: int) -> bool:
        """Drop the epochs that end at or below the new start; the one that holds it begins
        there. True if anything changed."""
        starts = [entry.start_offset for entry in self._entries]
        index = bisect_left(starts, start_offset)
        if index == 0:
            return False
        if index == len(starts) or starts[index] > start_offset:
            index -= 1
            first = EpochStart(self._entries[index].epoch, start_offset)
            kept = (first, *self._entries[index + 1 :])
        else:
            kept = self._entries[index:]
        changed = kept != self._entries
        self._entries = kept
        return changed

    def copy(self) -> "EpochHistory":
        """A history that changes on its own."""
        copied = EpochHistory()
        copied._entries = self._entries
        return copied

    def dump(self) -> bytes:
        """The history as the payload of a checkpoint."""
        return json.dumps([list(entry) for entry in self._entries]).encode()

    @classmethod
    def load(cls, payload: bytes) -> "EpochHistory":
        """Read what ``dump`` wrote. Raises ValueError."""
        try:
            return cls(EpochStart(int(epoch), int(start)) for epoch, start in json.loads(payload))
        except (TypeError, KeyError) as error:
            raise ValueError(f"not an epoch history: {error}") from None
