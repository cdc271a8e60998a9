"""Progress that a peer has not heard: of high watermarks and log starts.

Records tell it on their way. Only where none come does it leave by itself, a little later, for all
partitions at once (invariant 13: at most 5 ms)."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class UnheardProgress(Generic[T]):
    """Whose progress one peer has not heard, and since when. On the event loop."""

    __slots__ = ("_call_later", "_stale", "_timer", "_wake", "due")

    def __init__(
        self,
        call_later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
        wake: Callable[[], None],
    ) -> None:
        """``wake`` is called when it is time to ``take``."""
        self._call_later = call_later
        self._wake = wake
        self._stale: dict[T, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        # True from ``wake`` until ``take``.
        self.due = False

    def note(self, one: T, delay_s: float) -> None:
        """The peer is to hear of this one, at the latest after so many seconds."""
        self._stale[one] = None
        if self._timer is None and not self.due:
            self._timer = self._call_later(delay_s, self._elapsed)

    def heard(self, one: T) -> None:
        """Records told it, or it is gone: nobody is to be woken for it any more."""
        self._stale.pop(one, None)
        if not self._stale:
            self.close()

    def take(self) -> list[T]:
        """Those that are to be told now."""
        self.due = False
        taken, self._stale = list(self._stale), {}
        return taken

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _elapsed(self) -> None:
        self._timer = None
        self.due = True
        self._wake()
