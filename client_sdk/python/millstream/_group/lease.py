"""The member's session by its own clock, and when heartbeats are due.

The session is renewed to the *send* time of a heartbeat when its answer arrives: the coordinator
counts from its receipt, which is later, so the member always stops first (invariant 25).

Pure: time comes in as ``now_ms`` (monotonic milliseconds).
"""

# A coordinator that has not answered for this share of the session is given up for another try.
_ANSWER_SHARE = 0.5


class Lease:
    """See the module."""

    def __init__(self, session_timeout_ms: int, heartbeat_interval_ms: int) -> None:
        self.session_timeout_ms = session_timeout_ms or 45_000
        # When the next heartbeat is due.
        self.heartbeat_at_ms = 0
        self._interval_wanted_ms = heartbeat_interval_ms
        self._interval_ms = heartbeat_interval_ms
        # Send times of heartbeats and joins that were not answered yet, by correlation id.
        self._unanswered: dict[int, int] = {}
        # Send time of the last answered one; None: no session.
        self._renewed_at_ms: int | None = None

    def agree(self, session_timeout_ms: int, heartbeat_interval_ms: int, now_ms: int) -> None:
        """The coordinator accepted a join on these terms; zero: no wish."""
        self.session_timeout_ms = session_timeout_ms or self.session_timeout_ms
        intervals = [one for one in (heartbeat_interval_ms, self._interval_wanted_ms) if one]
        self._interval_ms = min(intervals, default=max(1, self.session_timeout_ms // 3))
        self.heartbeat_at_ms = now_ms + self._interval_ms

    def sent(self, correlation_id: int, now_ms: int) -> None:
        """A heartbeat or join is on its way."""
        self._unanswered[correlation_id] = now_ms
        self.heartbeat_at_ms = now_ms + self._interval_ms

    def answered(self, correlation_id: int) -> None:
        """Its answer arrived."""
        sent_ms = self._unanswered.pop(correlation_id, None)
        if sent_ms is None:
            return
        self._renewed_at_ms = max(sent_ms, self._renewed_at_ms or sent_ms)
        # Answers come in order: whatever was sent before is answered by this one.
        for earlier in [known for known in self._unanswered if known < correlation_id]:
            del self._unanswered[earlier]

    def stream_ended(self) -> None:
        """Nothing that was sent will be answered; the session goes on."""
        self._unanswered.clear()

    def end(self) -> None:
        """There is no session any more."""
        self._renewed_at_ms = None

    @property
    def end_ms(self) -> int | None:
        """When the session is over unless it is renewed; None: there is none."""
        return (
            None if self._renewed_at_ms is None else self._renewed_at_ms + self.session_timeout_ms
        )

    @property
    def answer_due_ms(self) -> int:
        """When the coordinator has been silent for too long to be worth waiting for."""
        oldest = min(self._unanswered.values(), default=None)
        if oldest is None:
            return self.heartbeat_at_ms + self.session_timeout_ms
        return oldest + int(self.session_timeout_ms * _ANSWER_SHARE)
