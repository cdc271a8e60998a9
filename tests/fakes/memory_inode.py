"""A file of the simulated disk: what programs see of it, what the disk holds, what lies between."""

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
