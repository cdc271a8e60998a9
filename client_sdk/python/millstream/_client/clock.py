"""The SDK's only way to the system's clocks and to chance; tests give their own."""

import random
import time
from typing import Protocol

from millstream._client.retry import Chance


class Clock(Protocol):
    """Time: the monotonic clock for waits and deadlines, the wall clock for record timestamps."""

    def monotonic_ms(self) -> int:
        """Milliseconds since an arbitrary moment; never goes back."""

    def wall_s(self) -> float:
        """Seconds since 1970 UTC; may jump."""


class SystemClock:
    """The clocks of the operating system."""

    wall_s = staticmethod(time.time)

    def monotonic_ms(self) -> int:
        """Milliseconds since an arbitrary moment; never goes back."""
        return time.monotonic_ns() // 1_000_000


def system_chance() -> Chance:
    """A source of chance of its own, so that it shares no state with the application's."""
    return random.Random()
