"""The search for an order that explains a history (Wing and Gong 1993, memoised as in Lowe 2017).

A history of one register is linearizable if its operations can be put in an order, each between
its call and its end, in which a register that does one thing at a time would have answered the
same. Linearizability is local: a history of many registers is linearizable if that of each is.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from tests.linearizability.history import CompareAndSet, Operation, Read, Value, Write

STEPS_MAX = 5_000_000
_REFUSED = object()


class SearchTooLong(Exception):
    """No verdict within the steps allowed: too many operations at the same time."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Why a history has no order: the best one found ends before ``stuck``."""

    # Holds this value after the operations that could be ordered.
    state: Value
    # The operation that ends first among those that could not.
    stuck: Operation
    # Those at the same time as it that were not in the order either.
    beside: tuple[Operation, ...]

    def __str__(self) -> str:
        lines = [f"the register holds {self.state!r}, and no order has room for", str(self.stuck)]
        if self.beside:
            lines += ["at the same time, and free to come first:", *map(str, self.beside)]
        return "\n  ".join(lines)


def find_violation(
    operations: Iterable[Operation], *, initial: Value = None, steps_max: int = STEPS_MAX
) -> Violation | None:
    """None if the history of one register is linearizable. Raises SearchTooLong."""
    return _Search(relevant(operations), initial).run(steps_max)


def relevant(operations: Iterable[Operation]) -> list[Operation]:
    """Without the operations of unknown outcome that cannot matter, of which a long history has
    many: a value that nobody saw is overwritten at once in some order, if it was ever there. It
    could only have made a compare-and-set fail."""
    known = list(operations)
    seen: set[Hashable] = set()
    for operation in known:
        match operation.action:
            case Read(value) if operation.end is not None:
                seen.add(value)
            case CompareAndSet(expected, _, succeeded):
                if not succeeded and operation.end is not None:
                    return [one for one in known if not _is_unanswered_read(one)]
                seen.add(expected)
    return [
        one
        for one in known
        if not _is_unanswered_read(one) and (one.end is not None or one.action.value in seen)
    ]


def _is_unanswered_read(operation: Operation) -> bool:
    return operation.end is None and isinstance(operation.action, Read)


def _after(state: Value, operation: Operation) -> object:
    """What the register holds after the operation; ``_REFUSED`` if it would have answered
    something else. An indeterminate one counts only where it changes something."""
    match operation.action:
        case Write(value):
            return value
        case Read(value):
            return state if state == value else _REFUSED
        case CompareAndSet(expected, value, succeeded):
            if succeeded or operation.end is None:
                return value if state == expected else _REFUSED
            return state if state != expected else _REFUSED


class _Search:
    """Depth first, with the operations not yet ordered in a linked list, earliest call first.

    An operation may come next if none of the others ended before it was called. What is
    remembered is (operations ordered, value): the same pair again leads nowhere new.
    """

    def __init__(self, operations: Sequence[Operation], initial: Value) -> None:
        self._operations = sorted(operations, key=lambda one: one.call)
        self._ends = [math.inf if one.end is None else one.end for one in self._operations]
        count = len(self._operations)
        # Index ``count`` is both ends of the ring.
        self._next = [*range(1, count + 1), 0]
        self._previous = [count, *range(count)]
        self._state: object = initial
        self._ordered = 0
        self._left = sum(one.end is not None for one in self._operations)
        self._best = (self._left + 1, 0, initial)

    def run(self, steps_max: int) -> Violation | None:
        head = len(self._operations)
        stack: list[tuple[int, object, float]] = []
        seen: set[tuple[int, object]] = set()
        place, horizon = self._next[head], math.inf
        for _ in range(steps_max):
            if not self._left:
                return None
            if place != head and self._operations[place].call <= horizon:
                after = _after(self._state, self._operations[place])
                mark = (self._ordered | 1 << place, after)
                if after is not _REFUSED and mark not in seen:
                    seen.add(mark)
                    stack.append((place, self._state, horizon))
                    self._take(place, after)
                    place, horizon = self._next[head], math.inf
                    continue
            elif stack:
                place, before, horizon = stack.pop()
                self._put_back(place, before)
            else:
                return self._violation()
            horizon = min(horizon, self._ends[place])
            place = self._next[place]
        raise SearchTooLong(f"no verdict after {steps_max} steps")

    def _take(self, place: int, after: object) -> None:
        self._next[self._previous[place]] = self._next[place]
        self._previous[self._next[place]] = self._previous[place]
        self._ordered |= 1 << place
        self._left -= self._operations[place].end is not None
        self._state = after
        if self._left < self._best[0]:
            self._best = (self._left, self._ordered, after)

    def _put_back(self, place: int, before: object) -> None:
        self._next[self._previous[place]] = place
        self._previous[self._next[place]] = place
        self._ordered ^= 1 << place
        self._left += self._operations[place].end is not None
        self._state = before

    def _violation(self) -> Violation:
        _, ordered, state = self._best
        left = [one for index, one in enumerate(self._operations) if not ordered >> index & 1]
        stuck = min((one for one in left if one.end is not None), key=lambda one: one.end or 0)
        beside = tuple(one for one in left if one is not stuck and one.call <= (stuck.end or 0))
        return Violation(state, stuck, beside)
