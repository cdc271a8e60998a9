"""One partition as one `Fetch` stream reads it."""

from typing import Protocol

from millstream.v1 import broker_service_pb2 as pb
from millstream_server.broker.fetch_wire import progress_header
from millstream_server.broker.refusal import Refusal
from millstream_server.broker.replica import Replica
from millstream_server.broker.runs import Run

_NO_STOP = (1 << 63) - 1


class CursorOwner(Protocol):
    """The stream that reads."""

    def notify(self, cursor: "Cursor") -> None:
        """The partition's high watermark or log start moved."""

    def fail(self, cursor: "Cursor", refusal: Refusal) -> None:
        """The partition cannot be read here any more."""


class Cursor:
    """A position with what the client knows already."""

    __slots__ = (
        "closed",
        "key",
        "loaded",
        "loading",
        "needed_bytes",
        "offset",
        "owner",
        "pushed",
        "pushed_start",
        "pushed_watermark",
        "queued",
        "replica",
        "stop_offset",
        "token",
        "trusted",
    )

    def __init__(self, replica: Replica, position: pb.FetchPosition, owner: CursorOwner) -> None:
        self.replica = replica
        self.owner = owner
        self.key = (position.topic_id, position.partition)
        self.token = position.token
        self.offset = position.offset
        self.stop_offset = position.stop_offset if position.HasField("stop_offset") else _NO_STOP
        # True once the client heard anything of this position.
        self.pushed = False
        self.pushed_watermark = -1
        self.pushed_start = -1
        # False until the first records were sent: those are verified, whatever was synced. A client
        # that met damaged ones comes back to where they begin, and here it is noticed as well.
        self.trusted = False
        # In the stream's queue; being read by a thread; read but not sent yet; removed.
        self.queued = False
        self.loading = False
        self.loaded: Run | None = None
        # Credit that the next batch takes, if that is known because it was not there.
        self.needed_bytes = 0
        self.closed = False

    def moved(self) -> None:
        """See ``Reader``."""
        self.owner.notify(self)

    def lost(self, refusal: Refusal) -> None:
        """See ``Reader``."""
        self.owner.fail(self, refusal)

    @property
    def end_offset(self) -> int:
        """Offset at which reading must end for now: high watermark, or stop."""
        return min(self.replica.state.high_watermark, self.stop_offset)

    @property
    def has_records(self) -> bool:
        """True if there is something to read now."""
        return self.offset < self.end_offset

    @property
    def at_stop(self) -> bool:
        """True if nothing will ever be pushed again for this position."""
        return self.offset >= self.stop_offset

    @property
    def progress_unknown(self) -> bool:
        """True if the client does not know the high watermark or the log start."""
        return (
            self.pushed_watermark != self.replica.state.high_watermark
            or self.pushed_start != self.replica.start_offset
        )

    def readable_bytes(self) -> int:
        """About how many bytes may be read now, by the mean size of the log's records."""
        if self.loaded is not None:
            return len(self.loaded.data)
        log = self.replica.log
        records = max(1, log.written_end_offset - log.start_offset)
        return (self.end_offset - self.offset) * log.size_bytes // records

    def advance(self, run: Run) -> bytes:
        """The run is sent: move on; returns the entry's header."""
        counters = self.replica.counters
        counters.records_out += run.next_offset - max(self.offset, run.first_offset)
        counters.bytes_out += len(run.data)
        self.offset = run.next_offset
        self.trusted = True
        return self.progress()

    def progress(self) -> bytes:
        """Header of an entry that tells high watermark and log start."""
        state = self.replica.state
        self.pushed = True
        self.pushed_watermark = state.high_watermark
        self.pushed_start = self.replica.start_offset
        return progress_header(
            state.topic_id,
            state.number,
            self.token,
            high_watermark=self.pushed_watermark,
            log_start_offset=self.pushed_start,
            leader_epoch=state.leader_epoch,
            log_append_time=self.replica.settings.log_append_time,
        )
