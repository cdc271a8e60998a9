"""When to try again: growing delays with jitter, and the decision after a failed call.

Pure: time comes in as milliseconds, chance as a ``random.Random``-like source.
"""

from typing import Protocol

from millstream._errors import (
    MillstreamError,
    TimedOutError,
    UnknownPartitionError,
    UnknownTopicError,
)

_JITTER = 0.2
_DOUBLINGS_MAX = 30
# Retriable for streams, which go by metadata that may be old; to a unary call they are an answer.
_ANSWERS = (UnknownTopicError, UnknownPartitionError)


# Longest pause between tries to reach a server again. Short, because a restarted server is ready at
# some moment that nobody announces, and a try costs one refused connection.
PAUSE_MS_MAX = 250


def pause_ms(base_ms: int, attempts: int) -> int:
    """The pause after so many failed tries: doubles from ``base_ms`` to ``PAUSE_MS_MAX``."""
    return max(base_ms, min(PAUSE_MS_MAX, base_ms << min(attempts, _DOUBLINGS_MAX)))


class Chance(Protocol):
    """A source of chance, such as ``random.Random``."""

    def uniform(self, low: float, high: float) -> float:
        """A number between the two."""


class Backoff:
    """Delays that double from ``base_ms`` to ``max_ms``, each spread by ±20 %."""

    def __init__(self, base_ms: int, max_ms: int, chance: Chance) -> None:
        self._base_ms = base_ms
        self._max_ms = max(base_ms, max_ms)
        self._chance = chance
        self.failures = 0

    def next_ms(self) -> int:
        """The delay before the next attempt."""
        delay = min(self._max_ms, self._base_ms << min(self.failures, _DOUBLINGS_MAX))
        self.failures += 1
        return int(delay * self._chance.uniform(1 - _JITTER, 1 + _JITTER))

    def reset(self) -> None:
        """Begin with the shortest delay again, after a success."""
        self.failures = 0


class Attempts:
    """The attempts of one call, up to its deadline and its number of retries."""

    def __init__(self, *, deadline_ms: int, retries: int, backoff: Backoff) -> None:
        self.deadline_ms = deadline_ms
        self._retries = retries
        self._backoff = backoff
        self._indeterminate = False

    def timeout_ms(self, now_ms: int, request_timeout_ms: int) -> int:
        """How long the next attempt may take. Raises TimedOutError when no time is left."""
        left = self.deadline_ms - now_ms
        if left <= 0:
            raise TimedOutError("no time is left for the call", indeterminate=self._indeterminate)
        return min(left, request_timeout_ms)

    def delay_ms(self, error: MillstreamError, now_ms: int, *, repeatable: bool) -> int:
        """How long to wait before the next attempt; raises ``error`` when there is none.

        ``repeatable`` calls may be made again although the failed one may have taken effect.
        """
        self._indeterminate = self._indeterminate or error.indeterminate
        delay = max(self._backoff.next_ms(), error.retry_after_ms)
        out_of_time = now_ms + delay >= self.deadline_ms
        spent = out_of_time or self._backoff.failures > self._retries
        if spent or not error.retriable or isinstance(error, _ANSWERS):
            error.indeterminate = self._indeterminate
            raise error
        if error.indeterminate and not repeatable:
            raise error
        return delay
