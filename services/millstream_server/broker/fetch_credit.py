"""How many bytes a reader is ready to take.

Credit is counted in bytes of framed batches: what stands in ``FetchedPartition.batches``, the tag
and length of each batch included. The client gives back what it has consumed or dropped.
"""


class Credit:
    """The credit of one fetch stream: ``bytes_left`` may fall below zero by one large batch."""

    __slots__ = ("_full", "bytes_left")

    def __init__(self) -> None:
        self.bytes_left = 0
        # What is left when nothing is outstanding: the most that there ever was.
        self._full = 0

    @property
    def nothing_outstanding(self) -> bool:
        """True if the client gave back everything that was pushed."""
        return self.bytes_left >= self._full > 0

    def grant(self, size: int) -> None:
        """The client takes so many bytes more."""
        self.bytes_left += size
        self._full = max(self._full, self.bytes_left)

    def allows(self, size: int) -> bool:
        """True if a run of this size may be pushed now. One that is larger than the credit may
        when nothing is outstanding, or a large batch could never be read."""
        return size <= self.bytes_left or self.nothing_outstanding

    def spend(self, size: int) -> None:
        """A run of this size is pushed."""
        self.bytes_left -= size
