"""Knows when the end of each log, as it was at the start, has been read. Pure."""

from collections.abc import Iterable, Mapping
from typing import Protocol

Place = tuple[str, int]


class Placed(Protocol):
    """A record that was read."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...


class EndOfLog:
    """Follows the positions of partitions towards their ends."""

    def __init__(self, ends: Mapping[Place, int] | None, starts: Mapping[Place, int]) -> None:
        """``ends``: None if reading never ends. A partition without a start begins at its end."""
        self._open: set[Place] | None = None
        self._ends: Mapping[Place, int] = ends or {}
        if ends is not None:
            self._open = {place for place, end in ends.items() if starts.get(place, end) < end}

    def passed(self, records: Iterable[Placed]) -> None:
        """Note records that were read."""
        if not self._open:
            return
        for record in records:
            place = (record.topic, record.partition)
            if place in self._open and record.offset + 1 >= self._ends[place]:
                self._open.discard(place)

    def is_reached(self, owned: Iterable[Place] | None = None) -> bool:
        """True if the end is reached everywhere. ``owned``: the partitions of this member of a
        group, which has not been given any if there are none; others read the rest."""
        if self._open is None:
            return False
        if owned is None:
            return not self._open
        mine = set(owned)
        return not self._open or (bool(mine) and not mine & self._open)
