"""Brokers whose logs are lists of records."""

from dataclasses import dataclass, field

# Leader epoch and a number that no other record has.
Record = tuple[int, int]


@dataclass
class Broker:
    """A broker's process and disk."""

    node_id: int
    running: bool = True
    healthy: bool = True
    log: list[Record] = field(default_factory=list)
    # Records that a power cut leaves.
    synced: int = 0
    directory: int = 0
    incarnation: int = 0
    # What the log directory remembers.
    epoch: int = 0
    clean: bool = False
    # Leader epoch under which the log was last a prefix of the leader's.
    followed_epoch: int = -1


def end_of(log: list[Record]) -> tuple[int, int]:
    """Leader epoch of the last record, and how many there are: what logs are compared by."""
    return (log[-1][0] if log else 0), len(log)


def common_length(one: list[Record], other: list[Record]) -> int:
    """How many records at their beginning are the same."""
    for length, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return length
    return min(len(one), len(other))
