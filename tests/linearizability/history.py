"""What clients did, and when: operations on named registers, as they were seen from outside."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = Hashable


@dataclass(frozen=True, slots=True)
class Write:
    """Sets the register, whatever it holds."""

    value: Value


@dataclass(frozen=True, slots=True)
class Read:
    """Answered ``value``."""

    value: Value


@dataclass(frozen=True, slots=True)
class CompareAndSet:
    """Sets the register if it holds ``expected``; ``succeeded`` is what was answered, and tells
    nothing while the operation is indeterminate."""

    expected: Value
    value: Value
    succeeded: bool = True


Action: TypeAlias = Write | Read | CompareAndSet


@dataclass(frozen=True, slots=True)
class Operation:
    """One call. Times are of one monotonic clock, any unit.

    Without an end the outcome is unknown: the operation may take effect at any time after its
    call, or never. An operation that definitely failed is no part of a history.
    """

    process: int
    action: Action
    call: float
    end: float | None

    def __str__(self) -> str:
        end = "…" if self.end is None else f"{self.end:.6f}"
        return f"[{self.call:.6f} {end}] process {self.process}: {self.action}"
