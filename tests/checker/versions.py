"""What every rule of the checker speaks of: anomalies, and the version order of a key."""

from collections import defaultdict
from dataclasses import dataclass, field

from tests.checker.history import Key, Value


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Something that may not happen."""

    name: str
    key: Key
    text: str
    # The record in question, where it is one.
    value: Value = None

    def __str__(self) -> str:
        return f"{self.name} in {self.key}: {self.text}"


@dataclass
class Versions:
    """The version order of one key."""

    # Offset → the values seen there, in order of first sight.
    values: dict[int, list[Value]] = field(default_factory=lambda: defaultdict(list))
    # Value → offsets where it was seen.
    offsets: dict[Value, list[int]] = field(default_factory=lambda: defaultdict(list))
    index: dict[int, int] = field(default_factory=dict)
    # Values given to a consumer, with the lowest offset of each, and with all.
    read: dict[Value, int] = field(default_factory=dict)
    read_at: dict[Value, set[int]] = field(default_factory=lambda: defaultdict(set))

    def see(self, offset: int, value: Value) -> None:
        """The value stands at the offset."""
        if value not in self.values[offset]:
            self.values[offset].append(value)
        if offset not in self.offsets[value]:
            self.offsets[value].append(offset)

    def number(self) -> None:
        """Number the offsets."""
        self.index = {offset: number for number, offset in enumerate(sorted(self.values))}

    @property
    def read_offsets(self) -> list[int]:
        """Offsets of which some consumer was given the record, in order."""
        return sorted({offset for offsets in self.read_at.values() for offset in offsets})
