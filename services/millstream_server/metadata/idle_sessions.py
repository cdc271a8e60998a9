"""Which request sessions nobody used for long. Pure: time is an argument."""

from collections.abc import Mapping

from millstream_raft.image import RequestSession


class IdleSessions:
    """Remembers since when each session stands where it stands. A new controller begins anew, so
    a session lives at least its whole time after every change of controller (invariant 1a)."""

    def __init__(self, idle_ms: int) -> None:
        self._idle_ms = idle_ms
        # Session id -> (version of its last use, when that was first seen).
        self._seen: dict[int, tuple[int, int]] = {}

    def clear(self) -> None:
        """Begin anew."""
        self._seen = {}

    def idle(self, sessions: Mapping[int, RequestSession], now_ms: int) -> list[int]:
        """Ids of the sessions that were not used for the time allowed."""
        seen = {}
        idle = []
        for session_id, session in sessions.items():
            used_version, since_ms = self._seen.get(session_id, (-1, 0))
            if used_version != session.used_version:
                used_version, since_ms = session.used_version, now_ms
            seen[session_id] = (used_version, since_ms)
            if now_ms - since_ms >= self._idle_ms:
                idle.append(session_id)
        self._seen = seen
        return idle
