"""Changes of the assignment on their way to the application, which hears of each in its next step.

Pure.
"""

from collections import deque
from collections.abc import Container, Iterable

from millstream._consumer.record import TopicPartition
from millstream._consumer.subscription import Change, RebalanceEvent


class Announcements:
    """What the application was told, and what it is still to be told, in order."""

    def __init__(self) -> None:
        self._events: deque[RebalanceEvent] = deque()
        # Partitions of which the application knows that they are its own.
        self._told: set[TopicPartition] = set()

    def __bool__(self) -> bool:
        """True if there is something to tell."""
        return bool(self._events)

    def assigned(self, names: Iterable[TopicPartition]) -> None:
        """These are ours."""
        self._events.append(RebalanceEvent(Change.ASSIGNED, list(names)))

    def revoked(self, names: list[TopicPartition]) -> list[TopicPartition]:
        """These are to be given up. Returns those that the application never heard of: they can
        be released at once."""
        untold = self._take_back(names)
        told = [name for name in names if name not in untold]
        if told:
            self._events.append(RebalanceEvent(Change.REVOKED, told))
        return untold

    def lost(self, names: list[TopicPartition]) -> None:
        """These are gone."""
        self._take_back(names)
        for event in self._events:
            if event.change is Change.REVOKED:
                event.partitions = [name for name in event.partitions if name not in names]
        self._events = deque(event for event in self._events if event.partitions)
        told = [name for name in names if name in self._told]
        self._told.difference_update(told)
        if told:
            self._events.append(RebalanceEvent(Change.LOST, told))

    def untold_losses(self) -> list[TopicPartition]:
        """Partitions that are gone, of which the application still thinks that they are its own."""
        lost = [event.partitions for event in self._events if event.change is Change.LOST]
        return [name for names in lost for name in names]

    def ended(self, name: TopicPartition) -> None:
        """A partition was given up, or is read no more for another reason."""
        self._told.discard(name)

    def next(self) -> RebalanceEvent | None:
        """What to tell now."""
        if not self._events:
            return None
        event = self._events.popleft()
        if event.change is Change.ASSIGNED:
            self._told.update(event.partitions)
        return event

    def revoke_all(self) -> RebalanceEvent | None:
        """The subscription ends: forget what was not told, and say this instead."""
        told = sorted(self._told)
        self.clear()
        return RebalanceEvent(Change.REVOKED, told) if told else None

    def clear(self) -> None:
        """Begin anew."""
        self._events.clear()
        self._told.clear()

    def _take_back(self, names: Container[TopicPartition]) -> list[TopicPartition]:
        """Take partitions out of announcements that were not made yet; returns them."""
        taken = []
        for event in self._events:
            if event.change is Change.ASSIGNED:
                taken += [name for name in event.partitions if name in names]
                event.partitions = [name for name in event.partitions if name not in names]
        self._events = deque(event for event in self._events if event.partitions)
        return taken
