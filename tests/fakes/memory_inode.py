"""A file of the simulated disk: what programs see of it, what the disk holds, what lies between."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from random import Random

PAGE_BYTES = 4096


class Inode:
    """A file: both images and the pages that differ because of a write."""

    def __init__(self) -> None:
        self.cached = bytearray()
        self.durable = bytearray()
        self.dirty: set[int] = set()
        # True if a change of size alone waits for a sync.
        self.size_dirty = False

    def touch(self, start: int, end: int) -> None:
        """Mark the pages of [start, end) as dirty."""
        self.dirty.update(range(start // PAGE_BYTES, -(-end // PAGE_BYTES)))
        self.size_dirty = True

    def flush(self) -> None:
        """Bring the size and the dirty pages to the disk; clean pages are not looked at."""
        size = len(self.cached)
        self.durable = self.durable[:size] + bytes(max(0, size - len(self.durable)))
        for page in self.dirty:
            start, end = page * PAGE_BYTES, (page + 1) * PAGE_BYTES
            self.durable[start:end] = self.cached[start:end]
        self.clean()

    def clean(self) -> None:
        """Forget what is dirty."""
        self.dirty.clear()
        self.size_dirty = False

    def lose_power(self, random: Random, keep: float) -> None:
        """Keep each dirty page with probability ``keep``; the size ends anywhere between the old
        and the new one that holds the pages kept."""
        kept = [page for page in sorted(self.dirty) if random.random() < keep]
        size = len(self.durable)
        if self.size_dirty and random.random() < keep:
            low, high = sorted((size, len(self.cached)))
            size = random.choice((low, high, random.randint(low, high)))
        for page in kept:
            size = max(size, min(len(self.cached), (page + 1) * PAGE_BYTES))
        image = bytearray(size)
        image[: min(size, len(self.durable))] = self.durable[:size]
        for page in kept:
            start, end = page * PAGE_BYTES, min((page + 1) * PAGE_BYTES, len(self.cached))
            image[start:end] = self.cached[start:end]
        self.durable = image[:size]
        self.cached = bytearray(self.durable)
        self.clean()

    # How to take changes back: each of these remembers the present and returns what restores it.

    def before_write(self, position: int, length: int) -> Callable[[], None]:
        """For a write or a truncation at ``position``; a truncation has the length of the rest."""
        size, old = len(self.cached), bytes(self.cached[position : position + length])
        dirty, size_dirty = set(self.dirty), self.size_dirty

        def restore() -> None:
            self.cached[position : position + length] = old
            if len(self.cached) < size:
                self.cached.extend(bytes(size - len(self.cached)))
            del self.cached[size:]
            self.dirty, self.size_dirty = dirty, size_dirty

        return restore

    def before_sync(self) -> Callable[[], None]:
        """For a sync, successful or not."""
        durable, dirty, size_dirty = self.durable, set(self.dirty), self.size_dirty

        def restore() -> None:
            self.durable, self.dirty, self.size_dirty = durable, dirty, size_dirty

        return restore


class DiskHistory:
    """The last operations, which can be taken back: a thread that dies in the middle of its work
    leaves some of them undone.

    What somebody was told of can not be taken back: what the event loop did itself, and what
    ``settle`` was called for.
    """

    def __init__(self) -> None:
        self.kept = False
        self._undo: list[Callable[[], None]] = []
        # Operations before the oldest that can be taken back.
        self._settled = 0
        self._background = 0

    @contextmanager
    def in_background(self) -> Generator[None, None, None]:
        """Operations meanwhile are those of another thread: nobody knows of them yet."""
        self._background += 1
        try:
            yield
        finally:
            self._background -= 1

    def note(self, undo: Callable[[], None]) -> None:
        """An operation is about to happen that ``undo`` takes back."""
        self._undo.append(undo)
        if not self._background:
            self.settle(self.mark())

    def mark(self) -> int:
        """Number of operations so far."""
        return self._settled + len(self._undo)

    def settle(self, mark: int) -> None:
        """The first ``mark`` operations are known to somebody."""
        if mark > self._settled:
            del self._undo[: mark - self._settled]
            self._settled = mark

    def roll_back(self, random: Random) -> int:
        """Take back any number of the last operations; returns how many."""
        count = random.randint(0, len(self._undo))
        for undo in reversed(self._undo[len(self._undo) - count :]):
            undo()
        self._undo.clear()
        return count
