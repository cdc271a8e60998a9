"""Whether the followed metadata node was left behind. Pure: time is an argument."""

# The next node may have a large image to send before it has caught up.
_PATIENCE_DOUBLINGS_MAX = 3


class ImageLag:
    """Compares the followed image with the versions that the controller names."""

    def __init__(self, limit_ms: int) -> None:
        self._limit_ms = limit_ms
        # A version that the image has not reached, and since when it was waited for.
        self._awaited: tuple[int, int] | None = None
        self._doublings = 0

    def is_too_long(self, version: int, image_version: int, now_ms: int) -> bool:
        """Take in that the controller named a version; True if the image has waited for one of
        them for longer than the limit. The next node then gets twice the time."""
        if self._awaited is not None and image_version >= self._awaited[0]:
            self._awaited = None
            self._doublings = 0
        if self._awaited is None:
            if version > image_version:
                self._awaited = (version, now_ms)
            return False
        if now_ms - self._awaited[1] <= self._limit_ms << self._doublings:
            return False
        self._awaited = (self._awaited[0], now_ms)
        self._doublings = min(self._doublings + 1, _PATIENCE_DOUBLINGS_MAX)
        return True
