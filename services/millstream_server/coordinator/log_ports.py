"""A shard's partition of ``__consumer_offsets`` as its owner sees it: the seam for fakes."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol


class LogUnavailable(Exception):
    """The partition's leader cannot be reached, or gave up the call; worth another try."""


@dataclass(frozen=True, slots=True)
class WriteAnswer:
    """What the leader says to one batch."""

    # As given to ``send``.
    number: int
    # Reason of the error table; empty: the batch is stored (below the high watermark).
    reason: str = ""
    message: str = ""


class WriteLink(Protocol):
    """A stream of batches to the leader. Batches sent on one link keep their order."""

    async def send(self, number: int, batch: bytes) -> None:
        """Send a batch. Raises LogUnavailable."""

    async def receive(self) -> Sequence[WriteAnswer]:
        """The next answers, in any order. Raises LogUnavailable when the link is over."""

    def abort(self) -> None:
        """End the link; ``receive`` and ``send`` raise LogUnavailable from now on."""


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Some batches read, in order."""

    batches: Sequence[bytes]
    # Offset below which records may be read, as of this read.
    high_watermark: int
    # First offset of the log.
    log_start_offset: int


class ShardLog(Protocol):
    """The log of one shard."""

    async def connect(self) -> WriteLink:
        """Open a link to the leader. Raises LogUnavailable."""

    def read(self, offset: int) -> AsyncIterator[LogChunk]:
        """Read on from an offset, or from the start of the log if that is later.

        Yields at least once also when there is nothing to read. Raises LogUnavailable.
        """


class ShardLogs(Protocol):
    """The logs of all shards."""

    def shard(self, number: int) -> ShardLog:
        """The log of one shard."""

    async def close(self) -> None:
        """Give up all connections."""
