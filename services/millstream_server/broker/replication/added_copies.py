"""The limit on what a leader pushes to replicas that a reassignment adds, for all of them together.

It holds on the lane for catching up only: once little is missing, a copy that were held back would
fall behind again with every record, and never be in sync.
"""

from millstream_raft.image import Image
from millstream_server.broker.byte_rate import ByteRate
from millstream_server.broker.replication.transfers import Lane


class AddedCopies:
    """Pure; times are monotonic milliseconds."""

    def __init__(self) -> None:
        self._rate: ByteRate | None = None

    def limit(self, image: Image, key: tuple[bytes, int], follower_id: int, lane: Lane) -> int:
        """Bytes per second that this copy shares with all other added ones; 0: no limit."""
        bytes_per_s = image.reassignment_bytes_per_s
        if not bytes_per_s or lane is not Lane.CATCH_UP:
            return 0
        state = image.partition(*key)
        added = state is not None and follower_id in state.adding and follower_id not in state.isr
        return bytes_per_s if added else 0

    def wait_ms(self, bytes_per_s: int, now_ms: int) -> int:
        """Milliseconds until another push is allowed under this limit; 0: now."""
        if self._rate is None or self._rate.bytes_per_s != bytes_per_s:
            self._rate = ByteRate(bytes_per_s, now_ms)
        return self._rate.wait_ms(now_ms)

    def pushed(self, size_bytes: int) -> None:
        """So many bytes were pushed under the limit."""
        if self._rate is not None:
            self._rate.take(size_bytes)
