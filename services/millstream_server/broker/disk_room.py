"""Whether there is room to append. Pure: the owner brings disk usage, errors and time.

Appends are refused before the disk is really full. The last of it is a reserve for what must go on
then: checkpoints, committed offsets and, where a node shares its disk with a metadata node, the
Raft journal, which has to stop its process when it cannot write.
"""

from millstream_server.broker.refusal import Refusal

# A small disk is not all reserve.
_RESERVE_PARTS_MAX = 20
# A disk that refused a write is taken for one that does so long, or leads would come and go.
_REFUSED_MS = 5_000


class DiskRoom:
    """The disk of one log directory."""

    def __init__(self, reserve_bytes: int, retry_ms: int, look_after_bytes: int) -> None:
        self._reserve_bytes = reserve_bytes
        self._retry_ms = retry_ms
        self._look_after_bytes = look_after_bytes
        self._appended_bytes = 0
        # Why appends are refused; empty while they are not.
        self._low = ""
        self._full = ""
        self._full_until_ms = 0
        self._refused_until_ms = 0

    def check(self, now_ms: int, *, essential: bool) -> None:
        """Refuse while there is no room. ``essential`` appends may use the reserve."""
        if self._full_until_ms > now_ms:
            raise Refusal("DISK_FULL", self._full, retry_after_ms=self._retry_ms)
        if self._low and not essential:
            raise Refusal("DISK_FULL", self._low, retry_after_ms=self._retry_ms)

    def note_full(self, message: str, now_ms: int) -> bool:
        """The disk refused a write: try again later. True if that is news."""
        news = now_ms >= self._full_until_ms
        self._full = message
        self._full_until_ms = now_ms + self._retry_ms
        return news

    def note_refused(self, now_ms: int) -> None:
        """The disk refused a write for another reason, such as being read-only."""
        self._refused_until_ms = now_ms + _REFUSED_MS

    def refuses(self, now_ms: int) -> bool:
        """True while appends of clients are refused, or were a moment ago."""
        lately_ms = now_ms - _REFUSED_MS + self._retry_ms
        full = self._full_until_ms > lately_ms and self._full_until_ms > 0
        return bool(self._low) or full or self._refused_until_ms > now_ms

    def note_usage(self, total_bytes: int, free_bytes: int) -> bool:
        """Learn the usage of the file system. True if that changes whether appends are refused."""
        self._appended_bytes = 0
        reserve = min(self._reserve_bytes, total_bytes // _RESERVE_PARTS_MAX)
        low = free_bytes < reserve
        news = low != bool(self._low)
        self._low = (
            f"only {free_bytes} bytes are free on the disk, {reserve} are kept as a reserve: "
            "make room, or lower retention.ms or retention.bytes"
            if low
            else ""
        )
        return news

    def note_append(self, size_bytes: int) -> bool:
        """Count appended bytes. True if so many were appended that the usage is worth a look."""
        self._appended_bytes += size_bytes
        return self._appended_bytes >= self._look_after_bytes
