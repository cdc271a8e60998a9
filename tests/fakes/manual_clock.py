"""A clock that moves only when told to."""


class ManualClock:
    """See ``runtime.ports.Clock``."""

    def __init__(self, monotonic_ms: int = 1_000_000, wall_ms: int = 1_700_000_000_000) -> None:
        self._monotonic_ms = monotonic_ms
        self._wall_ms = wall_ms

    def monotonic_ms(self) -> int:
        return self._monotonic_ms

    def wall_ms(self) -> int:
        return self._wall_ms

    def advance(self, milliseconds: int) -> None:
        """Let time pass, on both clocks."""
        if milliseconds < 0:
            raise ValueError("monotonic time never goes back")
        self._monotonic_ms += milliseconds
        self._wall_ms += milliseconds

    def jump_wall(self, milliseconds: int) -> None:
        """Set the wall clock forward or back, as an operator or NTP does."""
        self._wall_ms += milliseconds
