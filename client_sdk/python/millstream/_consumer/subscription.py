"""What a consumer was asked to read, and who is told when that changes.

Pure.
"""

import re
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from millstream._consumer.record import TopicPartition
from millstream._errors import InvalidRequestError


class RebalanceListener:
    """Told about changes of the assignment, from within a step of the consumer (``poll``,
    ``getmany``, an iteration). Override what is needed; with ``AsyncConsumer`` the methods may be
    coroutines. The consumer may be used inside, but not to read records."""

    def on_assign(self, partitions: list[TopicPartition]) -> "Awaitable[None] | None":
        """These partitions are ours now; nothing of them was read yet, so ``seek`` works here."""
        return None

    def on_revoke(self, partitions: list[TopicPartition]) -> "Awaitable[None] | None":
        """These are being given up: finish and, without auto-commit, ``commit``."""
        return None

    def on_lost(self, partitions: list[TopicPartition]) -> "Awaitable[None] | None":
        """These may be somebody else's already: forget their state, commits would fail."""
        return None


class Mode(Enum):
    """How partitions come to the consumer."""

    NONE = "none"
    # By the group's coordinator.
    GROUP = "group"
    # All partitions of the topics, because there is no group.
    ALL = "all"
    # As the application said.
    ASSIGNED = "assigned"


class Change(Enum):
    """What happened to partitions."""

    ASSIGNED = "assigned"
    REVOKED = "revoked"
    LOST = "lost"


@dataclass(slots=True)
class RebalanceEvent:
    """A change that the application has not been told yet."""

    change: Change
    partitions: list[TopicPartition]


@dataclass(slots=True)
class Subscription:
    """The present subscription."""

    mode: Mode = Mode.NONE
    topics: frozenset[str] = frozenset()
    pattern: str = ""
    listener: Any = None
    # Topics whose partitions were seen: partitions that appear later are read from the start.
    seen_topics: set[str] = field(default_factory=set)


def parse_subscription(
    topics: Iterable[str] | str, pattern: "str | re.Pattern[str] | None"
) -> tuple[frozenset[str], str]:
    """Check what ``subscribe`` was given. Raises InvalidRequestError."""
    names = frozenset([topics] if isinstance(topics, str) else topics)
    text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern or ""
    if not names and not text:
        raise InvalidRequestError("subscribe needs topics or a pattern")
    if not all(isinstance(name, str) and name for name in names):
        raise InvalidRequestError("topics must be names")
    try:
        re.compile(text)
    except re.error as error:
        raise InvalidRequestError(f"pattern {text!r}: {error}") from None
    return names, text
