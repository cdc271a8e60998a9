"""What a node logs while it recovers its logs: a line every few seconds, and one in the end."""

import structlog

from millstream_server.runtime.ports import Clock
from millstream_server.storage.directory import RecoveryProgress

_log = structlog.get_logger()
_INTERVAL_MS = 2_000


class RecoveryReport:
    """Tells the operator how far it is. Called from the thread that recovers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun_ms = self._told_ms = clock.monotonic_ms()

    def __call__(self, progress: RecoveryProgress) -> None:
        """The recovery came this far."""
        now_ms = self._clock.monotonic_ms()
        if progress.logs_done == progress.logs_total:
            self._tell("logs recovered", progress, now_ms)
        elif now_ms - self._told_ms >= _INTERVAL_MS:
            self._told_ms = now_ms
            self._tell("recovering logs", progress, now_ms)

    def _tell(self, event: str, progress: RecoveryProgress, now_ms: int) -> None:
        _log.info(
            event,
            logs_done=progress.logs_done,
            logs_total=progress.logs_total,
            scanned_bytes=progress.scanned_bytes,
            cut_bytes=progress.cut_bytes,
            damaged_logs=progress.damaged_logs,
            duration_ms=now_ms - self._begun_ms,
        )
