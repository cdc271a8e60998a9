"""What becomes of a batch whose attempt failed: the table of the producer's retries. Pure."""

import enum

from millstream._errors import (
    InvalidProducerEpochError,
    MillstreamError,
    OutOfOrderSequenceError,
    RecordTooLargeError,
    UnknownProducerError,
)
from millstream._producer.batch import Batch


class Outcome(enum.Enum):
    """The fate of a batch after a failed attempt."""

    # Send it again with the same sequence.
    RETRY = enum.auto()
    # It was surely not appended, and can only be sent under a new producer epoch.
    HOLD = enum.auto()
    # Send its halves.
    SPLIT = enum.auto()
    # Tell the application.
    FAIL = enum.auto()
    # Nobody may write under this producer id any more.
    FATAL = enum.auto()


def outcome_of(
    batch: Batch,
    error: MillstreamError,
    *,
    earlier: list[Batch],
    idempotent: bool,
    retries_max: int,
) -> Outcome:
    """Decide, after ``batch.indeterminate`` has taken in this attempt.

    ``earlier``: the batches of the partition before this one whose fate is not known.
    """
    if batch.abandoned:
        return Outcome.FAIL
    if isinstance(error, InvalidProducerEpochError):
        return Outcome.FATAL
    if idempotent and isinstance(error, OutOfOrderSequenceError | UnknownProducerError):
        if any(not before.held for before in earlier):
            # A batch before it has to be appended first; then this one is the next.
            return Outcome.RETRY
        # Sent under a new epoch it could be written twice, if an attempt of it got through.
        return Outcome.FAIL if batch.indeterminate else Outcome.HOLD
    if batch.attempts > retries_max:
        return Outcome.FAIL
    if isinstance(error, RecordTooLargeError):
        return Outcome.SPLIT if batch.count > 1 else Outcome.FAIL
    # The same sequence makes it harmless to try again after an unknown outcome.
    if error.retriable or (idempotent and error.indeterminate):
        return Outcome.RETRY
    return Outcome.FAIL
