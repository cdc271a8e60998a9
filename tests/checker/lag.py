"""For how long consumers had not read what was there to be read (``realtime-lag``).

What a consumer lags at a moment is the time since the last record that it was given stopped being
the newest one, by the acknowledgements and the reads of everybody. Under faults that is a report;
a consumer that was given the time to read everything, once all was healed, may lag no more. Pure;
n log n.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.checker.history import Assignment, Drained, History, Key, Outcome, Poll, Send


@dataclass(frozen=True, slots=True)
class Lag:
    """Of one consumer in one partition, when it was given records or when it ended."""

    process: Any
    key: Key
    at: float
    seconds: float
    # The offset after the last record that it had been given by then, and the newest known.
    position: int
    newest: int
    at_end: bool


class _Newest:
    """The highest offset of a key that was known to stand, by time."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._offsets: list[int] = []

    def grow(self, offset: int, at: float) -> None:
        """In the order of time."""
        if not self._offsets or offset > self._offsets[-1]:
            self._times.append(at)
            self._offsets.append(offset)

    def passed(self, position: int, at: float) -> tuple[float, int] | None:
        """(when a record at ``position`` or above stood first, the newest until then and now);
        None if none stood before ``at``."""
        first = bisect_left(self._offsets, position)
        if first == len(self._offsets) or self._times[first] >= at:
            return None
        newest = self._offsets[bisect_left(self._times, at) - 1]
        return self._times[first], newest


def realtime_lags(
    history: History, counts: Callable[[Send], bool] = lambda send: True
) -> list[Lag]:
    """Every lag above 0, in real-time order. ``counts``: whether an acknowledgement promises
    that readers see the record."""
    return list(_lags(history, counts))


def _lags(history: History, counts: Callable[[Send], bool]) -> Iterator[Lag]:
    newest = _newest(history, counts)
    positions: dict[Any, dict[Key, int]] = defaultdict(dict)
    events: list[Assignment | Poll | Drained]
    events = [*history.assignments, *history.polls, *history.drained]
    events.sort(key=lambda event: event.line)
    for event in events:
        mine = positions[event.process]
        if isinstance(event, Assignment):
            positions[event.process] = dict(event.positions)
            continue
        at_end = isinstance(event, Drained)
        for key in [key for key in mine if isinstance(event, Drained) or key in event.reads]:
            passed = newest[key].passed(mine[key], event.at)
            if passed is not None:
                since, offset = passed
                lag_s = event.at - since
                yield Lag(event.process, key, event.at, lag_s, mine[key], offset, at_end)
        if isinstance(event, Poll):
            mine.update({key: reads[-1][0] + 1 for key, reads in event.reads.items() if reads})


def _newest(history: History, counts: Callable[[Send], bool]) -> dict[Key, _Newest]:
    known: list[tuple[int, float, Key, int]] = [
        (send.completed_line, send.completed_at, send.key, send.offset)
        for send in history.sends
        if send.outcome is Outcome.OK and send.offset is not None and counts(send)
    ]
    known += [
        (poll.line, poll.at, key, offset)
        for poll in history.polls
        for key, reads in poll.reads.items()
        for offset, _ in reads
    ]
    newest: dict[Key, _Newest] = defaultdict(_Newest)
    for _, at, key, offset in sorted(known, key=lambda one: one[0]):
        newest[key].grow(offset, at)
    return newest
