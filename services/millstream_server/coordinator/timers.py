"""Keyed timers by an injected clock: a heap of due times. Setting a key again moves its timer."""

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# Moved and cancelled timers stay in the heap until they come up, or until they outnumber others.
_STALE_SHARE_MAX = 4
_HEAP_SIZE_KEPT = 64


class Timers(Generic[K]):
    """Timers of one owner. Nothing fires by itself: ``take_due`` hands out what is due."""

    def __init__(self) -> None:
        self._due_ms: dict[K, int] = {}
        self._heap: list[tuple[int, int, K]] = []
        # Breaks ties, so that keys are never compared and timers fire in the order of setting.
        self._order = count()

    def __len__(self) -> int:
        return len(self._due_ms)

    def set(self, key: K, due_ms: int) -> None:
        """Start the timer of a key, or move it."""
        if self._due_ms.get(key) == due_ms:
            return
        self._due_ms[key] = due_ms
        heappush(self._heap, (due_ms, next(self._order), key))
        if len(self._heap) > max(_HEAP_SIZE_KEPT, _STALE_SHARE_MAX * len(self._due_ms)):
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapify(self._heap)

    def cancel(self, key: K) -> None:
        """Forget the timer of a key; no error if there is none."""
        self._due_ms.pop(key, None)

    def due_ms(self, key: K) -> int | None:
        """When the timer of a key is due; None: it is not set."""
        return self._due_ms.get(key)

    def next_due_ms(self) -> int | None:
        """When the next timer is due; None: there is none."""
        while self._heap and not self._is_live(self._heap[0]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now_ms: int) -> Iterator[tuple[K, int]]:
        """Hand out and forget the timers due by now, the earliest first, with their due times."""
        while (due_ms := self.next_due_ms()) is not None and due_ms <= now_ms:
            key = heappop(self._heap)[2]
            del self._due_ms[key]
            yield key, due_ms

    def _is_live(self, entry: tuple[int, int, K]) -> bool:
        return self._due_ms.get(entry[2]) == entry[0]
