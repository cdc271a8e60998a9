"""Until when this node may act on its session. Pure: time is an argument.

Every answered heartbeat grants a session, counted from its send (invariant 3). A grant takes
effect when this node's image has reached the version that the answer named: a leader that was
deposed by a command must not go on answering because its heartbeats are still answered, while
the metadata node that it follows was left behind.
"""

from collections import deque

# Grants that wait for the image. The oldest of so many ended long ago.
_GRANTS_MAX = 64


class SessionLease:
    """The grants of one session after another."""

    def __init__(self) -> None:
        # (version that the image must have, end by this node's monotonic clock), ascending.
        self._grants: deque[tuple[int, int]] = deque(maxlen=_GRANTS_MAX)
        self._until_ms: int | None = None

    def grant(self, version: int, until_ms: int) -> None:
        """A heartbeat was answered."""
        if self._grants and self._grants[-1][0] == version:
            until_ms = max(until_ms, self._grants.pop()[1])
        self._grants.append((version, until_ms))

    def is_held(self, image_version: int, now_ms: int) -> bool:
        """True within a grant that took effect."""
        while self._grants and self._grants[0][0] <= image_version:
            until_ms = self._grants.popleft()[1]
            self._until_ms = max(self._until_ms or until_ms, until_ms)
        return self._until_ms is not None and now_ms < self._until_ms

    def lose(self) -> bool:
        """The session is over, and all that it granted; True if there was one."""
        had_any = self._until_ms is not None or bool(self._grants)
        self._grants.clear()
        self._until_ms = None
        return had_any
